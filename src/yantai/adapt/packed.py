"""Weights in eight or four bits: numbers → codes and scales, and back.

Knows: matrices. A row is cut into groups of columns that share a scale; a weight is the level of
its code times that scale. Eight bits have even levels. Four bits have those of a normal
distribution (NF4, arXiv 2305.14314, appendix E, to four digits), and the scale that gives the
smallest error. A scale is rounded to the type that it is kept in before anything is coded by it.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import BFloat16, Float, Integer
from torch import Tensor

from yantai.adapt.native.unpack import unpacked

BLOCK = 32
"""Columns that lie together: in four bits the first half of them are the lower bits of 16 bytes."""
TOP = 127
STEPS = 8191
LEVELS = tuple(
    step / STEPS
    for step in (
        -8191, -5703, -4301, -3235, -2330, -1513, -746, 0,
        652, 1318, 2016, 2768, 3610, 4608, 5922, 8191,
    )
)  # fmt: skip
"""Of the normal distribution, as whole numbers of 1/8191: processors multiply these faster."""
TRIED = tuple(0.70 + 0.03 * step for step in range(13))
"""Shares of a group's largest weight that are tried as its scale, in four bits."""


@dataclass(frozen=True)
class Form:
    """How a matrix is packed.

    Attributes:
        bits: of a code.
        group: columns that share a scale, a multiple of 32.
    """

    bits: Literal[4, 8]
    group: int

    @property
    def bits_a_weight(self) -> float:
        """With the share of a scale.

        >>> Form(4, 32).bits_a_weight, Form(8, 64).bits_a_weight
        (4.5, 8.25)
        """
        return self.bits + 16 / self.group

    def fits(self, columns: int) -> bool:
        """Whether rows of this length can be cut so."""
        return columns % BLOCK == 0 and columns % self.group == 0

    def for_columns(self, columns: int) -> "Form | None":
        """This form, with groups of 32 where rows of this length do not fall into its own; None
        where they do not even fall into these.

        >>> Form(8, 64).for_columns(288), Form(8, 64).for_columns(100)
        (Form(bits=8, group=32), None)
        """
        smaller = replace(self, group=BLOCK)
        return next((form for form in (self, smaller) if form.fits(columns)), None)


Codes = Integer[Tensor, "row byte"]
"""int8 for eight bits; two in a uint8 for four."""
Scales = BFloat16[Tensor, "row group"]


@functools.cache
def levels_on(device: torch.device) -> Float[Tensor, "16"]:
    """`LEVELS` in the memory of a device: brought there once, as a graph of kernels wants it."""
    with torch.inference_mode(False):
        return torch.tensor(LEVELS, device=device)


def pack(
    weight: Float[Tensor, "row column"],
    form: Form,
    importance: Float[Tensor, "column"] | None = None,
) -> tuple[Codes, Scales]:
    """Codes and scales of a matrix.

    Args:
        weight: any float type; nothing in it may be infinite.
        form: bits and group; the columns must be a multiple of the group.
        importance: what an error in each column costs, such as the mean square of what the column
            is multiplied with; alike by default. It moves scales in four bits.
    """
    assert form.fits(weight.shape[1]), "a row does not fall into groups"
    groups = weight.float().unflatten(1, (-1, form.group))
    if form.bits == 8:
        scales = (groups.abs().amax(-1) / TOP).bfloat16()
        codes = (groups / _divisor(scales)).round().clamp(-TOP, TOP)
        return codes.to(torch.int8).flatten(1), scales
    cost = torch.ones(weight.shape[1]) if importance is None else importance.float().cpu()
    cost = cost.to(weight.device).unflatten(0, (-1, form.group))
    scales, codes = _best_of_four_bits(groups, cost)
    return _interleaved(codes.flatten(1)), scales


def unpack(
    codes: Codes, scales: Scales, form: Form, dtype: torch.dtype
) -> Float[Tensor, "row column"]:
    """The matrix that the codes stand for."""
    table = levels_on(codes.device)
    found = unpacked(codes, scales, table, form.bits, form.group, dtype)
    if found is not None:
        return found
    if form.bits == 8:
        levels = codes.float()
    else:
        halves = codes.unflatten(1, (-1, BLOCK // 2))
        numbers = torch.stack((halves & 15, halves >> 4), dim=2).flatten(1)
        levels = table[numbers.long()]
    wide = levels.unflatten(1, (-1, form.group)) * scales.float()[:, :, None]
    return wide.flatten(1).to(dtype)


def _divisor(scales: Tensor) -> Tensor:
    """The scales as divisors; a group of zeros has the scale 0 and codes of 0."""
    wide = scales.float()[..., None]
    return torch.where(wide == 0, torch.ones_like(wide), wide)


def _best_of_four_bits(groups: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group the scale with the smallest error, and the nearest codes."""
    levels = levels_on(groups.device)
    borders = (levels[1:] + levels[:-1]) / 2
    largest = groups.abs().amax(-1)
    best = torch.full_like(largest, torch.inf)
    scales = torch.zeros_like(largest, dtype=torch.bfloat16)
    codes = torch.zeros_like(groups, dtype=torch.uint8)
    for share in TRIED:
        tried = (largest * share).bfloat16()
        ratio = groups / _divisor(tried)
        numbers = torch.bucketize(ratio, borders)
        error = (groups - levels[numbers] * tried.float()[..., None]).square_().mul_(cost).sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        scales = torch.where(better, tried, scales)
        codes = torch.where(better[..., None], numbers.to(torch.uint8), codes)
    return scales, codes


def _interleaved(codes: Tensor) -> Tensor:
    """Two codes a byte: columns 0 to 15 of each 32 below, 16 to 31 above."""
    low, high = codes.unflatten(1, (-1, 2, BLOCK // 2)).unbind(2)
    return (low | (high << 4)).flatten(1)
