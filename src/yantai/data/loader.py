"""Step → batch. The whole order is a function of (seed, step), so resuming needs no replay.

Knows: row sources, weights, batch sizes. Sample n of a run belongs to step n // rows_per_step; a
mixture assigns it to a source by a fixed pattern, in which each source has its share exactly.
"""

from collections.abc import Sequence

import numpy as np

from yantai.base.errors import UsageError
from yantai.data.batch import Batch, collate
from yantai.data.pack import RowSource, random_stream

PATTERN = 1000


class Loader:
    """Batches of a run.

    Args:
        sources: where rows come from.
        batch: rows a batch.
        accumulate: batches a step.
        weights: shares of the sources, positive; equal by default.
        seed: decides the mixture's pattern.
    """

    def __init__(
        self,
        sources: Sequence[RowSource],
        batch: int,
        *,
        accumulate: int = 1,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ):
        self.sources, self.batch_size, self.accumulate = list(sources), batch, accumulate
        self._ahead: dict[int, list[Batch]] = {}
        shares = list(weights) if weights is not None else [1.0] * len(self.sources)
        if len(shares) != len(self.sources) or min(shares) <= 0:
            raise UsageError(
                "E201",
                "weights",
                "one positive number a source",
                expected=len(self.sources),
                got=list(shares),
            )
        self._pattern = _pattern(shares, seed)
        one_hot = self._pattern[:, None] == np.arange(len(self.sources))
        self._before = np.vstack([np.zeros((1, len(shares)), np.int64), one_hot.cumsum(0)])
        self._epoch_starts: list[list[int]] = [[0] for _ in self.sources]

    def place(self, sample: int) -> tuple[int, int, int]:
        """(source, epoch, row) of sample n of the run."""
        block, rest = divmod(sample, len(self._pattern))
        source = int(self._pattern[rest])
        count = block * int(self._before[-1, source]) + int(self._before[rest, source])
        starts = self._epoch_starts[source]
        while starts[-1] <= count:
            epoch = len(starts) - 1
            starts.append(starts[-1] + self.sources[source].rows_in_epoch(epoch))
        epoch = int(np.searchsorted(starts, count, side="right")) - 1
        return source, epoch, count - starts[epoch]

    def batches(self, step: int) -> list[Batch]:
        """The batches of a step, `accumulate` of them."""
        if step in self._ahead:
            return self._ahead.pop(step)
        first = step * self.accumulate * self.batch_size
        rows = []
        for sample in range(first, first + self.accumulate * self.batch_size):
            source, epoch, index = self.place(sample)
            rows.append(self.sources[source].row(epoch, index))
        return [
            collate(rows[start : start + self.batch_size])
            for start in range(0, len(rows), self.batch_size)
        ]

    def read_ahead(self, step: int) -> None:
        """Keep the batches of a step until they are asked for, and those of no other."""
        self._ahead = {step: self.batches(step)}

    def epoch_of(self, step: int) -> float:
        """How often the first source has been read at a step, as a fraction."""
        source, epoch, index = self.place(step * self.accumulate * self.batch_size)
        return epoch + index / self.sources[source].rows_in_epoch(epoch)


def _pattern(shares: Sequence[float], seed: int) -> np.ndarray:
    """Source numbers in a random order, each as often as its share says (largest remainders)."""
    if len(shares) == 1:
        return np.zeros(1, np.int64)
    exact = np.asarray(shares) / sum(shares) * PATTERN
    counts = np.floor(exact).astype(int)
    for source in np.argsort(counts - exact, kind="stable")[: PATTERN - counts.sum()]:
        counts[source] += 1
    counts = np.maximum(counts, 1)
    numbers = np.repeat(np.arange(len(shares)), counts)
    return random_stream(seed, 0x6D6978).permutation(numbers)
