"""Elementwise parts as single autograd functions with few passes over memory.

Knows: the same formulas as `layers.py` and `position.py`, in the form that a CPU without a compiler
runs fastest in bfloat16; with one, `native/elementwise.py` has them. Matrix products have
instructions of their own there; what is left is the number of times that memory is read, and
autograd's own composition of small steps reads it three times as often. Statistics are float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from yantai.core.bands import FEW, arithmetic, product_in_bands


def lay_out(weight: Tensor) -> Tensor | None:
    """The weight in oneDNN's own layout for one row at a time, or None where there is none.

    A product of one row is memory traffic; in this layout a bfloat16 weight is read two to three
    times as fast as from rows.
    """
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return None
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops, "mkldnn"):
        return None
    try:
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)
    except (AttributeError, RuntimeError):  # an older or differently built torch
        return None


def product(x: Tensor, weight: Tensor, laid_out: Tensor | None, bias: Tensor | None) -> Tensor:
    """x·Wᵀ + b, from the laid-out weight where there is one."""
    wide = arithmetic(x)
    if wide != x.dtype and x.numel() >= FEW * x.shape[-1]:
        return product_in_bands(
            x, lambda start, stop: weight[start:stop].to(wide), len(weight), bias
        )
    if laid_out is None:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")


class RMS(torch.autograd.Function):
    """g·n with n = x·r and r = 1/√(mean(x²)+ε).

    Backward, with u = dy·g: dx = r·(u − n·mean(u·n)), dg = Σ dy·n.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Three passes: the norm, n, g·n."""
        scale = _rms_scale(x, eps).to(x.dtype)
        normal = x * scale
        ctx.save_for_backward(normal, weight, scale)
        return normal * weight

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        """To x and to the weight."""
        normal, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        along = gradient * normal
        d_weight = along.flatten(0, -2).sum(0)
        dot = along.mul_(weight).sum(-1, keepdim=True).div_(-normal.shape[-1])
        return torch.addcmul(gradient * weight, normal, dot).mul_(scale), d_weight, None


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm, with a backward only where somebody will ask for it."""
    weight = weight.to(x.dtype)
    if torch.is_grad_enabled():
        return RMS.apply(x, weight, eps)
    return _scaled(x, _rms_scale(x, eps)).mul_(weight)


def _rms_scale(x: Tensor, eps: float) -> Tensor:
    """1/√(mean(x²)+ε) of each vector, float32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation, with a backward only where somebody will ask for it."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return Rotate.apply(x, cos, sin)
    return _turn(x, cos, sin)


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x·scale in the type of x: a product of two types would be made through copies."""
    return x * scale.to(x.dtype)


class Rotate(torch.autograd.Function):
    """x·cos + swap(x)·sin, where swap exchanges the halves and sin carries the sign.

    The backward of a rotation is the rotation by the opposite angle.
    """

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        """Turn back."""
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return torch.addcmul(x * cos, swapped, sin)
