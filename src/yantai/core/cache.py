"""Keys and values of what was already read, in memory laid out once; of an encoder's output too.

Knows: shapes and the count of filled positions. Knows nothing of sampling or requests.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from yantai.core.config import ModelConfig
from yantai.core.position import Rotary, rotary_angles


class Cache:
    """A static key-value cache: room for `length` positions of `batch` sequences.

    It also keeps the angles of all its positions. All sequences of a batch fill it together;
    shorter prompts are padded on the left, and the mask's `valid` keeps the padding unseen. Only
    the first `rows` sequences are read and written.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        length: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (config.layers, 2, batch, config.kv_heads, length, config.head_dim)
        self.store = torch.zeros(shape, dtype=dtype, device=device)
        self.length, self.rows = length, batch
        self.filled = 0
        self._fresh: tuple[Tensor, ...] = ()
        self._seen: tuple[Tensor, ...] = ()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.rotary: Rotary | None = None
        if config.position == "rotary":
            places = torch.arange(length, device=device)[None]
            self.rotary = rotary_angles(places, config, dtype, length)

    def open(self, count: int) -> None:
        """Call once a forward, before any layer writes its `count` positions."""
        stop = self.filled + count
        assert stop <= self.length, f"cache of {self.length} positions cannot hold {stop}"
        # views of all layers at once: at one token a forward, making them is what costs
        store = self.store.narrow(2, 0, self.rows)
        self._fresh = store.narrow(4, self.filled, count).flatten(0, 1).unbind()
        self._seen = store.narrow(4, 0, stop).flatten(0, 1).unbind()

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "batch kv_head position head_dim"],
        values: Float[Tensor, "batch kv_head position head_dim"],
    ) -> tuple[Tensor, Tensor]:
        """Write new positions behind the filled ones; returns all keys and values so far."""
        self._fresh[2 * layer].copy_(keys)
        self._fresh[2 * layer + 1].copy_(values)
        return self._seen[2 * layer], self._seen[2 * layer + 1]

    def keep(self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoder's output: made at the first forward, then the same."""
        if layer not in self._kept:
            self._kept[layer] = make()
        return self._kept[layer]

    def take(self, rows: Int[Tensor, "batch"], *, same_memory: bool = False) -> None:
        """Go on with these rows, in this order: what a beam search keeps of its beams.

        Only what is filled moves, and only rows that come to stand elsewhere.

        Args:
            rows: numbers of rows, some of them perhaps several times.
            same_memory: whether each row looks at the very output of an encoder that the row before
                in its place looked at.
        """
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        if len(rows) > self.store.shape[2]:
            self.store = self.store.index_select(2, rows)
        elif len(moved):
            filled = self.store.narrow(4, 0, self.filled)
            filled.index_copy_(2, moved, filled.index_select(2, rows[moved]))
        self.rows = len(rows)
        if not same_memory:
            self._kept = {
                layer: (keys.index_select(0, rows), values.index_select(0, rows))
                for layer, (keys, values) in self._kept.items()
            }

    def advance(self, count: int) -> None:
        """Call once a forward, after every layer has written `count` positions."""
        self.filled += count


class States:
    """What a recurrent network remembers of each row: a state a layer, whatever was read."""

    def __init__(self) -> None:
        self.filled = 0
        self.values: tuple[Float[Tensor, "layer batch hidden"], ...] = ()

    def take(self, rows: Int[Tensor, "batch"], *, same_memory: bool = False) -> None:
        """Go on with these rows, in this order; a state looks at no memory."""
        self.values = tuple(value.index_select(1, rows) for value in self.values)

    def advance(self, count: int, values: tuple[Tensor, ...]) -> None:
        """Call once a forward that has read `count` positions."""
        self.filled += count
        self.values = values
