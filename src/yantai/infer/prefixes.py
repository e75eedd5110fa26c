"""What was read before and may be read again: keys and values of prompts, newest kept.

Knows: ids and tensors, and how many bytes they may take. A chat sends its whole past each time.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

SHORTEST = 16
"""Tokens; what is shorter is sooner read than looked up."""


class Prefixes:
    """Keys and values by the ids that they are of.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[bytes, tuple[np.ndarray, Tensor]] = OrderedDict()

    def keep(self, ids: list[int], values: Tensor) -> None:
        """Remember them; the longest unused ones go.

        Args:
            ids: what was read.
            values: keys and values, "layer 2 kv_head position head_dim"; copied.
        """
        own = np.asarray(ids, np.int64)
        key, size = own.tobytes(), values.numel() * values.element_size()
        if len(own) < SHORTEST or size > self.limit:
            return
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        for other, (theirs, _) in list(self._kept.items()):  # what this one holds is held twice
            if len(theirs) < len(own) and (own[: len(theirs)] == theirs).all():
                self._drop(other)
        while self._kept and self.bytes + size > self.limit:
            self._drop(next(iter(self._kept)))
        self._kept[key] = (own, values.clone(memory_format=torch.contiguous_format))
        self.bytes += size

    def find(self, ids: list[int]) -> tuple[int, Tensor | None]:
        """The longest known beginning: its tokens, and keys and values of at least these."""
        own, best, found = np.asarray(ids, np.int64), 0, None
        for key, (theirs, _) in self._kept.items():
            shared = min(len(own), len(theirs))
            differ = np.flatnonzero(own[:shared] != theirs[:shared])
            length = int(differ[0]) if len(differ) else shared
            if length > best:
                best, found = length, key
        if found is None or best < SHORTEST:
            return 0, None
        self._kept.move_to_end(found)
        return best, self._kept[found][1]

    def _drop(self, key: bytes) -> None:
        _, values = self._kept.pop(key)
        self.bytes -= values.numel() * values.element_size()
