"""The small parts: linear maps, norms, the MLP, and the residual they hang on.

Knows: one vector a position. Attention is elsewhere. Weights may be float32 masters while the
stream is bfloat16: each part casts its own weights to the type of what it is given, once a call.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from yantai.core.config import Activation, ModelConfig, NormKind
from yantai.core.fused import lay_out, product, rms
from yantai.core.native.elementwise import Dropout, Gate, serves
from yantai.core.native.elementwise import LayerNorm as CompiledLayerNorm
from yantai.core.native.elementwise import RMSNorm as CompiledRMSNorm

Place = Callable[[Tensor], Tensor]


def itself(x: Tensor) -> Tensor:
    """Where a weight is anyway."""
    return x


class Linear(nn.Module):
    """y = x·Wᵀ + b, with W kept in its own type and used in that of x."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False):
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self._laid_out: Tensor | None = None

    def pack(self, place: Place = itself) -> None:
        """Put the weight where decoding reads it fastest; call again after a change."""
        self.weight.data = place(self.weight.data)

    def lay_out(self) -> None:
        """Keep a second copy of the weight as torch multiplies a few rows with it fastest."""
        self._laid_out = lay_out(self.weight)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """One matrix product."""
        bias = self.bias.to(x.dtype) if self.bias is not None else None
        return product(x, self.weight.to(x.dtype), self._laid_out, bias)

    def _apply(self, *args, **kwargs):
        self._laid_out = None  # a move or a cast makes new weights
        return super()._apply(*args, **kwargs)


class Table(nn.Module):
    """One learned vector an index: of a token, of a position."""

    def __init__(self, count: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))

    def forward(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The vectors of the indices."""
        return F.embedding(index, self.weight)


class Joint(nn.Module):
    """Several `Linear`s that read the same input, handed out apart.

    For training they are products of their own, whose outputs lie in one piece. For decoding,
    where a product is read from memory rather than computed, `pack` lays the weights end to end,
    so that there is one. The parts keep their names, shards, adapters and files either way; if one
    has been replaced from outside by something that is no plain `Linear`, packing does nothing.
    """

    def __init__(self, inputs: int, parts: dict[str, int], *, bias: bool = False):
        super().__init__()
        for name, outputs in parts.items():
            self.add_module(name, Linear(inputs, outputs, bias=bias))
        self._names = tuple(parts)
        self._widths = tuple(parts.values())
        self._packed: tuple[Tensor, Tensor | None, Tensor | None] | None = None

    @property
    def parts(self) -> list[nn.Module]:
        """The maps, in the order of their outputs."""
        return [getattr(self, name) for name in self._names]

    def part(self, name: str) -> nn.Module:
        """One of the maps alone."""
        found = getattr(self, name)
        assert isinstance(found, nn.Module)
        return found

    def pack(self, place: Place = itself) -> None:
        """Lay the weights end to end for inference; the parts become views of one memory."""
        parts = [part for part in self.parts if isinstance(part, Linear)]
        if len(parts) < len(self._names) or any(type(part) is not Linear for part in parts):
            return
        weight = place(torch.cat([part.weight.detach() for part in parts]))
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        start = 0
        for part in parts:
            part.weight.data = weight[start : start + part.outputs]
            start += part.outputs
        self._packed = (weight, None, torch.cat(biases) if biases else None)

    def lay_out(self) -> None:
        """The same for the weights end to end, where they are packed."""
        if self._packed is not None:
            self._packed = (self._packed[0], lay_out(self._packed[0]), self._packed[2])

    def loosen(self) -> None:
        """Forget what was laid end to end: its parts are about to be replaced."""
        self._packed = None

    @property
    def packed(self) -> tuple[Tensor, Tensor | None] | None:
        """The weights and the biases end to end, where they are packed."""
        return None if self._packed is None else (self._packed[0], self._packed[2])

    def together(self, x: Float[Tensor, "*batch inputs"]) -> Tensor | None:
        """All outputs end to end, where the weights are packed; else None."""
        return None if self._packed is None else product(x, *self._packed)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> tuple[Tensor, ...]:
        """The output of each part, "*batch outputs"."""
        whole = self.together(x)
        if whole is not None:
            return whole.split(self._widths, dim=-1)
        return tuple(part(x) for part in self.parts)

    def _apply(self, *args, **kwargs):
        self._packed = None  # a move or a cast makes new weights
        return super()._apply(*args, **kwargs)


class RMSNorm(nn.Module):
    """g·x/√(mean(x²)+ε) (arXiv 1910.07467, eq. 4); the mean is taken in float32.

    In a float64 model the reference implementations differ: most round the vector to float32 too,
    T5's (`wide`) only the mean. T5's scores are unscaled and make much of a last bit: in float32 it
    is computed in the reference's order.
    """

    def __init__(self, dim: int, eps: float, *, wide: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.eps, self.wide = eps, wide

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Scale each vector to unit mean square."""
        if serves(x) and not (self.wide and x.dtype == torch.float32):
            return CompiledRMSNorm.apply(x, self.weight, self.eps)
        if x.dtype == torch.bfloat16:
            if x.device.type == "cpu" and not torch.compiler.is_compiling():
                return rms(x, self.weight, self.eps)
            return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)
        narrow = x.float()
        scale = torch.rsqrt(narrow.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight.to(x.dtype) * ((x if self.wide else narrow) * scale).to(x.dtype)


class LayerNorm(nn.Module):
    """g·(x−μ)/√(σ²+ε)+b (arXiv 1607.06450, eq. 4)."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.bias = nn.Parameter(torch.empty(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Centre and scale each vector."""
        if serves(x):
            return CompiledLayerNorm.apply(x, self.weight, self.bias, self.eps)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.eps)


def make_norm(kind: NormKind, dim: int, eps: float) -> nn.Module:
    """The norm of that kind."""
    if kind == "layer":
        return LayerNorm(dim, eps)
    return RMSNorm(dim, eps, wide=kind == "rms_wide")


def activate(kind: Activation, x: Tensor) -> Tensor:
    """The pointwise non-linearity of that name."""
    if kind == "silu":
        return F.silu(x)
    if kind == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if kind == "gelu":
        return F.gelu(x)
    if kind == "relu":
        return F.relu(x)
    return F.relu(x).square()


def gate(kind: Activation, a: Tensor, b: Tensor | None = None) -> Tensor:
    """act(a) ⊙ b, or act(a) alone."""
    if serves(a):
        return Gate.apply(kind, a, b)
    return activate(kind, a) if b is None else activate(kind, a) * b


def draw_seed() -> int:
    """A seed for compiled dropout, out of torch's generator: a resumed run draws the same."""
    return int(torch.randint(1 << 62, (), device="cpu"))


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """x/(1−p) with probability 1−p, else 0; x itself where nothing is dropped."""
    if not rate or not training:
        return x
    if serves(x):
        return Dropout.apply(x, rate, draw_seed())
    return torch.nn.functional.dropout(x, rate)


class MLP(nn.Module):
    """W₂·act(W₁x), or gated W₂·(act(W₁x) ⊙ W₃x) (arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation: Activation = config.activation
        parts = {"gate": config.hidden} if config.gated else {}
        bias = "mlp" in config.biases
        self.up = Joint(config.dim, parts | {"value": config.hidden}, bias=bias)
        self.down = Linear(config.hidden, config.dim, bias=bias)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Each position for itself."""
        return self.down(gate(self.activation, *self.up(x)))


class Point(nn.Module):
    """A named place to look inside: a hook here sees (and may replace) what flows by."""

    def forward(self, x: Tensor) -> Tensor:
        """What came in."""
        return x


def look(point: Point, x: Tensor) -> Tensor:
    """Show `x` to whoever hooked the point; free when nobody did."""
    return point(x) if point._forward_hooks else x
