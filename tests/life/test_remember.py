"""What a model forgets is measured on pages that nobody may learn again."""

import json

import numpy as np
import pytest

from yantai.base.errors import DataError, UsageError
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.evaluate.task_loss import task_loss
from yantai.evaluate.text_loss import text_loss
from yantai.families.table import family_named
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.life.finetune import finetune
from yantai.life.predict import predict
from yantai.life.remember import PAGE, forgetting, old_documents, replayed
from yantai.life.settings import Evaluate, Predict
from yantai.life.verbs import evaluate
from yantai.text.village import Village
from yantai.training.pretrain import pretrain
from yantai.training.recipe import Finetune, Pretrain

SMALL = {"task": "chat", "threads": 1, "batch": 4, "context": 128}


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """A run's folder as `yantai pretrain` leaves it, of a model that knows nothing."""
    folder = tmp_path_factory.mktemp("run")
    book = "\n".join(story.text for story in Village(seed=5).stories(200, "en"))
    (folder / "book.txt").write_text(book, encoding="utf-8")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=32, layers=1, heads=2, kv_heads=2, head_dim=16,
        hidden=64, max_positions=128,
    )  # fmt: skip
    model = LanguageModel(
        build(config, seed=1), family_named("llama"), tokenizer, frozenset({tokenizer.eos_id})
    )
    model.save(folder / "model")
    settings = {"data": [str(folder / "book.txt")], "text_field": "text", "encoding": "utf-8"}
    (folder / "recipe.json").write_text(json.dumps({"settings": settings}))
    rows = [{"instruction": f"Say {number}", "output": "No"} for number in range(60)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(run, out, **changes):
    settings = {"model": str(run / "model"), "data": run / "rows.jsonl", "out": out}
    return Finetune(**SMALL | settings | changes)


def test_every_page_is_asked_or_may_be_learned(run, tmp_path):
    old = old_documents(recipe(run, tmp_path))
    book = (run / "book.txt").read_text()
    assert max(len(page.text) for page in old.asked + old.others) <= PAGE
    assert sum(len(page.text) for page in old.asked + old.others) == len(book)
    assert all(page.text in book for page in old.asked)
    assert not {page.text for page in old.asked} & {page.text for page in old.others}
    assert len(old.asked) * 8 < len(old.others)
    (tmp_path / "other.txt").write_text("A page of its own.")
    named = old_documents(recipe(run, tmp_path, old_data=(tmp_path / "other.txt",)))
    assert [page.text for page in named.asked] == ["A page of its own."]
    assert old_documents(Finetune(**SMALL, model="scratch", data="x", out="y")) is None
    assert old_documents(recipe(run, tmp_path, task="classify")) is None


def test_replayed_rows_hold_no_page_that_is_asked(run, tokenizer, tmp_path):
    settings = recipe(run, tmp_path, replay=0.25)
    old = old_documents(settings)
    rows = replayed(old, settings, tokenizer, "decoder", 128)
    seen = [rows.row(0, number).ids for number in range(rows.rows_in_epoch(0))]
    text = tokenizer.decode(np.concatenate(seen).tolist())
    pieces = [[page.text[100:260] for page in part] for part in (old.others, old.asked)]
    assert sum(piece in text for piece in pieces[0]) > len(old.others) / 4  # rows cut the rest
    assert not any(piece in text for piece in pieces[1])
    with pytest.raises(UsageError, match="decoders alone"):
        replayed(old, settings, tokenizer, "encoder-decoder", 128)
    with pytest.raises(UsageError, match="--old-data"):
        replayed(None, settings, tokenizer, "decoder", 128)
    (tmp_path / "short.txt").write_text("One page.")
    with pytest.raises(DataError, match="too little"):
        old_documents(recipe(run, tmp_path, replay=0.5, old_data=(tmp_path / "short.txt",)))


def test_a_report_says_what_was_forgotten(run, tmp_path):
    settings = recipe(run, tmp_path / "plain", epochs=2)
    report = finetune(settings, str)
    body = load(run / "model", dtype="float32")
    expected = text_loss(body, old_documents(settings).asked).report()["bits_per_byte"]
    assert report["forgotten"]["before"]["value"] == pytest.approx(expected)
    kept = json.loads((tmp_path / "plain" / "scores.json").read_text())["forgotten"]
    assert kept == report["forgotten"]
    again = finetune(recipe(run, tmp_path / "replay", epochs=2, replay=0.5), str)
    assert again["training"]["steps"] == pytest.approx(2 * report["training"]["steps"], abs=1)
    assert again["forgotten"]["after"]["value"] < report["forgotten"]["after"]["value"]


def test_the_verdict_follows_the_difference(run, tmp_path):
    old = old_documents(recipe(run, tmp_path))
    body, other = (load(run / "model", dtype="float32") for _ in range(2))
    assert forgetting(old, body, other, 0)["difference"]["verdict"] == "no difference shown"
    other.network.head.weight.data.mul_(30)
    assert forgetting(old, body, other, 0)["difference"]["verdict"] == "it has forgotten"
    assert forgetting(old, other, body, 0)["difference"]["verdict"] == "it knows them better"


def test_what_an_encoder_decoder_forgets_is_how_it_restores_text(run, tmp_path):
    book = (run / "book.txt").read_text(encoding="utf-8")[:20_000]
    (tmp_path / "book.txt").write_text(book, encoding="utf-8")
    pretrain(
        Pretrain(
            data=(tmp_path / "book.txt",), out=tmp_path / "body", family="t5", size="nano",
            layers=1, vocab_size=500, context=128, batch=4, steps=2, threads=1,
        )
    )  # fmt: skip
    rows = [{"text": f"Say {number}", "target": "No"} for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Finetune(
        model=str(tmp_path / "body" / "model"), data=tmp_path / "rows.jsonl", out=tmp_path / "run",
        task="translate", threads=1, batch=4, steps=30,
    )  # fmt: skip
    report = finetune(settings, str)["forgotten"]
    assert report["measure"] == "nats a token"
    body = load(tmp_path / "body" / "model", dtype="float32")
    expected = task_loss(body, old_documents(settings).asked).report()["loss"]
    assert report["before"]["value"] == pytest.approx(expected)
    assert report["after"]["value"] > report["before"]["value"] + 0.1
    assert report["difference"]["verdict"] == "it has forgotten"
    a_taught_model_says_its_task(tmp_path)


def a_taught_model_says_its_task(folder):
    """Rows of the task are told from documents, and nobody has to name it."""
    model, out = folder / "run" / "model", folder / "said.jsonl"
    shown, data = [], folder / "rows.jsonl"
    assert evaluate(Evaluate(model=model, data=(data,)), shown.append)["task"] == "translate"
    assert "was taught to translate" in shown[0]
    assert predict(Predict(model=model, data=data, out=out), str)["rows"] == 60
    assert "text" in json.loads(out.read_text().splitlines()[0])
    book = (folder / "book.txt",)
    assert evaluate(Evaluate(model=model, data=book), str)["task"] == "denoise"
