"""LoRA: a small product beside each matrix, learned while the matrix stands still.

Knows: modules of a model, from outside. y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with A of "rank inputs" and B of
"outputs rank" (arXiv 2106.09685, section 4.1); s is alpha/rank, or alpha/√rank (rsLoRA, arXiv
2312.03732). B begins at 0, so a model with fresh adapters is the model itself, bit for bit.
"""

import math
import zlib
from collections.abc import Iterator

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from yantai.base.config import Config
from yantai.base.errors import UsageError
from yantai.core.face import Model
from yantai.core.layers import Linear, dropout

PARTS = ("q", "k", "v", "out", "gate", "value", "down")
"""Matrices of a block: those of attention, then those of the MLP."""


class LoRA(Config):
    """How adapters are made."""

    rank: int = Field(16, ge=1, le=4096, description="rows of A")
    alpha: float = Field(32.0, gt=0, description="the scale's numerator")
    targets: tuple[str, ...] = Field(PARTS, min_length=1, description="matrices of a block")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what A reads, in training")
    stabilised: bool = Field(False, description="scale by √rank (rsLoRA), not by rank")

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)


class LowRank(Linear):
    """A `Linear` with an adapter beside it; the matrix itself does not learn."""

    def __init__(self, base: Linear, rank: int, scale: float, dropout: float = 0.0):
        nn.Module.__init__(self)
        self.inputs, self.outputs = base.inputs, base.outputs
        self.weight, self.bias = base.weight, base.bias
        self._laid_out = None
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.inputs))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.outputs, rank))
        self.scale, self.dropout = scale, dropout

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The product, and the small one."""
        narrow = dropout(x, self.dropout, self.training)
        small = narrow @ self.lora_a.to(x.dtype).t()
        return super().forward(x) + self.scale * (small @ self.lora_b.to(x.dtype).t())

    @torch.no_grad()
    def merged(self) -> Linear:
        """One matrix that does the same."""
        plain = Linear.__new__(Linear)
        nn.Module.__init__(plain)
        plain.inputs, plain.outputs, plain._laid_out = self.inputs, self.outputs, None
        change = self.lora_b.double() @ self.lora_a.double() * self.scale
        plain.weight = nn.Parameter((self.weight.double() + change).to(self.weight.dtype))
        plain.bias = self.bias
        return plain


def add_lora(model: Model, lora: LoRA, *, seed: int = 0) -> Model:
    """Put adapters beside the chosen matrices of every block and let nothing else learn but a head
    of labels.

    Args:
        model: changed in place.
        lora: rank, scale, which matrices.
        seed: of A.

    Raises:
        UsageError: the model has no such matrix.
    """
    chosen = [
        (name, module)
        for name, module in model.named_modules()
        if type(module) is Linear and ".blocks." in name and name.rpartition(".")[2] in lora.targets
    ]
    found = {name.rpartition(".")[2] for name, _ in chosen}
    there = sorted({name.rpartition(".")[2] for name, _ in _matrices(model)})
    missing = [target for target in lora.targets if target not in found]
    if (missing and lora.targets != PARTS) or not chosen:
        raise UsageError(
            "E201", "lora.targets", f"the model has no matrix {missing[0]!r}", expected=there
        )
    model.requires_grad_(False)
    for name, module in chosen:
        assert isinstance(module, Linear)
        adapter = LowRank(module, lora.rank, lora.scale, lora.dropout)
        generator = torch.Generator().manual_seed((seed * 2_654_435_761 + _number(name)) % 2**63)
        reach = 1 / math.sqrt(module.inputs)
        fresh = torch.empty(adapter.lora_a.shape).uniform_(-reach, reach, generator=generator)
        with torch.no_grad():
            adapter.lora_a.copy_(fresh)
        _put(model, name, adapter)
    if model.head.labels is not None:
        model.head.requires_grad_(True)
    return model


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """The adapted matrices, by name."""
    for name, module in model.named_modules():
        if isinstance(module, LowRank):
            yield name, module


def carry_over(old: Model, model: Model, lora: LoRA) -> None:
    """Put the adapters of a model beside the same matrices of another, as far as they have learned.

    Args:
        old: has them.
        model: of the same body; changed in place.
        lora: what they are like.
    """
    add_lora(model, lora)
    known = dict(adapters(old))
    for name, adapter in adapters(model):
        before = known[name]
        adapter.lora_a, adapter.lora_b, adapter.scale = before.lora_a, before.lora_b, before.scale


def merge(model: Model) -> Model:
    """Fold every adapter into its matrix; the model computes the same without them."""
    for name, module in list(adapters(model)):
        _put(model, name, module.merged())
    return model.requires_grad_(True)


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, Linear) and ".blocks." in name:
            yield name, module


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())
