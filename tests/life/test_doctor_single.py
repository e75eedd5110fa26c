"""Each oddity of a single row is named with its place, and sound rows are left in peace."""

import pytest
from test_doctor_jobs import changed, healthy

from yantai.data.pairs import Pair
from yantai.data.tagged import Span
from yantai.life.doctor_single import look_at_single_rows

TASKS = ("classify", "tag", "span", "translate", "summarize", "chat", "prefer", "embed")


@pytest.mark.parametrize("task", TASKS)
def test_sound_rows_are_left_in_peace(task):
    assert list(look_at_single_rows(task, healthy(task))) == []


def pairs(count=30):
    return [
        Pair(f"Anna has {n} geese.", f"安娜有{n}只鹅。", f"rows.jsonl:{n + 2}")
        for n in range(count)
    ]


def talk(row, *roles):
    return changed(row, messages=tuple({"role": role, "content": "a b"} for role in roles))


LOST = "\N{REPLACEMENT CHARACTER}"
ODD = {
    "a lost letter": ("classify", lambda row: changed(row, text=f"caf{LOST}"), "lost"),
    "a garbled letter": ("classify", lambda row: changed(row, text="a cafÃ©"), "lost or garbled"),
    "marks alone": ("classify", lambda row: changed(row, text="?!…"), "no words"),
    "an address": ("classify", lambda row: changed(row, text="https://example.org/a"), "no words"),
    "a table's nothing": ("classify", lambda row: changed(row, text="NaN"), "no words"),
    "a shifted span": (
        "tag", lambda row: changed(row, spans=(Span(1, row.spans[0].end + 1, "person"),)),
        "inside a word",
    ),
    "a role twice": (
        "chat", lambda row: talk(row, "user", "user", "assistant"), "speaks twice"
    ),
    "all of the passage": (
        "span", lambda row: changed(row, answers=((row.context, 0),)), "the whole passage"
    ),
    "an id again": ("span", lambda row: changed(row, id="2"), "the id '2' is that of rows.jsonl:2"),
    "a target of one word": ("summarize", lambda row: changed(row, target="x"), "as long or short"),
    "a target of many": (
        "summarize", lambda row: changed(row, target="word " * 200), "as long or short"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_row_is_named(name):
    task, spoil, said = ODD[name]
    rows = healthy(task)
    rows[7] = spoil(rows[7])
    ((level, line),) = look_at_single_rows(task, rows)
    assert level == "note" and line.startswith(f"{rows[7].place}: ") and said in line


def test_a_pair_the_other_way_round_is_named():
    rows = pairs()
    assert list(look_at_single_rows("translate", rows)) == []
    rows[3] = Pair(rows[3].target, rows[3].source, rows[3].place)
    told = [line for _, line in look_at_single_rows("translate", rows)]
    assert any(line.startswith("rows.jsonl:5: source and target are the other") for line in told)
