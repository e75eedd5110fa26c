"""Find spans in texts and name them: people, places (tagging by BIO, Ramshaw and Marcus 1995).

Knows: labels of tokens and the spans that they stand for. A text longer than the model is read in
windows that overlap; each token is judged where it has most on either side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from yantai.core.face import Model
from yantai.data.batch import IGNORED
from yantai.data.examples import Example
from yantai.tasks.frame import Frame, logits_at
from yantai.tasks.task import EveryTarget
from yantai.text.spans import Span

OUTSIDE = "O"


@dataclass(frozen=True)
class Tag(EveryTarget):
    """−Σ ln p(label of a token | text)."""

    name: str = "tag"


def labels_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """Outside, and for each kind of span its first token and the others.

    >>> labels_of(["person"])
    ('O', 'B-person', 'I-person')
    """
    return (OUTSIDE, *(f"{place}-{kind}" for kind in kinds for place in "BI"))


@dataclass(frozen=True)
class Marked:
    """A text as tokens.

    Attributes:
        ids: its tokens.
        offsets: the characters that each token spells, without spaces around them.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


def marked(frame: Frame, text: str) -> Marked:
    """The tokens of a text, and where they stand in it."""
    ids, offsets = frame.tokenizer.encode_with_offsets(text)
    return Marked(ids, [_without_spaces(text, *pair) for pair in offsets])


def _without_spaces(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, max(start, start + len(piece.strip()))


def token_labels(tokens: Marked, spans: Sequence[Span], names: Sequence[str]) -> list[int]:
    """The number of each token's label; a token is of a span if it shares a character with it."""
    number = {name: place for place, name in enumerate(names)}
    labels = [number[OUTSIDE]] * len(tokens.ids)
    for span in spans:
        inside = [
            place
            for place, (start, end) in enumerate(tokens.offsets)
            if start < span.end and span.start < end
        ]
        for place in inside:
            labels[place] = number[f"{'B' if place == inside[0] else 'I'}-{span.label}"]
    return labels


def spans_of(tokens: Marked, labels: Sequence[str]) -> tuple[Span, ...]:
    """The spans that labels of tokens stand for; one that does not begin with B begins anyway."""
    spans: list[Span] = []
    kind = None
    for (start, end), label in zip(tokens.offsets, labels, strict=True):
        if start == end:  # a space belongs to what is around it
            continue
        place, _, name = label.partition("-")
        if place == "I" and name == kind:
            spans[-1] = Span(spans[-1].start, end, name)
        elif place in ("B", "I"):
            spans.append(Span(start, end, name))
        kind = name if place in ("B", "I") else None
    return tuple(spans)


def windows(count: int, room: int) -> list[tuple[int, int, int, int]]:
    """Pieces of so many tokens that overlap by a quarter, and whom each of them judges.

    Returns:
        begin, end, first judged, after the last judged: the judged parts are all tokens, once.

    >>> windows(10, 8)
    [(0, 8, 0, 7), (6, 10, 7, 10)]
    """
    overlap = room // 4
    starts = [0]
    while starts[-1] + room < count:
        starts.append(starts[-1] + room - overlap)
    borders = [0, *(start + overlap // 2 for start in starts[1:]), count]
    return [
        (start, min(start + room, count), first, last)
        for start, first, last in zip(starts, borders, borders[1:], strict=False)
    ]


def tagged(
    frame: Frame, texts: Sequence[Marked], targets: Sequence[Sequence[int]], names: Sequence[str]
) -> list[Example]:
    """Examples whose tokens have targets, a long text in several."""
    examples = []
    for text, aims, name in zip(texts, targets, names, strict=True):
        for begin, end, first, last in windows(len(text.ids), frame.room):
            own = [aims[place] if first <= place < last else IGNORED for place in range(begin, end)]
            if any(aim != IGNORED for aim in own):
                examples.append(frame.example(text.ids[begin:end], name, targets=own))
    return examples


def tag_texts(
    model: Model, frame: Frame, texts: Sequence[str], names: Sequence[str], batch: int = 8
) -> list[tuple[Span, ...]]:
    """The spans of each text; no text changes those of another.

    Args:
        model: in evaluation mode, with a head of the labels.
        frame: how texts become tokens.
        texts: in any number, of any length.
        names: of the labels.
        batch: rows that are read together.
    """
    read_texts = [marked(frame, text) for text in texts]
    starts = np.cumsum([0, *(len(text.ids) for text in read_texts)])
    numbers = [range(int(first), int(last)) for first, last in pairwise(starts)]
    places = [f"text {number + 1}" for number in range(len(texts))]
    examples = tagged(frame, read_texts, numbers, places)
    if not examples:
        return [() for _ in texts]
    likeliest = logits_at(model, frame.rows(examples), int(starts[-1]), batch).argmax(-1)
    return [
        spans_of(text, [names[label] for label in likeliest[own.start : own.stop].tolist()])
        for text, own in zip(read_texts, numbers, strict=True)
    ]
