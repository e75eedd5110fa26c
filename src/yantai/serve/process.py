"""A backend in a process of its own, watched: one that dies or hangs is replaced.

Knows: lines of JSON between two processes, and time. What was being answered when a process ended
is told so; what comes next is answered by its successor. Imports no torch.
"""

import asyncio
import itertools
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from yantai.base.errors import ResourceError, YantaiError, error_of
from yantai.base.log import say
from yantai.serve.backend import FULL, LEAVING, MOST_UNREAD, UNREAD

MOST_BYTES = 256 << 20
"""Of one line: the vectors of many texts."""
QUIET_SECONDS, STUCK_SECONDS = 3.0, 4.0
"""Without a beat, or busy without a step: from then on it is not ready."""
KILL_SECONDS = 10.0
"""Not ready for so long, it is ended and begun anew."""
PAUSES = (0.1, 1.0, 5.0, 15.0)
"""Before the first, second, … start in a row that comes to nothing."""
GONE = {"status": 503, "message": "the engine has stopped; ask again", "code": "unavailable",
        "param": None}  # fmt: skip
WRITES = ("chat", "complete")


@dataclass
class _Open:
    """A question that the worker was asked.

    Attributes:
        writes: whether it has slots of the engine, or is one of its calls.
        left: texts that have not ended.
        tables: what was said and nobody took yet.
    """

    writes: bool
    left: int
    tables: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    def take(self, table: dict[str, Any]) -> None:
        """What the worker says."""
        self.left -= "end" in table
        self.tables.put_nowait(table)


class ProcessBackend:
    """A model behind a worker.

    Args:
        settings: of the worker: model, dtype, device, slots, waiting, threads.
        clock: seconds, for tests.
    """

    def __init__(self, settings: dict[str, Any], clock: Callable[[], float] = time.monotonic):
        self.settings, self.clock = settings, clock
        self.facts: dict[str, Any] = {"can": []}
        self.figures: dict[str, float] = {}
        self.restarts = 0
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._heard = self._moved = 0.0
        self._is_up = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        """Whether it beats, and makes steps when there is something to do."""
        now = self.clock()
        quiet, stuck = now - self._heard > QUIET_SECONDS, now - self._moved > STUCK_SECONDS
        return self._is_up and not quiet and not stuck

    async def start(self) -> None:
        """Begin the worker and wait until it has the model.

        Raises:
            YantaiError: it cannot; whatever kept it from opening the model.
        """
        await self._begin()
        for work in (self._watch(),):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def ask(self, question: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """See `Backend`."""
        asked = _Open(question["do"] in WRITES, int(question.get("n") or 1))
        if not self._has_place(asked):
            yield {"error": FULL}
            return
        number, tables = next(self._numbers), asked.tables
        self._open[number] = asked
        try:
            if not await self._send({"ask": number, "question": question}):
                yield {"error": GONE}
                return
            while asked.left or not tables.empty():
                table = await tables.get()
                yield table
                if "error" in table:
                    return
                if tables.qsize() > MOST_UNREAD:
                    yield {"error": UNREAD}
                    return
        finally:
            if self._open.pop(number, None) is not None and asked.left:
                await self._send({"cancel": number})

    def _has_place(self, asked: _Open) -> bool:
        """Whether the worker would take it, told before it has to read it: it has enough to do."""
        most = self.facts.get("at_once")
        there = sum(each.left for each in self._open.values() if each.writes == asked.writes)
        return most is None or there + asked.left <= most

    def leave(self) -> None:
        """See `Backend`."""
        self._tell_all(LEAVING)

    async def close(self) -> None:
        """End the worker."""
        for task in list(self._tasks):
            task.cancel()
        self._is_up = False
        self._kill()

    # ------------------------------------------------------------ the worker

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "yantai.serve.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, json.dumps(self.settings)], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=MOST_BYTES)
        first = await reader.readline()
        table = json.loads(first) if first else {}
        if "ready" not in table:
            self._kill()
            if "failed" in table:
                raise error_of(table["failed"])
            raise ResourceError("E802", "worker", "ended before it was ready")
        self.facts = table["ready"]
        self._heard = self._moved = self.clock()
        self._is_up = True
        task = asyncio.create_task(self._listen(reader))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Hand out what the worker says, until it says nothing more."""
        with suppress(OSError, ValueError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                table = json.loads(line)
                if "beat" in table:
                    self._take_beat(table["beat"])
                elif (asked := self._open.get(table.pop("id", 0))) is not None:
                    asked.take(table)
        self._is_up = False
        self._tell_all(GONE)

    def _tell_all(self, error: dict[str, Any]) -> None:
        for asked in self._open.values():
            asked.take({"error": error})

    def _take_beat(self, figures: dict[str, Any]) -> None:
        now = self.clock()
        if figures["steps"] != self.figures.get("steps") or not figures["busy"]:
            self._moved = now
        self._heard, self.figures = now, figures

    async def _watch(self) -> None:
        """Replace a worker that has ended, or that does nothing."""
        since: float | None = None
        failures = 0
        while True:
            await asyncio.sleep(0.2)
            if self.is_ready:
                since, failures = None, 0
                continue
            now = self.clock()
            since = now if since is None else since
            ended = self._process is None or self._process.poll() is not None
            if not ended and now - since < KILL_SECONDS:
                continue
            say("note: the engine has stopped; it is begun anew")
            self._kill()
            await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            failures, since = failures + 1, None
            self.restarts += 1
            with suppress(YantaiError, OSError):
                await self._begin()

    async def _send(self, table: dict[str, Any]) -> bool:
        if self._writer is None or not self._is_up:
            return False
        try:
            self._writer.write(json.dumps(table, ensure_ascii=False).encode() + b"\n")
            await self._writer.drain()
        except OSError:
            return False
        return True

    def _kill(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
