"""A long computation lets others work between its steps, where somebody asked for that.

Knows: nothing of either. Whoever computes for long says `pulse()` between two steps; whoever lends
it a thread that others need, too, says what happens then.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

_between: ContextVar[Callable[[], None] | None] = ContextVar("between", default=None)


def pulse() -> None:
    """A step is done; what this raises ends the computation."""
    between = _between.get()
    if between is not None:
        between()


@contextmanager
def pulsing(between: Callable[[], None]) -> Generator[None, None, None]:
    """Within it, `between` is called at each pulse; not at those of its own."""

    def called() -> None:
        outer = _between.set(None)
        try:
            between()
        finally:
            _between.reset(outer)

    before = _between.set(called)
    try:
        yield
    finally:
        _between.reset(before)
