"""Guess hidden tokens from both sides (BERT, arXiv 1810.04805, section 3.1).

Knows: which tokens are hidden and by what. 15 % of the tokens of a row are chosen; of these 80 %
are replaced by the mask token, 10 % by any other one, 10 % stay. Whole words are chosen together
where somebody says which tokens form a word, as many as fit into the share. The choice is a
function of (seed, epoch, row).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from yantai.data.batch import IGNORED, Array, Row
from yantai.data.pack import ChangedRows, RowSource, random_stream
from yantai.tasks.task import EveryTarget

STREAM = 0x6D61736B


@dataclass(frozen=True)
class Masked(EveryTarget):
    """−Σ ln p(hidden token | the rest of its document).

    Attributes:
        mask_id: the token that hides.
        ordinary: ids that may be hidden, and stand in for hidden ones.
        seed: decides the choice.
        share: how much of a row is chosen.
        words: ids of a row → a number a token, the same within a word; None chooses single tokens.
    """

    mask_id: int
    ordinary: Array
    seed: int = 0
    share: float = 0.15
    words: Callable[[Sequence[int]], Sequence[int]] | None = None
    name: str = "masked"
    _may_hide: Array = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        may_hide = np.zeros(int(max(self.ordinary)) + 1, bool)
        may_hide[self.ordinary] = True
        object.__setattr__(self, "_may_hide", may_hide)

    def rows(self, source: RowSource) -> RowSource:
        """Rows with hidden tokens, and those tokens as targets."""
        return ChangedRows(source, self.hide)

    def hide(self, row: Row, epoch: int, index: int) -> Row:
        """One row with hidden tokens; at least one, where any may be hidden."""
        stream = random_stream(self.seed, STREAM, epoch, index)
        known = row.ids < len(self._may_hide)
        may_hide = known & self._may_hide[np.where(known, row.ids, 0)] & (row.documents >= 0)
        places = self._choose(row.ids, np.flatnonzero(may_hide), stream)
        targets = np.full_like(row.ids, IGNORED)
        targets[places] = row.ids[places]
        ids, draw = row.ids.copy(), stream.random(len(places))
        ids[places[draw < 0.8]] = self.mask_id
        others = places[(draw >= 0.8) & (draw < 0.9)]
        ids[others] = stream.choice(self.ordinary, len(others))
        return Row(ids, targets, row.documents, row.positions, row.name)

    def _choose(self, ids: Array, places: Array, stream: np.random.Generator) -> Array:
        wanted = max(1, round(self.share * len(places)))
        if self.words is None:
            return np.sort(stream.permutation(places)[:wanted])
        numbers = np.asarray(self.words(ids.tolist()))[places]
        chosen: list[int] = []
        for word in stream.permutation(np.unique(numbers)):
            tokens = places[numbers == word].tolist()
            if len(chosen) + len(tokens) <= wanted:
                chosen += tokens
            if len(chosen) == wanted:
                break
        if not chosen and len(places):  # every word is longer than the share: a part of one
            chosen = places[numbers == stream.choice(numbers)][:wanted].tolist()
        return np.sort(np.asarray(chosen, np.int64))
