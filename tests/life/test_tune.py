"""Searching a recipe: mistakes are told at once, a study goes on, the best recipe reruns."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from yantai.base.config import build, read_yaml
from yantai.base.errors import DataError, UsageError
from yantai.life.finetune import teach
from yantai.life.settings import Tune
from yantai.life.study import Range, Space, counted_trials, open_study, put_back
from yantai.life.tune import read_search, tune
from yantai.text.village import Village
from yantai.training.recipe import Finetune


@pytest.fixture
def recipe(tmp_path):
    """A small fine-tuning whose rate is searched."""
    data = tmp_path / "rows.csv"
    with data.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for story in Village(seed=7).stories(120, "en"):
            table.writerow([story.text, story.sentiment])
    values = {
        "verb": "finetune", "model": "scratch", "task": "classify", "data": str(data),
        "size": "nano", "vocab_size": 600, "context": 96, "pretrain_minutes": 0, "threads": 1,
        "steps": 6,
        "search": {
            "rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "optimizer": ["muon", "adamw"],
        },
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def changed(recipe, **changes):
    values = yaml.safe_load(recipe.read_text()) | changes
    recipe.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return recipe


BAD = {
    "no search": ({"search": None}, "nothing is searched"),
    "no training": ({"verb": "chat"}, "no training"),
    "an unknown field": ({"search": {"rat": [1, 2]}}, "did you mean 'rate'"),
    "a value that is not allowed": ({"search": {"optimizer": ["mion"]}}, "mion"),
    "an empty range": ({"search": {"rate": {"low": 1.0, "high": 1.0}}}, "low must be below"),
    "a second value that is not allowed": ({"search": {"optimizer": ["adamw", "x"]}}, "'x'"),
    "a border that is not allowed": ({"search": {"rate": {"low": -1, "high": 1.0}}}, "rate"),
    "an unknown word": ({"search": {"rate": {"lo": 1, "high": 2}}}, "did you mean 'low'"),
    "no choices": ({"search": {"rate": 3}}, "neither a range nor choices"),
    "a mistake beside the search": ({"task": "clasify"}, "clasify"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_told_before_the_first_trial(name, recipe):
    changes, said = BAD[name]
    with pytest.raises(UsageError, match=said):
        read_search(changed(recipe, **changes))


@pytest.mark.slow
def test_a_study_from_end_to_end(recipe, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'yantai[tune]'")
    settings = {"recipe": recipe, "out": tmp_path / "study", "finalists": 2, "seeds": 2}
    shown = []
    report = tune(Tune(trials=3, **settings), shown.append)
    assert report["trials"] == 3
    assert len(report["finalists"]) == 2
    assert all(len(each["scores"]) == 2 for each in report["finalists"])
    assert report["best"]["mean"] == max(each["mean"] for each in report["finalists"])
    assert "difference" in report["against_second"]["verdict"] or "better" in "".join(shown)
    with pytest.raises(UsageError, match="holds a study already"):
        tune(Tune(trials=3, **settings), str)

    again = tune(Tune(trials=5, resume=True, **settings), str)
    assert again["trials"] == 5
    assert json.loads((tmp_path / "study" / "study.json").read_text())["trials"] == 5
    page = (tmp_path / "study" / "study.html").read_text(encoding="utf-8")
    assert "history" in page and "https://cdn" not in page
    assert not list((tmp_path / "study").rglob("*.safetensors"))

    values = read_yaml(tmp_path / "study" / "best.yaml")
    assert values.pop("verb") == "finetune"
    assert again["best"]["values"].items() <= values.items()
    best = build(Finetune, values, "best")
    score = teach(best.model_copy(update={"seed": 1})).result["best_score"]
    assert score == pytest.approx(again["best"]["scores"][0])
    with pytest.raises(UsageError, match="is not the recipe"):
        tune(Tune(trials=6, resume=True, **settings | {"recipe": changed(recipe, steps=7)}), str)


@pytest.mark.slow
def test_several_processes_work_on_one_study(recipe, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'yantai[tune]'")
    settings = Tune(
        recipe=recipe, out=tmp_path / "study", trials=4, workers=2, finalists=1, seeds=1
    )
    report = tune(settings, str)
    assert (report["trials"], report["failed"], report["cut_off"]) == (4, 0, 0)


@pytest.mark.slow
def test_what_no_value_can_mend_ends_the_study_and_what_values_break_is_kept(recipe, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'yantai[tune]'")
    first = recipe.read_text()
    settings = Tune(recipe=changed(recipe, text_column="nothing"), out=tmp_path / "a", trials=3)
    with pytest.raises(DataError, match="no column 'nothing'"):
        tune(settings, str)
    recipe.write_text(first)
    search = {"size": ["gpt2-xl"]}
    settings = Tune(recipe=changed(recipe, search=search), out=tmp_path / "b", trials=1)
    with pytest.raises(UsageError, match=r"no trial came to its end.*error\[E801\] memory"):
        tune(settings, str)
    assert "E801" in (tmp_path / "b" / "trials" / "0000.error.txt").read_text()


@pytest.mark.slow
def test_workers_end_with_their_parent(recipe, tmp_path):
    pytest.importorskip("optuna", reason="pip install 'yantai[tune]'")
    changed(recipe, steps=100_000)
    command = [sys.executable, "-m", "yantai.cli", "tune", str(recipe), "--workers", "2"]
    command += ["--out", str(tmp_path / "study"), "--trials", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until(lambda: len(list((tmp_path / "study" / "trials").glob("*/recipe.json"))) == 2)
        workers = [int(pid) for pid in children.read_text().split()]
        parent.kill()
    assert len(workers) >= 2
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    put_back_after_a_kill(tmp_path / "study")


def put_back_after_a_kill(out):
    """The trials that died are queued with their values, and count for nothing."""
    study = open_study(out / "study.journal", 0, prune=False)
    died = [each.params for each in study.trials]
    assert [each.state.name for each in study.trials] == ["RUNNING", "RUNNING"]
    put_back(study, out)
    assert [each.state.name for each in study.trials] == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert counted_trials(study) == []
    space = Space(
        fields={"rate": Range(low=1e-4, high=1e-2, log=True), "optimizer": ("muon", "adamw")}
    )
    assert [space.suggest(study.ask()) for _ in range(2)] == died
    assert not list((out / "trials").glob("*/recipe.json"))


def until(holds, seconds=90):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
