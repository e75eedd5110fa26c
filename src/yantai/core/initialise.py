"""How every parameter begins, written as one table.

Knows: names and shapes of parameters. A model is built on the meta device, where it costs
nothing; `materialise` gives it memory, `initialise` gives it numbers. A parameter that no row of
the table names is an error, so a new part cannot start from whatever lay in memory.
"""

import math
import re
from collections.abc import Callable
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.face import Model
from yantai.core.first_sight import look_around
from yantai.core.model import Transformer
from yantai.core.recurrent import Recurrent

AnyConfig = ModelConfig | RecurrentConfig
M = TypeVar("M", bound=Model)
Rule = Callable[[Tensor, AnyConfig, torch.Generator], None]


def _normal(std: Callable[[Tensor, AnyConfig], float]) -> Rule:
    def rule(tensor: Tensor, config: AnyConfig, generator: torch.Generator) -> None:
        tensor.normal_(0.0, std(tensor, config), generator=generator)

    return rule


def _constant(value: float) -> Rule:
    def rule(tensor: Tensor, config: AnyConfig, generator: torch.Generator) -> None:
        tensor.fill_(value)

    return rule


def _fan_in(tensor: Tensor, config: AnyConfig) -> float:
    return tensor.shape[1] ** -0.5


def _uniform(reach: Callable[[Tensor, AnyConfig], float]) -> Rule:
    def rule(tensor: Tensor, config: AnyConfig, generator: torch.Generator) -> None:
        side = reach(tensor, config)
        tensor.uniform_(-side, side, generator=generator)

    return rule


def _remember(tensor: Tensor, config: AnyConfig, generator: torch.Generator) -> None:
    """Zero; but an LSTM's gates of forgetting begin open (Jozefowicz et al. 2015, section 2.2)."""
    tensor.zero_()
    if isinstance(config, RecurrentConfig) and config.kind == "lstm":
        quarter = len(tensor) // 4
        tensor[quarter : 2 * quarter] = 1.0


# Published defaults. "zero": a block starts as the identity (arXiv 2003.04887, 1901.09321).
# "gpt2": N(0, 0.02), projections into the stream scaled by 1/√(2·layers). "neighbours": the same,
# but what is looked at first is as `first_sight.py` says.
TABLES: dict[str, list[tuple[str, Rule]]] = {
    "zero": [
        (r"embed\.tokens\.weight", _normal(lambda t, c: 0.02 if c.tied else 1.0)),
        (r".*entry\.(positions|types)\.weight", _normal(lambda t, c: 0.02)),
        (r".*\.relative\.weight", _constant(0.0)),
        (r".*norm\.weight", _constant(1.0)),
        (r".*(norm|\.[a-z]+)\.bias", _constant(0.0)),
        (r".*\.part\.(out|down)\.weight", _constant(0.0)),
        (r".*\.(qkv|up)\.[a-z]+\.weight", _normal(_fan_in)),
        (r"head\.transform\.weight", _normal(_fan_in)),
        (r"head\.bias", _constant(0.0)),
        (r"head\.weight", _normal(lambda t, c: 0.02)),
    ],
    "gpt2": [
        (r"embed\.tokens\.weight", _normal(lambda t, c: 0.02)),
        (r".*entry\.(positions|types)\.weight", _normal(lambda t, c: 0.02)),
        (r".*\.relative\.weight", _normal(lambda t, c: 0.02)),
        (r".*norm\.weight", _constant(1.0)),
        (r".*(norm|\.[a-z]+)\.bias", _constant(0.0)),
        (
            r".*\.part\.(out|down)\.weight",
            _normal(lambda t, c: 0.02 / math.sqrt(2 * c.layers)),
        ),
        (r".*\.(qkv|up)\.[a-z]+\.weight", _normal(lambda t, c: 0.02)),
        (r"head\.transform\.weight", _normal(lambda t, c: 0.02)),
        (r"head\.bias", _constant(0.0)),
        (r"head\.weight", _normal(lambda t, c: 0.02)),
    ],
    "recurrent": [
        (r"embed\.tokens\.weight", _uniform(lambda t, c: 0.1)),
        (r".*\.(read|keep)\.weight", _uniform(lambda t, c: c.hidden**-0.5)),
        (r".*\.read\.bias", _remember),
        (r".*\.bias", _constant(0.0)),
        (r".*\.(out|start|query|mix)\.weight", _normal(_fan_in)),
        (r"head\.weight", _uniform(lambda t, c: 0.1)),
    ],
}

TABLES["neighbours"] = TABLES["gpt2"]  # and then `look_around`


@overload
def build_meta(config: ModelConfig) -> Transformer: ...
@overload
def build_meta(config: RecurrentConfig) -> Recurrent: ...
def build_meta(config: AnyConfig) -> Model:
    """The structure without memory: count, plan or shard it before anything is allocated."""
    with torch.device("meta"):
        if isinstance(config, RecurrentConfig):
            return Recurrent(config)
        return Transformer(config)


def build(
    config: AnyConfig,
    *,
    seed: int = 0,
    table: str = "zero",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """A new model with the table's first weights, the same for the same seed."""
    model = materialise(build_meta(config), device, dtype)
    initialise(model, seed=seed, table=table)
    return model


def materialise(model: M, device: torch.device | str, dtype: torch.dtype = torch.float32) -> M:
    """Give a meta model real memory; the numbers in it are arbitrary until someone writes them.

    The type is changed before there is memory, or a moment would need it twice.
    """

    def typed(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return torch.empty(tensor.shape, dtype=kind, device=tensor.device)

    def placed(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    model = model._apply(typed)._apply(placed)
    model.tie()
    return model


@torch.no_grad()
def initialise(model: nn.Module, *, seed: int, table: str = "zero") -> None:
    """Write every parameter by the first row whose pattern matches its whole name."""
    config = model.config
    assert isinstance(config, (ModelConfig, RecurrentConfig))
    for name, parameter in model.named_parameters():
        rule = next((rule for row, rule in TABLES[table] if re.fullmatch(row, name)), None)
        assert rule is not None, f"no row of the table {table!r} names {name}"
        # each tensor has a stream of its own: adding a layer does not move the others
        generator = torch.Generator(device="cpu").manual_seed(_name_seed(seed, name))
        fresh = torch.empty(parameter.shape, dtype=torch.float32)
        rule(fresh, config, generator)
        parameter.copy_(fresh)
    if table == "neighbours" and isinstance(model, Transformer):
        generator = torch.Generator(device="cpu").manual_seed(_name_seed(seed, "neighbours"))
        look_around(model, generator)


def _name_seed(seed: int, name: str) -> int:
    import zlib

    return (seed * 2_654_435_761 + zlib.crc32(name.encode())) % 2**63
