"""Texts that end a text.

Knows: strings, and pieces of them as they come.
"""

from collections.abc import Sequence


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop text.

    >>> cut_at_stop("one. two. three", ("two",))
    'one. '
    """
    places = [place for place in (text.find(word) for word in stop) if place >= 0]
    return text[: min(places)] if places else text


class HoldBack:
    """Holds back the end of a stream as long as it could be the beginning of a stop text."""

    def __init__(self, stop: Sequence[str]):
        self.stop, self.held, self.stopped = tuple(stop), "", False

    def feed(self, piece: str) -> str:
        """What can be given out now; "" for nothing yet, and behind a stop text."""
        if self.stopped:
            return ""
        text = self.held + piece
        cut = cut_at_stop(text, self.stop)
        if len(cut) < len(text):
            self.held, self.stopped = "", True
            return cut
        keep = max(
            (
                size
                for word in self.stop
                for size in range(1, len(word))
                if text.endswith(word[:size])
            ),
            default=0,
        )
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The rest, when no more comes."""
        return "" if self.stopped else self.held
