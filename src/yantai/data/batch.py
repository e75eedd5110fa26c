"""What a model is fed: rows of ids with their targets, documents and positions.

Knows: arrays. Knows nothing of where they come from or what is learned from them.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -1
"""The target of a position that teaches nothing."""

Array = NDArray[np.int64]
FIELDS = ("ids", "targets", "documents", "positions")
SOURCE_FIELDS = ("source", "source_documents", "source_positions")
OPTIONAL = ("types", *SOURCE_FIELDS)


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence of a batch; all arrays have the same length.

    Attributes:
        ids: the tokens that are read.
        targets: the token to predict behind each, or `IGNORED`.
        documents: which document of the row each token belongs to; padding is −1.
        positions: the place of each token within its document.
        name: where the row comes from, for a person who must find it.
        source: what an encoder reads, where ids and targets are a decoder's; documents and
            positions of its own follow.
        types: the kind of each token, where a text is read beside another and its tokens are told
            from those: 0, and 1 for the second text.
    """

    ids: Array
    targets: Array
    documents: Array
    positions: Array
    name: str
    source: Array | None = None
    source_documents: Array | None = None
    source_positions: Array | None = None
    types: Array | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows side by side, as tensors of shape "batch position" (int64).

    Attributes:
        single_document: no row holds a border, so causality alone is mask enough.
        target_count: positions with a target.
        names: one a row.
    """

    ids: Tensor
    targets: Tensor
    documents: Tensor
    positions: Tensor
    single_document: bool
    target_count: int
    names: tuple[str, ...]
    source: Tensor | None = None
    source_documents: Tensor | None = None
    source_positions: Tensor | None = None
    types: Tensor | None = None

    @property
    def token_count(self) -> int:
        """Tokens that are read, padding included."""
        return self.ids.numel() + (self.source.numel() if self.source is not None else 0)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; a GPU takes it from where its program need not wait."""
        there = {name: getattr(self, name) for name in (*FIELDS, *OPTIONAL)}
        moved = {
            name: _pinned(tensor, device).to(device, non_blocking=True)
            for name, tensor in there.items()
            if tensor is not None
        }
        return replace(self, **moved)


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def collate(rows: list[Row]) -> Batch:
    """Put rows of equal length side by side."""
    fields = [*FIELDS, *(name for name in OPTIONAL if getattr(rows[0], name) is not None)]
    stacked = {
        field: torch.from_numpy(np.stack([getattr(row, field) for row in rows])) for field in fields
    }
    return Batch(
        **stacked,
        single_document=all(int(row.documents[-1]) == int(row.documents[0]) for row in rows),
        target_count=int(sum((row.targets != IGNORED).sum() for row in rows)),
        names=tuple(row.name for row in rows),
    )
