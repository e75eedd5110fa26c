"""What contradicts something beside it is named: parts, unread columns, a file and its recipe."""

import csv

import pytest
from test_doctor_jobs import changed, healthy

from yantai.life.doctor_parts import look_beside
from yantai.life.doctor_rows import examine_rows, text_that_is_read
from yantai.life.jobs import JOBS
from yantai.training.recipe import Finetune


def found(tmp_path, task, rows, test=None, **settings):
    path = tmp_path / "rows.csv"
    if not path.exists():
        path.write_text("text,label\na,b\n")
    given = {"model": "scratch", "task": task, "data": path, "out": tmp_path / "run"}
    if test is not None:
        given["test"] = tmp_path / "test.csv"
    recipe = Finetune(**given | settings)
    job = JOBS[task](recipe)
    parts = {"train": rows} | ({} if test is None else {"test": test})
    return [text for _, text in look_beside(recipe, job, parts, text_that_is_read(job))]


@pytest.mark.parametrize("task", ["classify", "tag", "span", "translate", "summarize", "chat"])
def test_healthy_rows_are_left_in_peace(task, tmp_path):
    rows = healthy(task)
    assert found(tmp_path, task, rows[:90], rows[90:]) == []


def table(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def test_a_warm_up_longer_than_the_run(tmp_path):
    told = found(tmp_path, "classify", healthy("classify"), warmup=500, epochs=4)
    assert told == [
        "warmup: 500 steps of about 12: the rate never reaches what it was set to; leave it out"
    ]
    assert found(tmp_path, "classify", healthy("classify"), warmup=500, steps=2000) == []
    assert found(tmp_path, "classify", healthy("classify"), warmup=500, minutes=5) == []


def test_a_context_that_cuts_what_matters(tmp_path):
    rows = [changed(row, source=row.source * 9) for row in healthy("summarize")]
    (line,) = found(tmp_path, "summarize", rows, context=64)
    assert "about 100% of the texts are longer than 64 tokens" in line and "rows.jsonl:2" in line


def test_a_context_that_the_question_fills(tmp_path):
    rows = [changed(row, question="What was it that somebody did there?", context=row.context * 9)
            for row in healthy("span")]  # fmt: skip
    (line,) = found(tmp_path, "span", rows, context=16)
    assert "a question takes about 10 of 16 tokens" in line and "in crumbs" in line
    assert found(tmp_path, "span", rows, context=128) == []


def test_utf_8_that_is_read_as_something_else(tmp_path):
    table(tmp_path / "rows.csv", ["text", "label"], [["下雨了", "好"]])
    (line,) = found(tmp_path, "classify", healthy("classify"), encoding="latin-1")
    assert "is UTF-8, and is read as latin-1" in line
    (tmp_path / "rows.csv").write_bytes("text,label\ncafé,b\n".encode("latin-1"))
    assert found(tmp_path, "classify", healthy("classify"), encoding="latin-1") == []
    (tmp_path / "rows.csv").write_text("text,label\ncafe,b\n")
    assert found(tmp_path, "classify", healthy("classify"), encoding="latin-1") == []


def test_a_part_that_is_not_there_is_the_readers_to_name(tmp_path):
    recipe = Finetune(
        model="scratch", task="classify", data=tmp_path / "rows.csv", out=tmp_path / "run",
        test=tmp_path / "gone.csv", encoding="latin-1",
    )  # fmt: skip
    table(tmp_path / "rows.csv", ["text", "label"], [(f"text {n}", "ab"[n % 2]) for n in range(60)])
    assert any("gone.csv" in text and "E206" in text for _, text in examine_rows(recipe, "r.yaml"))


def test_pairs_that_somebody_called_none(tmp_path):
    rows = [(row.source, row.target, int(n % 3 > 0)) for n, row in enumerate(healthy("embed"))]
    table(tmp_path / "rows.csv", ["text", "target", "is_duplicate"], rows)
    (line,) = found(tmp_path, "embed", healthy("embed"))
    assert "rows.csv:2: 40 pairs have '0' in the column 'is_duplicate', which is not read" in line
    table(tmp_path / "rows.csv", ["text", "target", "number"], rows)
    assert found(tmp_path, "embed", healthy("embed")) == []


@pytest.mark.parametrize("order", ["by score", "as they came"])
def test_scores_that_contradict_the_choice(tmp_path, order):
    rows = []
    for n in range(60):
        scores = (3, 1) if order == "by score" or n % 4 else (1, 3)
        rows.append((f"q{n}", f"a{n}", f"b{n}", *scores))
    names = ["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
    table(tmp_path / "rows.csv", names, rows)
    told = found(tmp_path, "prefer", healthy("prefer"))
    if order == "by score":
        assert told == []
    else:
        assert "rows.csv:2: 15 of 60 rows have a lower score_chosen than score_rejected" in told[0]


def test_parts_that_are_written_by_other_rules(tmp_path):
    rows = healthy("translate")
    spaced = [changed(row, target="我们 在 河 边 走 。") for row in rows[:80]]
    plain = [changed(row, target="我们在河边走。") for row in rows[80:]]
    (line,) = found(tmp_path, "translate", spaced, plain)
    assert "0% of the targets have spaces between Chinese words, in training 100%" in line


def test_the_doctor_looks_there_too(tmp_path):
    rows = [(row.text, row.labels[0]) for row in healthy("classify")]
    table(tmp_path / "rows.csv", ["text", "label"], rows)
    recipe = Finetune(
        model="scratch", task="classify", data=tmp_path / "rows.csv", out=tmp_path / "run",
        warmup=900,
    )  # fmt: skip
    assert any(text.startswith("warmup: 900") for _, text in examine_rows(recipe, "r.yaml"))
