"""Whole answers that an engine's thread is asked for: calls of one kind become one batch.

Knows: functions, what they are asked, and who still waits. Between two steps of a batch others are
served; a batch that nobody waits for any more ends there.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from yantai.base.pulse import pulsing

TOGETHER = 32
"""Calls of one kind that are answered as one batch."""
Answer = Callable[[list[Any]], list[Any]]


class _NobodyWaits(Exception):  # noqa: N818 - it ends a batch, and is no error
    """Everybody who asked has gone."""


class Call(Future):
    """What is asked, and later its answer."""

    def __init__(self, answer: Answer, item: Any):
        super().__init__()
        self.answer, self.item, self.abandoned = answer, item, False

    def abandon(self) -> None:
        """Nobody waits for it any more; one that is being answered ends with its batch."""
        self.abandoned = True
        self.cancel()


class Calls:
    """Calls in line."""

    def __init__(self) -> None:
        self._line: deque[Call] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, answer: Answer, item: Any) -> Call:
        """One more.

        Args:
            answer: items → as many answers; the same object for calls that may stand together.
            item: what is asked.
        """
        call = Call(answer, item)
        with self._lock:
            self._line.append(call)
        return call

    def answer_some(self, between: Callable[[], None]) -> None:
        """Answer the oldest call, and those that may stand beside it.

        Args:
            between: is called between two steps of the computation.
        """
        wanted = [call for call in self._oldest() if call.set_running_or_notify_cancel()]
        if not wanted:
            return

        def look() -> None:
            if all(call.abandoned for call in wanted):
                raise _NobodyWaits
            between()

        try:
            with pulsing(look):
                answers = wanted[0].answer([call.item for call in wanted])
            pairs = list(zip(wanted, answers, strict=True))
        except Exception as error:  # it is the asker's
            for call in wanted:
                call.set_exception(error)
            return
        for call, found in pairs:
            call.set_result(found)

    def cancel(self) -> None:
        """None of them is answered."""
        with self._lock:
            left, self._line = self._line, deque()
        for call in left:
            call.cancel()

    def _oldest(self) -> list[Call]:
        """Of one kind; they leave the line."""
        with self._lock:
            first = self._line[0].answer if self._line else None
            same = [call for call in self._line if call.answer is first][:TOGETHER]
            taken = set(map(id, same))
            self._line = deque(call for call in self._line if id(call) not in taken)
        return same
