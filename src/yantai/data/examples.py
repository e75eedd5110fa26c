"""Examples that stay whole → rows that hold several of them; only a row's end is padded.

Knows: lengths and orders. Which token of an example teaches what is the task's business. The order
of an epoch is a pure function of (seed, epoch).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yantai.base.errors import DataError
from yantai.data.batch import IGNORED, Array, Batch, Row, collate
from yantai.data.pack import first_fit, pad, random_stream


@dataclass(frozen=True, slots=True)
class Example:
    """What belongs together.

    Attributes:
        ids: the tokens that are read.
        targets: what is to be said behind each, or `IGNORED`.
        name: where it comes from.
        source: what an encoder reads, where `ids` are a decoder's.
        border: where the second of two texts begins that are compared, neither seeing the other;
            0 where there is one. All examples of a run have one, or none has.
        cut: tokens that the text had more, and that are not there.
        second: where the second of two texts begins that are read as one; 0 where there is one.
    """

    ids: Sequence[int]
    targets: Sequence[int]
    name: str
    source: Sequence[int] = ()
    border: int = 0
    cut: int = 0
    second: int = 0

    def texts(self, numbers: Sequence[int], length: int) -> list[Sequence[int]]:
        """Its ids or targets, by the texts that they belong to."""
        if self.border:
            return [numbers[: self.border], numbers[self.border : length]]
        return [numbers[:length]]

    def teaches_within(self, length: int) -> bool:
        """Whether one of its first tokens has a target."""
        return any(target != IGNORED for target in self.targets[:length])

    @classmethod
    def of_text(cls, ids: Sequence[int], learn: Sequence[bool], name: str) -> "Example":
        """A text some of whose tokens are learned: each is the target of the one before it.

        >>> Example.of_text([5, 6, 7], [False, False, True], "row 1").targets
        [-1, 7]
        """
        targets = [id if learned else IGNORED for id, learned in zip(ids, learn, strict=True)]
        return cls(ids[:-1], targets[1:], name)


class ExampleRows:
    """Rows that hold whole examples, several a row, padded at the end.

    Args:
        examples: each with at least one target.
        length: positions a row; a longer example is cut at the end.
        source_length: positions of the encoder beside it; None for examples without a source.
        seed: decides every order.

    Raises:
        DataError: an example has no target within `length` (its name is given).
    """

    def __init__(
        self,
        examples: Sequence[Example],
        length: int,
        *,
        source_length: int | None = None,
        seed: int = 0,
    ):
        if not examples:
            raise DataError("E305", "data", "there are no examples")
        self.length, self.source_length, self.seed = length, source_length, seed
        self.examples = examples
        self.cut = [
            example.name
            for example in examples
            if example.cut > 0
            or len(example.ids) > length
            or len(example.source) > (source_length or 0)
        ]
        self.truncated = len(self.cut)
        for example in examples:
            if not example.teaches_within(length):
                raise DataError(
                    "E307",
                    example.name,
                    "nothing to learn",
                    expected=f"a learned token within the first {length}",
                    do="shorten the prompt, raise --context, or pass --on-bad-row quarantine",
                )
        self._has_kinds = any(example.second for example in examples)
        self._bins: dict[int, list[list[int]]] = {}

    def rows_in_epoch(self, epoch: int) -> int:
        """Depends on how the epoch's order packs."""
        return len(self._packed(epoch))

    def _packed(self, epoch: int) -> list[list[int]]:
        if epoch not in self._bins:
            order = random_stream(self.seed, epoch).permutation(len(self.examples))
            sizes = [self._size(example) for example in self.examples]
            room = self.length * (self.source_length or 1)
            packed = first_fit([int(index) for index in order], sizes.__getitem__, room)
            self._bins = {key: bins for key, bins in self._bins.items() if key == epoch - 1}
            self._bins[epoch] = packed
        return self._bins[epoch]

    def members(self, epoch: int, index: int) -> list[int]:
        """Numbers of the examples of a row, in the order of its documents."""
        return self._packed(epoch)[index]

    def _size(self, example: Example) -> int:
        """Its share of a row, of the longer of its two sides where it has two."""
        own = min(len(example.ids), self.length)
        if self.source_length is None:
            return own
        source = min(len(example.source), self.source_length)
        return max(own * self.source_length, source * self.length)

    def row(self, epoch: int, index: int) -> Row:
        """The examples of one row, end to end."""
        members = [self.examples[number] for number in self.members(epoch, index)]
        ids, documents, positions = _side_by_side(
            [text for each in members for text in each.texts(each.ids, self.length)]
        )
        targets, *_ = _side_by_side(
            [text for each in members for text in each.texts(each.targets, self.length)]
        )
        name = ", ".join(each.name for each in members[:4])
        types = self._kinds_of(members) if self._has_kinds else None
        own = pad(Row(ids, targets, documents, positions, name, types=types), self.length)
        if self.source_length is None:
            return own
        sources = _side_by_side([each.source[: self.source_length] for each in members])
        short = self.source_length - len(sources[0])
        source, source_documents, source_positions = (
            np.pad(column, (0, short), constant_values=empty)
            for column, empty in zip(sources, (0, -1, 0), strict=True)
        )
        return Row(
            own.ids, own.targets, own.documents, own.positions, name,
            source, source_documents, source_positions,
        )  # fmt: skip

    def _kinds_of(self, members: Sequence[Example]) -> Array:
        """0 for each token of a first text, 1 for each of a second."""
        sizes = [min(len(each.ids), self.length) for each in members]
        seconds = [each.second or size for each, size in zip(members, sizes, strict=True)]
        places = np.concatenate([np.arange(size) for size in sizes])
        return (places >= np.repeat(seconds, sizes)).astype(np.int64)


def _side_by_side(parts: Sequence[Sequence[int]]) -> tuple[Array, Array, Array]:
    """Numbers end to end, which part each is of, and its place there."""
    sizes = [len(part) for part in parts]
    numbers = np.fromiter((number for part in parts for number in part), np.int64, sum(sizes))
    return (
        numbers,
        np.repeat(np.arange(len(parts)), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
    )


def batches_of(rows: ExampleRows, size: int) -> list[Batch]:
    """All rows of the first epoch, so many together."""
    total = rows.rows_in_epoch(0)
    return [
        collate([rows.row(0, index) for index in range(start, min(start + size, total))])
        for start in range(0, total, size)
    ]
