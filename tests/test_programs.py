"""The programs of introductions run, and learn."""

import csv
import runpy
from pathlib import Path

import pytest

from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.text.village import Village

FOLDER = Path(__file__).parent.parent / "examples" / "articles"
PROGRAMS = {path.stem for path in FOLDER.glob("*.py")}


def program(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


@pytest.fixture(scope="module")
def gpt2(tokenizer, tmp_path_factory):
    """A small GPT-2 that nobody trained."""
    family = family_named("gpt2")
    fields = {"activation": "gelu_tanh", "norm_eps": 1e-5} | family.fixed()
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, layers=2, heads=2, kv_heads=2, head_dim=16,
        hidden=64, max_positions=128, **fields,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    network = build(config, seed=1, table="gpt2")
    LanguageModel(network, family, tokenizer, frozenset({tokenizer.eos_id})).save(folder)
    return str(folder)


def test_each_program_is_named_on_the_page():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(PROGRAMS) == 5
    assert all(f"[{name}.py]({name}.py)" in page for name in PROGRAMS)


def test_greeting(gpt2):
    assert program("greeting")(gpt2).startswith("Hello, my name is")


def test_story(gpt2):
    assert program("story")(gpt2).startswith("Once upon a time")


@pytest.mark.slow
def test_transformer():
    first, last = program("transformer")(steps=250)
    assert last < first / 2


@pytest.mark.slow
def test_language_model(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(row["text"] for row in Village(seed=7).documents(300)))
    first, last = program("language_model")(str(path), steps=120)
    assert last < first * 0.85


@pytest.mark.slow
def test_classify(tmp_path):
    with (tmp_path / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for story in Village(seed=7).stories(200, "en"):
            table.writerow([story.text, story.sentiment])
    report = program("classify")(
        "scratch", str(tmp_path / "data.csv"), str(tmp_path / "out"), train_rows=160,
        size="nano", pretrain_minutes=0, epochs=1, threads=1, vocab_size=700,
    )  # fmt: skip
    assert report["n"] == 40
    assert report["floors"]["naive Bayes"]["accuracy"]["value"] > 0
