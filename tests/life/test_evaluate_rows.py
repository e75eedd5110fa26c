"""A taught model on rows: the same scores as its fine-tuning gave, and a page that is safe."""

import json

import pytest

from yantai.base.errors import DataError, UsageError
from yantai.evaluate.page import report_page
from yantai.life.finetune import finetune
from yantai.life.settings import Evaluate
from yantai.life.verbs import evaluate
from yantai.text.village import Village
from yantai.training.recipe import Finetune


def rows(path, start, count, label=lambda story: story.sentiment):
    with path.open("w", encoding="utf-8") as file:
        for story in Village(seed=4).stories(count, "en", start=start):
            file.write(json.dumps({"text": story.text, "label": label(story)}) + "\n")
    return path


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    train, test = rows(folder / "train.jsonl", 0, 100), rows(folder / "test.jsonl", 100, 30)
    settings = Finetune(
        model="scratch", task="classify", data=train, test=test, out=folder / "run", size="nano",
        vocab_size=600, pretrain_minutes=0, threads=1, context=128, epochs=1,
    )  # fmt: skip
    return finetune(settings, str), folder / "run" / "model", train, test


@pytest.mark.slow
def test_rows_are_scored_as_after_training(taught, tmp_path):
    report, model, train, test = taught
    shown = []
    settings = Evaluate(
        model=model, data=(test,), train=train, out=tmp_path / "report", against=model
    )
    again = evaluate(settings, shown.append)
    assert again["metrics"] == report["metrics"]
    assert again["against"][str(model)]["verdict"] == "no difference shown"
    assert "naive Bayes" in again["floors"]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "naive Bayes" in page and "confusion" in page and "http" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["n"] == 30


@pytest.mark.slow
def test_what_does_not_fit_is_told(taught, tmp_path):
    _, model, _, test = taught
    odd = rows(tmp_path / "odd.jsonl", 0, 3, label=lambda story: "strange")
    with pytest.raises(DataError, match=r"odd.jsonl:1: a label"):
        evaluate(Evaluate(model=model, data=(odd,)), str)
    with pytest.raises(UsageError, match="another job"):
        evaluate(Evaluate(model=model, data=(test,), task="tag"), str)
    with pytest.raises(UsageError, match="one file"):
        evaluate(Evaluate(model=model, data=(test, odd)), str)


def test_a_page_never_reads_a_text_as_markup():
    each = {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.5}
    bad = "<script>alert(1)</script>"
    report = {
        "n": 3, "metrics": {"accuracy": each}, "floors": {bad: {"accuracy": each}},
        "against": {bad: each | {"verdict": bad}}, "labels": [bad, "b"],
        "confusion": [[1, 0], [1, 1]], "calibration_error": 0.1,
    }  # fmt: skip
    page = report_page(report, [{"text": bad, "said": bad, bad: "x"}], bad)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 7
