"""A taught model on rows: the same scores as its fine-tuning gave, and a page that is safe."""

import json

import numpy as np
import pytest

from yantai.base.errors import DataError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.evaluate.judged import judged_report
from yantai.evaluate.page import report_page
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.life.finetune import finetune
from yantai.life.settings import Evaluate
from yantai.life.verbs import evaluate
from yantai.text.tokenizer import MASK, Tokenizer
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


@pytest.mark.slow
def test_floors_that_know_the_rows_and_flags_without_effect_are_told(taught, tmp_path):
    _, model, train, test = taught
    shown = []
    report = evaluate(Evaluate(model=model, data=(test,), train=test), shown.append)
    assert report["known_rows"] == 30 and "30 rows of 30 are among those" in "".join(shown)
    report = evaluate(Evaluate(model=model, data=(test,), train=train), shown.append)
    assert report["known_rows"] == 0
    for name, value in {"stride": 3, "context": 5, "limit": 2, "text_field": "story"}.items():
        with pytest.raises(UsageError, match=f"{name}: can have no effect") as caught:
            evaluate(Evaluate(model=model, data=(test,), **{name: value}), str)
        assert caught.value.code == "E203"


@pytest.mark.slow
def test_bad_rows_are_kept_below_the_report(taught, tmp_path):
    _, model, _, test = taught
    odd = tmp_path / "odd.jsonl"
    odd.write_text(test.read_text() + '{"text": "", "label": "positive"}\n')
    settings = {"model": model, "data": (odd,), "on_bad_row": "quarantine"}
    with pytest.raises(UsageError, match="no place to be kept"):
        evaluate(Evaluate(**settings), str)
    assert evaluate(Evaluate(**settings, out=tmp_path / "out"), str)["n"] == 30
    kept = (tmp_path / "out" / "quarantine" / "odd").iterdir()
    assert any("odd.jsonl" in path.read_text() for path in kept)


@pytest.mark.parametrize("shape", ["decoder", "encoder"])
def test_documents_have_a_page_too(shape, tmp_path):
    tokenizer = Tokenizer.train(["Ivan has a goose. "] * 30, 300, specials=(MASK,))
    family = {"decoder": "llama", "encoder": "bert"}[shape]
    config = family_named(family).fixed()
    network = build(
        ModelConfig(
            **config | {"vocab_size": tokenizer.vocab_size, "dim": 16, "layers": 1, "heads": 2,
                        "kv_heads": 2, "head_dim": 8, "hidden": 32, "max_positions": 64}
        ),
        seed=1, table="gpt2",
    )  # fmt: skip
    model = tmp_path / "model"
    LanguageModel(network, family_named(family), tokenizer, frozenset({1})).save(model)
    (tmp_path / "a.txt").write_text("Ivan has a goose. " * 50)
    settings = {"model": model, "data": (tmp_path / "a.txt",), "out": tmp_path / "out"}
    report = evaluate(Evaluate(**settings), str)
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    worst = kept.pop("worst")
    assert kept == report
    assert [row["text"][:4] for row in worst] == (["Ivan"] if shape == "decoder" else [])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 document;" in page and "http" not in page
    assert ("bits_per_byte" if shape == "decoder" else "the commonest token") in page
    for name, value in {"train": tmp_path / "a.txt", "label_column": "zz", "limit": 3}.items():
        with pytest.raises(UsageError, match="can have no effect"):
            evaluate(Evaluate(**settings, **{name: value}), str)


def test_a_page_tells_what_was_forgotten_and_how_bleu_was_counted():
    told = {"value": 1.25, "low": 1.2, "high": 1.3}
    report = judged_report(np.array([0, 1]), np.eye(2, dtype=np.float32), ("a", "b"), {})
    forgotten = {"pages": 3, "measure": "bits per byte", "before": told, "after": told,
                 "difference": told | {"verdict": "it has forgotten"}}  # fmt: skip
    page = report_page(report | {"forgotten": forgotten, "signature": "tok:zh"}, [], "x")
    assert "its old texts" in page and "it has forgotten" in page and "3 pages" in page
    assert "tok:zh" in page
    assert "its old texts" not in report_page(report, [], "x")


@pytest.mark.parametrize("several", [False, True])
def test_a_page_shows_how_sure_a_model_may_be(several):
    dice = np.random.default_rng(0)
    logits = dice.normal(size=(60, 3)).astype(np.float32)
    truth = dice.integers(0, 2, (60, 3)).astype(bool) if several else dice.integers(0, 3, 60)
    report = judged_report(truth, logits, ("a", "b", "c"), {})
    low, high = (report["calibration"][end] for end in ("low", "high"))
    assert 0 <= low < high <= 1
    assert 0 < report["calibration"]["chance"] < report["calibration_error"]
    page = report_page(report, [], "x")
    assert page.count("<circle") == len(report["calibration"]["bins"]) > 3
    assert ("each by itself" in page) == several == ("kinds" in report)
    assert ("confusion" in page) == (not several)


def test_a_model_that_is_as_sure_as_it_is_right_has_the_error_of_chance():
    dice = np.random.default_rng(1)
    logits = dice.normal(scale=2, size=(4000, 2)).astype(np.float32)
    truth = (dice.random(4000) < 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))).astype(int)
    found = judged_report(truth, logits, ("a", "b"), {})["calibration"]
    assert found["value"] == pytest.approx(found["chance"], abs=0.01)
    sure = judged_report(truth, 4 * logits, ("a", "b"), {})["calibration"]
    assert sure["value"] > 5 * sure["chance"]
