"""A model's weights as the kernels of a GPU read them.

Knows: which modules hold which matrices. Every tensor whose memory a kernel reads is held here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yantai.adapt.packed import levels_on
from yantai.adapt.quantize import PackedLinear, PackedTable
from yantai.infer.native.step import joined

NORMS = {"rms": 1, "rms_wide": 1, "layer": 2}


class Matrix(NamedTuple):
    """A matrix as a product reads it.

    Attributes:
        weight: numbers or codes, "out column".
        scales, levels: of codes; else the weight again, unread.
        bias: float32, or None.
    """

    weight: Tensor
    scales: Tensor
    levels: Tensor
    bias: Tensor | None
    outs: int
    columns: int
    bits: int
    group: int


class Norm(NamedTuple):
    """Gain and shift, float32, and their number in the kernels; 0 and None for none."""

    gain: Tensor | None = None
    shift: Tensor | None = None
    kind: int = 0


@dataclass(frozen=True)
class Layer:
    """The weights of a block."""

    before_attention: Norm
    before_mlp: Norm
    of_query: Norm
    of_key: Norm
    qkv: Matrix
    out: Matrix
    up: Matrix
    down: Matrix


class Weights:
    """All of them.

    Args:
        model: one that `fits` a compiled step.
    """

    def __init__(self, model: Any):
        self._kind = NORMS[model.config.norm]
        self._levels = levels_on(next(model.parameters()).device)
        self.layers = [self._layer(block) for block in model.decoder.blocks]
        self.last, self.head = self._norm(model.decoder.norm), self._matrix([model.head])

    def _layer(self, block: Any) -> Layer:
        attention, mlp = block.attn.part, block.mlp.part
        return Layer(
            before_attention=self._norm(block.attn.norm), before_mlp=self._norm(block.mlp.norm),
            of_query=self._norm(attention.q_norm), of_key=self._norm(attention.k_norm),
            qkv=self._matrix(attention.qkv.parts), out=self._matrix([attention.out]),
            up=self._matrix(mlp.up.parts), down=self._matrix([mlp.down]),
        )  # fmt: skip

    def _norm(self, norm: Any) -> Norm:
        if norm is None:
            return Norm()
        shift = getattr(norm, "bias", None)
        return Norm(
            norm.weight.detach().float(), None if shift is None else shift.detach().float(),
            self._kind,
        )  # fmt: skip

    def _matrix(self, parts: Sequence[Any]) -> Matrix:
        """One matrix of parts that lie behind each other in memory, or are laid so."""
        first = parts[0]
        biases = [part.bias.detach().float() for part in parts if part.bias is not None]
        bias = torch.cat(biases) if biases else None
        if isinstance(first, PackedLinear | PackedTable):
            weight, scales = (
                joined([getattr(part, name) for part in parts]) for name in ("codes", "scales")
            )
            bits, group = first.form.bits, first.form.group
            columns = weight.shape[1] * 8 // bits
            return Matrix(weight, scales, self._levels, bias, len(weight), columns, bits, group)
        weight = joined([part.weight.detach() for part in parts])
        return Matrix(weight, weight, weight, bias, *weight.shape, 16, 1)
