"""How rows are shared out: by a file, a column, shares, or the default."""

import json

import pytest
from pydantic import ValidationError

from yantai.base.errors import DataError
from yantai.life.doctor_rows import examine_rows
from yantai.life.finetune import finetune
from yantai.life.jobs import JOBS
from yantai.life.predict import predict
from yantai.life.rows import parts_of
from yantai.life.settings import Predict
from yantai.text.tokenizer import Tokenizer
from yantai.training.recipe import Finetune

PARTS = ["train"] * 8 + ["dev"] * 4 + ["test"] * 2


def table(tmp_path, parts):
    path = tmp_path / "rows.csv"
    lines = [f"text {n},{'good' if n % 2 else 'bad'},{part}" for n, part in enumerate(parts)]
    path.write_text("\n".join(["text,label,part", *lines]) + "\n")
    return path


def recipe(tmp_path, **changes):
    given = {"model": "scratch", "task": "classify", "out": tmp_path / "run"}
    return Finetune(**given | changes)


def shared(settings):
    parts = parts_of(settings, JOBS[settings.task](settings))
    return {name: [row.text for row in getattr(parts, name)] for name in ("train", "valid", "test")}


def test_a_column_decides_the_part_of_each_row(tmp_path):
    settings = recipe(tmp_path, data=table(tmp_path, PARTS), split_column="part")
    found = shared(settings)
    assert found["train"] == [f"text {n}" for n in range(8)]
    assert found["valid"] == [f"text {n}" for n in range(8, 12)]
    assert found["test"] == ["text 12", "text 13"]


def test_a_part_that_the_column_does_not_name_is_shared_out(tmp_path):
    data = table(tmp_path, ["train"] * 36 + ["test"] * 4)
    found = shared(recipe(tmp_path, data=data, split_column="part"))
    assert found["test"] == ["text 36", "text 37", "text 38", "text 39"]
    assert len(found["valid"]) == 4 and len(found["train"]) == 32


def test_a_row_that_names_no_part_stops_or_is_kept(tmp_path, capsys):
    settings = recipe(tmp_path, data=table(tmp_path, [*PARTS, "later"]), split_column="part")
    with pytest.raises(DataError, match="names no part") as stopped:
        shared(settings)
    assert stopped.value.where.endswith("rows.csv:16")
    found = shared(settings.model_copy(update={"on_bad_row": "quarantine"}))
    assert sum(len(part) for part in found.values()) == 14
    lines = (tmp_path / "run" / "quarantine" / "split" / "unknown.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == ["16"]
    assert "1 row whose 'part' names no part" in capsys.readouterr().err


def test_a_column_without_rows_for_training_is_refused(tmp_path):
    settings = recipe(tmp_path, data=table(tmp_path, ["test"] * 4), split_column="part")
    with pytest.raises(DataError, match="no row is for training") as stopped:
        shared(settings)
    assert stopped.value.got == "4 test"


def test_shares_are_the_given_ones(tmp_path):
    data = table(tmp_path, [""] * 200)
    assert [len(part) for part in shared(recipe(tmp_path, data=data)).values()] == [160, 20, 20]
    halves = recipe(tmp_path, data=data, shares=(5, 2, 3))
    assert [len(part) for part in shared(halves).values()] == [100, 40, 60]
    given = recipe(tmp_path, data=data, shares=(3, 1, 1), test=data)
    assert [len(part) for part in shared(given).values()] == [150, 50, 200]


@pytest.mark.parametrize("share", [float("nan"), float("inf"), 0.0, -1.0])
def test_shares_are_numbers(share, tmp_path):
    with pytest.raises(ValidationError, match="each of train, valid and test"):
        recipe(tmp_path, data=table(tmp_path, PARTS), shares=(share, 1, 2))


def test_shares_and_columns_that_contradict_are_refused(tmp_path):
    data = table(tmp_path, PARTS)
    with pytest.raises(ValidationError, match="each of train, valid and test"):
        recipe(tmp_path, data=data, shares=(0.9, 0.1, 0.0))
    with pytest.raises(ValidationError, match="shares can have no effect"):
        recipe(tmp_path, data=data, valid=data, test=data, shares=(8, 1, 1))
    with pytest.raises(ValidationError, match="names the parts"):
        recipe(tmp_path, data=data, split_column="part", test=data)


def test_the_doctor_looks_at_parts_that_a_column_names(tmp_path):
    path = table(tmp_path, PARTS)
    path.write_text(path.read_text() + "text 3,good,test\n")
    settings = recipe(tmp_path, data=path, split_column="part")
    found = [line for kind, line in examine_rows(settings, "recipe.yaml") if kind == "problem"]
    assert any(
        "1 row is in the training part too" in line and "rows.csv:5" in line for line in found
    )
    settings = recipe(tmp_path, data=path, split_column="shard")
    found = [line for kind, line in examine_rows(settings, "recipe.yaml") if kind == "problem"]
    assert any("no column 'shard'" in line for line in found)


CHAT = [
    {"messages": [{"role": "user", "content": f"What is {n}?"},
                  {"role": "assistant", "content": f"A number, {n}."}]}
    for n in range(30)
]  # fmt: skip
LONG = {"messages": [{"role": "user", "content": "geese " * 200},
                     {"role": "assistant", "content": "Many."}]}  # fmt: skip


@pytest.mark.slow
def test_a_question_longer_than_the_context_stops_or_is_kept(tmp_path, capsys):
    data, test = tmp_path / "rows.jsonl", tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*CHAT[:20], LONG]))
    test.write_text("".join(json.dumps(row) + "\n" for row in [LONG, *CHAT[20:]]))
    given = {
        "data": data, "valid": data, "test": test, "task": "chat", "size": "nano", "context": 64,
        "vocab_size": 400, "pretrain_minutes": 0, "steps": 2, "threads": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="nothing to learn") as stopped:
        finetune(recipe(tmp_path, **given, out=tmp_path / "a"), str)
    assert stopped.value.where in ("rows.jsonl:21", "test.jsonl:1")
    assert "quarantine" in str(stopped.value.do)
    found = finetune(recipe(tmp_path, **given, out=tmp_path / "b", on_bad_row="quarantine"), str)
    assert found["n"] == 10
    for part, place in (("train", "rows.jsonl:21"), ("valid", "rows.jsonl:21"),
                        ("test", "test.jsonl:1")):  # fmt: skip
        (line,) = (tmp_path / "b/quarantine" / part / "unfit.jsonl").read_text().splitlines()
        table = json.loads(line)
        assert f"{table['file']}:{table['line']}" == place
        assert table["row"]["messages"] == LONG["messages"]
        assert table["what"] == "nothing to learn within the first 64 tokens"
    assert "1 row with nothing to learn in " in capsys.readouterr().err


REFUSES = (
    "{%- if messages[0]['role'] != 'user' %}{{ raise_exception('begin with a user') }}{% endif -%}"
)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["chat", "prefer"])
def test_a_conversation_that_the_template_refuses_is_named_or_kept(task, tmp_path, tokenizer):
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build
    from yantai.families.table import family_named
    from yantai.infer.language_model import LanguageModel

    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=16, layers=1, heads=2, kv_heads=2, head_dim=8,
        hidden=32, max_positions=96,
    )  # fmt: skip
    tokenizer.save(tmp_path / "tokenizer")
    own = Tokenizer.load(tmp_path / "tokenizer")
    own.chat_template = REFUSES + own.chat_template
    ends = frozenset({own.eos_id})
    LanguageModel(build(config), family_named("llama"), own, ends).save(tmp_path / "model")
    rows = CHAT[:20]
    odd = {"messages": [{"role": "system", "content": "s"}, *CHAT[0]["messages"]]}
    if task == "prefer":
        rows = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(20)]
        odd = {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "?"}],
               "chosen": "Yes.", "rejected": "No."}  # fmt: skip
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, odd]))
    given = {"model": str(tmp_path / "model"), "task": task, "data": data, "steps": 1, "batch": 1,
             "threads": 1, "context": 64, "valid": data, "test": data}  # fmt: skip
    with pytest.raises(DataError, match="the chat template refuses it: begin with a user") as odd:
        finetune(recipe(tmp_path, **given, out=tmp_path / "a"), str)
    assert (odd.value.code, odd.value.where) == ("E312", "rows.jsonl:21")
    found = finetune(recipe(tmp_path, **given, out=tmp_path / "b", on_bad_row="quarantine"), str)
    assert found["n"] == 20
    (line,) = (tmp_path / "b/quarantine/train/unfit.jsonl").read_text().splitlines()
    assert json.loads(line)["line"] == "21"
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"text": "Who?"}) + "\n")
    out = tmp_path / "said.jsonl"
    told = predict(Predict(model=tmp_path / "b" / "model", data=asked, out=out), str)
    assert told["rows"] == 1 and "reply" in json.loads(out.read_text())


@pytest.mark.slow
def test_a_preview_spells_answers_and_writes_nothing(tmp_path, tokenizer):
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build
    from yantai.families.table import family_named
    from yantai.infer.language_model import LanguageModel
    from yantai.training.sizes import model_fields

    fields = model_fields("nano", "bert") | {"vocab_size": tokenizer.vocab_size, "layers": 1}
    model = LanguageModel(build(ModelConfig(**fields)), family_named("bert"), tokenizer)
    model.save(tmp_path / "model")
    context = "Anna has a goose. Ivan has a cow."
    rows = [
        {"question": f"Who has a {thing}? {n}", "context": context,
         "answers": {"text": [name], "answer_start": [context.index(name)]}}
        for n in range(10) for name, thing in (("Anna", "goose"), ("Ivan", "cow"))
    ]  # fmt: skip
    rows.append(rows[0] | {"question": "Why?", "answers": {"text": [], "answer_start": []}})
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "Who?"}]))
    settings = recipe(
        tmp_path, model=str(tmp_path / "model"), task="span", data=data, preview=21, valid=data,
        test=data, on_bad_row="quarantine", threads=1,
    )  # fmt: skip
    shown = []
    finetune(settings, shown.append)
    text = "".join(shown)
    assert len(shown) == 21 and not (tmp_path / "run").exists()
    assert text.count("[Anna]") == text.count("[Ivan]") == 10 and text.count("[no answer]") == 1
