"""Where a token stands: rotary angles and learned rows, computed once a forward, passed down.

Knows: positions. Knows nothing of attention, which only receives what is made here.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.config import ModelConfig
from yantai.core.fused import turn
from yantai.core.layers import RMSNorm
from yantai.core.native.elementwise import Turn, serves


class Rotary(NamedTuple):
    """Cosines and signed sines of the angles of each position.

    Shapes: "batch position 1 head_dim" each; batch is 1 where all sequences share positions. The
    sine of the first half carries a minus, so that a rotation is x·cos + swap(x)·sin.
    """

    cos: Tensor
    sin: Tensor

    def at(self, start: int, stop: int) -> "Rotary":
        """The angles of some of the positions."""
        return Rotary(self.cos[:, start:stop], self.sin[:, start:stop])


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
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    signed = torch.cat((-sin, sin), dim=-1)
    return Rotary(torch.cat((cos, cos), dim=-1)[:, :, None], signed[:, :, None])


def rotate(
    x: Float[Tensor, "batch position head head_dim"],
    rotary: Rotary | None,
    norm: nn.Module | None = None,
) -> Float[Tensor, "batch position head head_dim"]:
    """Turn each pair (xᵢ, xᵢ₊d/2) by its position's angle (RoFormer, eq. 34), normed before."""
    if rotary is not None and serves(x, x.shape[-1] // 2) and type(norm) in (RMSNorm, type(None)):
        weight, eps = (norm.weight, norm.eps) if norm is not None else (None, 0.0)
        return Turn.apply(x, weight, eps, *rotary)
    x = x if norm is None else norm(x)
    return x if rotary is None else turn(x, rotary.cos, rotary.sin)
