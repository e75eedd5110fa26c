"""One line of JSON on standard error for each request: who, what, how long; never what was said.

Knows: tables. A thread of its own writes, so that a terminal that has stopped, or a pipe that
nobody reads, stops no answer; what waits is bounded, and lines that are lost are counted in the
next one.
"""

import json
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from yantai.base.log import say

MOST_WAITING = 10_000
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by those who watch: told only where something is wrong."""


class RequestLog:
    """Lines of requests.

    Args:
        errors_only: whether what went well is not told.
        write: is given each line.
    """

    def __init__(self, *, errors_only: bool = False, write: Callable[[str], None] = say):
        self.errors_only, self.lost = errors_only, 0
        self._write = write
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True, name="yantai-log")
        self._thread.start()

    def tell(self, table: dict[str, Any]) -> None:
        """A request has ended: `path`, `status` and what else is known of it."""
        if table["status"] < 400 and (self.errors_only or table["path"] in QUIET):
            return
        table = {name: value for name, value in table.items() if name != "route"}
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        lost = {"lines_lost": self.lost} if self.lost else {}
        try:
            self._lines.put_nowait(json.dumps({"time": when} | table | lost))
            self.lost = 0
        except queue.Full:
            self.lost += 1

    def close(self, seconds: float = 2.0) -> None:
        """Write what waits, if that takes no longer."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
