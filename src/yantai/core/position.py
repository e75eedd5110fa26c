"""Where a token stands: rotary angles and learned rows, computed once a forward, passed down.

Knows: positions. Knows nothing of attention, which only receives what is made here.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.config import ModelConfig


class Rotary(NamedTuple):
    """Cosines and sines of the angles of each position, halves repeated.

    Shapes: "batch position head_dim" each; batch is 1 where all sequences share positions.
    """

    cos: Tensor
    sin: Tensor


def rotary_angles(
    positions: Int[Tensor, "batch position"], config: ModelConfig, dtype: torch.dtype
) -> Rotary:
    """Angles m·θᵢ with θᵢ = base^(−2i/d) (RoFormer, arXiv 2104.09864, eq. 15).

    Frequencies and angles are float32 in any model, in the order of the reference
    implementation, so that long contexts give the same bits.
    """
    device = positions.device
    even = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device=device).float()
    frequency = 1.0 / (config.rotary_base ** (even / config.head_dim))
    angles = positions[:, :, None].float() * frequency  # batch position head_dim/2
    both = torch.cat((angles, angles), dim=-1)
    return Rotary(both.cos().to(dtype), both.sin().to(dtype))


class _Rotate(torch.autograd.Function):
    """x·cos + rotate_half(x)·sin with few passes; its backward is the inverse rotation."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    low, high = x[..., :half], x[..., half:]
    out = x * cos
    out[..., :half] -= high * sin[..., :half]
    out[..., half:] += low * sin[..., half:]
    return out


def rotate(
    x: Float[Tensor, "batch position head head_dim"], rotary: Rotary
) -> Float[Tensor, "batch position head head_dim"]:
    """Turn each pair (xᵢ, xᵢ₊d/2) by its position's angle (RoFormer, eq. 34)."""
    cos, sin = rotary.cos[:, :, None, :], rotary.sin[:, :, None, :]
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotate.apply(x, cos, sin)
    return _rotate(x, cos, sin)


class LearnedPositions(nn.Module):
    """One learned vector a position (GPT-2)."""

    def __init__(self, count: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))

    def forward(
        self, positions: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch position dim"]:
        """The vectors of the positions."""
        return nn.functional.embedding(positions, self.weight)
