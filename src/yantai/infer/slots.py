"""Continuations that are decoded together while others come and go.

Knows: rows of one cache that all end at the same place. A row begins where its prompt's beginning
comes to stand, behind places that it does not see, so each decoding step writes at one place for
all. Keys carry their own positions, so a row may be moved. A state of a recurrent network is only a
row of a matrix.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from yantai.core.cache import Cache, States
from yantai.core.face import Model
from yantai.core.mask import valid_keys
from yantai.infer.compiled import compiled_step
from yantai.infer.native.step import NativeStep

FIRST_LENGTH = 256


@runtime_checkable
class Slots(Protocol):
    """Rows of what was read; their numbers are 0, 1, …, without a gap."""

    @property
    def count(self) -> int:
        """Rows that there are."""
        ...

    @property
    def bytes(self) -> int:
        """What they take, with the room for further ones."""
        ...

    def length_for(self, prompt: int, new: int) -> int:
        """Places of the cache that a prompt is read into, before it joins."""
        ...

    def join(self, read: Cache | States) -> int:
        """A row of its own for a prompt that was read; its number."""
        ...

    def leave(self, row: int) -> None:
        """A row has ended; the last one gets its number."""
        ...

    def step(self, ids: list[int]) -> Tensor:
        """Float[row, vocab]: read a token a row, give the logits behind it."""
        ...


def slots_of(model: Model, most: int) -> Slots:
    """Room for so many rows, as the model remembers what it has read.

    Args:
        model: a decoder in evaluation mode.
        most: rows at once.
    """
    if isinstance(model.new_cache(1, 1, dtype=torch.float32, device="cpu"), States):
        return StateSlots(model)
    scaling = getattr(model.config, "rotary_scaling", None)
    if scaling is not None and scaling.kind == "dynamic":
        return OneSlot(model)
    return CacheSlots(model, most)


class CacheSlots:
    """Rows of one key-value cache, which grows as they do.

    Args:
        model: in evaluation mode.
        most: rows.
    """

    def __init__(self, model: Model, most: int):
        self.model, self.most = model, most
        self.padding: list[int] = []
        self._cache = self._made(FIRST_LENGTH)
        self.native = compiled_step(model)

    @property
    def count(self) -> int:
        """Rows that there are."""
        return len(self.padding)

    @property
    def bytes(self) -> int:
        """Of the one cache."""
        return self._cache.store.nbytes

    def length_for(self, prompt: int, new: int) -> int:
        """Those of the prompt."""
        return prompt

    def join(self, read: Cache | States) -> int:
        """Its keys and values behind each other, so that they end where the others end."""
        assert isinstance(read, Cache) and self.count < self.most
        size = read.filled
        if not self.padding:
            self._cache.filled = 0
        if size > self._cache.filled:
            length = self._cache.length
            while length <= size:
                length *= 2
            self._end_at(size, length)
        start = self._cache.filled - size
        row = self.count
        self._cache.store[:, :, row, :, start : start + size] = read.store[:, :, 0, :, :size]
        self.padding.append(start)
        self._cache.rows = self.count
        return row

    def leave(self, row: int) -> None:
        """The last row moves to its place."""
        last = self.count - 1
        if row != last:
            here = slice(self.padding[last], self._cache.filled)
            store = self._cache.store
            store[:, :, row, :, here] = store[:, :, last, :, here]
            self.padding[row] = self.padding[last]
        self.padding.pop()
        self._cache.rows = self.count

    def kept(self, row: int) -> Tensor:
        """Keys and values of a row, "layer 2 kv_head position head_dim"."""
        return self._cache.store[:, :, row, :, self.padding[row] : self._cache.filled]

    @torch.inference_mode()
    def step(self, ids: list[int]) -> Tensor:
        """By the compiled step where there is one."""
        cache = self._cache
        if cache.filled == cache.length:
            spare = min(self.padding)
            if spare < cache.length // 4:  # or rows would be moved at every few steps
                self._end_at(cache.filled, 2 * cache.length)
            else:
                self._end_at(cache.filled - spare, cache.length)
            cache = self._cache
        if self.native is not None:
            return self.native(ids, cache, self.padding)
        device = cache.store.device
        unseen = torch.tensor(self.padding, device=device)[:, None]
        place = torch.arange(cache.filled + 1, device=device)[None]
        hidden = self.model.hidden(
            torch.tensor(ids, device=device)[:, None],
            cache=cache,
            mask=valid_keys(place >= unseen),
            positions=cache.filled - unseen,
        )
        return self.model.logits_of(hidden[:, -1])

    @property
    def reads_ahead(self) -> bool:
        """Whether several tokens of a lone row can be read in one step with equal logits."""
        return self.native is not None and self.native.reads_ahead

    def read(self, ids: list[int]) -> Tensor:
        """Float[token, vocab]: several tokens of the only row; `forget` those that were wrong."""
        assert isinstance(self.native, NativeStep) and self.count == 1
        if self._cache.filled + len(ids) > self._cache.length:
            self._end_at(self._cache.filled, 2 * self._cache.length)
        return self.native.read(ids, self._cache, self.padding[0])

    def forget(self, count: int) -> None:
        """The newest tokens of the only row were not read."""
        self._cache.filled -= count

    def _made(self, length: int) -> Cache:
        parameter = next(self.model.parameters())
        dtype = self.model.compute_dtype or parameter.dtype
        cache = self.model.new_cache(self.most, length, dtype=dtype, device=parameter.device)
        assert isinstance(cache, Cache)
        cache.rows = self.count
        return cache

    def _end_at(self, filled: int, length: int) -> None:
        """Let all rows end there, in a cache of this length."""
        old, shift = self._cache, filled - self._cache.filled
        new = old if length == old.length else self._made(length)
        if self.padding and (shift or new is not old):
            first, stop = min(self.padding), old.filled
            moved = old.store[:, :, : self.count, :, first:stop]
            moved = moved.clone() if new is old else moved
            new.store[:, :, : self.count, :, first + shift : stop + shift] = moved
        self.padding = [start + shift for start in self.padding]
        new.filled, self._cache = filled, new


class OneSlot:
    """One row in the cache that it was read into: where angles depend on how long all will be.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Model):
        self.model, self.native = model, compiled_step(model)
        self._cache: Cache | None = None

    @property
    def count(self) -> int:
        """One, or none."""
        return int(self._cache is not None)

    @property
    def bytes(self) -> int:
        """Of the cache that it goes on with."""
        return self._cache.store.nbytes if self._cache is not None else 0

    def length_for(self, prompt: int, new: int) -> int:
        """All that will be read."""
        return prompt + new

    def join(self, read: Cache | States) -> int:
        """Go on with this cache."""
        assert isinstance(read, Cache) and self._cache is None
        self._cache = read
        return 0

    def leave(self, row: int) -> None:
        """Forget it."""
        self._cache = None

    @torch.inference_mode()
    def step(self, ids: list[int]) -> Tensor:
        """By the compiled step where there is one."""
        assert self._cache is not None
        if self.native is not None:
            return self.native(ids, self._cache, None)
        here = torch.tensor([ids], device=self._cache.store.device)
        return self.model.logits_of(self.model.hidden(here, cache=self._cache)[:, -1])


class StateSlots:
    """States of a recurrent network side by side.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Model):
        self.model = model
        self._states = States()

    @property
    def count(self) -> int:
        """Rows that there are."""
        return self._states.values[0].shape[1] if self._states.values else 0

    @property
    def bytes(self) -> int:
        """Of the states."""
        return sum(part.nbytes for part in self._states.values)

    def length_for(self, prompt: int, new: int) -> int:
        """None: a state is as large as ever."""
        return 0

    def join(self, read: Cache | States) -> int:
        """One more row."""
        assert isinstance(read, States)
        row = self.count
        old = self._states.values or tuple(part[:, :0] for part in read.values)
        pairs = zip(old, read.values, strict=True)
        self._states.values = tuple(torch.cat(pair, dim=1) for pair in pairs)
        return row

    def leave(self, row: int) -> None:
        """The last row moves to its place."""
        rows = list(range(self.count - 1))
        if row < len(rows):
            rows[row] = self.count - 1
        device = self._states.values[0].device
        self._states.take(torch.tensor(rows, dtype=torch.long, device=device))

    @torch.inference_mode()
    def step(self, ids: list[int]) -> Tensor:
        """A state goes on by a token."""
        device = self._states.values[0].device
        here = torch.tensor(ids, device=device)[:, None]
        return self.model.logits_of(self.model.hidden(here, cache=self._states)[:, -1])
