"""Logits behind the newest token of each of several rows, with a cache or by reading all again.

Knows: a model, rows of ids, padding. Prompts of different length are padded on the left and masked;
sources of an encoder on the right. Whatever stands in one row changes nothing in another.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yantai.core.cache import Cache
from yantai.core.face import Model
from yantai.core.mask import valid_keys
from yantai.core.stack import Memory
from yantai.infer.compiled import compiled_step

PREFILL_CHUNK = 512
Rows = Sequence[Sequence[int]]


def encode_rows(model: Model, sources: Rows) -> Memory:
    """What the encoder makes of sources of different length."""
    device = next(model.parameters()).device
    longest = max(len(row) for row in sources)
    padded = [[*row, *[0] * (longest - len(row))] for row in sources]
    lengths = torch.tensor([len(row) for row in sources], device=device)
    valid = torch.arange(longest, device=device)[None] < lengths[:, None]
    mask = None if bool(valid.all()) else valid_keys(valid)
    return model.encode(torch.tensor(padded, device=device), mask=mask)


class _Rows:
    """Prompts side by side, padded on the left."""

    def __init__(self, model: Model, rows: Rows, memory: Memory | None):
        self.model = model
        longest = max(len(row) for row in rows)
        self.device = next(model.parameters()).device
        self.padding = [longest - len(row) for row in rows]
        padded = [[0] * (longest - len(row)) + [*row] for row in rows]
        self.padded = torch.tensor(padded, device=self.device)
        self.shared: dict[str, Any] = {} if memory is None else {"memory": memory}
        self._unseen = torch.tensor(self.padding, device=self.device)[:, None]

    def masks(self, start: int, stop: int) -> dict[str, Any]:
        """Positions and mask of the places from `start` to `stop`; nothing where none is padded."""
        if not any(self.padding):
            return self.shared
        place = torch.arange(stop, device=self.device)[None]
        positions = (place - self._unseen).clamp_min(0)[:, start:]
        return self.shared | {"mask": valid_keys(place >= self._unseen), "positions": positions}

    def take(self, rows: list[int], *, same_memory: bool = False) -> Tensor:
        """Go on with these rows, in this order; with `same_memory` all look at what they did."""
        index = torch.tensor(rows, device=self.device)
        self.padding = [self.padding[row] for row in rows]
        self._unseen = self._unseen[index]
        if "memory" in self.shared and not same_memory:
            hidden, mask = self.shared["memory"]
            valid = mask.valid[index] if mask.valid is not None else None
            self.shared = {
                "memory": Memory(hidden[index], valid_keys(valid) if valid is not None else mask)
            }
        return index


class Reader(_Rows):
    """With a cache of what was read before.

    Args:
        model: in evaluation mode.
        rows: the prompts.
        new_tokens: room for so many more.
        memory: what an encoder made of the source of each row.
    """

    def __init__(self, model: Model, rows: Rows, new_tokens: int, memory: Memory | None = None):
        super().__init__(model, rows, memory)
        dtype = model.compute_dtype or next(model.parameters()).dtype
        length = self.padded.shape[1] + new_tokens
        self.cache = model.new_cache(len(rows), length, dtype=dtype, device=self.device)
        native = compiled_step(model)
        self.native = native if native is not None and native.takes(len(rows)) else None

    def prompts(self) -> Tensor:
        """Read the prompts, a long one in chunks; one alone by the compiled step, if it is fit."""
        alone = len(self.padding) == 1 and isinstance(self.cache, Cache)
        if alone and self.native is not None and self.native.reads_prompts:
            return self.native.prompt(self.padded[0].tolist(), self.cache)[None]
        return self._read(self.padded)

    def one_more(self, ids: list[int]) -> Tensor:
        """Read a token a row, by the compiled step where there is one."""
        if self.native is not None and isinstance(self.cache, Cache):
            return self.native(ids, self.cache, self.padding)
        return self._read(torch.tensor(ids, device=self.device)[:, None])

    def take(self, rows: list[int], *, same_memory: bool = False) -> Tensor:
        """The cache goes along."""
        index = super().take(rows, same_memory=same_memory)
        self.cache.take(index, same_memory=same_memory)
        return index

    def _read(self, ids: Tensor) -> Tensor:
        hidden = None
        for chunk in ids.split(PREFILL_CHUNK, dim=1):
            start = self.cache.filled
            masks = self.masks(start, start + chunk.shape[1])
            hidden = self.model.hidden(chunk, cache=self.cache, **masks)
        assert hidden is not None
        return self.model.logits_of(hidden[:, -1])


class Rereader(_Rows):
    """Without a cache: everything is read again at each step. The other must agree with it."""

    def prompts(self) -> Tensor:
        """Read all."""
        masks = self.masks(0, self.padded.shape[1])
        return self.model.logits_of(self.model.hidden(self.padded, **masks)[:, -1])

    def one_more(self, ids: list[int]) -> Tensor:
        """Read all and one more."""
        new = torch.tensor(ids, device=self.device)[:, None]
        self.padded = torch.cat((self.padded, new), dim=1)
        return self.prompts()

    def take(self, rows: list[int], *, same_memory: bool = False) -> Tensor:
        """The ids go along."""
        index = super().take(rows, same_memory=same_memory)
        self.padded = self.padded[index]
        return index
