"""What is looked at before every fine-tuning, and rows whose labels nobody knows."""

import json

import pytest

from yantai.base.errors import DataError
from yantai.data.examples import Example, ExampleRows
from yantai.data.labelled import Labelled
from yantai.life.beginning import _say_truncated
from yantai.life.first_looks import look_first
from yantai.life.jobs import JOBS
from yantai.life.rows import known_rows
from yantai.training.recipe import Finetune


def recipe(**changes):
    return Finetune(model="folder", task="classify", data="rows.csv", out="run", **changes)


def labelled(*rows):
    return [Labelled(text, (label,), f"rows.csv:{n + 2}") for n, (text, label) in enumerate(rows)]


TRAIN = labelled(("A goose came.", "good"), ("It rained.", "bad"), ("It snowed", "bad"))


def test_rows_of_two_parts_and_odd_rates_are_told(capsys):
    test = labelled(("It rained.", "bad"), ("it snowed.", "bad"), ("A new one.", "good"))
    job = JOBS["classify"](recipe())
    look_first(recipe(rate=5.0), job, {"train": TRAIN, "valid": [], "test": test})
    said = capsys.readouterr().err
    assert "doctor: rate 5 is far from sane" in said
    assert "the test part: 2 rows are in the training part too (1 to the letter" in said
    assert "rows.csv:2, which is rows.csv:3" in said


def test_nothing_is_said_of_what_is_in_order(capsys):
    look_first(recipe(), JOBS["classify"](recipe()), {"train": TRAIN, "valid": [], "test": []})
    assert capsys.readouterr().err == ""


def test_rows_of_unknown_labels_are_kept_back(tmp_path, capsys):
    job = JOBS["classify"](recipe())
    job.learn(TRAIN, tmp_path)
    rows = labelled(("One.", "good"), ("Two.", "strange"), ("Three.", "bad"))
    with pytest.raises(DataError, match="a label that the training part has not"):
        known_rows(job, rows, None)
    assert known_rows(job, rows, tmp_path / "quarantine") == [rows[0], rows[2]]
    (kept,) = (tmp_path / "quarantine" / "unknown.jsonl").read_text().splitlines()
    table = json.loads(kept)
    assert (table["file"], table["line"], table["row"]["text"]) == ("rows.csv", "3", "Two.")
    assert "strange" in table["what"]
    assert "1 row with labels that are not known" in capsys.readouterr().err
    with pytest.raises(DataError, match="strange"):
        known_rows(job, rows[1:2], tmp_path / "other")


def test_an_example_that_the_rows_cut_is_named(capsys):
    """Nobody has cut it before."""
    short, long = Example([1, 2], [2, 3], "one"), Example(list(range(9)), list(range(9)), "two")
    _say_truncated(ExampleRows([short, long], 5), 5)
    assert "1 of 2 texts (50.0%) have more than 5 tokens and are cut; the first: two" in (
        capsys.readouterr().err
    )
