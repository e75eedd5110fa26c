"""Whole workflows: the quickstart in small, a training from Python, the doctor's findings."""

import functools
import json
import sys

import pytest

import yantai
from yantai.base.errors import UsageError
from yantai.life import quickstart as quickstart_module
from yantai.life.chat import converse
from yantai.life.doctor import doctor
from yantai.life.settings import Doctor, Quickstart, Verify
from yantai.life.verify import verify
from yantai.life.village_scores import score_all, story_requests
from yantai.text.village import Village

SMALL = {
    "size": "nano",
    "layers": 1,
    "dim": 32,
    "heads": 2,
    "context": 64,
    "batch": 4,
    "vocab_size": 400,
    "steps": 3,
    "threads": 1,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "village.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in Village(seed=1).documents(60):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.mark.slow
def test_the_quickstart_lives_a_whole_life_and_its_chain_holds(tmp_path, monkeypatch, capsys):
    few = functools.partial(score_all, questions=10, stories=4, opened=6)
    monkeypatch.setattr(quickstart_module, "score_all", few)
    out = tmp_path / "quickstart"
    shown = []
    result = quickstart_module.quickstart(
        Quickstart(out=out, minutes=0.3, no_serve=True), shown.append
    )
    assert set(result["scores"]) == {
        "closed book, unseen wording",
        "open book, unseen facts",
        "consistent stories",
        "bits per byte, unseen facts",
    }
    for row in result["scores"].values():
        for language in ("en", "zh"):
            item = row[language]
            assert item["low"] <= item["value"] <= item["high"]
    assert result["facts_in_the_world"] <= 200
    assert "closed book" in "".join(shown)
    receipt = json.loads((out / "receipt.json").read_text())
    assert receipt["facts"]["energy"]["watt_hours"] > 0
    assert verify(Verify(folder=out / "pretrain"), shown.append)["holds"]
    assert verify(Verify(folder=out / "model"), shown.append)["holds"]
    model = yantai.load(out / "model")
    assert isinstance(model.chat([{"role": "user", "content": "你好"}], max_new_tokens=4), str)
    with pytest.raises(UsageError, match="not empty"):
        quickstart_module.quickstart(Quickstart(out=out), shown.append)
    capsys.readouterr()


def test_the_doctor_is_told_of_rows_by_a_recipe(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(UsageError, match="rows are examined by a recipe"):
        doctor(Doctor(what=str(tmp_path / "rows.csv")), str)


@pytest.mark.slow
def test_train_takes_a_table_a_file_or_a_configuration(documents, tmp_path):
    table = SMALL | {"data": (documents,), "out": tmp_path / "a"}
    assert yantai.train(table)["steps"] == 3
    recipe = tmp_path / "recipe.yaml"
    lines = [f"{key}: {value}" for key, value in SMALL.items()]
    lines += ["verb: pretrain", f"data: [{documents}]", f"out: {tmp_path / 'b'}"]
    recipe.write_text("\n".join(lines))
    assert yantai.train(recipe)["loss"] == pytest.approx(
        yantai.train(table | {"out": tmp_path / "c"})["loss"]
    )
    with pytest.raises(UsageError, match="did you mean 'size'"):
        yantai.train(table | {"siez": "nano"})
    with pytest.raises(UsageError, match="not a training"):
        yantai.train(table | {"verb": "generate"})


def test_a_changed_source_stops_a_resume(documents, tmp_path):
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(documents.read_bytes())
    table = SMALL | {"data": (copy,), "out": tmp_path / "run"}
    yantai.train(table)
    copy.write_bytes(documents.read_bytes() + b'{"text": "another row"}\n')
    again = table | {"resume": True, "steps": 5, "allow_change": ("steps",)}
    with pytest.raises(UsageError, match="has changed since the run read it"):
        yantai.train(again)


def test_the_doctor_finds_what_would_spoil_a_run(documents, tmp_path):
    recipe = tmp_path / "recipe.yaml"

    def examine(text):
        recipe.write_text(text)
        lines = []
        try:
            doctor(Doctor(what=recipe), lines.append)
        except UsageError:
            return "".join(lines), False
        return "".join(lines), True

    base = f"verb: pretrain\ndata: [{documents}]\nout: {tmp_path / 'o'}\nsize: nano\n"
    text, fine = examine(base)
    assert fine
    assert "60 documents (30 en, 30 zh)" in text
    for extra, words in (
        ("rate: 5.0\n", "recipe.yaml:5: rate 5.0 is far from sane"),
        ("sise: nano\n", "did you mean 'size'"),
        ("batch: 100000000\n", "recipe.yaml:4: memory: "),
        ("heads: 3\n", "divide"),
        ("steps: -1\n", "[E201] {recipe}:5: steps: "),
        ("sise: nano\n", "[E202] {recipe}:5: sise: unknown key"),
        ("rate: 1.0e-3\nrate: 2.0e-3\n", "{recipe}:6: the key 'rate' stands twice"),
        ("search: {rate: [1.0e-3, wrong]}\n", "wrong"),
        ("? [a, b]\n: 3\n", "unhashable key"),
    ):
        text, fine = examine(base + extra)
        assert not fine, extra
        assert words.format(recipe=recipe) in text
    text, fine = examine(base + "search: {rate: [1.0e-3, 2.0e-3]}\n")
    assert fine, text
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "fine"}\n{"text": \n')
    text, fine = examine(base.replace(str(documents), str(broken)))
    assert not fine
    assert "broken.jsonl:2" in text


def test_a_conversation_survives_an_error_and_forgets_on_reset(tokenizer, capsys):
    from yantai.core.config import ModelConfig
    from yantai.core.initialise import build
    from yantai.families.table import FAMILIES
    from yantai.infer.language_model import LanguageModel
    from yantai.training.sizes import model_fields

    fields = model_fields("nano", "llama") | {"vocab_size": tokenizer.vocab_size}
    model = LanguageModel(build(ModelConfig(**fields)), FAMILIES["llama"], tokenizer)
    lines = ["hello", "word " * 2000, "", "a\udcff", "/reset", "/help", "/resett", "你好", "/exit",
             "never"]  # fmt: skip
    told = []
    messages = converse(model, lines, told.append, settings={"max_new_tokens": 3})
    assert [message["content"] for message in messages[:1]] == ["你好"]
    assert len(messages) == 2
    err = capsys.readouterr().err
    assert "too long" in err and "text: has bytes that are not valid UTF-8" in err
    assert "no command /resett. /reset starts over" in err
    assert "a new conversation" in err


def test_a_story_request_is_no_greeting():
    village = Village(seed=7)
    for language, greeting in (("en", "Hello!"), ("zh", "你好！")):
        requests = story_requests(village, language, 60)
        assert greeting not in requests
        names = [person.item.core(language) for person in village.world.people]
        assert all(any(name in request for name in names) for request in requests)


def test_story_requests_are_different_and_in_both_languages():
    village = Village(seed=2)
    for language in ("en", "zh"):
        requests = story_requests(village, language, 30)
        assert len(set(requests)) == 30


def test_importing_the_package_imports_no_torch():
    import subprocess

    code = "import sys, yantai; assert 'torch' not in sys.modules; print(yantai.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == yantai.__version__
