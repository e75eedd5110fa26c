"""The chat in the terminal: how it begins, reads lines, and ends."""

import io
import json

import pytest

from yantai.cli import main
from yantai.core.config import ModelConfig
from yantai.core.initialise import build
from yantai.families.table import FAMILIES
from yantai.infer.language_model import LanguageModel
from yantai.life.chat import _lines
from yantai.training.sizes import model_fields


@pytest.fixture
def folder(tokenizer, tmp_path):
    fields = model_fields("nano", "llama") | {"vocab_size": tokenizer.vocab_size}
    config = ModelConfig(**fields | {"layers": 1, "max_positions": 64})
    LanguageModel(build(config), FAMILIES["llama"], tokenizer).save(tmp_path / "model")
    return tmp_path / "model"


class Terminal(io.StringIO):
    """What a person types, line by line; None is Ctrl-C."""

    def __init__(self, *typed):
        super().__init__()
        self.typed = iter(typed)

    def isatty(self):
        return True

    def readline(self, size=-1):
        line = next(self.typed, "")
        if line is None:
            raise KeyboardInterrupt
        return line


def chat(monkeypatch, capsys, folder, *flags, typed="hi\n"):
    """Exit status, standard output and standard error."""
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    status = main(["chat", str(folder), "--json", *flags])
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "code", "what"),
    [
        (["--top-p", "0.5", "--temperature", "0"], "E203", "top_p can have no effect"),
        (["--max-new-tokens", "64"], "E201", "expected under 64, the model's context, got 64"),
    ],
)
def test_settings_are_refused_before_a_chat_starts(monkeypatch, capsys, folder, flags, code, what):
    status, out, err = chat(monkeypatch, capsys, folder, *flags)
    assert (status, out) == (2, "")
    assert err.startswith(f"error[{code}] chat:") and what in err


def test_a_context_smaller_than_the_default_length_is_no_error(monkeypatch, capsys, folder):
    status, out, _ = chat(monkeypatch, capsys, folder)
    assert status == 0 and len(json.loads(out)["messages"]) == 2


def test_lines_of_another_system_end_alike(monkeypatch, capsys, folder):
    status, out, _ = chat(monkeypatch, capsys, folder, "--max-new-tokens", "1", typed="hi\r\n")
    assert status == 0 and json.loads(out)["messages"][0]["content"] == "hi"


@pytest.mark.parametrize(
    ("typed", "read", "hints"),
    [
        ((None, "a\n", None, "b\n", ""), ["a", "b"], 2),
        (("a\n", None, None, "never\n"), ["a"], 1),
    ],
)
def test_the_second_ctrl_c_in_a_row_ends_the_chat(monkeypatch, capsys, typed, read, hints):
    monkeypatch.setattr("sys.stdin", Terminal(*typed))
    assert list(_lines()) == read
    assert capsys.readouterr().err.count("another Ctrl-C ends") == hints
