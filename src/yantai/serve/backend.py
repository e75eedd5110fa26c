"""Where answers come from, for the routes: the face of it. Imports no torch."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, runtime_checkable

MOST_UNREAD = 4096
"""Pieces that a client has not taken yet; it is let go before memory fills with more."""

UNREAD = {"status": 503, "message": "nobody took the answer for too long; it ends here",
          "code": "too_slow", "param": None}  # fmt: skip
LEAVING = {"status": 503, "message": "the server shuts down; the answer ends here",
           "code": "shutting_down", "param": None}  # fmt: skip
FULL = {"status": 429, "message": "too many requests are open; ask again", "code": "E804",
        "param": None}  # fmt: skip


@runtime_checkable
class Backend(Protocol):
    """A model that answers."""

    @property
    def facts(self) -> dict[str, Any]:
        """What `Desk.describe` says."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether the engine makes progress."""
        ...

    @property
    def figures(self) -> Mapping[str, float]:
        """`Engine.figures`."""
        ...

    def ask(self, question: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The tables of `Desk.ask`, until all answers have ended; to stop listening cancels."""
        ...

    def leave(self) -> None:
        """Every open answer ends here, with an error that says so."""
        ...

    async def close(self) -> None:
        """End it."""
        ...
