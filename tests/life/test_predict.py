"""A file of rows in, a file of answers out, one for each row, in order."""

import json

import pytest

from yantai.base.errors import DataError, UsageError
from yantai.core.config import Labels, ModelConfig
from yantai.core.initialise import build
from yantai.families.labels import judging
from yantai.families.table import family_named
from yantai.infer.classify import classify
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.infer.tag import tag
from yantai.life.predict import predict
from yantai.life.settings import Predict
from yantai.tasks.tag import labels_of

NAMES = {"classify": ("bad", "good"), "tag": labels_of(["person"])}


@pytest.fixture(scope="module", params=NAMES)
def folder(request, tokenizer, tmp_path_factory):
    family = judging(family_named("llama"), request.param)
    bias = request.param == "tag"
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64, head=Labels(names=NAMES[request.param], bias=bias),
    )  # fmt: skip
    network = build(config, seed=1, table="gpt2")
    path = tmp_path_factory.mktemp(request.param) / "model"
    LanguageModel(network, family, tokenizer, frozenset({tokenizer.eos_id})).save(path)
    return path


def rows(tmp_path, *texts):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_answers_stand_in_the_order_of_the_rows(folder, tmp_path):
    texts = [f"Ivan has {'many ' * (n % 7)}geese." for n in range(40)]
    settings = Predict(
        model=folder, data=rows(tmp_path, *texts), out=tmp_path / "out.jsonl", dtype="float32"
    )
    assert predict(settings, str)["rows"] == 40
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in found] == [f"rows.jsonl:{n + 1}" for n in range(40)]
    model = load(folder, dtype="float32")
    for text, row in zip(texts, found, strict=True):
        if model.job == "classify":
            assert row["label"] == classify(model, text).label
            assert sum(row["probabilities"].values()) == pytest.approx(1)
        else:
            assert [each["text"] for each in row["entities"]] == [e.text for e in tag(model, text)]


def test_a_bad_row_stops_or_is_marked_in_its_place(folder, tmp_path):
    data = rows(tmp_path, "One.", " ", "Three.")
    settings = {"model": folder, "data": data, "out": tmp_path / "out.jsonl"}
    with pytest.raises(DataError, match=r"rows.jsonl:2: the text is empty"):
        predict(Predict(**settings), str)
    assert not (tmp_path / "out.jsonl").exists()
    assert predict(Predict(**settings, on_bad_row="mark"), str)["bad"] == 1
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [("error" in row) for row in found] == [False, True, False]
    assert found[1] == {"row": "rows.jsonl:2", "error": "the text is empty"}


def test_a_model_that_judges_writes_no_text(folder):
    model = load(folder, dtype="float32")
    for ask in (lambda: model.generate("a"), lambda: model.score("a")):
        with pytest.raises(UsageError, match=r"writes no text|only a decoder scores"):
            ask()


def test_a_language_model_judges_nothing(tokenizer, tmp_path):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64,
    )  # fmt: skip
    model = LanguageModel(build(config), family_named("llama"), tokenizer)
    with pytest.raises(UsageError, match="is not made for classify"):
        classify(model, "a")
    with pytest.raises(UsageError, match="is not made for tag"):
        tag(model, ["a"])
    model.save(tmp_path / "model")
    settings = Predict(model=tmp_path / "model", data=rows(tmp_path, "a"), out=tmp_path / "o.jsonl")
    with pytest.raises(UsageError, match="judges nothing"):
        predict(settings, str)
