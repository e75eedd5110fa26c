"""A finished model with packed weights, from outside: its matrices are replaced, nothing else.

Knows: modules of a model. What a weight is in bits is `packed.py`'s business. The compiled step
reads the codes; wherever it does not, a packed matrix is unpacked for each product.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.adapt.packed import Codes, Form, Scales, pack, unpack
from yantai.core.bands import arithmetic, product_in_bands
from yantai.core.face import Model
from yantai.core.fused import product
from yantai.core.head import Head
from yantai.core.layers import Joint, Linear, Place, Table, itself

Importance = dict[str, Tensor]
"""Mean squares of what each matrix is multiplied with, by the matrix's name."""


class PackedLinear(Linear):
    """y = x·Wᵀ + b with W in codes."""

    def __init__(self, codes: Codes, scales: Scales, form: Form, bias: nn.Parameter | None):
        nn.Module.__init__(self)
        self.outputs, self.inputs = len(codes), codes.shape[1] * 8 // form.bits
        self.form, self.bias, self._laid_out = form, bias, None
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.codes: Tensor
        self.scales: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """What the codes stand for, float32; made anew each time."""
        return unpack(self.codes, self.scales, self.form, torch.float32)

    def pack(self, place: Place = itself) -> None:
        """Codes lie as they are; see `lay_out` below."""

    def lay_out(self) -> None:
        """Torch has no other form of codes."""

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """One matrix product; unpacked is a band of rows at a time, unless gradients go back."""
        bias = self.bias.to(x.dtype) if self.bias is not None else None
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return product(x, unpack(self.codes, self.scales, self.form, x.dtype), None, bias)
        wide = arithmetic(x)

        def band(start: int, stop: int) -> Tensor:
            return unpack(self.codes[start:stop], self.scales[start:stop], self.form, wide)

        return product_in_bands(x, band, self.outputs, bias)

    def _apply(self, *args: Any, **kwargs: Any) -> "PackedLinear":
        scales = self.scales
        super()._apply(*args, **kwargs)
        _keep_type(self, scales)
        return self


def _keep_type(module: "PackedLinear | PackedTable", scales: Tensor) -> None:
    """The type of a scale is part of the form: a cast of the model does not change it."""
    if module.scales.dtype != scales.dtype:
        module.scales = scales.to(module.codes.device)


class PackedHead(Head, PackedLinear):
    """A head whose rows are codes; what stands before them stays as it is."""

    def __init__(self, head: Head, codes: Codes, scales: Scales, form: Form):
        PackedLinear.__init__(self, codes, scales, form, head.bias)
        self.labels, self.transform, self.norm = head.labels, head.transform, head.norm
        self.scale, self.cap, self.dropout = head.scale, head.cap, head.dropout
        if hasattr(head, "activation"):
            self.activation = head.activation


class PackedTable(Table):
    """Vectors of indices, unpacked as they are asked for."""

    def __init__(self, codes: Codes, scales: Scales, form: Form, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.form = form
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.register_buffer("like", torch.empty(0, dtype=dtype, device=codes.device))
        self.codes: Tensor
        self.scales: Tensor
        self.like: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """All vectors, in the model's type."""
        return unpack(self.codes, self.scales, self.form, self.like.dtype)

    def forward(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The vectors of the indices."""
        flat = index.flatten()
        rows = unpack(self.codes[flat], self.scales[flat], self.form, self.like.dtype)
        return rows.unflatten(0, index.shape)

    def _apply(self, *args: Any, **kwargs: Any) -> "PackedTable":
        scales = self.scales
        super()._apply(*args, **kwargs)
        _keep_type(self, scales)
        return self


@dataclass(frozen=True)
class Packing:
    """What became of a model's matrices.

    Attributes:
        packed: name → form.
        left: names of those whose rows do not fall into groups; they stay as they were.
        weights, bits: of all packed matrices.
        groups: columns that share a scale → matrices that have such groups.
    """

    packed: dict[str, Form]
    left: tuple[str, ...]
    weights: int
    bits: float
    groups: dict[int, int]

    @property
    def bits_a_weight(self) -> float:
        """The mean over the packed ones."""
        return self.bits / max(1, self.weights)


def quantize(
    model: Model,
    form: Form,
    *,
    outer: Form | None = None,
    importance: Importance | None = None,
) -> Packing:
    """Pack the matrices of a model, in place.

    Args:
        model: finished; a tied head shares the codes of the embedding.
        form: of the matrices inside the blocks; where rows do not fall into its groups, these are
            of 32 columns.
        outer: of embedding and head; by default eight bits in the groups of `form`.
        importance: from `input_squares`.
    """
    outer = outer or Form(8, form.group)
    importance = importance or {}
    packed: dict[str, Form] = {}
    left: list[str] = []
    for name, module in list(model.named_modules()):
        if isinstance(module, Joint):
            module.loosen()
        if type(module) is not Linear or ".blocks." not in name:
            continue
        own = form.for_columns(module.inputs)
        if own is None:
            left.append(name)
            continue
        codes, scales = pack(module.weight.detach(), own, importance.get(name))
        replace_module(model, name, PackedLinear(codes, scales, own, module.bias))
        packed[name] = own
    for name, known in _pack_outer(model, outer, importance):
        if known is None:
            left.append(name)
        else:
            packed[name] = known
    weights, bits, groups = 0, 0.0, Counter[int]()
    for name, known in packed.items():
        if name == "head" and model.config.shares_embedding:
            continue  # its codes are the embedding's
        module = cast(Any, model.get_submodule(name))
        count = module.codes.numel() * 8 // known.bits
        weights, bits = weights + count, bits + count * known.bits_a_weight
        groups[known.group] += 1
    return Packing(packed, tuple(left), weights, bits, dict(groups))


def columns_of(model: Model) -> dict[str, int]:
    """How long the rows are of each matrix that `quantize` is about, by its name."""
    inside = {
        name: module.inputs
        for name, module in model.named_modules()
        if type(module) is Linear and ".blocks." in name
    }
    return inside | {"embed.tokens": model.config.dim}


def _pack_outer(
    model: Model, form: Form, importance: Importance
) -> Iterator[tuple[str, Form | None]]:
    """Embedding and head; None for one that cannot be packed."""
    table, head = model.embed.tokens, model.head
    fitting = form.for_columns(model.config.dim)
    if fitting is None:
        yield "embed.tokens", None
        return
    form, dtype = fitting, table.weight.dtype
    codes, scales = pack(table.weight.detach(), form, importance.get("head"))
    model.embed.tokens = PackedTable(codes, scales, form, dtype)
    yield "embed.tokens", form
    if head.labels is not None:
        return
    if not model.config.shares_embedding:
        codes, scales = pack(head.weight.detach(), form, importance.get("head"))
    model.head = PackedHead(head, codes, scales, form)
    yield "head", form


def lay_out(model: Model, place: Place = itself) -> None:
    """Codes as a compiled step reads them: parts of one product behind each other, once each."""
    for module in model.modules():
        if not isinstance(module, Joint):
            continue
        parts = [part for part in module.parts if isinstance(part, PackedLinear)]
        if len(parts) < len(module.parts) or len({part.form for part in parts}) > 1:
            continue
        for name in ("codes", "scales"):
            whole = place(torch.cat([getattr(part, name) for part in parts]))
            start = 0
            for part in parts:
                setattr(part, name, whole[start : start + part.outputs])
                start += part.outputs
    table, head = model.embed.tokens, model.head
    if isinstance(table, PackedTable) and isinstance(head, PackedHead):
        shared = table.codes.data_ptr() == head.codes.data_ptr()
        head.codes = place(head.codes)
        table.codes = head.codes if shared else place(table.codes)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module where another one of that name is."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


@contextmanager
def input_squares(model: Model) -> Generator[Importance, None, None]:
    """Whatever the model reads inside tells what its matrices are multiplied with.

    The table that is given is filled when the block ends: mean squares by column.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().flatten(0, -2).double()
            square = rows.square().sum(0)
            sums[name] = sums[name] + square if name in sums else square
            counts[name] = counts.get(name, 0) + len(rows)

        return look

    found: Importance = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            hooks.append(module.register_forward_pre_hook(watch(name)))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        found.update({name: total / counts[name] for name, total in sums.items()})


def packed_modules(model: nn.Module) -> Iterable[tuple[str, PackedLinear | PackedTable]]:
    """Those of a model, by name."""
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear | PackedTable):
            yield name, module


def unpacked_error(weight: Tensor, module: PackedLinear | PackedTable) -> float:
    """How far a packed matrix is from the one it was made of: the mean of its columns' errors.

    Each is ‖w′ − w‖ / ‖w‖ of a column: a few large ones that spoil all others then do not hide it.
    """
    before = weight.detach().float()
    lost, whole = (module.weight.float() - before).norm(dim=0), before.norm(dim=0)
    return float((lost / whole.clamp_min(1e-30))[whole > 0].mean())
