"""A worker that dies or hangs: what was asked is told so, what comes next is answered."""

import asyncio
import os
import signal
import time

import pytest
from serving import made

from yantai.base.errors import ModelFileError
from yantai.serve import process
from yantai.serve.process import ProcessBackend

QUESTION = {"do": "complete", "prompt": "One", "max_new_tokens": 8, "temperature": 0.0, "n": 1}


LONG = QUESTION | {"max_new_tokens": 4000, "n": 4, "bias": dict.fromkeys(range(5), -100.0)}


@pytest.fixture
def settings(tokenizer, tmp_path):
    model = made(tokenizer, max_positions=4096)
    model.save(tmp_path / "model")
    return {"model": str(tmp_path / "model"), "dtype": "float32", "device": "cpu", "slots": 4,
            "waiting": 8, "threads": 1}  # fmt: skip


async def answer(backend, **changes):
    """The text, or the error."""
    text = ""
    async for table in backend.ask(QUESTION | changes):
        if "error" in table:
            return table["error"]
        text += table.get("text", "")
    return text


async def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        await asyncio.sleep(0.05)


@pytest.mark.slow
def test_what_has_no_place_is_refused_before_the_worker_reads_it(settings):
    async def story():
        backend = ProcessBackend(settings | {"slots": 1, "waiting": 2})
        await backend.start()
        try:
            streams = [backend.ask(LONG | {"n": 1}), backend.ask(LONG | {"n": 2})]
            for stream in streams:
                assert "prompt_tokens" in await anext(stream)
            os.kill(backend._process.pid, signal.SIGSTOP)  # from now on it can refuse nothing
            assert (await answer(backend))["status"] == 429
            os.kill(backend._process.pid, signal.SIGCONT)
            # calls have places of their own, and who leaves gives back what they had
            assert (await answer(backend, do="embed", input=["One"])) == ""
            await streams[1].aclose()
            assert isinstance(await until_answered(backend), str)
            await streams[0].aclose()
        finally:
            await backend.close()

    asyncio.run(story())


async def until_answered(backend, seconds=30):
    """The text, once the engine has noticed who has left."""
    end = time.monotonic() + seconds
    while isinstance(text := await answer(backend), dict):
        assert text["status"] == 429 and time.monotonic() < end
    return text


@pytest.mark.slow
def test_a_worker_that_is_killed_or_stopped_is_replaced(settings, monkeypatch):
    monkeypatch.setattr(process, "QUIET_SECONDS", 1.5)
    monkeypatch.setattr(process, "KILL_SECONDS", 1.0)

    async def story():
        backend = ProcessBackend(settings)
        await backend.start()
        try:
            assert backend.is_ready and "complete" in backend.facts["can"]
            first = await answer(backend)
            assert first
            # told to leave in the middle of one
            stream = backend.ask(LONG)
            assert "prompt_tokens" in await anext(stream)
            backend.leave()
            tables = [table async for table in stream]
            assert tables[-1]["error"]["code"] == "shutting_down"
            # killed in the middle of an answer
            stream = backend.ask(LONG)
            assert "prompt_tokens" in await anext(stream)
            os.kill(backend._process.pid, signal.SIGKILL)
            told = [table async for table in stream]
            assert told[-1]["error"]["status"] == 503
            await until(lambda: not backend.is_ready)
            await until(lambda: backend.is_ready)
            assert await answer(backend) == first and backend.restarts == 1
            # whoever ends a service tells all of its processes: this one waits for its server
            stream = backend.ask(LONG)
            assert "prompt_tokens" in await anext(stream)
            os.kill(backend._process.pid, signal.SIGTERM)
            assert [table async for table in stream][-1]["end"] and backend.restarts == 1
            # stopped: the process is there and says nothing
            os.kill(backend._process.pid, signal.SIGSTOP)
            await until(lambda: not backend.is_ready, 5)
            await until(lambda: backend.is_ready)
            assert await answer(backend) == first and backend.restarts == 2
            # several at once, and one that goes away
            texts = await asyncio.gather(*(answer(backend) for _ in range(6)))
            assert texts == [first] * 6
            stream = backend.ask(LONG)
            await anext(stream)
            await stream.aclose()
            await asyncio.sleep(0.6)  # a beat
            await until(lambda: backend.figures and not backend.figures["busy"])
            assert await answer(backend) == first
        finally:
            await backend.close()
        assert backend._process is None

    asyncio.run(story())


@pytest.mark.slow
def test_a_model_that_does_not_open_is_an_error_at_once(settings, tmp_path):
    (tmp_path / "model" / "config.json").write_text("{}")

    async def story():
        backend = ProcessBackend(settings)
        with pytest.raises(ModelFileError, match=r"config\.json"):
            await backend.start()

    asyncio.run(story())


def test_readiness_is_progress_not_life():
    now = [100.0]
    backend = ProcessBackend({}, clock=lambda: now[0])
    assert not backend.is_ready
    backend._is_up, backend._heard, backend._moved = True, 100.0, 100.0
    assert backend.is_ready
    for second in range(1, 8):  # it beats, is busy, and makes no step
        now[0] = 100.0 + second
        backend._take_beat({"steps": 5, "busy": True, "active": 1, "waiting": 0})
    assert not backend.is_ready
    backend._take_beat({"steps": 6, "busy": True, "active": 1, "waiting": 0})
    assert backend.is_ready
    now[0] += 4  # no beat at all
    assert not backend.is_ready
    backend._take_beat({"steps": 6, "busy": False, "active": 0, "waiting": 0})
    assert backend.is_ready
