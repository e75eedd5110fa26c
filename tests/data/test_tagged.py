"""Three ways to write spans, and what is refused with its line."""

import base64
import json

import pytest

from yantai.base.errors import DataError
from yantai.data.tagged import SpanColumns, Tagged, read_tagged

ANNA = Tagged("Anna went to York", ((0, 4, "PER"), (13, 17, "LOC")), "")


def written(tmp_path, name, *rows):
    path = tmp_path / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_characters_words_and_columns_say_the_same(tmp_path):
    entities = [
        {"start": 13, "end": 17, "label": "LOC"},
        {"start": 0, "end": 4, "label": "PER"},
    ]
    words, tags = ANNA.text.split(), ["B-PER", "O", "O", "S-LOC"]
    files = [
        written(tmp_path, "a.jsonl", {"text": ANNA.text, "entities": entities}),
        written(tmp_path, "b.jsonl", {"text": ANNA.text, "entities": list(map(list, ANNA.spans))}),
        written(tmp_path, "c.jsonl", {"tokens": words, "tags": tags}),
        written(
            tmp_path, "d.conll", "-DOCSTART- -X- O", "",
            *(f"{word}\tNN\t{tag}" for word, tag in zip(words, tags, strict=True)), "", "",
        ),
    ]  # fmt: skip
    for path in files:
        (row,), _ = read_tagged(path, SpanColumns())
        assert (row.text, row.spans) == (ANNA.text, ANNA.spans)
        assert row.labels == ("LOC", "PER")
    assert row.place == "d.conll:3"


def test_chinese_words_have_no_spaces(tmp_path):
    path = written(
        tmp_path, "a.jsonl", {"tokens": ["伊凡", "去", "北京"], "tags": ["B-P", "O", "B-L"]}
    )
    (row,), _ = read_tagged(path, SpanColumns())
    assert row.text == "伊凡去北京"
    assert row.spans == ((0, 2, "P"), (3, 5, "L"))


BAD = {
    "outside": ({"text": "abc", "entities": [[0, 4, "x"]]}, "outside"),
    "empty span": ({"text": "abc", "entities": [[1, 1, "x"]]}, "outside"),
    "overlap": ({"text": "abcdef", "entities": [[0, 3, "x"], [2, 4, "y"]]}, "overlap"),
    "no label": ({"text": "abc", "entities": [{"start": 0, "end": 1}]}, "start, end, label"),
    "half a character": ({"text": "abc", "entities": [[0.5, 2, "x"]]}, "start, end, label"),
    "no list": ({"text": "abc", "entities": "x"}, "no list"),
    "lengths differ": ({"tokens": ["a", "b"], "tags": ["O"]}, "same length"),
    "unknown scheme": ({"tokens": ["a"], "tags": ["PER"]}, "BIO"),
    "no column": ({"satz": "abc", "entities": []}, "no column 'text'"),
    "empty": ({"text": " ", "entities": []}, "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_makes_no_sense_is_named(name, tmp_path):
    row, said = BAD[name]
    path = written(tmp_path, "rows.jsonl", {"text": "abc", "entities": []}, row)
    with pytest.raises(DataError) as caught:
        read_tagged(path, SpanColumns())
    assert "rows.jsonl:2" in str(caught.value) and said in str(caught.value)


def test_a_line_without_a_tag_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a.conll:1: a line without a tag \(line 2\)"):
        read_tagged(written(tmp_path, "a.conll", "Anna B-PER", "went"), SpanColumns())


def test_a_bad_sentence_of_a_file_of_columns_goes_into_quarantine(tmp_path):
    path = written(
        tmp_path, "a.conll", "Anna B-PER", "went", "", "Ivan B-PER", "", "Rome Q-LOC", "", "he O"
    )
    rows, account = read_tagged(
        path, SpanColumns(), policy="quarantine", quarantine=tmp_path / "q", encoding="utf-8"
    )
    assert [(row.text, row.place) for row in rows] == [("Ivan", "a.conll:4"), ("he", "a.conll:8")]
    assert (account.rows_in, account.rows_out) == (4, 2)
    kept = [json.loads(line) for line in (tmp_path / "q" / "rows.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in kept] == [
        (1, "a line without a tag"), (6, "a tag is neither BIO nor BIOES"),
    ]  # fmt: skip
    assert base64.b64decode(kept[0]["raw_base64"]).decode() == "Anna B-PER\nwent"
