"""Norms, turned heads, gates and dropout on a CPU, with their gradients: one pass each.

Knows: the formulas of `layers.py` and `position.py`. Numbers are bfloat16 or float32, sums are
float32, and a result is rounded once. `serves` says where they can be used; else torch does the
same in steps. They have first derivatives only.
"""

import ctypes
import functools
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from yantai.base.native.build import NUMBERS, library

SOURCE = Path(__file__).with_name("elementwise.cpp")
LANES = 16
ACTIVATIONS = ("gelu", "gelu_tanh", "silu", "relu", "relu_squared")


@functools.cache
def _loaded(dtype: torch.dtype) -> ctypes.CDLL | None:
    return library(SOURCE, NUMBERS[dtype])


def serves(x: Tensor, width: int | None = None) -> bool:
    """Whether the compiled parts can take `x`, whose last dimension (or `width`) is a multiple.

    Where torch compiles it looks for steps of its own.
    """
    return (
        not torch.compiler.is_compiling()
        and x.dtype in NUMBERS
        and x.device.type == "cpu"
        and (width or x.shape[-1]) % LANES == 0
        and x.numel() > 0
        and _loaded(x.dtype) is not None
    )


def _call(name: str, *arguments: Tensor | float | int | None) -> None:
    """Tensors as pointers, whole numbers as they are, the number of threads last.

    The first tensor's type says which library is meant.
    """
    (dtype, *_) = (value.dtype for value in arguments if isinstance(value, Tensor))
    loaded = _loaded(dtype)
    assert loaded is not None
    converted = [
        ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor)
        else ctypes.c_float(value) if isinstance(value, float)
        else ctypes.c_void_p(None) if value is None
        else ctypes.c_int64(value)
        for value in arguments
    ]  # fmt: skip
    getattr(loaded, name)(*converted, ctypes.c_int64(torch.get_num_threads()))


def _parts(width: int) -> Tensor:
    """Room for each thread's part of a sum over rows."""
    return torch.zeros(torch.get_num_threads(), width)


class Gate(torch.autograd.Function):
    """act(a)·b, or act(a) alone."""

    @staticmethod
    def forward(
        ctx,
        kind: str,
        a: Float[Tensor, "*batch hidden"],
        b: Float[Tensor, "*batch hidden"] | None,
    ) -> Float[Tensor, "*batch hidden"]:
        """One pass."""
        a, b = a.contiguous(), b.contiguous() if b is not None else None
        y = torch.empty_like(a)
        ctx.kind = ACTIVATIONS.index(kind)
        _call("gate_forward", ctx.kind, a, b, y, a.numel())
        ctx.save_for_backward(a, b)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To a and b."""
        a, b = ctx.saved_tensors
        da, db = torch.empty_like(a), torch.empty_like(b) if b is not None else None
        g = gradients[0].contiguous()
        _call("gate_backward", ctx.kind, a, b, g, da, db, a.numel())
        return None, da, db


class Dropout(torch.autograd.Function):
    """x/(1−p) where a hash of (seed, place) says so, else 0; nothing is kept for the backward."""

    @staticmethod
    def forward(
        ctx, x: Float[Tensor, "*batch dim"], rate: float, seed: int
    ) -> Float[Tensor, "*batch dim"]:
        """One pass."""
        ctx.how = seed, rate
        return _dropped(x, *ctx.how)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To x."""
        return _dropped(gradients[0], *ctx.how), None, None


def _dropped(x: Tensor, seed: int, rate: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    _call("dropout", x, y, x.numel(), seed, rate)
    return y


class RMSNorm(torch.autograd.Function):
    """w·x/√(mean(x²)+ε)."""

    @staticmethod
    def forward(
        ctx, x: Float[Tensor, "*batch dim"], weight: Float[Tensor, "dim"], eps: float
    ) -> Float[Tensor, "*batch dim"]:
        """The scales of the rows are kept."""
        x, wide, dim = x.contiguous(), weight.float(), x.shape[-1]
        y, scales = torch.empty_like(x), torch.empty(x.shape[:-1])
        _call("rms_forward", x, wide, eps, y, scales, scales.numel(), dim)
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To x and to the weight."""
        x, weight, scales = ctx.saved_tensors
        g, dx, parts = gradients[0].contiguous(), torch.empty_like(x), _parts(len(weight))
        rows = scales.numel()
        _call("rms_backward", x, weight.float(), scales, g, dx, parts, rows, len(weight))
        return dx, parts.sum(0).to(weight.dtype), None


class LayerNorm(torch.autograd.Function):
    """w·(x−μ)/√(σ²+ε)+b."""

    @staticmethod
    def forward(
        ctx,
        x: Float[Tensor, "*batch dim"],
        weight: Float[Tensor, "dim"],
        bias: Float[Tensor, "dim"],
        eps: float,
    ) -> Float[Tensor, "*batch dim"]:
        """Means and scales of the rows are kept."""
        x, dim = x.contiguous(), x.shape[-1]
        y, kept = torch.empty_like(x), torch.empty(*x.shape[:-1], 2)
        rows = kept.numel() // 2
        _call("layer_norm_forward", x, weight.float(), bias.float(), eps, y, kept, rows, dim)
        ctx.save_for_backward(x, weight, bias, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To x, the weight and the bias."""
        x, weight, bias, kept = ctx.saved_tensors
        g, dx, dim = gradients[0].contiguous(), torch.empty_like(x), len(weight)
        dw, db, rows = _parts(dim), _parts(dim), kept.numel() // 2
        _call("layer_norm_backward", x, weight.float(), kept, g, dx, dw, db, rows, dim)
        return dx, dw.sum(0).to(weight.dtype), db.sum(0).to(bias.dtype), None


class Turn(torch.autograd.Function):
    """Heads, normed where a weight is given, then turned by the angles of their positions."""

    @staticmethod
    def forward(
        ctx,
        x: Float[Tensor, "batch position head head_dim"],
        weight: Float[Tensor, "head_dim"] | None,
        eps: float,
        cos: Float[Tensor, "#batch position 1 head_dim"],
        sin: Float[Tensor, "#batch position 1 head_dim"],
    ) -> Float[Tensor, "batch position head head_dim"]:
        """The scales of the heads are kept."""
        x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
        y, scales = torch.empty_like(x), torch.empty(x.shape[:-1] if weight is not None else 0)
        wide = weight.float() if weight is not None else None
        ctx.step = 0 if cos.shape[0] == 1 else cos[0].numel()
        _call("turn_forward", x, wide, eps, cos, sin, ctx.step, y, scales, *x.shape)
        ctx.save_for_backward(x, weight, cos, sin, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        """To the heads and to the weight."""
        x, weight, cos, sin, scales = ctx.saved_tensors
        g, dx, parts = gradients[0].contiguous(), torch.empty_like(x), _parts(x.shape[-1])
        wide = weight.float() if weight is not None else None
        _call("turn_backward", x, wide, cos, sin, ctx.step, scales, g, dx, parts, *x.shape)
        d_weight = parts.sum(0).to(weight.dtype) if weight is not None else None
        return dx, d_weight, None, None, None
