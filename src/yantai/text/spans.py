"""Named pieces of a text, and the schemes that write them as labels of words.

Knows: BIO and BIOES, words that are joined to a text. Knows no model.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of a text, by characters.

    Attributes:
        start, end: the first character, and the one after the last.
        label: what it is.
    """

    start: int
    end: int
    label: str


def joined(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words as one text, and where each stands; between Chinese characters there is no space.

    >>> joined(["Anna", "来", "了"])
    ('Anna 来了', [(0, 4), (5, 6), (6, 7)])
    """
    text, places = "", []
    for word in words:
        if text and word and not (_is_wide(text[-1]) and _is_wide(word[0])):
            text += " "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places


def _is_wide(character: str) -> bool:
    """Of a script without spaces, or its punctuation."""
    return "\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def spans_of_words(places: Sequence[tuple[int, int]], tags: Sequence[str]) -> tuple[Span, ...]:
    """Labels of words, BIO or BIOES, as spans; one that is not begun begins where it stands.

    Raises:
        ValueError: a label is of neither scheme.
    """
    spans: list[Span] = []
    kind = None
    for (start, end), tag in zip(places, tags, strict=True):
        place, dash, name = tag.partition("-")
        if tag == "O":
            kind = None
            continue
        if not dash or not name or place not in ("B", "I", "E", "S"):
            raise ValueError(tag)
        if place in ("I", "E") and kind == name:
            spans[-1] = Span(spans[-1].start, end, name)
        else:
            spans.append(Span(start, end, name))
        kind = name if place in ("B", "I") else None
    return tuple(spans)
