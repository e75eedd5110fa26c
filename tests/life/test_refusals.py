"""Mistakes with names of files and folders: nothing is lost, and it is said where."""

import json
import struct

import pytest

from yantai.base.errors import DataError, ModelFileError, UsageError
from yantai.base.files import check_replaceable
from yantai.cli import main
from yantai.evaluate.compare import interval_text, ratio
from yantai.families.hub import local_folder
from yantai.families.table import FAMILIES
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load

TEXT = "The inkstone is where you grind your own ink.\n" * 40
FEW = ["--size", "nano", "--steps", "1", "--batch", "2"]


def told(capsys, *arguments):
    """Exit status and the error of a command."""
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().err


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("held", [{"thesis.md": "mine"}, {"recipe.json": "{}", "model/a": ""}])
def test_a_folder_with_other_things_is_not_replaced(held, text, tmp_path, capsys, tokenizer):
    out = tmp_path / "out"
    for name, content in held.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(content)
    status, said = told(capsys, "tokenizer", text, "--vocab-size", 300, "--out", out)
    assert status == 2 and "E204" in said and "holds other things" in said
    status, said = told(capsys, "tokenizer", text, "--vocab-size", 300, "--out", text)
    assert status == 2 and "is a file" in said
    assert all((out / name).read_text() == content for name, content in held.items())
    assert text.read_text() == TEXT


def test_what_yantai_wrote_is_replaced(text, tmp_path, capsys):
    (tmp_path / "out").mkdir()  # an empty folder is nobody's
    entries = []
    for size in (270, 280):
        status, _ = told(capsys, "tokenizer", text, "--vocab-size", size, "--out", tmp_path / "out")
        assert status == 0
        table = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
        entries.append(len(table["model"]["vocab"]))
    assert entries == [270, 280]
    check_replaceable(tmp_path / "nothing")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "notes.json").write_text("{}")
    with pytest.raises(UsageError, match=r"notes\.json"):
        check_replaceable(tmp_path / "plain")


def test_a_run_begins_in_no_folder_that_holds_its_names(text, tmp_path, capsys):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "thesis.md").write_text("mine")
    status, said = told(capsys, "pretrain", "--data", text, "--out", tmp_path / "run", *FEW)
    assert status == 2 and "run/model" in said and "no run made it" in said
    assert (tmp_path / "run" / "model" / "thesis.md").read_text() == "mine"


@pytest.mark.slow
def test_a_start_that_failed_does_not_stop_the_next_one(text, tmp_path, capsys):
    run = tmp_path / "run"
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for wrong, what in ((tmp_path / "nosuch.txt", "no such file"), (empty, "empty.txt")):
        status, said = told(capsys, "pretrain", "--data", wrong, "--out", run, *FEW)
        assert status in (2, 3) and what in said
    small = ["--vocab-size", 300]
    status, said = told(capsys, "pretrain", "--data", text, "--out", run, *FEW, *small)
    assert status == 0, said
    status, said = told(capsys, "pretrain", "--data", text, "--out", run, *FEW, *small)
    assert status == 2 and "holds a run already" in said
    status, said = told(capsys, "generate", run, "The")
    assert status == 4 and f"its model is {run / 'model'}" in said
    status, said = told(capsys, "evaluate", run / "model", "--data", run)
    assert status == 3 and "is a run, not a folder of documents" in said


def test_what_is_resumed_must_be_there(text, tmp_path, capsys):
    out = tmp_path / "nothing"
    status, said = told(capsys, "pretrain", "--out", out, "--resume")
    assert status == 2 and "holds no run to resume" in said
    assert not out.exists()


def test_answers_do_not_replace_the_questions(text, tmp_path, capsys):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\nhello\n")
    status, said = told(capsys, "predict", tmp_path, "--data", rows, "--out", rows)
    assert status == 2 and "would be overwritten" in said
    assert rows.read_text() == "text\nhello\n"
    out = tmp_path / "answers.jsonl"
    out.write_text("")
    status, said = told(
        capsys, "predict", tmp_path, "--data", tmp_path / "nosuch.csv", "--out", out
    )
    assert status in (2, 4) and "E000" not in said


def test_a_model_of_a_run_is_not_looked_for_on_the_hub():
    assert str(local_folder("nosuchrun/model")) == "nosuchrun/model"
    with pytest.raises((UsageError, ModelFileError), match="nosuchrun/model"):
        load("nosuchrun/model")


def test_a_folder_without_a_tokenizer_says_so_and_nothing_else(some_model, tmp_path, capsys):
    LanguageModel(some_model(), FAMILIES["llama"]).save(tmp_path / "model")
    assert main(["generate", str(tmp_path / "model"), "hi"]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error[E405] tokenizer.json: the model folder has no")


def test_one_piece_has_no_interval_and_json_no_nan():
    estimate = ratio([3.0], [2.0]).as_dict()
    assert estimate["value"] == 1.5 and estimate["low"] is estimate["high"] is None
    json.dumps(estimate, allow_nan=False)
    assert "no interval" in interval_text(estimate)
    assert interval_text(ratio([3.0, 3.0], [2.0, 2.0]).as_dict(), ".1f") == "95 %: 1.5 to 1.5"


def test_an_empty_file_is_named(tmp_path, capsys):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"empty\.txt"):
        from yantai.text.document import DocumentReader
        from yantai.text.reading_empty import with_text

        list(with_text(DocumentReader([tmp_path / "empty.txt"])))
    status, said = told(capsys, "tokenizer", tmp_path / "empty.txt", "--out", tmp_path / "out")
    assert status == 3 and "empty.txt" in said and "doctor" in said


def test_what_a_hostile_file_says_is_spelled_out(tmp_path, capsys):
    name, said = "general.architecture", b"a\x1b[31mRED\x07"
    head = struct.pack("<IQQ", 3, 0, 1)
    entry = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<IQ", 8, len(said)) + said
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + head + entry + b"\0" * 64)
    status, told_ = told(capsys, "generate", tmp_path / "bad.gguf", "hi")
    assert status == 4 and told_.endswith(r"got a\u001b[31mRED\u0007" + "\n")
