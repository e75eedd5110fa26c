"""Words of a row of tokens: every vocabulary agrees with the words of the text."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.text.tokenizer import BOS, Tokenizer
from yantai.text.village import Village
from yantai.text.words import Words, split_words

TEXTS = [row["text"] for row in Village(seed=5).documents(300)]
KINDS = ["bpe", "wordpiece", "unigram", "characters"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return Tokenizer.train(TEXTS, 2000, request.param)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_character_is_lost(text):
    assert "".join(split_words(text)) == text


def grouped(tokenizer, text):
    """The text of each word, by its tokens."""
    ids = tokenizer.encode(text)
    numbers = Words(tokenizer)(ids)
    assert len(numbers) == len(ids)
    groups = {}
    for id, number in zip(ids, numbers, strict=True):
        groups.setdefault(number, []).append(id)
    return [tokenizer.decode(group).strip() for group in groups.values()]


def test_english_words_are_whole(tokenizer):
    words = grouped(tokenizer, "The miller carried lanterns, yesterday morning.")
    assert [word for word in words if word] == [
        "The", "miller", "carried", "lanterns", ",", "yesterday", "morning", ".",
    ]  # fmt: skip


def test_chinese_words_are_whole():
    tokenizer = Tokenizer.train(TEXTS, 1500, "characters")
    assert grouped(tokenizer, "今天早上天气很好。") == ["今天", "早上", "天气", "很", "好", "。"]


def test_characters_cut_into_bytes_stay_together():
    tokenizer = Tokenizer.train(["plain"], 300)  # every Han character is three tokens
    ids = tokenizer.encode("天气好")
    assert len(ids) == 9
    numbers = Words(tokenizer)(ids)
    assert numbers[:6] == [numbers[0]] * 6
    assert numbers[6:] == [numbers[6]] * 3
    assert numbers[0] != numbers[6]


def test_a_token_over_several_words_joins_them():
    tokenizer = Tokenizer.train(["天气很好"] * 50 + ["天", "气", "很", "好"], 400)
    text = "今天天气很好"
    ids = tokenizer.encode(text)
    over = next(place for place, id in enumerate(ids) if len(tokenizer.decode([id])) > 2)
    words = split_words(text)
    assert tokenizer.decode([ids[over]]) not in words  # it holds the border of two words
    numbers = Words(tokenizer)(ids)
    inside = [word for word in words if word in tokenizer.decode([ids[over]])]
    assert len(set(numbers)) <= len(words) - len(inside) + 1


def test_control_tokens_and_bytes_that_are_no_character_break_nothing(tokenizer):
    begin = tokenizer.control[BOS]
    ids = [begin, begin, *tokenizer.encode("lanterns"), begin]
    numbers = Words(tokenizer)(ids)
    assert len(set(numbers[2:-1])) == 1
    assert len({numbers[0], numbers[1], numbers[2], numbers[-1]}) == 4


@given(st.lists(st.integers(0, 511), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_row_has_a_number_a_token_in_order(ids):
    numbers = Words(_small())(ids)
    assert len(numbers) == len(ids)
    assert numbers == sorted(numbers)


@functools.cache
def _small():
    return Tokenizer.train(TEXTS, 512)
