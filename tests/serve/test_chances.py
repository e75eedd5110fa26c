"""Tokens are spelled as they stand in a text, whatever the kind of the vocabulary."""

import pytest

from yantai.serve.chances import spelling
from yantai.text.tokenizer import Tokenizer

STORIES = ["One morning Ivan the baker gave a cup to Anna.", "白桃把青铜铃借给了文秀。"] * 40


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "characters"])
def test_spelled_behind_each_other_they_are_the_text(kind):
    tokenizer = Tokenizer.train(STORIES, 400, kind)
    text = "Ivan gave a cup to the baker"
    ids = [id for id in tokenizer.encode(text) if id not in tokenizer.control.values()]
    rows = [spelling(id, tokenizer) for id in ids]
    expected = tokenizer.decode(ids)
    assert "".join(word for word, _ in rows).strip() == expected.strip()
    assert b"".join(spelled for _, spelled in rows).decode().strip() == expected.strip()
    spaced = [word for word, _ in rows if word.startswith(" ")]
    assert len(spaced) >= 5  # a space belongs to the token that brings it


def test_bytes_that_are_no_character_are_told_as_bytes():
    tokenizer = Tokenizer.train(STORIES, 300)
    rows = [spelling(id, tokenizer) for id in tokenizer.encode("龘")]
    assert b"".join(spelled for _, spelled in rows) == "龘".encode()
    assert any("\ufffd" in word for word, _ in rows)
