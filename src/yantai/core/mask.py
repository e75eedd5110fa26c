"""Who may look at whom, as a description; it becomes a dense matrix only when a kernel asks.

Knows: positions, documents, padding. A `Mask` is made once a forward and passed down. Masks are
joined with `&`: a key is seen if every condition allows it.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int32
from torch import Tensor

ALIGNED = 64
"""Blocks begin at multiples of this: a library that makes a kernel a shape then makes few."""


@dataclass(frozen=True)
class Block:
    """A block of query rows and what of the keys it needs.

    Attributes:
        rows: the queries.
        keys: the keys that any of them sees, in any sequence of the batch.
        added: what is added to the scores, −∞ where a pair is forbidden and else 0, shape
            "#batch 1 row column"; it covers the last columns.
    """

    rows: slice
    keys: slice
    added: Tensor


@dataclass(frozen=True)
class Mask:
    """Conditions on (query, key) pairs. The empty mask allows everything.

    Attributes:
        causal: a query sees no later key.
        window: a query sees only the latest `window` keys, itself included.
        documents: "batch position" ids; a query sees only keys of its own document.
        valid: "batch key" booleans; False marks padding, which nobody sees.
        query_start: the place of the first query among the keys (above 0 behind a cache).
    """

    causal: bool = False
    window: int | None = None
    documents: Tensor | None = None
    valid: Tensor | None = None
    query_start: int = 0
    _blocks: dict[tuple[int, torch.dtype], list[Block]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _first: dict[int, Tensor | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __and__(self, other: "Mask") -> "Mask":
        """Both conditions. Two different windows give the smaller one.

        >>> Mask(causal=True) & Mask(window=8)
        Mask(causal=True, window=8, documents=None, valid=None, query_start=0)
        """
        windows = [window for window in (self.window, other.window) if window is not None]
        joined = {
            "causal": self.causal or other.causal,
            "window": min(windows) if windows else None,
            "query_start": max(self.query_start, other.query_start),
        }
        for name in ("documents", "valid"):
            mine, theirs = getattr(self, name), getattr(other, name)
            assert mine is None or theirs is None, f"two masks both say which {name}"
            joined[name] = mine if mine is not None else theirs
        return replace(self, **joined)

    @property
    def is_plain_causal(self) -> bool:
        """Whether the causal condition is the only one, so that a fast kernel needs no matrix."""
        return self.causal and self.window is None and self.documents is None and self.valid is None

    def dense(
        self,
        query_count: int,
        key_count: int,
        device: torch.device,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> Bool[Tensor, "#batch 1 query key"] | None:
        """The matrix of allowed pairs for some rows and columns, or None where all are allowed."""
        query = (torch.arange(query_count, device=device) + self.query_start)[rows, None]
        key = torch.arange(key_count, device=device)[None, columns]
        allowed: Tensor | None = None
        if self.causal:
            allowed = query >= key
        if self.window is not None:
            near = query - key < self.window
            allowed = near if allowed is None else allowed & near
        allowed = None if allowed is None else allowed[None, None]
        if self.documents is not None:
            queries = self.documents[:, self.query_start :][:, :query_count][:, rows]
            same = (queries[:, :, None] == self.documents[:, None, columns])[:, None]
            allowed = same if allowed is None else allowed & same
        if self.valid is not None:
            valid = self.valid[:, None, None, columns]
            allowed = valid if allowed is None else allowed & valid
        return allowed

    def first_keys(self, count: int, device: torch.device) -> Int32[Tensor, "#batch query"] | None:
        """The first key that each query sees, where it sees all from there to itself; else None.

        That is so without padding, where documents lie one behind another.
        """
        if not self.causal or self.valid is not None or self.query_start:
            return None
        if count not in self._first:
            self._first[count] = self._find_first(count, device)
        return self._first[count]

    def _find_first(self, count: int, device: torch.device) -> Tensor | None:
        place = torch.arange(count, dtype=torch.int32, device=device)[None]
        first = torch.zeros_like(place)
        if self.documents is not None:
            change = self.documents[:, 1:].int() - self.documents[:, :-1].int()
            if bool((change < 0).any()):
                return None
            begins = torch.nn.functional.pad(change > 0, (1, 0))
            first = (begins.int() * place).cummax(dim=1).values.int()
        if self.window is not None:
            first = first.maximum(place - self.window + 1)
        return first

    def blocks(
        self, count: int, rows: int, device: torch.device, dtype: torch.dtype
    ) -> list[Block]:
        """Causal rows in blocks, each with only the keys it needs; made once for all layers.

        Documents lie one behind another, so the first key of a block is the beginning of the
        document of its first row, in the sequence where that is earliest, or a few keys before.
        """
        assert self.causal and self.query_start == 0
        if (count, dtype) not in self._blocks:
            self._blocks[count, dtype] = [
                self._block(start, min(start + rows, count), count, device, dtype)
                for start in range(0, count, rows)
            ]
        return self._blocks[count, dtype]

    def _block(
        self, start: int, stop: int, count: int, device: torch.device, dtype: torch.dtype
    ) -> Block:
        first, covered = 0, 0
        if self.documents is not None:
            same = self.documents[:, : start + 1] == self.documents[:, start : start + 1]
            first = int(same.int().argmax(dim=1).min())
        if self.window is not None:
            first = max(first, start - self.window + 1)
        first -= first % ALIGNED
        if self.is_plain_causal:
            covered = start  # only the last square has forbidden pairs
        columns = slice(max(first, covered), stop)
        allowed = self.dense(count, count, device, slice(start, stop), columns)
        assert allowed is not None
        added = torch.zeros(allowed.shape, dtype=dtype, device=device)
        return Block(
            slice(start, stop), slice(first, stop), added.masked_fill_(~allowed, -torch.inf)
        )


def causal() -> Mask:
    """No later key."""
    return Mask(causal=True)


def window(count: int) -> Mask:
    """Only the latest `count` keys."""
    return Mask(window=count)


def same_document(ids: Tensor) -> Mask:
    """Only keys of the query's own document; ids have shape "batch position"."""
    return Mask(documents=ids)


def valid_keys(valid: Tensor) -> Mask:
    """No padding; `valid` has shape "batch key"."""
    return Mask(valid=valid)
