"""A column that says which part a row is for."""

import pytest

from yantai.base.errors import DataError
from yantai.data.split import read_split


def test_rows_are_named_by_any_usual_word(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,split\na,x,Train\nb,y, dev \nc,x,TEST\nd,y,validation\n")
    assert read_split(path, "split") == {
        "rows.csv:2": "train", "rows.csv:3": "valid", "rows.csv:4": "test", "rows.csv:5": "valid",
    }  # fmt: skip


def test_a_row_that_names_no_part_stops_with_its_line_or_is_left_out(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,split\na,x,train\nb,y,later\n")
    with pytest.raises(DataError) as stopped:
        read_split(path, "split")
    assert (stopped.value.code, stopped.value.where) == ("E304", f"{path}:3")
    assert "later" in str(stopped.value.got)
    assert read_split(path, "split", policy="quarantine") == {"rows.csv:2": "train"}


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n')
    with pytest.raises(DataError, match="no column 'part'") as stopped:
        read_split(path, "part")
    assert "text, label" in str(stopped.value.got)
