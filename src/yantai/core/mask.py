"""Who may look at whom, as a description; it becomes a dense matrix only when a kernel asks.

Knows: positions, documents, padding. A `Mask` is made once a forward and passed down. Masks are
joined with `&`: a key is seen if every condition allows it.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
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


class Sequences(NamedTuple):
    """Stretches of queries and keys that see each other alone, all rows of a batch end to end.

    Attributes:
        queries, keys: where each begins, and at last where all end: "sequence+1" each.
        most_queries, most_keys: lengths of the longest.
    """

    queries: Int32[Tensor, "border"]
    keys: Int32[Tensor, "border"]
    most_queries: int
    most_keys: int


@dataclass(frozen=True)
class Mask:
    """Conditions on (query, key) pairs. The empty mask allows everything.

    Attributes:
        causal: a query sees no later key.
        window: a query sees only the latest `window` keys, itself included.
        documents: "batch position" ids; a query sees only keys of its own document.
        query_documents: "batch query" ids where the queries are another sequence than the keys; a
            query of the document −1 (padding) sees everything, so that its softmax is a number.
        valid: "batch key" booleans; False marks padding, which nobody sees.
        query_start: the place of the first query among the keys (above 0 behind a cache).
        distances: "head distance" numbers that are added to the scores: of the distance
            key − query at key − query + keys − 1 (relative positions).
    """

    causal: bool = False
    window: int | None = None
    documents: Tensor | None = None
    query_documents: Tensor | None = None
    valid: Tensor | None = None
    query_start: int = 0
    distances: Tensor | None = None
    _biases: dict[tuple[int, int, torch.dtype], Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _blocks: dict[tuple[int, torch.dtype], list[Block]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _seen: dict[tuple[int, int], Tensor | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _sequences: dict[tuple[int, int, int], Sequences | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __and__(self, other: "Mask") -> "Mask":
        """Both conditions. Two different windows give the smaller one.

        >>> Mask(causal=True) & Mask(window=8)
        Mask(causal=True, window=8, documents=None, query_documents=None, valid=None,
         query_start=0, distances=None)
        """
        windows = [window for window in (self.window, other.window) if window is not None]
        joined = {
            "causal": self.causal or other.causal,
            "window": min(windows) if windows else None,
            "query_start": max(self.query_start, other.query_start),
        }
        for name in ("documents", "query_documents", "valid", "distances"):
            mine, theirs = getattr(self, name), getattr(other, name)
            assert mine is None or theirs is None, f"two masks both say which {name}"
            joined[name] = mine if mine is not None else theirs
        return replace(self, **joined)

    @property
    def is_plain_causal(self) -> bool:
        """Whether the causal condition is the only one, so that a fast kernel needs no matrix."""
        return self.causal and self.window is None and self.is_open

    @property
    def is_open(self) -> bool:
        """Whether every pair counts alike, order and window aside."""
        return self.documents is None and self.valid is None and self.distances is None

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
            near = (query - key).abs() < self.window
            allowed = near if allowed is None else allowed & near
        allowed = None if allowed is None else allowed[None, None]
        if self.documents is not None:
            of_queries = self.query_documents
            if of_queries is None:
                of_queries = self.documents[:, self.query_start :][:, :query_count]
            queries = of_queries[:, rows, None]
            same = (queries == self.documents[:, None, columns])[:, None]
            if self.query_documents is not None:
                same = same | (queries < 0)[:, None]
            allowed = same if allowed is None else allowed & same
        if self.valid is not None:
            valid = self.valid[:, None, None, columns]
            allowed = valid if allowed is None else allowed & valid
        return allowed

    def bias(
        self, query_count: int, key_count: int, dtype: torch.dtype
    ) -> Float[Tensor, "1 head query key"] | None:
        """The numbers of all pairs' distances; made once for all layers."""
        if self.distances is None:
            return None
        asked = (query_count, key_count, dtype)
        if asked not in self._biases:
            device = self.distances.device
            query = torch.arange(query_count, device=device) + self.query_start
            apart = torch.arange(key_count, device=device)[None] - query[:, None]
            self._biases[asked] = self.distances.to(dtype)[:, apart + key_count - 1][None]
        return self._biases[asked]

    def added(
        self, query_count: int, key_count: int, device: torch.device, dtype: torch.dtype
    ) -> Bool[Tensor, "#batch 1 query key"] | Float[Tensor, "#batch head query key"] | None:
        """What a kernel adds to the scores, or the allowed pairs, or None where all are."""
        allowed = self.dense(query_count, key_count, device)
        bias = self.bias(query_count, key_count, dtype)
        if bias is None or allowed is None:
            return allowed if bias is None else bias
        return bias.masked_fill(~allowed, -torch.inf)

    def seen(
        self, queries: int, keys: int, device: torch.device
    ) -> Int32[Tensor, "2 #batch query"] | None:
        """The first and the last key of each query, where it sees all between them; else None.

        That is so without padding, where documents lie one behind another.
        """
        if self.valid is not None or self.query_start:
            return None
        if self.distances is not None and queries != keys:
            return None
        if (queries, keys) not in self._seen:
            self._seen[queries, keys] = self._find_seen(queries, keys, device)
        return self._seen[queries, keys]

    def _find_seen(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        place = torch.arange(queries, dtype=torch.int32, device=device)[None]
        first, last = torch.zeros_like(place), torch.full_like(place, keys - 1)
        if self.documents is not None:
            borders = _borders(self.documents, self.query_documents)
            if borders is None:
                return None
            first, last = borders
        if self.window is not None:
            first = first.maximum(place - self.window + 1)
            last = last.minimum(place + self.window - 1)
        if self.causal:
            last = last.minimum(place)
        return torch.stack(torch.broadcast_tensors(first, last))

    def sequences(
        self, batch: int, queries: int, keys: int, device: torch.device
    ) -> Sequences | None:
        """What sees each other, where order and window within it are all else; or None.

        That is so where documents lie one behind another; padding, behind them, is one more. Only
        where queries are another sequence than the keys does padding see less than in `dense`: no
        key, or padding. Found on the host, once for all layers.
        """
        across = self.query_documents is not None or queries != keys
        if self.valid is not None or self.distances is not None or self.query_start:
            return None
        if across and (self.causal or self.window is not None or self.documents is None):
            return None
        if self.documents is None and self.window is None:
            return None
        asked = (batch, queries, keys)
        if asked not in self._sequences:
            self._sequences[asked] = self._find_sequences(batch, queries, keys, device)
        return self._sequences[asked]

    def _find_sequences(
        self, batch: int, queries: int, keys: int, device: torch.device
    ) -> Sequences | None:
        if self.documents is None:
            rows = torch.arange(batch + 1, dtype=torch.int32, device=device) * queries
            return Sequences(rows, rows, queries, keys)
        of_keys = _numbered(self.documents, batch)
        of_queries = of_keys
        if self.query_documents is not None:
            of_queries = _numbered(self.query_documents, batch)
        if len(of_queries) != batch * queries or len(of_keys) != batch * keys:
            return None
        if any(bool((each[1:] < each[:-1]).any()) for each in (of_queries, of_keys)):
            return None
        known = of_keys.unique_consecutive()
        if of_queries is not of_keys:
            known = torch.cat((of_queries.unique_consecutive(), known)).unique()
        ends = torch.tensor([[batch * queries], [batch * keys]])
        starts = [torch.searchsorted(each, known) for each in (of_queries, of_keys)]
        borders = torch.cat((torch.stack(starts), ends), dim=1)
        most_queries, most_keys = borders.diff().amax(1).tolist()
        borders = borders.int().to(device, non_blocking=True)
        return Sequences(borders[0], borders[1], most_queries, most_keys)

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


def _borders(documents: Tensor, of_queries: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """The first and the last key of each query's document; None where documents are not in order.

    Padding, which is document −1, must stand behind all others; a padded query sees the last key.
    """
    last_of_all = documents.shape[1] - 1
    highest = 2**31 - 1
    order = documents.masked_fill(documents < 0, highest).contiguous()
    if bool((order[:, 1:] < order[:, :-1]).any()):
        return None
    wanted = order if of_queries is None else of_queries.masked_fill(of_queries < 0, highest)
    first = torch.searchsorted(order, wanted.contiguous())
    last = torch.searchsorted(order, wanted.contiguous(), right=True) - 1
    if of_queries is not None:  # a document that no key is of, and padding
        alone = (last < first) | (of_queries < 0)
        first, last = (torch.where(alone, last_of_all, part) for part in (first, last))
        if bool((wanted[:, 1:] < wanted[:, :-1]).any()) or bool(
            (first[:, 1:] < first[:, :-1]).any()
        ):
            return None
    return first.int(), last.int()


def _numbered(documents: Tensor, batch: int) -> Int64[Tensor, "place"]:
    """A number for each position's document that no other row has, on the host; padding's is high.

    All rows end to end: the numbers never fall where documents lie one behind another.
    """
    documents = documents.cpu().long().expand(batch, -1)
    order = documents.masked_fill(documents < 0, 2**31)
    return (order + (torch.arange(batch)[:, None] << 32)).flatten()


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
