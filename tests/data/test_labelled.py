"""Rows of labelled texts: what is refused, with its line, and how they are shared out."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yantai.base.errors import DataError
from yantai.data.labelled import (
    Columns,
    Labelled,
    check_known,
    label_counts,
    read_labelled,
    share_groups,
    share_out,
)


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_by_any_name(tmp_path):
    path = written(tmp_path, "rows.tsv", "id\tsatz\turteil\n1\tgut \t+\n2\tschlecht\t-\n")
    rows, account = read_labelled(path, Columns("satz", "urteil"))
    assert rows == [
        Labelled("gut ", ("+",), "rows.tsv:2"),
        Labelled("schlecht", ("-",), "rows.tsv:3"),
    ]
    assert (account.rows_in, account.rows_out) == (2, 2)


def test_labels_may_be_numbers_or_lists(tmp_path):
    lines = [{"text": "a", "label": 3}, {"text": "b", "label": True}]
    path = written(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, lines)))
    assert [row.labels for row in read_labelled(path, Columns())[0]] == [("3",), ("True",)]
    lines = [{"text": "a", "label": ["x", "y", "x"]}, {"text": "b", "label": "y | z"}]
    lines += [{"text": "c", "label": []}, {"text": "d", "label": None}]
    path = written(tmp_path, "several.jsonl", "\n".join(map(json.dumps, lines)))
    found = [row.labels for row in read_labelled(path, Columns(separator="|"))[0]]
    assert found == [("x", "y"), ("y", "z"), (), ()]


BAD = {
    "a missing column": ('{"txt": "a", "label": "x"}', "no column 'text'; got txt, label"),
    "an empty text": ('{"text": "  ", "label": "x"}', "the text is empty"),
    "a number for a text": ('{"text": 3, "label": "x"}', "the text is no text"),
    "an empty label": ('{"text": "a", "label": " "}', "the label is empty"),
    "no label": ('{"text": "a", "label": null}', "the label is no label"),
    "several labels": ('{"text": "a", "label": ["x", "y"]}', "--label-separator"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_makes_no_sense_is_named(name, tmp_path):
    line, said = BAD[name]
    path = written(tmp_path, "rows.jsonl", f'{{"text": "a", "label": "x"}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        read_labelled(path, Columns())
    assert "rows.jsonl:2" in str(caught.value) and said in str(caught.value)
    rows, account = read_labelled(
        path, Columns(), policy="quarantine", quarantine=tmp_path / "quarantine"
    )
    assert len(rows) == 1
    assert sum(account.quarantined.values()) == 1
    (kept,) = (tmp_path / "quarantine").glob("*.jsonl")
    assert base64.b64decode(json.loads(kept.read_text())["raw_base64"]) == line.encode()


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        read_labelled(written(tmp_path, "rows.csv", "text,label\n"), Columns())


@given(
    st.lists(st.sampled_from("aaaaabbbc"), max_size=80),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5), (1.0,), (0.8, 0.1)]),
    st.integers(0, 5),
)
def test_each_row_is_in_one_part_and_labels_are_spread(labels, shares, seed):
    rows = [Labelled(str(number), (label,), "") for number, label in enumerate(labels)]
    parts = share_out(rows, shares, seed)
    assert sorted((row for part in parts for row in part), key=lambda row: int(row.text)) == rows
    assert parts == share_out(rows, shares, seed)
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - len(rows) * share / sum(shares)) <= len(shares)
        for label, count in label_counts(rows).items():
            mine = sum(row.labels == (label,) for row in part)
            assert abs(mine - count * share / sum(shares)) <= len(shares)


@given(st.lists(st.sampled_from("abcdefghij"), max_size=80), st.integers(0, 5))
def test_what_belongs_together_stays_together(labels, seed):
    rows = [Labelled(str(number), (label,), "") for number, label in enumerate(labels)]
    parts = share_groups(rows, (0.6, 0.2, 0.2), seed)
    assert sorted((row for part in parts for row in part), key=lambda row: int(row.text)) == rows
    held = [{row.labels for row in part} for part in parts]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    if len(set(labels)) >= 3 and len(labels) > 9:
        assert len(parts[0]) >= max(len(parts[1]), len(parts[2])) - max(map(labels.count, labels))


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("aab")), max_size=60))
def test_rows_of_one_text_stay_in_one_part(pairs):
    rows = [Labelled(text, (label,), f"{n}") for n, (text, label) in enumerate(pairs)]
    parts = share_out(rows, (0.5, 0.25, 0.25), 0)
    assert sorted((row for part in parts for row in part), key=lambda row: int(row.place)) == rows
    held = [{row.text for row in part} for part in parts]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    known = {label for row in parts[0] for label in row.labels}
    assert all(known.issuperset(row.labels) for row in rows)


def test_another_seed_is_another_split():
    rows = [Labelled(str(number), ("ab"[number % 2],), "") for number in range(60)]
    assert share_out(rows, (0.8, 0.2), 0) != share_out(rows, (0.8, 0.2), 1)


def test_a_label_that_training_has_not_is_named():
    rows = [Labelled("a", ("x",), "test.csv:2"), Labelled("b", ("z",), "test.csv:3")]
    with pytest.raises(DataError, match=r"test.csv:3: a label .* expected x, y, got 'z'"):
        check_known(rows, ("x", "y"), "the training part")
