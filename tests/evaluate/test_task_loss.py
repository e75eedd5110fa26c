"""Guessing hidden tokens: the sums are those of a plain loop, and the guess is a real opponent."""

import math

import pytest
import torch

from yantai.base.errors import DataError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.core.mask import same_document
from yantai.evaluate.task_loss import _Pieces, task_loss
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.tasks.table import make_task
from yantai.text.document import Document
from yantai.text.tokenizer import MASK, SPANS, Tokenizer
from yantai.text.village import Village

STORIES = [row["text"] for row in Village(seed=3).documents(60)]
TOKENIZER = Tokenizer.train(STORIES, 800, specials=(MASK, *SPANS))
SIZES = {
    "dim": 16, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 8, "hidden": 32,
    "max_positions": 64, "gated": False, "activation": "relu",
}  # fmt: skip


def model_of(shape):
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, shape=shape, **SIZES)
    network = build(config, seed=1, table="gpt2")
    start = TOKENIZER.pad_id if shape == "encoder-decoder" else None
    return LanguageModel(network, family_named("t5"), TOKENIZER, frozenset(), start)


def documents(texts=STORIES):
    return [
        Document(text, f"story {number}", "stories", number) for number, text in enumerate(texts)
    ]


def test_the_sums_are_those_of_a_plain_loop():
    model = model_of("encoder")
    found = task_loss(model, documents(), context=48, seed=5)
    task = make_task("masked", TOKENIZER, 5)
    source = task.rows(_Pieces(documents(), model, 48))
    losses, hits = [], 0
    for index in range(source.rows_in_epoch(0)):
        row = source.row(0, index)
        ids, places = torch.from_numpy(row.ids)[None], row.targets >= 0
        options = {"mask": same_document(torch.from_numpy(row.documents)[None])}
        options["positions"] = torch.from_numpy(row.positions)[None]
        logs = model.network(ids, **options)[0].log_softmax(-1)
        aims = torch.from_numpy(row.targets)[places]
        losses.append(-float(logs[places].gather(1, aims[:, None]).sum()))
        hits += int((logs[places].argmax(-1) == aims).sum())
    assert found.losses == pytest.approx(losses, abs=1e-3)
    assert found.hits == hits
    assert found.documents == len(STORIES)
    assert sum(found.common.values()) == sum(found.targets)


def test_every_token_of_every_document_is_in_one_row():
    model = model_of("encoder")
    source = _Pieces(documents(), model, 48)
    rows = [source.row(0, index) for index in range(source.rows_in_epoch(0))]
    tokens = sum(int((row.documents >= 0).sum()) for row in rows)
    assert tokens == sum(len(TOKENIZER.encode(text)) + 2 for text in STORIES)
    assert tokens > 0.85 * 48 * len(rows)


@pytest.mark.parametrize("shape", ["encoder", "encoder-decoder"])
def test_the_report_has_a_guess_and_intervals(shape):
    report = task_loss(model_of(shape), documents(), seed=1).report()
    assert report["task"] == ("masked" if shape == "encoder" else "denoise")
    assert report["loss"] == pytest.approx(math.log(TOKENIZER.vocab_size), rel=0.05)
    assert 0 < report["guess"]["accuracy"] < 0.5
    assert report["guess"]["loss"] < report["loss"]
    interval = report["intervals"]["accuracy"]
    assert interval["low"] <= report["accuracy"] <= interval["high"]
    assert report["intervals"]["loss"]["low"] < report["loss"]


def test_the_same_seed_asks_the_same():
    model = model_of("encoder")
    first, again, other = (task_loss(model, documents(), seed=seed).losses for seed in (1, 1, 2))
    assert first == again != other


def test_what_cannot_be_asked_is_an_error():
    with pytest.raises(UsageError, match="decoder"):
        task_loss(model_of("decoder"), documents())
    with pytest.raises(UsageError, match="context"):
        task_loss(model_of("encoder"), documents(), context=65)
    with pytest.raises(DataError, match="no text"):
        task_loss(model_of("encoder"), [])
