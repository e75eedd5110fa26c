"""Records out of CSV, TSV and JSON: every one is there, or named with its line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError, UsageError
from yantai.text.table import TableReader

CELL = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0\r"), max_size=12
)


def read(path, **options):
    return list(TableReader(path, **options))


@given(rows=st.lists(st.lists(CELL, min_size=2, max_size=2), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_the_csv_module_writes_is_read_back(rows, tmp_path_factory):
    rows = [row for row in rows if any(cell.strip(" \t\r\n") for cell in row)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "label"], *rows])
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    path.write_bytes(text.getvalue().encode())
    assert [list(record.fields.values()) for record in read(path)] == rows


def test_places_count_lines_of_the_file(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,label\n"one\ntwo",a\nthree,b\n\nfour,c\n')
    records = read(path)
    assert [record.fields["text"] for record in records] == ["one\ntwo", "three", "four"]
    assert [record.place for record in records] == ["data.csv:2", "data.csv:4", "data.csv:6"]


def test_a_quote_that_is_never_closed_spoils_its_line_alone(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text('text,label\ngood,a\n"bad,b\nfine,c\nlast,d\n')
    with pytest.raises(DataError, match=r"data\.csv:3"):
        read(path)
    reader = TableReader(path, policy="quarantine", quarantine=tmp_path / "q")
    assert [record.fields["text"] for record in reader] == ["good", "fine", "last"]
    assert reader.account.quarantined == {"not CSV": 1}
    (kept,) = map(json.loads, (tmp_path / "q" / "rows.jsonl").read_text().splitlines())
    assert (kept["line"], kept["reason"]) == (3, "not CSV")


def test_a_quote_in_tsv_is_a_character(tmp_path):
    path = tmp_path / "data.tsv"
    path.write_text('ham\tHe said "no\nspam\tWin "£5"!\n')
    records = read(path, columns=["label", "text"])
    assert [record.fields["text"] for record in records] == ['He said "no', 'Win "£5"!']


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na,b,c\n", r"data\.csv:2: 3 columns where the header has 2"),
        ("text,label\na\n", r"data\.csv:2: 1 columns"),
        ("text,text\na,b\n", "stands twice"),
        ("text,\na,b\n", "without a name"),
        ('text,label\n"a"b,c\n', r"data\.csv:2: not CSV"),
    ],
)
def test_a_ragged_row_is_named(tmp_path, content, said):
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read(path)


def test_other_encodings_are_guessed_and_taken(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="latin-1"):
        read(path)
    assert read(path, encoding="latin-1")[0].fields["text"] == "café"
    path.write_bytes("text,label\n天气,a\n".encode("utf-16"))
    assert read(path)[0].fields["text"] == "天气"


def test_json_lines_arrays_and_packed_files(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for name in ("a.jsonl", "b.json", "c.jsonl.gz"):
        assert [record.fields for record in read(tmp_path / name)] == rows
    (tmp_path / "d.jsonl").write_text(lines + "[1]\n")
    with pytest.raises(DataError, match=r"d\.jsonl:3"):
        read(tmp_path / "d.jsonl")


def test_every_record_is_accounted_for(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("text,label\na,b\n\nc\nd,e\n")
    reader = TableReader(path, policy="quarantine", quarantine=tmp_path / "q")
    kept = list(reader)
    account = reader.account
    assert (account.rows_in, account.rows_out, len(kept)) == (4, 2, 2)
    assert account.dropped == {"blank line": 1}
    assert account.quarantined == {"columns do not fit the header": 1}
    assert reader.source["sha256"]


def test_what_is_no_file_of_records_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="records"):
        TableReader(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no such file"):
        TableReader(tmp_path / "none.csv")
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="columns"):
        TableReader(tmp_path / "a.jsonl", columns=["x"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_a_row_too_large_for_memory_is_kept_and_the_others_read(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("yantai.text.table.MAX_ROW_BYTES", 100)
    rows = [{"text": "a", "label": "x"}, {"text": "b" * 200, "label": "y"},
            {"text": "c", "label": "x"}]  # fmt: skip
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if kind == "jsonl" else "[" + ",\n".join(lines) + "]")
    with pytest.raises(DataError) as stopped:
        list(TableReader(path))
    assert stopped.value.code == "E308" and "quarantine" in str(stopped.value.do)
    reader = TableReader(path, policy="quarantine", quarantine=tmp_path / "kept")
    assert [record.fields["text"] for record in reader] == ["a", "c"]
    account = reader.account
    assert (account.rows_in, account.rows_out, sum(account.quarantined.values())) == (3, 2, 1)
    kept = json.loads((tmp_path / "kept" / "rows.jsonl").read_text())
    assert b"b" * 200 in (tmp_path / "kept" / kept["raw_file"]).read_bytes()
    assert kept["code"] == "E308" and ("index" in kept) == (kind == "json")
