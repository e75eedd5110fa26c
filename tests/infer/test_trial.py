"""A grammar that never ends, or ends its process, is refused, and the next one is tried."""

import os
import signal

import pytest

from yantai.base.errors import DataError

trial = pytest.importorskip("yantai.infer.trial", exc_type=ImportError)

SLOW = {"type": "integer", "multipleOf": 99_999_999}
"""Hours, and all memory."""


@pytest.fixture
def tries(tokenizer):
    made = trial.Trial(tokenizer.to_json(), tokenizer.vocab_size, [tokenizer.eos_id])
    yield made
    made.close()


@pytest.mark.slow
def test_what_holds_too_much_is_ended_and_remembered(tries):
    tries.check("json_schema", {"type": "integer"})
    with pytest.raises(DataError, match=r"takes over|more than can be made"):
        tries.check("json_schema", SLOW)
    assert tries._process is None
    with pytest.raises(DataError, match=r"takes over|more than can be made"):
        tries.check("json_schema", SLOW)
    assert tries._process is None  # it was not tried again
    tries.check("regex", "[a-c]+")
    assert tries._process.poll() is None


def test_who_does_not_answer_in_time_is_ended(tries, monkeypatch):
    tries.check("regex", "[a-c]+")
    first = tries._process
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    monkeypatch.setattr(trial, "BUSY_SECONDS", 0.3)
    os.kill(first.pid, signal.SIGSTOP)
    with pytest.raises(DataError, match="takes over"):
        tries.check("regex", "[a-d]+")
    assert first.poll() is not None and tries._process is None


@pytest.mark.parametrize(("kept", "asked"), [(60.0, 1), (-1.0, 2)])
def test_what_is_refused_is_remembered_for_some_time(tries, monkeypatch, kept, asked):
    lines, answer = [], tries._answer
    tries.check("regex", "a")
    monkeypatch.setattr(tries, "_answer", lambda line, seconds: (
        lines.append(line), answer(line, seconds))[1])  # fmt: skip
    monkeypatch.setattr(trial, "KEPT_SECONDS", kept)
    for _ in range(2):
        with pytest.raises(DataError, match="nothing satisfies"):
            tries.check("regex", r"[^\s\S]")
    assert len(lines) == asked


def test_a_process_that_ends_is_replaced(tries):
    tries.check("regex", "[a-c]+")
    first = tries._process
    os.kill(first.pid, signal.SIGKILL)
    tries.check("regex", "[a-d]+")
    assert tries._process is not first


def test_what_ends_the_process_twice_is_refused(tries, monkeypatch):
    fatal = '{"kind": "regex", "text": "a"}'
    answer = tries._answer

    def falls(line, seconds):
        if line == fatal:
            tries._process.kill()
        return answer(line, seconds)

    monkeypatch.setattr(tries, "_answer", falls)
    with pytest.raises(DataError, match="more than can be made"):
        tries.check("regex", "a")
    tries.check("regex", "b")


def test_what_is_no_grammar_is_told_as_it_is_here(tries):
    with pytest.raises(DataError, match="nothing satisfies") as error:
        tries.check("regex", r"[^\s\S]")
    assert error.value.code == "E304" and error.value.where == "response_format"
    tries.check("json_object", None)


def test_it_ends_with_whoever_asked(tokenizer):
    made = trial.Trial(tokenizer.to_json(), tokenizer.vocab_size, [tokenizer.eos_id])
    made.check("regex", "a")
    process = made._process
    del made
    assert process.poll() is not None


def test_what_a_grammar_holds_is_told_and_a_long_one_is_not_sent(tries):
    small = tries.check("json_schema", {"type": "integer"})
    large = tries.check("json_schema", {"type": "integer", "multipleOf": 20_011})
    assert large > max(small, 1_000_000) and large < 100_000_000
    with pytest.raises(DataError, match="too large"):
        tries.check("regex", "a" * 300_000)
    assert len(tries._refused) == 0


def test_grammars_are_kept_by_what_they_hold(tokenizer, monkeypatch):
    grammar = pytest.importorskip("yantai.infer.grammar")
    monkeypatch.setattr(grammar, "KEPT_BYTES", 3000)
    made = grammar.Grammars(tokenizer, frozenset({tokenizer.eos_id}))
    monkeypatch.setattr(made._trial, "check", lambda kind, text: 1000)
    for number in range(9):
        made.guide("regex", "a" * (number + 1))
    assert len(made._made) == len(made._sizes) == 3
