"""`yantai evaluate` and `yantai generate` on models that are no decoders."""

import json

import pytest

from yantai.base.errors import UsageError
from yantai.core.initialise import build
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.life.settings import Evaluate, Generate
from yantai.life.verbs import evaluate, generate
from yantai.text.tokenizer import MASK, SPANS, Tokenizer
from yantai.text.village import Village
from yantai.training.network import model_config
from yantai.training.recipe import Pretrain

STORIES = [row["text"] for row in Village(seed=3).documents(40)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models of random weights with one tokenizer, and a file of documents."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(STORIES, 800, specials=(MASK, *SPANS))
    kinds = {
        "bert": ("bert", 256),
        "longer": ("bert", 512),
        "t5": ("t5", 256),
        "gpt": ("gpt2", 256),
    }
    for name, (kind, context) in kinds.items():
        family = family_named(kind)
        recipe = Pretrain(
            out="x", size="nano", family=kind, layers=1, dim=16, heads=2, context=context
        )
        network = build(model_config(recipe, family, tokenizer.vocab_size), table="gpt2", seed=1)
        start = tokenizer.pad_id if kind == "t5" else None
        ends = frozenset({tokenizer.eos_id})
        LanguageModel(network, family, tokenizer, ends, start).save(folder / name)
    rows = (json.dumps({"text": text}) + "\n" for text in STORIES)
    (folder / "stories.jsonl").write_text("".join(rows))
    return folder


def asked(place, model, **options):
    said = []
    settings = Evaluate(model=place / model, data=(place / "stories.jsonl",), **options)
    return evaluate(settings, said.append), "".join(said)


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_it_is_told_beside_a_guess(place, model):
    report, said = asked(place, model)
    assert f"{report['accuracy']:.2%} right" in said
    assert "commonest token" in said
    assert report["documents"] == 40


def test_models_of_two_lengths_are_asked_the_same(place):
    report, said = asked(place, "bert", against=place / "longer")
    other, _ = asked(place, "longer", context=256)
    assert report["against"]["value"] == pytest.approx(report["loss"] - other["loss"], abs=1e-6)
    assert "nats a target" in said


def test_two_tasks_are_not_compared(place):
    with pytest.raises(UsageError, match="two things"):
        asked(place, "bert", against=place / "t5")


def test_windows_that_slide_are_for_running_text(place):
    with pytest.raises(UsageError, match="slide"):
        asked(place, "bert", stride=10)


@pytest.mark.parametrize("model", ["bert", "t5"])
def test_generate_fills_blanks(place, model):
    said = []
    result = generate(Generate(model=place / model, prompt="One ___ the baker."), said.append)
    assert result["texts"] == ["".join(said).rstrip("\n")]
    assert result["texts"][0].startswith("One") and "___" not in result["texts"][0]


def test_an_answer_is_streamed_and_searched(place):
    said = []
    settings = {"model": place / "t5", "prompt": "One day.", "max_new_tokens": 5}
    result = generate(Generate(**settings), said.append)
    assert "".join(said) == result["texts"][0] + "\n"
    assert len(generate(Generate(**settings, num_beams=2), said.append)["texts"]) == 1
