"""Tokens a minute of each key: claimed before they are said, settled when it is known how many.

Knows: numbers and time. An answer that nobody has counted yet is one that was asked for in full, so
that many at once get no more than one after the other.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from yantai.serve.schema import ApiError


def about(prompt: str | list[int]) -> int:
    """Tokens of a prompt that nobody has counted yet: a third of the characters of a text."""
    return len(prompt) // 3 + 1 if isinstance(prompt, str) else len(prompt)


@dataclass
class Bucket:
    """Tokens that may still be used, filled evenly over time.

    Attributes:
        a_minute: how many come in.
        left: how many there are; may fall below 0 by one answer.
        seen: when they were counted.
    """

    a_minute: float
    left: float = field(init=False)
    seen: float | None = None

    def __post_init__(self) -> None:
        self.left = self.a_minute

    def wait(self, now: float) -> float:
        """Seconds until anything may be used; 0 for now."""
        if self.seen is not None:
            self.left = min(self.a_minute, self.left + (now - self.seen) * self.a_minute / 60)
        self.seen = now
        return 0.0 if self.left > 0 else (1 - self.left) * 60 / self.a_minute

    def take(self, tokens: int) -> None:
        """Used."""
        self.left -= tokens


class Meter:
    """What keys have used.

    Args:
        a_minute: tokens of each key; None for any number.
        clock: seconds, for tests.
    """

    def __init__(self, a_minute: int | None = None, clock: Callable[[], float] = time.monotonic):
        self.a_minute, self.clock = a_minute, clock
        self._buckets: dict[str, Bucket] = {}

    def check(self, key: str) -> None:
        """Whether a key may ask anything now.

        Raises:
            ApiError: 429, with the seconds to wait.
        """
        if self.a_minute is None:
            return
        seconds = self._bucket(key, self.a_minute).wait(self.clock())
        if seconds:
            raise ApiError(
                429, f"over {self.a_minute:,} tokens a minute",
                code="rate_limit_exceeded", kind="rate_limit_error", wait=int(seconds) + 1,
            )  # fmt: skip

    def claim(self, key: str, tokens: int) -> int:
        """Set aside what an answer may cost, those of a minute at most; how many these are.

        Raises:
            ApiError: as of `check`.
        """
        self.check(key)
        claimed = min(tokens, self.a_minute or 0)
        self.used(key, claimed)
        return claimed

    def used(self, key: str, tokens: int) -> None:
        """Tokens that were used; fewer than 0 of a claim that was too large."""
        if self.a_minute is not None:
            self._bucket(key, self.a_minute).take(tokens)

    def _bucket(self, key: str, a_minute: int) -> Bucket:
        return self._buckets.setdefault(key, Bucket(a_minute))
