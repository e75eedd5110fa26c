"""Keys and values of what was already read, in memory laid out once.

Knows: shapes and the count of filled positions. Knows nothing of sampling or requests.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from yantai.core.config import ModelConfig
from yantai.core.position import Rotary, rotary_angles


class Cache:
    """A static key-value cache: room for `length` positions of `batch` sequences.

    It also keeps the angles of all its positions. All sequences of a batch fill it together;
    shorter prompts are padded on the left, and the mask's `valid` keeps the padding unseen.
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
        self.layers = [(layer[0], layer[1]) for layer in self.store]
        self.length = length
        self.filled = 0
        self.rotary: Rotary | None = None
        if config.position == "rotary":
            places = torch.arange(length, device=device)[None]
            self.rotary = rotary_angles(places, config, dtype)

    def extend(
        self,
        layer: int,
        keys: Float[Tensor, "batch kv_head position head_dim"],
        values: Float[Tensor, "batch kv_head position head_dim"],
    ) -> tuple[Tensor, Tensor]:
        """Write new positions behind the filled ones; returns all keys and values so far."""
        stop = self.filled + keys.shape[2]
        assert stop <= self.length, f"cache of {self.length} positions cannot hold {stop}"
        all_keys, all_values = self.layers[layer]
        all_keys[:, :, self.filled : stop] = keys
        all_values[:, :, self.filled : stop] = values
        return all_keys[:, :, :stop], all_values[:, :, :stop]

    def advance(self, count: int) -> None:
        """Call once a forward, after every layer has written `count` positions."""
        self.filled += count
