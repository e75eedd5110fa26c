"""Pretraining of every shape from raw text, and going on with a model of somebody else."""

import json
import shutil

import pytest
import torch

import yantai
from yantai.base.errors import ModelFileError, UsageError
from yantai.evaluate.task_loss import task_loss
from yantai.text.document import Document
from yantai.text.tokenizer import MASK, Tokenizer
from yantai.text.village import Village
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Pretrain

FAMILIES = {
    "bert": {"whole_words": True, "rate": 1.6e-2, "matrix_rate": 0.02},
    "roberta": {},
    "t5": {},
    "mt5": {},
    "bart": {"objective": "infill"},
    "lstm": {"optimizer": "adamw"},
    "gru": {},
    "gru-seq2seq": {},
}
SMALL = {"size": "nano", "layers": 1, "dim": 32, "batch": 4, "context": 48, "vocab_size": 700}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "stories.jsonl"
    rows = Village(seed=4).documents(150)
    path.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    return path


def run(out, stories, **changes):
    heads = {} if changes.get("family") in ("lstm", "gru", "gru-seq2seq") else {"heads": 2}
    settings = SMALL | heads | {"data": (stories,), "out": out, "steps": 6, "threads": 1}
    return pretrain(Pretrain(**settings | changes))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder):
    model = yantai.load(folder, dtype="float32")
    return {name: tensor.clone() for name, tensor in model.network.named_parameters()}


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name == "bert" else [pytest.mark.slow]) for name in FAMILIES],
)
def test_a_run_learns_and_is_the_same_again(family, stories, tmp_path):
    options = FAMILIES[family] | {"family": family}
    run(tmp_path / "first", stories, **options)
    rows = rows_of(tmp_path / "first" / "metrics.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0]
    first = weights(tmp_path / "first" / "model")
    run(tmp_path / "again", stories, **options)
    again = weights(tmp_path / "again" / "model")
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5", "lstm", "gru-seq2seq"])
def test_going_on_begins_where_the_model_was(family, stories, tmp_path):
    options = FAMILIES[family] | {"family": family}
    run(tmp_path / "first", stories, **options)
    model = tmp_path / "first" / "model"
    more = {"data": (stories,), "out": tmp_path / "more", "from": model, "steps": 1, "warmup": 0}
    more |= {"size": "nano", "batch": 4, "context": 48, "threads": 1}
    pretrain(Pretrain(**more | {key: value for key, value in options.items() if key != "family"}))
    rows = rows_of(tmp_path / "more" / "metrics.jsonl")
    begun = rows_of(tmp_path / "first" / "metrics.jsonl")
    assert rows[0]["loss"] < begun[0]["loss"]
    starts = [
        json.loads((tmp_path / name / "model" / "config.json").read_text()).get(
            "decoder_start_token_id"
        )
        for name in ("first", "more")
    ]
    assert starts[0] == starts[1]
    assert (starts[0] is not None) == (family in ("t5", "gru-seq2seq"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "t5", "bart", "lstm", "gru-seq2seq"])
def test_a_run_that_lost_its_end_goes_on_to_the_same_bits(family, stories, tmp_path):
    options = FAMILIES[family] | {"family": family, "save_every": 3, "dropout": 0.1}
    run(tmp_path / "whole", stories, **options)
    expected = weights(tmp_path / "whole" / "last")
    run(tmp_path / "cut", stories, **options)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000006")
    shutil.rmtree(tmp_path / "cut" / "last")
    run(tmp_path / "cut", stories, resume=True, **options)
    got = weights(tmp_path / "cut" / "last")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.slow
def test_infilling_of_documents_as_long_as_the_model(stories, tmp_path):
    run(tmp_path / "run", stories, family="bart", objective="infill", context=256, batch=2, steps=2)
    model = yantai.load(tmp_path / "run" / "model")
    assert model.network.config.max_positions == 256
    long = Document("The miller walked home. " * 200, "long", "long", 1)
    assert task_loss(model, [long]).report()["targets"] > 256


def test_a_setting_of_the_model_is_not_taken_beside_a_model(stories, tmp_path):
    run(tmp_path / "first", stories, steps=1)
    model = tmp_path / "first" / "model"
    for changes in ({"dropout": 0.1}, {"layers": 2}, {"tied": False}):
        with pytest.raises(UsageError, match="is decided by the model"):
            settings = {"data": (stories,), "out": tmp_path / "more", "from": model, "steps": 1}
            pretrain(Pretrain(**settings | changes))
        assert not (tmp_path / "more").exists()
    with pytest.raises(UsageError, match="longer than the model"):
        pretrain(Pretrain(**settings | {"context": 512}))


@pytest.mark.slow
def test_a_vocabulary_grows_with_the_model(stories, tmp_path):
    run(tmp_path / "first", stories)
    model = tmp_path / "first" / "model"
    chemistry = tmp_path / "chemistry.jsonl"
    rows = ["chlorobenzene and ketone sulfamide in methylamide", "ketoamide of chlorosulfate"] * 60
    chemistry.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    more = {"data": (chemistry,), "out": tmp_path / "more", "from": model, "new_entries": 20}
    pretrain(Pretrain(**more | {"size": "nano", "batch": 4, "context": 48, "steps": 2}))
    old, new = (Tokenizer.load(tmp_path / name / "model") for name in ("first", "more"))
    assert new.vocab_size == old.vocab_size + 20
    grown = yantai.load(tmp_path / "more" / "model")
    assert grown.network.config.vocab_size == new.vocab_size
    assert len(new.encode(rows[0])) < len(old.encode(rows[0]))
    assert isinstance(grown.generate("ketone", max_new_tokens=3), str)


def test_another_tokenizer_than_the_models_is_refused(stories, tmp_path):
    """F27: weights go on with the tokenizer they were made with, or one that extends it."""
    run(tmp_path / "first", stories, steps=1)
    texts = [row["text"] for row in rows_of(stories)]
    Tokenizer.train(texts[:40], 600).save(tmp_path / "other")
    with pytest.raises(ModelFileError, match="not that of the model"):
        settings = {"data": (stories,), "out": tmp_path / "more", "steps": 1}
        model = tmp_path / "first" / "model"
        pretrain(Pretrain(**settings, **{"from": model, "tokenizer": tmp_path / "other"}))
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "lstm", "heads": 2}, "heads"),
        ({"family": "gru", "softcap": 20.0}, "softcap"),
        ({"family": "lstm", "recompute": True}, "recompute"),
        ({"family": "lstm", "objective": "masked"}, "objective"),
        ({"family": "qwen3", "whole_words": True}, "whole_words"),
        ({"family": "t5", "whole_words": True}, "whole_words"),
        ({"new_entries": 5}, "--from"),
    ],
)
def test_what_a_family_has_not_is_refused(changes, said, stories, tmp_path):
    with pytest.raises(UsageError, match=said):
        run(tmp_path / "run", stories, **{"steps": 1} | changes)


@pytest.mark.slow
def test_a_masked_model_gets_its_mask_token_and_fills_blanks(stories, tmp_path):
    run(tmp_path / "run", stories, family="bert", steps=2)
    model = yantai.load(tmp_path / "run" / "model")
    assert model.tokenizer.mask_id == model.tokenizer.control[MASK]
    assert "___" not in yantai.fill(model, "One ___ the baker.")
