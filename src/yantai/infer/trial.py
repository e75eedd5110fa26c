"""A process of its own in which grammars are tried before anybody follows them.

Knows: lines of JSON between two processes, and limits of time and memory. A schema of a line may
take hours, all memory, or the whole process with it; here it takes nothing that others need.
Started by itself:

    python -m yantai.infer.trial
"""

import contextlib
import ctypes
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError, ResourceError, error_of
from yantai.infer.automata import LONGEST, Kind, automaton, refused, vocabulary

SECONDS, BUSY_SECONDS, START_SECONDS = 1.0, 5.0, 60.0
"""That a grammar may take, beside others who are busy, and the process until it is ready."""
CPU_SECONDS, BYTES = 5, 128 << 20
"""Where nobody is left to end it, and what one grammar may hold."""
KEPT, KEPT_SECONDS = 256, 60.0
"""Grammars of which it is known that they are none, and for how long."""


class Trial:
    """Tries grammars.

    Args:
        text, size, ends: as of `vocabulary`.
    """

    def __init__(self, text: str, size: int, ends: Sequence[int]):
        self._vocabulary = {"text": text, "size": size, "ends": list(ends)}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._end: Any = None
        self._refused: OrderedDict[str, tuple[float, DataError]] = OrderedDict()

    def check(self, kind: Kind, text: str | dict[str, Any] | None) -> int:
        """The bytes that a grammar holds, if it can be made within the limits; one at a time.

        Raises:
            DataError: it cannot.
            ResourceError: the process does not start.
        """
        line = json.dumps({"kind": kind, "text": text})
        if len(line) > 2 * LONGEST:
            raise refused("too large")
        with self._lock:
            until, known = self._refused.get(line, (0.0, None))
            if known is not None and time.monotonic() < until:
                raise known
            try:
                return self._ask(line)
            except DataError as error:
                self._refused[line] = (time.monotonic() + KEPT_SECONDS, error)
                while len(self._refused) > KEPT:
                    self._refused.popitem(last=False)
                raise

    def close(self) -> None:
        """End the process; another one is begun when it is needed."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _ask(self, line: str) -> int:
        for _ in range(2):  # one that has ended may have been ended by somebody else
            if self._process is None:
                self._start()
            said = self._answer(line, SECONDS)
            if said is not None:
                break
            ended = self._has_ended()
            self.close()
            if not ended:
                raise refused(f"it takes over {SECONDS:g} s")
        else:
            raise refused("it is more than can be made")
        if "refused" in said:
            raise error_of(said["refused"])
        return int(said["bytes"])

    def _has_ended(self) -> bool:
        """Its output ends a moment before the process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process is None or self._process.wait(0.1) is not None
        return False

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "yantai.infer.trial"], text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._end = weakref.finalize(self, _ended, self._process)
        if self._answer(json.dumps(self._vocabulary), START_SECONDS) is None:
            self.close()
            raise ResourceError("E802", "grammars", "the process that tries them does not start")

    def _answer(self, line: str, seconds: float) -> dict[str, Any] | None:
        """What it says to a line; None where it says nothing in time, or has ended."""
        assert self._process is not None and self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError), selectors.DefaultSelector() as chooser:
            began, used = time.monotonic(), _processor_seconds(self._process.pid)
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            # one answer a line, and none before: nothing waits in the reader's buffer
            chooser.register(self._process.stdout, selectors.EVENT_READ)
            while not chooser.select(seconds):
                late = time.monotonic() - began >= BUSY_SECONDS
                if late or _processor_seconds(self._process.pid) - used >= SECONDS / 2:
                    return None
            said = self._process.stdout.readline()
            return json.loads(said) if said.endswith("\n") else None
        return None


def _processor_seconds(pid: int) -> float:
    """What a process has used; where nobody tells, all there is."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.monotonic()


def _ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    with contextlib.suppress(OSError):  # what it was told last may not have reached it
        process.communicate()


def main() -> None:
    """Try what comes, until nobody asks any more."""
    known = json.loads(sys.stdin.readline())
    tokens = vocabulary(known["text"], known["size"], known["ends"])
    _limit_memory()
    _say({})
    for line in sys.stdin:
        _limit_time()
        asked, before = json.loads(line), _held()
        try:
            made = automaton(tokens, known["ends"], asked["kind"], asked["text"])
        except DataError as error:
            _say({"refused": error.table()})
        else:
            _say({"bytes": max(0, _held() - before)})
            del made


def _say(table: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(table) + "\n")
    sys.stdout.flush()


def _held(column: int = 1) -> int:
    """Bytes of memory, after what is free was given back; 0 where nobody tells."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        pages = Path("/proc/self/statm").read_text().split()[column]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        if reserved := _held(column=0):
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (reserved + BYTES, hard))


def _limit_time() -> None:
    """Of the processor from now on: whoever would end this process may be gone."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = int(time.process_time()) + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
