"""Four ways to learn a vocabulary: what each keeps, and that `transformers` opens all of them."""

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError, UsageError
from yantai.text.tokenizer import MASK, SPANS, SPECIALS, Tokenizer
from yantai.text.village import Village

KINDS = ("bpe", "unigram", "wordpiece", "characters")
TEXTS = [row["text"] for row in Village(seed=1).documents(300)]


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    return request.param, Tokenizer.train(TEXTS, 3000, request.param, specials=(MASK, *SPANS[:3]))


def test_special_tokens_have_the_first_ids_and_are_found_again(trained, tmp_path):
    _, tokenizer = trained
    assert [tokenizer.token(id) for id in range(9)] == [*SPECIALS, MASK, *SPANS[:3]]
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.mask_id == tokenizer.mask_id == len(SPECIALS)
    assert again.span_ids == tokenizer.span_ids == (6, 7, 8)
    assert again.hash == tokenizer.hash


def test_transformers_gives_the_same_ids(trained, tmp_path):
    _, tokenizer = trained
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS[:40], "砚台 and ink", "  two  spaces\n", "1234 é 😀"):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)


def test_no_text_makes_a_special_token(trained):
    _, tokenizer = trained
    control = set(tokenizer.control.values())
    unknown = tokenizer.control.get("<|unk|>")
    for name in (*SPECIALS, MASK, SPANS[0]):
        found = set(tokenizer.encode(f"a {name} b"))
        assert not (found & (control - {unknown}))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_nothing_is_lost(kind):
    tokenizer = Tokenizer.train(TEXTS, 3000, kind)

    @given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
    @settings(max_examples=150, deadline=None)
    def check(text):
        text = text.replace("▁", "_")  # SentencePiece's own space
        assert tokenizer.decode(tokenizer.encode(text)) == text

    check()
    for text in TEXTS[:50]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_wordpiece_takes_a_han_character_for_a_word_and_marks_continuations():
    tokenizer = Tokenizer.train(TEXTS, 1500, "wordpiece")
    assert [tokenizer.token(id) for id in tokenizer.encode("天气")] == ["天", "气"]
    pieces = {tokenizer.token(id) for id in range(tokenizer.vocab_size)}
    assert any(piece.startswith("##") for piece in pieces)


def test_a_stream_shows_what_decoding_at_once_shows(trained):
    kind, tokenizer = trained
    if kind == "wordpiece":
        pytest.skip("its decoder looks ahead for spaces")
    for text in TEXTS[:10]:
        stream = tokenizer.stream()
        shown = "".join(stream.feed(id) for id in tokenizer.encode(text)) + stream.finish()
        assert shown == tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_is_an_error(kind):
    with pytest.raises(DataError):
        Tokenizer.train([], 1000, kind)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_longest_entry_is_a_matter_of_bpe(kind):
    with pytest.raises(UsageError, match="token_bytes"):
        Tokenizer.train(TEXTS, 1000, kind, 8)


def test_too_few_entries_for_all_characters_say_how_many_are_needed():
    with pytest.raises(UsageError, match="at least"):
        Tokenizer.train(TEXTS, 400, "unigram")
