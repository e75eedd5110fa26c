"""What was read before and may be read again: keys and values of prompts, newest kept.

Knows: ids and tensors, and how many bytes they may take. A chat sends its whole past each time.
"""

import bisect
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from torch import Tensor, contiguous_format

SHORTEST = 16
"""Tokens; what is shorter is sooner read than looked up."""
ORDERED = np.dtype(">u4")
"""Ids so that their bytes are in the order of the ids."""


class Prefixes:
    """Keys and values by the ids that they are of; none of these begins another one.

    In the order of their ids, what has most in common with others stands beside them: looking up
    takes no longer where hundreds of conversations begin with the same words.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._values: OrderedDict[bytes, Tensor] = OrderedDict()  # the longest unused ones first
        self._sorted: list[bytes] = []

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._sorted)

    def keep(self, ids: Sequence[int], values: Tensor) -> None:
        """Remember them, in the place of what they begin with; the longest unused ones go.

        Args:
            ids: what was read.
            values: keys and values, "layer 2 kv_head position head_dim"; copied.
        """
        key, size = _key(ids), values.numel() * values.element_size()
        if len(ids) < SHORTEST or size > self.limit:
            return
        place = bisect.bisect_left(self._sorted, key)
        behind = self._sorted[place] if place < len(self._sorted) else b""
        if behind.startswith(key):  # it is held already, with more
            self._values.move_to_end(behind)
            return
        if place and key.startswith(before := self._sorted[place - 1]):
            self._drop(before)
        while self._sorted and self.bytes + size > self.limit:
            self._drop(next(iter(self._values)))
        bisect.insort(self._sorted, key)
        self._values[key] = values.clone(memory_format=contiguous_format)
        self.bytes += size

    def find(self, ids: Sequence[int]) -> tuple[int, Tensor | None]:
        """The longest known beginning: its tokens, and keys and values of at least these."""
        key = _key(ids)
        place = bisect.bisect_left(self._sorted, key)
        beside = self._sorted[max(0, place - 1) : place + 1]
        best, found = max(((_shared(key, each), each) for each in beside), default=(0, b""))
        if best < SHORTEST:
            return 0, None
        self._values.move_to_end(found)
        return best, self._values[found]

    def _drop(self, key: bytes) -> None:
        values = self._values.pop(key)
        del self._sorted[bisect.bisect_left(self._sorted, key)]
        self.bytes -= values.numel() * values.element_size()


def _key(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, ORDERED).tobytes()


def _shared(one: bytes, other: bytes) -> int:
    """How many ids both begin with."""
    size = min(len(one), len(other)) // ORDERED.itemsize
    own, theirs = (np.frombuffer(each, ORDERED, size) for each in (one, other))
    differ = np.flatnonzero(own != theirs)
    return int(differ[0]) if len(differ) else size
