"""Signals as a list that the training loop looks at after each step.

Knows: the signals that ask a process to end.
"""

import contextlib
import signal
from collections.abc import Generator
from typing import Any

from yantai.base.log import say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def listen() -> Generator[list[int]]:
    """Collect signals; after the first, Ctrl-C has its usual effect at once."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        # a closed terminal sends SIGHUP twice: only an impatient Ctrl-C may cut the save short
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        if len(received) == 1:
            say(f"{signal.Signals(number).name}: finishing the step and saving")

    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup's choice stands
                before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: the caller handles signals
        pass
    try:
        yield received
    finally:
        with contextlib.suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)
