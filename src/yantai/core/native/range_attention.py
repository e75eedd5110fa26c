"""Attention on a CPU with its gradients, compiled; in bfloat16 or in float32.

Knows: q, k, v, and the first and the last key that each query sees. Where there is no compiler
`available` is False, and `kernel.py` takes another road. It has first derivatives only.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.autograd.function import once_differentiable

from yantai.base.native.build import NUMBERS, library

SOURCE = Path(__file__).with_name("range_attention.cpp")
COLUMNS = 32
"""The width of a head must be a multiple of this."""

POINTER, WHOLE = ctypes.c_void_p, ctypes.c_int64
VIEWS = ("q", "k", "v", "out", "d_out", "dq", "dk", "dv")


class _View(ctypes.Structure):
    _fields_ = [("data", POINTER), ("steps", WHOLE * 3)]


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, WHOLE) for name in ("batch", "heads", "kv_heads", "queries", "keys", "head_dim")),
        ("scale", ctypes.c_float),
        ("distances", POINTER),
        ("d_distances", POINTER),
        ("distance_step", WHOLE),
        ("seed", WHOLE),
        ("rate", ctypes.c_float),
        ("first", POINTER),
        ("last", POINTER),
        *((name, _View) for name in VIEWS),
        ("log_sums", POINTER),
    ]


@functools.cache
def _loaded(dtype: torch.dtype) -> ctypes.CDLL | None:
    found = library(SOURCE, NUMBERS[dtype])
    if found is None:
        return None
    found.bytes_of_a_thread.restype = WHOLE
    found.attention_forward.argtypes = [POINTER, WHOLE, POINTER]
    found.attention_backward.argtypes = [POINTER, WHOLE, POINTER]
    return found


def available(dtype: torch.dtype) -> bool:
    """Whether this machine has it for numbers of this type; the first question may compile it."""
    return dtype in NUMBERS and _loaded(dtype) is not None


class RangeAttention(torch.autograd.Function):
    """softmax(q·kᵀ·scale + b)·v where query t of a sequence sees keys from first[t] to last[t].

    b is a number for each head and distance key − query, where there are as many keys as queries.
    Dropout takes numbers out of the pattern, which ones is a function of the seed.
    """

    @staticmethod
    def forward(
        ctx,
        q: Float[Tensor, "batch head query head_dim"],
        k: Float[Tensor, "batch kv_head key head_dim"],
        v: Float[Tensor, "batch kv_head key head_dim"],
        seen: Int32[Tensor, "2 #batch query"],
        scale: float,
        distances: Float[Tensor, "head distance"] | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Float[Tensor, "batch head query head_dim"]:
        """The values gathered; each row's logarithm of the sum is kept for the backward."""
        q, k, v = _side_by_side(q), _side_by_side(k), _side_by_side(v)
        out = _new_like(q)
        log_sums = torch.empty(q.shape[:3], dtype=torch.float32)
        added = _padded(distances, k.shape[2])
        ctx.how = {"scale": scale, "rate": dropout, "seed": seed}
        _call("attention_forward", seen, ctx.how, log_sums, added, q=q, k=k, v=v, out=out)
        ctx.save_for_backward(q, k, v, out, seen, log_sums, added)
        ctx.kind = None if distances is None else distances.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To q, k, v and the numbers of distances."""
        q, k, v, out, seen, log_sums, added = ctx.saved_tensors
        dq, dk, dv = _new_like(q), _new_like(k), _new_like(v)
        d_added = None if added is None else added.new_empty(len(q), *added.shape)
        _call(
            "attention_backward", seen, ctx.how, log_sums, added, d_added, q=q, k=k, v=v,
            out=out, d_out=_side_by_side(gradients[0]), dq=dq, dk=dk, dv=dv,
        )  # fmt: skip
        if d_added is None:
            return dq, dk, dv, *[None] * 5
        sums = d_added[..., : 2 * k.shape[2] - 1].sum(0).to(ctx.kind)
        return dq, dk, dv, None, None, sums, None, None


def _padded(distances: Tensor | None, keys: int) -> Tensor | None:
    """In float32, with room behind each head's numbers for reading in whole vectors."""
    if distances is None:
        return None
    assert distances.shape[1] == 2 * keys - 1, f"{distances.shape[1]} distances of {keys} keys"
    return torch.nn.functional.pad(distances.float(), (0, 2 * COLUMNS)).contiguous()


def _side_by_side(x: Tensor) -> Tensor:
    """The numbers of a vector must be neighbours in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _new_like(x: Tensor) -> Tensor:
    """Laid out as "batch position head head_dim", so that heads join without a copy."""
    batch, heads, count, width = x.shape
    return x.new_empty(batch, count, heads, width).transpose(1, 2)


def _call(
    name: str,
    seen: Tensor,
    how: dict[str, Any],
    log_sums: Tensor,
    added: Tensor | None,
    d_added: Tensor | None = None,
    **tensors: Tensor,
) -> None:
    loaded = _loaded(tensors["q"].dtype)
    assert loaded is not None
    batch, heads, count, width = tensors["q"].shape
    assert width % COLUMNS == 0, f"heads of {width}, not a multiple of {COLUMNS}"
    views = {
        key: _View(tensor.data_ptr(), (WHOLE * 3)(*tensor.stride()[:3]))
        for key, tensor in tensors.items()
    }
    first, last = seen.expand(2, batch, count).contiguous()
    work = _Attention(
        batch=batch, heads=heads, kv_heads=tensors["k"].shape[1], queries=count,
        keys=tensors["k"].shape[2], head_dim=width, first=first.data_ptr(),
        last=last.data_ptr(), log_sums=log_sums.data_ptr(), **how, **views,
    )  # fmt: skip
    if added is not None:
        work.distances, work.distance_step = added.data_ptr(), added.shape[1]
        work.d_distances = d_added.data_ptr() if d_added is not None else None
    threads = torch.get_num_threads()
    memory = torch.empty(threads * loaded.bytes_of_a_thread(ctypes.byref(work)), dtype=torch.uint8)
    getattr(loaded, name)(ctypes.byref(work), threads, memory.data_ptr())
