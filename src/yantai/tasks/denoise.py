"""Restore damaged text: an encoder reads what is left, a decoder writes what is missing.

Knows: how text is damaged. Two ways:

- `spans` (T5, arXiv 1910.10683, section 3.1.4): 15 % of the tokens, in spans of 3 on average, each
  replaced by a sentinel of its own; the target names the sentinels, each followed by its span.
- `infill` (BART, arXiv 1910.13461, section 2.2): 30 %, in spans of Poisson length 3, each replaced
  by one mask token, an empty one by one too many; the target is the whole text.

Each document of a row is damaged and restored by itself, and nobody looks across a border. The
damage is a function of (seed, epoch, row).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from yantai.data.batch import IGNORED, Array, Row
from yantai.data.pack import ChangedRows, RowSource, random_stream
from yantai.tasks.task import EveryTarget

STREAM = 0x73706E73
SHARES = {"spans": 0.15, "infill": 0.3}
MEAN_SPAN = 3


@dataclass(frozen=True)
class Denoise(EveryTarget):
    """−Σ ln p(target | what is left of its document, the target before).

    Attributes:
        way: `spans` or `infill`.
        fillers: the sentinels in their order, or the one mask token.
        start_id: what the decoder reads first in every document.
        end_id: what ends a target.
        seed: decides the damage.
    """

    way: Literal["spans", "infill"]
    fillers: tuple[int, ...]
    start_id: int
    end_id: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the table of tasks."""
        return "denoise" if self.way == "spans" else "infill"

    def rows(self, source: RowSource) -> RowSource:
        """Rows with a damaged source and what restores it."""
        return ChangedRows(source, self.damage)

    def damage(self, row: Row, epoch: int, index: int) -> Row:
        """One row, damaged document by document; lengths depend on the row's length alone."""
        stream = random_stream(self.seed, STREAM, epoch, index)
        length = len(row.ids)
        room = left_over = self.target_length(length)
        sources, targets = [], []
        for number in range(int(row.documents.max()) + 1):
            ids = row.ids[row.documents == number]
            if not len(ids):
                continue
            if self.way == "infill":  # its end has a place too, and the decoder no more than these
                ids = ids[: length - 1]
            left, restored = self._apart(ids, self._spans(len(ids), stream))
            if len(restored) > left_over:  # no room for its target: the document is only read
                left, restored = ids, restored[:0]
            left_over -= len(restored)
            sources.append((left, number))
            targets.append((restored, number))
        return self._row(sources, targets, length, room, row.name)

    def target_length(self, length: int) -> int:
        """Positions of the decoder for rows of so many tokens."""
        if self.way == "infill":
            return length + 8
        hidden = round(SHARES["spans"] * length)
        return hidden + -(-hidden // MEAN_SPAN) + 8

    def _spans(self, count: int, stream: np.random.Generator) -> list[tuple[int, int]]:
        """Begin and end of the spans that go, in order, never side by side."""
        hidden = round(SHARES[self.way] * count)
        if hidden < 1 or count < 2:
            return []
        if self.way == "spans":
            number = max(1, round(hidden / MEAN_SPAN))
            sizes = _cut(hidden, min(number, count - hidden, len(self.fillers)), stream)
        else:
            sizes = _poisson(hidden, min(hidden, count - hidden), stream)
        gaps = _cut(count - sum(sizes), len(sizes), stream)
        spans, at = [], 0
        for gap, size in zip(gaps, sizes, strict=True):
            spans.append((at + gap, at + gap + size))
            at += gap + size
        return spans

    def _apart(self, ids: Array, spans: list[tuple[int, int]]) -> tuple[Array, Array]:
        """What is left of a document, and the target that restores it."""
        left, restored, at = [], [], 0
        for number, (begin, end) in enumerate(spans):
            filler = self.fillers[number % len(self.fillers)]
            left += [*ids[at:begin], filler]
            restored += [filler, *ids[begin:end]]
            at = end
        left += [*ids[at:]]
        if self.way == "infill":
            restored = [*ids]
        return np.asarray(left, np.int64), np.asarray([*restored, self.end_id], np.int64)

    def _row(
        self,
        sources: list[tuple[Array, int]],
        targets: list[tuple[Array, int]],
        length: int,
        room: int,
        name: str,
    ) -> Row:
        source, source_documents, source_positions = _joined(sources, length)
        aims, documents, positions = _joined(targets, room, empty=IGNORED)
        ids = np.where(positions == 0, self.start_id, np.roll(np.maximum(aims, 0), 1))
        return Row(
            ids, aims, documents, positions, name, source, source_documents, source_positions
        )


def _cut(total: int, parts: int, stream: np.random.Generator) -> list[int]:
    """A number as a sum of so many positive ones, all ways equally likely."""
    borders = np.sort(stream.permutation(total - 1)[: parts - 1]) + 1
    return np.diff([0, *borders, total]).tolist()


def _poisson(total: int, most: int, stream: np.random.Generator) -> list[int]:
    """At most so many numbers of mean 3 whose sum is the total, or nearly; some are 0."""
    numbers: list[int] = []
    while sum(numbers) < total and len(numbers) < most:
        numbers.append(min(int(stream.poisson(MEAN_SPAN)), total - sum(numbers)))
    return numbers


def _joined(
    parts: list[tuple[Array, int]], length: int, empty: int = 0
) -> tuple[Array, Array, Array]:
    """Numbers, documents and positions of parts end to end, filled up to a length."""
    numbers = np.full(length, empty, np.int64)
    documents, positions = np.full(length, -1, np.int64), np.zeros(length, np.int64)
    at = 0
    for part, document in parts:
        size = min(len(part), length - at)
        numbers[at : at + size] = part[:size]
        documents[at : at + size] = document
        positions[at : at + size] = np.arange(size)
        at += size
    return numbers, documents, positions
