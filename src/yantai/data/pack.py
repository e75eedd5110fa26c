"""Documents → rows of fixed length, without waste and without leakage.

Knows: lengths, permutations, borders. Order is a pure function of (seed, epoch): no state to save,
nothing to replay. Running text:

1. permute the documents of the epoch and lay them end to end, as a ring,
2. begin at a random place and cut the ring into rows,
3. permute the rows.

A row keeps which document each token belongs to, so that nobody attends across a border, and the
token before a border has no target. Fewer tokens than one row are left over in an epoch, other
ones each time. Examples that must stay whole (conversations) are packed into rows instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import DataError
from yantai.data.batch import IGNORED, Array, Row
from yantai.data.shards import Shards


class RowSource(Protocol):
    """Anything that has rows in an order of its own for each epoch."""

    def rows_in_epoch(self, epoch: int) -> int:
        """How many rows the epoch has; at least 1."""
        ...

    def row(self, epoch: int, index: int) -> Row:
        """One of them."""
        ...


class ChangedRows:
    """The rows of a source, each changed when it is read.

    Args:
        source: where the rows come from.
        change: (row, epoch, index) → row; a function of nothing else, so that resuming repeats it.
    """

    def __init__(self, source: RowSource, change: Callable[[Row, int, int], Row]):
        self.source, self.change = source, change

    def rows_in_epoch(self, epoch: int) -> int:
        """As many as the source has."""
        return self.source.rows_in_epoch(epoch)

    def row(self, epoch: int, index: int) -> Row:
        """One of them, changed."""
        return self.change(self.source.row(epoch, index), epoch, index)


def random_stream(*parts: int) -> np.random.Generator:
    """A stream of random numbers that is a function of its parts."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(parts)))


@dataclass(frozen=True, slots=True)
class _Ring:
    """The order of one epoch."""

    documents: NDArray[np.int64]
    ends: NDArray[np.int64]
    offset: int
    rows: NDArray[np.int64]


class TextRows:
    """Rows of running text out of token shards.

    Args:
        shards: documents as tokens, each BOS … EOS.
        length: positions a row.
        seed: decides every order.
        documents: which documents to use; all by default (a split is two such lists).
        shuffle: False keeps the order of the shards, for validation.
    """

    def __init__(
        self,
        shards: Shards,
        length: int,
        *,
        seed: int = 0,
        documents: Array | None = None,
        shuffle: bool = True,
    ):
        self.shards, self.length, self.seed, self.shuffle = shards, length, seed, shuffle
        count = shards.document_count
        self.chosen = np.arange(count) if documents is None else np.asarray(documents)
        starts = shards.starts
        self.sizes = (starts[self.chosen + 1] - starts[self.chosen]).astype(np.int64)
        self.total = int(self.sizes.sum())
        if self.total < 2:
            raise DataError("E305", "data", "there are no tokens to make a row of")
        self._rings: dict[int, _Ring] = {}

    def rows_in_epoch(self, epoch: int) -> int:
        """The same in every epoch."""
        return max(1, (self.total - 1) // self.length)

    def _ring(self, epoch: int) -> _Ring:
        if epoch not in self._rings:
            rows = self.rows_in_epoch(epoch)
            order, offset, row_order = np.arange(len(self.chosen)), 0, np.arange(rows)
            if self.shuffle:
                stream = random_stream(self.seed, epoch)
                order = stream.permutation(len(self.chosen))
                offset = int(stream.integers(self.total))
                row_order = stream.permutation(rows)
            ring = _Ring(self.chosen[order], np.cumsum(self.sizes[order]), offset, row_order)
            # two epochs meet in a batch at most
            self._rings = {key: ring for key, ring in self._rings.items() if key == epoch - 1}
            self._rings[epoch] = ring
        return self._rings[epoch]

    def row(self, epoch: int, index: int) -> Row:
        """Cut one row out of the ring."""
        ring = self._ring(epoch)
        start = (ring.offset + int(ring.rows[index]) * self.length) % self.total
        ids, documents, positions, name = self._cut(ring, start, min(self.length + 1, self.total))
        same = documents[1:] == documents[:-1]
        targets = np.where(same, ids[1:], IGNORED)
        row = Row(ids[:-1], targets, documents[:-1], positions[:-1], f"epoch {epoch}, {name}")
        return pad(row, self.length)

    def _cut(self, ring: _Ring, start: int, count: int) -> tuple[Array, Array, Array, str]:
        ids = np.empty(count, np.int64)
        documents, positions = np.empty(count, np.int64), np.empty(count, np.int64)
        filled, piece, names = 0, 0, []
        place = int(np.searchsorted(ring.ends, start, side="right"))
        while filled < count:
            document, end = int(ring.documents[place]), int(ring.ends[place])
            first = int(self.shards.starts[document + 1]) - (end - start)
            size = min(end - start, count - filled)
            ids[filled : filled + size] = self.shards.tokens(first, first + size)
            documents[filled : filled + size] = piece
            positions[filled : filled + size] = np.arange(size)
            names.append(document)
            filled, piece, start, place = filled + size, piece + 1, start + size, place + 1
            if place == len(ring.ends):
                start, place = 0, 0
        shown = ", ".join(str(name) for name in names[:4]) + (", …" if len(names) > 4 else "")
        return ids, documents, positions, f"documents {shown}"


def first_fit(order: list[int], size_of: Callable[[int], int], room: int) -> list[list[int]]:
    """Pack items into bins: each goes into the first of the latest 64 open bins with room for it.

    >>> first_fit([0, 1, 2], [3, 4, 2].__getitem__, 5)
    [[0, 2], [1]]
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for item in order:
        size = size_of(item)
        for place in range(max(0, len(bins) - 64), len(bins)):
            if left[place] >= size:
                bins[place].append(item)
                left[place] -= size
                break
        else:
            bins.append([item])
            left.append(room - size)
    return bins


def pad(row: Row, length: int) -> Row:
    """Fill a short row at the end with a document of its own that teaches nothing."""
    short = length - len(row.ids)
    if short <= 0:
        return row
    return Row(
        np.pad(row.ids, (0, short)),
        np.pad(row.targets, (0, short), constant_values=IGNORED),
        np.pad(row.documents, (0, short), constant_values=-1),
        np.pad(row.positions, (0, short)),
        row.name,
        types=np.pad(row.types, (0, short)) if row.types is not None else None,
    )
