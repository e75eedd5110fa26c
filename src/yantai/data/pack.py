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

from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence that stays whole: its ids, which of them are learned, and its name."""

    ids: Sequence[int]
    learn: Sequence[bool]
    name: str


class ExampleRows:
    """Rows that hold whole examples, several a row, padded at the end.

    Args:
        examples: each with at least one learned token.
        length: positions a row; a longer example is cut at the end.
        seed: decides every order.

    Raises:
        DataError: an example has nothing to learn within `length` (its name is given).
    """

    def __init__(self, examples: Sequence[Example], length: int, *, seed: int = 0):
        if not examples:
            raise DataError("E305", "data", "there are no examples")
        self.length, self.seed = length, seed
        self.examples = examples
        self.truncated = sum(len(example.ids) > length + 1 for example in examples)
        for example in examples:
            if not any(example.learn[1 : length + 1]):
                raise DataError(
                    "E307",
                    example.name,
                    "nothing to learn",
                    expected=f"a learned token within the first {length}",
                    do="shorten the prompt or raise --context",
                )
        self._bins: dict[int, list[list[int]]] = {}

    def rows_in_epoch(self, epoch: int) -> int:
        """Depends on how the epoch's order packs."""
        return len(self._packed(epoch))

    def _packed(self, epoch: int) -> list[list[int]]:
        if epoch not in self._bins:
            order = random_stream(self.seed, epoch).permutation(len(self.examples))
            sizes = [min(len(example.ids) - 1, self.length) for example in self.examples]
            packed = first_fit([int(index) for index in order], sizes.__getitem__, self.length)
            self._bins = {key: bins for key, bins in self._bins.items() if key == epoch - 1}
            self._bins[epoch] = packed
        return self._bins[epoch]

    def row(self, epoch: int, index: int) -> Row:
        """The examples of one row, end to end."""
        parts = []
        members = self._packed(epoch)[index]
        for piece, member in enumerate(members):
            example = self.examples[member]
            ids = np.asarray(example.ids[: self.length + 1], np.int64)
            learn = np.asarray(example.learn[: self.length + 1], bool)
            targets = np.where(learn[1:], ids[1:], IGNORED)
            size = len(ids) - 1
            parts.append((ids[:-1], targets, np.full(size, piece), np.arange(size)))
        ids, targets, documents, positions = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        name = ", ".join(self.examples[member].name for member in members[:4])
        return pad(Row(ids, targets, documents, positions, name), self.length)


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
    )
