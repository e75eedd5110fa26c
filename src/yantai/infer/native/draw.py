"""Tokens chosen by the compiled part, for several rows at once.

Knows: what `draw.cpp` is given. Where it cannot be made there is None, and torch draws
(`infer/sample.py`), with the same numbers of the generators and the same rules.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from yantai.base.native.build import library
from yantai.infer.settings import Generation

SOURCE = Path(__file__).with_name("draw.cpp")
POINTER, WHOLE = ctypes.c_void_p, ctypes.c_int64


class _Draw(ctypes.Structure):
    """The same names in the same order as in draw.cpp."""

    _fields_ = (
        ("logits", POINTER), ("weights", POINTER), ("vocab", WHOLE), ("top_k", WHOLE),
        ("token", WHOLE), ("chance", ctypes.c_double), ("heat", ctypes.c_float),
        ("top_p", ctypes.c_float), ("min_p", ctypes.c_float),
    )  # fmt: skip


class Ask(NamedTuple):
    """One token.

    Attributes:
        logits: Float[vocab].
        settings: temperature, top-k, top-p, min-p.
        chance: from 0 to 1, without 1.
    """

    logits: Tensor
    settings: Generation
    chance: float


def draw_rows(asked: Sequence[Ask]) -> list[int] | None:
    """A token for each, -1 where logits are not finite; None where it is not for the compiled part.

    Args:
        asked: rows of equal length.
    """
    logits = [ask.logits for ask in asked]
    if not all(_is_plain(each) for each in logits):
        return None
    loaded = library(SOURCE)
    if loaded is None:
        return None
    vocab = len(logits[0])
    weights = torch.empty(len(asked), vocab)
    rows = (_Draw * len(asked))()
    for row, (own, settings, chance), room in zip(rows, asked, weights, strict=True):
        row.logits, row.weights, row.vocab = own.data_ptr(), room.data_ptr(), vocab
        row.top_k = min(settings.top_k or 0, vocab)
        row.heat, row.top_p = settings.heat, settings.share
        row.min_p, row.chance = settings.min_p or 0.0, chance
    loaded.draw_rows(ctypes.byref(rows), WHOLE(len(asked)), WHOLE(torch.get_num_threads()))
    return [row.token for row in rows]


def likeliest_rows(logits: Tensor) -> list[int]:
    """The first of the largest logits of each row, as torch's argmax finds it.

    Args:
        logits: Float[row, vocab].
    """
    loaded = library(SOURCE) if _is_plain(logits) else None
    if loaded is None:
        return logits.argmax(dim=1).tolist()
    rows, vocab = logits.shape
    tokens = (WHOLE * rows)()
    loaded.likeliest_rows(POINTER(logits.data_ptr()), WHOLE(rows), WHOLE(vocab), tokens)
    return list(tokens)


def _is_plain(logits: Tensor) -> bool:
    return (
        logits.dtype == torch.float32
        and logits.device.type == "cpu"
        and logits.is_contiguous()
        and not logits.requires_grad
    )
