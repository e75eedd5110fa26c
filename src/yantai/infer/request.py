"""A request of the engine: what somebody wants continued, and what has been read of it.

Knows: ids, who is told, and a prompt in pieces.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from yantai.base.errors import ResourceError
from yantai.core.cache import Cache, States
from yantai.core.face import Model
from yantai.infer.compiled import CompiledStep, at_hand
from yantai.infer.guesses import Echo
from yantai.infer.row import Guide, Row
from yantai.infer.settings import Generation

SHORT = 128
"""Tokens of a prompt: others can wait for as many."""


@dataclass(eq=False)
class Request:
    """What somebody wants continued, and who is told.

    Attributes:
        ids: the prompt.
        settings: lengths, sampling, seed; for one continuation.
        stop_ids: tokens that end it.
        on_token: is told each token and the logits it was chosen from; True ends the request.
        on_end: is told why it ended: stop, length, cancelled or failed.
        number: of this continuation among several of one question; each draws for itself.
        guide: a grammar, if there is one.
        bias: what is added to the logits of tokens.
        guesses: whether tokens may be read before they are chosen; what is said stays the same.
    """

    ids: Sequence[int]
    settings: Generation
    stop_ids: frozenset[int] = frozenset()
    on_token: Callable[[int, Tensor], bool | None] = lambda token, logits: None
    on_end: Callable[[str], None] = lambda reason: None
    number: int = 0
    guide: Guide | None = None
    bias: Mapping[int, float] | None = None
    guesses: bool = True
    reason: str = ""
    error: BaseException | None = None
    row: Row = field(init=False)
    cancelled: bool = field(default=False, init=False)
    reused: int = field(default=0, init=False)
    echo: Echo | None = field(default=None, init=False)
    _done: threading.Event = field(default_factory=threading.Event, init=False)

    def cancel(self) -> None:
        """Ask for its end; at most one more step is made."""
        self.cancelled = True

    def wait(self, seconds: float | int | None = None) -> list[int]:
        """The new tokens, once it has ended.

        Raises:
            TimeoutError: it has not.
            ResourceError: the engine failed.
        """
        if not self._done.wait(seconds):
            raise TimeoutError("the request goes on")
        if self.reason == "failed":
            raise ResourceError("E803", "engine", "failed while it answered") from self.error
        return self.row.ids[self.row.start :]

    @property
    def is_over(self) -> bool:
        """Whether its end was said."""
        return self._done.is_set()

    def end(self, reason: str) -> None:
        """Say that it is over, once."""
        if not self._done.is_set():
            self.reason = reason
            self._done.set()
            self.on_end(reason)


@dataclass(eq=False)
class Reading:
    """A prompt that is being read, piece by piece."""

    request: Request
    cache: Cache | States

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are still to be read."""
        return len(self.request.row.ids) - self.cache.filled

    def read(self, model: Model, piece: int, native: CompiledStep | None = None) -> Tensor | None:
        """The next piece, by the compiled step if it is fit; the logits behind the last one."""
        ids = self.request.row.ids
        start = self.cache.filled
        part = ids[start : start + piece]
        if native is not None and native.reads_prompts and isinstance(self.cache, Cache):
            logits = native.prompt(part, self.cache)
            return at_hand(logits) if self.cache.filled == len(ids) else None
        here = torch.tensor([part], device=next(model.parameters()).device)
        hidden = model.hidden(here, cache=self.cache)
        return at_hand(model.logits_of(hidden[:, -1])[0]) if self.cache.filled == len(ids) else None


class Readings:
    """Prompts that are being read, and whose turn it is.

    One after the other, so that a later one may find what an earlier one has read. But nobody with
    a short prompt waits for all of a long one: it is begun beside it, and both take turns.
    """

    def __init__(self) -> None:
        self.open: list[Reading] = []
        self._oldest_next = False

    def next_of(self, waiting: Sequence[Request]) -> Request | None:
        """The one to be begun now; None where the others can wait.

        Args:
            waiting: the oldest first; each has its row.
        """
        if not self.open:
            return next(iter(waiting), None)
        left = self.open[-1].unread
        if left <= SHORT:
            return None
        return next((each for each in waiting if 2 * len(each.row.ids) < left), None)

    def turn(self, most: int) -> tuple[Reading, int]:
        """Whose piece is next, and how many of its tokens.

        Args:
            most: tokens of the piece.
        """
        self._oldest_next = not self._oldest_next
        reading = self.open[0 if self._oldest_next else -1]
        return reading, min(most if len(self.open) == 1 else SHORT // 2, most, reading.unread)

    def take_cancelled(self) -> list[Request]:
        """Those who have gone; they are not read on."""
        gone = [each.request for each in self.open if each.request.cancelled]
        self.open = [each for each in self.open if not each.request.cancelled]
        return gone
