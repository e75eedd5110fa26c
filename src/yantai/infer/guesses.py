"""What comes next may have been said before: guesses from a row's own ids, read in one step.

Knows: ids of one row, and whether guessing has paid. Nothing that is said depends on a guess: each
token is chosen from the logits behind the tokens before it, and a guess that differs from the
choice is thrown away with what was read behind it (prompt lookup; arXiv 2304.04487).
"""

from collections.abc import Sequence

MOST = 7
"""Tokens of a guess; with the newest one they are as many rows as the compiled step reads well."""
LONGEST, SHORTEST = 4, 2
"""Tokens at the end that must have stood together before."""
TRIED = 4
"""Guesses after which it is seen whether they pay."""
FIRST_REST = 32
"""Tokens without a guess, once they did not; twice as many the next time."""


class Echo:
    """Where in a row each short run of tokens was last followed by something.

    Args:
        ids: the prompt.
    """

    def __init__(self, ids: Sequence[int]):
        self.ids: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self.follow(ids)

    def follow(self, ids: Sequence[int]) -> None:
        """The row has become these ids, which begin as before."""
        for place in range(len(self.ids), len(ids)):
            for size in range(SHORTEST, LONGEST + 1):  # what stood before this place led to it
                if place >= size:
                    self._behind[tuple(ids[place - size : place])] = place
        self.ids = list(ids)

    def guess(self, most: int = MOST) -> list[int]:
        """What followed the longest run that the row ends with; [] if it is new."""
        for size in range(LONGEST, SHORTEST - 1, -1):
            place = self._behind.get(tuple(self.ids[-size:])) if len(self.ids) >= size else None
            if place is not None:
                return self.ids[place : place + most]
        return []


class Worth:
    """Whether guessing pays on this machine with this model, from the times of steps."""

    def __init__(self) -> None:
        self._plain = 0.0
        self._tokens = self._tries = 0
        self._seconds = 0.0
        self._rest, self._next_rest = 0, FIRST_REST

    @property
    def is_tried(self) -> bool:
        """Whether the next step may guess; the cost of a plain one must be known first."""
        return self._plain > 0 and self._rest == 0

    def plain(self, seconds: float) -> None:
        """A step of one token took so long."""
        self._plain = seconds if self._plain == 0 else 0.9 * self._plain + 0.1 * seconds
        self._rest = max(0, self._rest - 1)

    def guessed(self, tokens: int, seconds: float) -> None:
        """A step with a guess gave so many tokens."""
        self._tokens, self._tries = self._tokens + tokens, self._tries + 1
        self._seconds += seconds
        if self._tries < TRIED:
            return
        if self._seconds > self._tokens * self._plain:
            self._rest, self._next_rest = self._next_rest, 2 * self._next_rest
        else:
            self._next_rest = FIRST_REST
        self._tokens = self._tries = 0
        self._seconds = 0.0
