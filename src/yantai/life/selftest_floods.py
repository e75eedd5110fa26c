"""Too much at once, and too long: what a server must refuse quickly, while it answers others.

Knows: the answers that a refusal may be. How long others wait meanwhile is measured beside.
"""

import contextlib
import threading
import time

from yantai.life.selftest_attacks import Seen
from yantai.life.selftest_requests import SECONDS, Target, at_once, is_whole, received, statuses
from yantai.serve.gate import Limits

# ---------------------------------------------------------------- F52: more than can be answered


def flood(target: Target, count: int, *, together: int = 400) -> Seen:
    """Questions that come at once are answered, or told at once when to come again.

    Args:
        target: with fewer places than that.
        count: of questions.
        together: of which so many come at once; a process may open only so many files.
    """
    seen = Seen()
    refused: list[float] = []
    whole = target.request({"prompt": "One", "max_tokens": 4, "temperature": 0})
    for start in range(0, count, together):
        for raw, seconds in at_once(target, [whole] * min(together, count - start)):
            _count(seen, raw)
            refused += [seconds] if statuses(raw) == [429] else []
    if refused:
        seen.figures["refused_after_ms"] = 1000 * _late(refused)
    try:
        target.served()
    except (OSError, RuntimeError) as error:
        seen.failures.append(f"after the flood: {error}")
    return seen


def overload(target: Target, count: int, *, texts: int = 8, times: float = 10.0) -> Seen:
    """More questions in a second than can be answered: those beyond are refused soon.

    Args:
        target: how many it answers in a second is measured first.
        count: of questions, evenly spread over the time.
        texts: that each asks for, so that the engine is what has too much to do.
        times: as many come as it can answer.
    """
    seen = Seen()
    whole = target.request({"prompt": "One", "max_tokens": 64, "n": texts})
    began = time.monotonic()
    for raw, _ in at_once(target, [whole] * MEASURED):
        _count(seen, raw)
    pace = times * seen.answers["2xx"] / (time.monotonic() - began)
    if not seen.failures:
        refused = []
        for raw, seconds in at_once(target, [whole] * count, every=1 / pace):
            _count(seen, raw)
            refused += [seconds] if statuses(raw) == [429] else []
        seen.figures["overload_a_second"] = pace
        if refused:
            seen.figures["overload_refused_after_ms"] = 1000 * _late(refused)
    return seen


MEASURED = 24
"""Questions that show how many are answered in a second."""


def _late(seconds: list[float]) -> float:
    """What 99 of 100 do not exceed."""
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def _count(seen: Seen, raw: bytes) -> None:
    seen.take(raw, "one of the flood")
    status = (statuses(raw) or [0])[0]
    if status not in (200, 429, 503):
        seen.failures.append(f"one of the flood got {status or 'nothing'}")
    if status == 429 and b"retry-after:" not in raw.lower():
        seen.failures.append("a refusal does not say when to come again")


# ---------------------------------------------------------------- F47: prompts without end

LONG = {
    "ten thousand words": "one " * 10_000,
    "a million letters": "a" * 1_000_000,
    "a million characters": "墨" * 1_000_000,
    "ten million letters": "b" * 10_000_000,
    "a million spaces": " " * 1_000_000,
}


def long_prompts(target: Target) -> Seen:
    """Prompts that no context holds are refused by name, and nobody else waits for them."""
    seen = Seen()
    with _Watch(target) as watch:
        for name, prompt in LONG.items():
            whole = target.request({"prompt": prompt, "max_tokens": 2})
            with target.open() as connection:
                # a server may refuse by the length alone, and close before it was sent
                with contextlib.suppress(OSError):
                    connection.sendall(whole)
                raw = received(connection, until=b"}")
            seen.take(raw, name)
            expected = b" 413 " if len(whole) > Limits().body_bytes else b"context_length_exceeded"
            if expected not in raw:
                seen.failures.append(f"{name}: {raw[:60]!r} is no refusal by its length")
    if watch.is_lost:
        seen.failures.append("others were not answered meanwhile")
    seen.figures["others_waited_ms"] = 1000 * watch.worst
    return seen


class _Watch(threading.Thread):
    """Asks whether the server is alive, again and again, and keeps the longest wait."""

    def __init__(self, target: Target):
        super().__init__(daemon=True, name="yantai-watch")
        self.target, self.worst, self.is_lost = target, 0.0, False
        self._ended = threading.Event()

    def run(self) -> None:
        """Until it is told to end."""
        asked = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{self.target.port}\r\n\r\n".encode()
        try:
            with self.target.open() as connection:
                while not self._ended.wait(0.005) and not self.is_lost:
                    began, raw = time.monotonic(), b""
                    connection.sendall(asked)
                    while not is_whole(raw) and not self.is_lost:
                        piece = connection.recv(4096)
                        raw, self.is_lost = raw + piece, not piece
                    self.worst = max(self.worst, time.monotonic() - began)
        except OSError:
            self.is_lost = True

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(SECONDS)
