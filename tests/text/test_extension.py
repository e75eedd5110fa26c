"""A longer vocabulary: old ids stay, new text gets shorter, old texts stay what they were."""

import json
import random

import pytest
from tokenizers import Tokenizer as Backend

from yantai.base.errors import DataError, ModelFileError, UsageError
from yantai.text.extension import extend, extension_of
from yantai.text.tokenizer import MASK, TURN_END, Tokenizer
from yantai.text.village import Village

STORIES = [row["text"] for row in Village(seed=3).documents(400)]


def invented(count=40):
    """Texts of another field, with words that no story has."""
    draw = random.Random(0)
    parts = ["chloro", "methyl", "benz", "amide", "oxid", "phosph", "ketone", "sulf"]
    words = ["".join(draw.choices(parts, k=3)) for _ in range(30)]
    return [" ".join(draw.choices(words, k=60)) + " 氯化钠溶液。" for _ in range(count)]


@pytest.fixture(scope="module")
def old():
    return Tokenizer.train(STORIES, 1024)


@pytest.fixture(scope="module")
def new(old):
    return extend(old, invented(), 100, specials=(MASK,))


def test_every_old_id_means_what_it_meant(old, new):
    assert new.vocab_size == old.vocab_size + 101
    for id in range(old.vocab_size):
        assert new.token(id) == old.token(id)
    assert new.control.items() >= old.control.items()
    assert new.control[MASK] == old.vocab_size + 100
    assert old.mask_id is None and new.mask_id == new.control[MASK]


def test_new_text_gets_shorter_and_any_text_survives(old, new):
    fresh = invented(45)[40:]
    before = sum(len(ids) for ids in old.encode_batch(fresh))
    after = sum(len(ids) for ids in new.encode_batch(fresh))
    assert after < 0.6 * before
    for text in [*fresh, *STORIES[:50], "x<|im_end|>y", "天气 à la 🐎"]:
        assert new.decode(new.encode(text)) == text


def test_what_needs_no_new_entry_is_spelled_as_before(old, new):
    without = [text for text in STORIES if max(new.encode(text)) < old.vocab_size]
    assert len(without) >= 200
    for text in without:
        assert new.encode(text) == old.encode(text)


def test_a_saved_one_is_the_same_one(old, new, tmp_path):
    new.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.hash == new.hash
    assert again.encode("chlorobenzketone") == new.encode("chlorobenzketone")


def test_texts_forge_no_control_token(new):
    control = set(new.control.values())
    assert not control & set(new.encode(f"{TURN_END}{MASK}"))


def test_control_tokens_that_are_no_entries_keep_their_numbers():
    from tokenizers import AddedToken

    plain = Tokenizer.train(STORIES, 600)
    plain._backend.add_special_tokens([AddedToken("<|late|>", special=True)])
    late = Tokenizer(plain._backend, plain.settings)
    assert late.control["<|late|>"] == 600
    longer = extend(late, invented(), 20)
    assert longer.control["<|late|>"] == 600
    assert longer.vocab_size == 621
    extension_of(late, longer, "here")


def test_new_entries_are_told_by_what_spelled_them(old, new):
    spelled = extension_of(old, new, "here")
    assert set(spelled) == set(range(old.vocab_size, new.vocab_size))
    for id, ids in spelled.items():
        if id == new.control[MASK]:
            assert ids == []
        else:
            assert len(ids) > 1
            assert b"".join(old.bytes_of_ids[each] for each in ids) == new.bytes_of_ids[id]


def test_the_same_entries_read_in_another_way_are_another_tokenizer(old):
    table = json.loads(old.to_json())
    table["normalizer"] = {"type": "Lowercase"}
    other = Tokenizer(Backend.from_str(json.dumps(table)), old.settings)
    with pytest.raises(ModelFileError, match="normalizer"):
        extension_of(old, other, "here")


def test_another_tokenizer_is_refused(old):
    with pytest.raises(ModelFileError, match="id "):
        extension_of(old, Tokenizer.train(invented(), 500), "tokenizer.json")


def test_other_kinds_and_no_text_are_refused(old):
    with pytest.raises(UsageError, match="BPE"):
        extend(Tokenizer.train(STORIES, 2000, "unigram"), invented(), 10)
    with pytest.raises(DataError):
        extend(old, [], 10)
