"""A file of rows in, a file of answers out, one for each row, in order."""

import json

import pytest

import yantai
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
    with pytest.raises(UsageError, match="--task translate, summarize, chat or embed"):
        predict(settings, str)
    with pytest.raises(UsageError, match="is not made for tag"):
        predict(settings.model_copy(update={"task": "tag"}), str)


@pytest.fixture(scope="module")
def speaker(tokenizer, tmp_path_factory):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("speaker") / "model"
    ends = frozenset({tokenizer.eos_id})
    network = build(config, seed=3, table="gpt2")
    LanguageModel(network, family_named("llama"), tokenizer, ends).save(path)
    return path


@pytest.mark.parametrize("task", ["translate", "summarize", "chat", "embed"])
def test_a_language_model_is_asked_for_texts_and_vectors(task, speaker, tmp_path):
    texts = ["Ivan has a goose.", "天气很好。", "A"]
    settings = Predict(
        model=speaker, data=rows(tmp_path, *texts), out=tmp_path / "out.jsonl", task=task,
        dtype="float32",
    )  # fmt: skip
    expected = {"out": str(settings.out), "rows": 3, "bad": 0, "truncated": 0, "blank": 0}
    assert predict(settings, str) == expected
    found = [json.loads(line) for line in settings.out.read_text().splitlines()]
    model = load(speaker, dtype="float32")
    for text, row in zip(texts, found, strict=True):
        if task == "embed":
            assert row["vector"] == pytest.approx(yantai.embed(model, text)[0].tolist(), abs=1e-5)
        elif task == "chat":
            asked = [{"role": "user", "content": text}]
            assert row["reply"] == model.chat(asked, max_new_tokens=32)
        else:
            assert row["text"] == yantai.translate(model, text)


def test_a_bad_conversation_is_named(speaker, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(
        json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
        + "\n"
        + json.dumps({"messages": [{"role": "stranger", "content": "Hi"}]})
        + "\n"
    )
    settings = Predict(model=speaker, data=data, out=tmp_path / "o.jsonl", task="chat")
    with pytest.raises(DataError, match=r"rows.jsonl:2"):
        predict(settings, str)


def test_questions_are_answered_row_by_row(tokenizer, tmp_path):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64, head=Labels(names=("start", "end"), bias=True),
    )  # fmt: skip
    model = LanguageModel(build(config, seed=1), judging(family_named("llama"), "span"), tokenizer)
    model.save(tmp_path / "model")
    data = tmp_path / "rows.csv"
    data.write_text("question,context\nWho?,Anna has a goose.\nWhat?,A goose is here.\n")
    settings = Predict(
        model=tmp_path / "model", data=data, out=tmp_path / "o.jsonl", dtype="float32"
    )
    assert predict(settings, str)["rows"] == 2
    found = [json.loads(line) for line in settings.out.read_text().splitlines()]
    for text, row in zip(("Anna has a goose.", "A goose is here."), found, strict=True):
        assert row["answer"] and text[row["start"] : row["end"]] == row["answer"]


@pytest.fixture(scope="module")
def talker(tokenizer, tmp_path_factory):
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("talker") / "model"
    network = build(config, seed=1, table="gpt2")
    stops = frozenset({tokenizer.eos_id})
    LanguageModel(network, family_named("llama"), tokenizer, stops).save(path)
    return path


@pytest.mark.parametrize("policy", ["stop", "mark"])
def test_one_conversation_that_is_too_long_does_not_cost_the_others(talker, tmp_path, policy):
    data = rows(tmp_path, "Who?", "Who is the baker? " * 40, "Where?")
    settings = Predict(
        model=talker, data=data, out=tmp_path / "out.jsonl", task="chat", on_bad_row=policy,
        dtype="float32",
    )  # fmt: skip
    if policy == "stop":
        with pytest.raises(DataError, match=r"rows.jsonl:2: .*too long.* --on-bad-row mark"):
            predict(settings, str)
        return
    assert predict(settings, str) | {"out": ""} == {
        "out": "",
        "rows": 3,
        "bad": 1,
        "truncated": 0,
        "blank": 0,
    }
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ["error" in row for row in found] == [False, True, False]
    assert "too long" in found[1]["error"]


def test_what_is_no_fault_of_a_row_is_told_as_it_is(talker, tmp_path):
    data = rows(tmp_path, "Who?", "Where?")
    settings = Predict(model=talker, data=data, out=tmp_path / "o.jsonl", task="classify")
    with pytest.raises(UsageError):
        predict(settings, str)


@pytest.mark.parametrize("policy", ["stop", "mark"])
def test_questions_in_squads_form_are_answered_whatever_their_answers(tokenizer, tmp_path, policy):
    family = judging(family_named("llama"), "span")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=64, head=Labels(names=("start", "end"), bias=True),
    )  # fmt: skip
    network, model = build(config, seed=1, table="gpt2"), tmp_path / "model"
    LanguageModel(network, family, tokenizer, frozenset({tokenizer.eos_id})).save(model)
    asked = [
        {"id": "q1", "question": "Who?", "answers": [{"text": "nobody", "answer_start": 5}]},
        {"id": "q2", "question": "" if policy == "mark" else "Where?"},
    ]
    table = {"data": [{"paragraphs": [{"context": "Ivan is at home.", "qas": asked}]}]}
    (tmp_path / "rows.json").write_text(json.dumps(table))
    settings = Predict(
        model=model, data=tmp_path / "rows.json", out=tmp_path / "out.jsonl", on_bad_row=policy
    )
    assert predict(settings, str)["rows"] == 2
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["row"] for row in found] == ["rows.json:1[q1]", "rows.json:1[q2]"]
    assert ["error" in row for row in found] == [False, policy == "mark"]


def test_lines_with_nothing_in_them_are_counted(folder, tmp_path):
    (tmp_path / "rows.csv").write_text("text\nIvan\n\nAnna\n")
    shown = []
    settings = Predict(model=folder, data=tmp_path / "rows.csv", out=tmp_path / "out.jsonl")
    assert predict(settings, shown.append)["blank"] == 1
    assert "1 blank line left out" in shown[0]


def test_a_text_that_is_cut_says_so(folder, tmp_path):
    """Where a text is read at once; spans are found in long ones piece by piece."""
    path = rows(tmp_path, "Ivan has geese.", "many geese " * 200)
    settings = Predict(model=folder, data=path, out=tmp_path / "out.jsonl", dtype="float32")
    shown = []
    result = predict(settings, shown.append)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    cut = "classify" in str(folder)
    assert [row.get("truncated", False) for row in found] == [False, cut]
    assert result["truncated"] == cut and ("longer than the model reads" in shown[0]) == cut
