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
def test_what_takes_too_long_is_ended_and_remembered(tries):
    tries.check("json_schema", {"type": "integer"})
    with pytest.raises(DataError, match="takes over"):
        tries.check("json_schema", SLOW)
    assert tries._process is None
    with pytest.raises(DataError, match="takes over"):
        tries.check("json_schema", SLOW)
    assert tries._process is None  # it was not tried again
    tries.check("regex", "[a-c]+")
    assert tries._process.poll() is None


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
