"""Fifteen planted faults, each named with its file and line; a clean recipe has none."""

import csv
import json
from pathlib import Path

import pytest

from yantai.life.doctor_rows import examine_rows
from yantai.text.tokenizer import TURN_END, Tokenizer
from yantai.text.village import Village
from yantai.training.recipe import Finetune

STORIES = list(Village(seed=7).stories(160, "en"))


def table(path, rows, header=("text", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def clean():
    return [(story.text, story.sentiment) for story in STORIES]


def found(tmp_path, rows, test=None, **changes):
    data = table(tmp_path / "rows.csv", rows)
    given = {"model": "scratch", "task": "classify", "data": data, "out": tmp_path / "run"}
    if test is not None:
        given["test"] = table(tmp_path / "test.csv", test)
    return examine_rows(Finetune(**given | changes), "recipe.yaml")


def worries(findings):
    return [line for level, line in findings if level != "ok"]


def test_clean_rows_have_no_faults(tmp_path):
    assert worries(found(tmp_path, clean()[:100], clean()[100:])) == []


@pytest.mark.parametrize("bad", [1, 30])
def test_bad_rows_are_counted_and_the_others_looked_at(bad, tmp_path):
    rows = [("", label) if n < bad else (text, label) for n, (text, label) in enumerate(clean())]
    told = found(tmp_path, [*rows, rows[-1]])
    line = f"rows.csv: {bad} of 161 rows are bad, and the run would stop"
    assert [text for level, text in told if level == "problem" and line in text]
    assert any("rows.csv:162" in text and "more than once" in text for _, text in told)
    level, text = next(each for each in found(tmp_path, rows, on_bad_row="quarantine")
                       if "rows are bad" in each[1])  # fmt: skip
    assert level == ("problem" if bad == 30 else "note") and "would be kept back" in text
    assert "rows.csv:2" in text


def planted(fault):
    """(rows, test rows, changes) with one fault, and what must be said."""
    rows, test = clean()[:100], clean()[100:]
    said = {
        "a row twice": ("rows.csv:102", "more than once"),
        "a text with two labels": ("rows.csv:102", "two different labels"),
        "an exact leak": ("test.csv:62", "in the training part too"),
        "a near leak": ("test.csv:62", "nearly"),
        "one class": ("rows.csv", "one class only"),
        "a flood": ("rows.csv", "macro F1"),
        "a rare label": ("rows.csv:102", "fewer than 5"),
        "a label in another case": ("rows.csv:102", "differ in case"),
        "a new label": ("test.csv:62", "no label 'lost'"),
        "swapped columns": ("rows.csv:2", "swapped"),
        "a text that says its label": ("rows.csv:102", "say their own label"),
        "a wild rate": ("rate", "far from sane"),
        "a model beyond the memory": ("M parameters", "GB free"),
        "few rows": ("rows.csv", "only 20 rows"),
        "an empty text": ("rows.csv:102", "the text is empty"),
        "a ragged row": ("rows.csv:102", "columns"),
    }
    changes = {}
    text, label = rows[3]
    if fault == "a row twice":
        rows.append((text, label))
    elif fault == "a text with two labels":
        rows.append((text, "negative" if label != "negative" else "positive"))
    elif fault == "an exact leak":
        test.append((text.upper(), label))
    elif fault == "a near leak":
        test.append((text[:-1] + ", at last.", label))
    elif fault == "one class":
        rows = [(text, "positive") for text, _ in rows]
        test = [(text, "positive") for text, _ in test]
    elif fault == "a flood":
        rows = [(text, "positive" if n else "neutral") for n, (text, _) in enumerate(rows)]
        test = [(text, "positive") for text, _ in test]
    elif fault == "a rare label":
        rows.append(("Something else altogether happened.", "other"))
    elif fault == "a label in another case":
        rows.append(("Something else altogether happened.", label.upper()))
    elif fault == "a new label":
        test.append(("Something else altogether happened.", "lost"))
    elif fault == "swapped columns":
        rows, test = [(b, a) for a, b in rows], None
    elif fault == "a text that says its label":
        rows.append((f"Something else happened. Label: {label}", label))
    elif fault == "a wild rate":
        changes["rate"] = 3.0
    elif fault == "a model beyond the memory":
        changes |= {"size": "gpt2-xl", "pretrain_minutes": 1.0}
    elif fault == "few rows":
        rows = rows[:20]
    elif fault == "an empty text":
        rows.append(("  ", label))
    elif fault == "a ragged row":
        rows.append((text, label, "more"))
    return rows, test, changes, said[fault]


FAULTS = [
    "a row twice", "a text with two labels", "an exact leak", "a near leak", "one class", "a flood",
    "a rare label", "a label in another case", "a new label", "swapped columns",
    "a text that says its label", "a wild rate", "a model beyond the memory", "few rows",
    "an empty text", "a ragged row",
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named_with_its_place(fault, tmp_path):
    rows, test, changes, (place, said) = planted(fault)
    lines = worries(found(tmp_path, rows, test, **changes))
    assert any(place in line and said in line for line in lines), lines


@pytest.fixture
def model(tokenizer, tmp_path):
    """A folder with a tokenizer of its own, whose template may be changed."""

    def made(change=lambda template: template):
        folder = tmp_path / "model"
        folder.mkdir()
        tokenizer.save(folder)
        own = Tokenizer.load(folder)
        own.chat_template = change(own.chat_template)
        own.save(folder)
        return str(folder)

    return made


def talk(tmp_path, rows, **changes):
    data = tmp_path / "talk.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Finetune(task="chat", data=data, out=tmp_path / "run", **changes)
    return worries(examine_rows(settings, "recipe.yaml"))


ROWS = [{"instruction": f"Who is number {number}?", "output": "Ivan."} for number in range(60)]


def test_conversations_without_fault(tmp_path, model):
    assert talk(tmp_path, ROWS, model=model(), context=64) == []


def test_an_answer_without_its_end_is_named(tmp_path, model):
    folder = model(lambda template: template.replace(TURN_END, ""))
    lines = talk(tmp_path, ROWS, model=folder, context=64)
    assert any("talk.jsonl:1" in line and "would not stop" in line for line in lines), lines


def test_an_answer_behind_the_context_is_named(tmp_path, model):
    rows = ROWS.copy()
    rows[4] = {"instruction": "Who? " * 60, "output": "Ivan."}
    lines = talk(tmp_path, rows, model=model(), context=48)
    assert any("talk.jsonl:5" in line and "nothing would be learned" in line for line in lines), (
        lines
    )


def test_two_beginnings_are_named(tmp_path, model):
    folder = model(lambda template: "{{ bos_token }}{{ bos_token }}" + template)
    lines = talk(tmp_path, ROWS, model=folder, context=64)
    assert any("talk.jsonl:1" in line and "two BOS tokens" in line for line in lines), lines


@pytest.mark.parametrize("end", ["<|endoftext|>", TURN_END])
def test_padding_that_is_an_end_is_named(end, tmp_path, model):
    folder = model()
    path = Path(folder) / "tokenizer_config.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"pad_token": end, "eos_token": "<|endoftext|>"}))
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = Finetune(
        model=folder, task="chat", data=tmp_path / "talk.jsonl", out=tmp_path / "run", context=64
    )
    lines = [line for level, line in examine_rows(settings, "recipe.yaml") if level == "note"]
    assert any("padding is " in line and "tokenizer.json" in line for line in lines), lines
