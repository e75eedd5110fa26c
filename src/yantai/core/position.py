"""Where a token stands: rotary angles and learned rows, computed once a forward, passed down.

Knows: positions. Knows nothing of attention, which only receives what is made here.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.config import ModelConfig, RotaryScaling
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
    positions: Int[Tensor, "batch position"],
    config: ModelConfig,
    dtype: torch.dtype,
    length: int | None = None,
) -> Rotary:
    """Angles m·θᵢ with θᵢ = base^(−2i/d) (RoFormer, arXiv 2104.09864, eq. 15), scaled or not.

    Frequencies and angles are float32 in any model, in the order of the reference
    implementation, so that long contexts give the same bits.

    Args:
        positions: the place of each token.
        config: width, base and scaling.
        dtype: of the result.
        length: how many positions are read in all, for `dynamic` scaling; None looks.
    """
    scaling = config.rotary_scaling
    if length is None:
        asks = scaling is not None and scaling.kind == "dynamic" and positions.numel()
        length = int(positions.max()) + 1 if asks else 0
    frequency = rotary_frequencies(config, length, positions.device)
    angles = positions[:, :, None].float() * frequency  # batch position head_dim/2
    magnitude = scaling.magnitude if scaling is not None else 1.0
    cos, sin = (angles.cos() * magnitude).to(dtype), (angles.sin() * magnitude).to(dtype)
    signed = torch.cat((-sin, sin), dim=-1)
    return Rotary(torch.cat((cos, cos), dim=-1)[:, :, None], signed[:, :, None])


def rotary_frequencies(config: ModelConfig, length: int, device: torch.device) -> Tensor:
    """θᵢ of each pair, shape "head_dim/2", float32."""
    width, base, scaling = config.head_dim, config.rotary_base, config.rotary_scaling
    even = torch.arange(0, width, 2, dtype=torch.int64, device=device).float()
    if scaling is not None and scaling.kind == "dynamic":
        read = max(length, scaling.original_positions)
        stretch = scaling.factor * read / scaling.original_positions - (scaling.factor - 1)
        base = base * stretch ** (width / (width - 2))
    period = base ** (even / width)
    if scaling is None or scaling.kind == "dynamic":
        return 1.0 / period
    if scaling.kind == "linear":
        return 1.0 / period / scaling.factor
    if scaling.kind == "yarn":
        return _yarn(period, base, scaling)
    return _llama3(1.0 / period, scaling)


def _yarn(period: Tensor, base: float, scaling: RotaryScaling) -> Tensor:
    """Dimensions between the two borders mix divided and kept frequencies in a straight line."""
    pairs = len(period)

    def border(turns: float) -> float:  # the dimension that turns so often in the old context
        ratio = scaling.original_positions / (turns * 2 * math.pi)
        return 2 * pairs * math.log(ratio) / (2 * math.log(base))

    low, high = border(scaling.fast), border(scaling.slow)
    if scaling.whole:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    place = torch.arange(pairs, dtype=torch.float32, device=period.device)
    kept = 1 - ((place - low) / (high - low or 0.001)).clamp(0, 1)
    return 1.0 / (scaling.factor * period) * (1 - kept) + 1.0 / period * kept


def _llama3(frequency: Tensor, scaling: RotaryScaling) -> Tensor:
    """Frequencies with few turns in the old context are divided, those with many stay."""
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_positions / wavelength
    kept = (turns - scaling.slow) / (scaling.fast - scaling.slow)
    mixed = (1 - kept) * frequency / scaling.factor + kept * frequency
    divided = torch.where(turns < scaling.slow, frequency / scaling.factor, mixed)
    return torch.where(turns > scaling.fast, frequency, divided)


def relative_buckets(
    ahead: Int[Tensor, "distance"], config: ModelConfig, *, both_ways: bool
) -> Int[Tensor, "distance"]:
    """The bucket of each distance key − query (arXiv 1910.10683, section 2.1; as in its code).

    Reading both ways, the later keys have the upper half of the buckets; else they share the first.
    """
    buckets, farthest = config.relative.buckets, config.relative.distance
    start = torch.zeros_like(ahead)
    if both_ways:
        buckets //= 2
        start = (ahead > 0) * buckets
        distance = ahead.abs()
    else:
        distance = (-ahead).clamp_min(0)
    exact = buckets // 2
    growth = torch.log(distance.float().clamp_min(1) / exact) / math.log(farthest / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp_max(buckets - 1)
    return start + torch.where(distance < exact, distance, far)


def sinusoids(
    positions: Int[Tensor, "batch position"], dim: int
) -> Float[Tensor, "batch position dim"]:
    """sin(m·θᵢ) and cos(m·θᵢ) in turn, θᵢ = 10,000^(−2i/d) (arXiv 1706.03762, section 3.5)."""
    even = torch.arange(0, dim, 2, device=positions.device).float()
    angles = positions[:, :, None].float() * 10_000.0 ** (-even / dim)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)[..., :dim]


def rotate(
    x: Float[Tensor, "batch position head head_dim"],
    rotary: Rotary | None,
    norm: nn.Module | None = None,
) -> Float[Tensor, "batch position head head_dim"]:
    """Turn each pair (xᵢ, xᵢ₊d/2) by its position's angle (RoFormer, eq. 34), normed before."""
    if rotary is not None and serves(x, x.shape[-1] // 2) and _is_plain(norm):
        weight, eps = (norm.weight, norm.eps) if norm is not None else (None, 0.0)
        return Turn.apply(x, weight, eps, *rotary)
    x = x if norm is None else norm(x)
    return x if rotary is None else turn(x, rotary.cos, rotary.sin)


def _is_plain(norm: nn.Module | None) -> bool:
    """Whether nobody would miss the norm's own call."""
    return norm is None or (type(norm) is RMSNorm and not norm._forward_hooks)
