"""A product whose weights are made for it, a band of rows at a time.

Knows: that a band that stays in the cache costs one pass over what it is made of. Weights that are
codes are made numbers so; and weights in bfloat16 are made float32 where the processor multiplies
that faster. A result is rounded once.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from yantai.base.device import has_fast_bfloat16

NUMBERS = 2**18
"""Of a band: a megabyte in float32, which the second cache of a core holds."""
FEW = 4
"""Vectors below which reading the weights is what costs, not multiplying them."""


def arithmetic(x: Tensor) -> torch.dtype:
    """The type that vectors of this type are multiplied in, where nobody asks for gradients."""
    narrow = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    if not narrow or torch.is_grad_enabled() or has_fast_bfloat16(x.device):
        return x.dtype
    return torch.float32


def product_in_bands(
    x: Float[Tensor, "*batch inputs"],
    band: Callable[[int, int], Float[Tensor, "row inputs"]],
    outputs: int,
    bias: Tensor | None,
) -> Float[Tensor, "*batch outputs"]:
    """x·Wᵀ + b.

    Args:
        x: any batch.
        band: gives the rows of W from one number to another, in the type that is multiplied.
        outputs: rows of W.
        bias: added before the result is rounded, or None.
    """
    inputs = x.shape[-1]
    step = max(64, NUMBERS // inputs // 64 * 64)
    flat, out = x.reshape(-1, inputs), None
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        weight = band(start, stop)
        if out is None:
            flat = flat.to(weight.dtype)
            out = flat.new_empty(len(flat), outputs)
        torch.mm(flat, weight.t(), out=out[:, start:stop])
    assert out is not None, "a matrix without rows"
    if bias is not None:
        out += bias.to(out.dtype)
    return out.to(x.dtype).view(*x.shape[:-1], outputs)
