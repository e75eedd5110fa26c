"""Rows that several families share.

Knows: what most models do not have, so that writing one that has it is refused and not lost.
"""

from collections.abc import Mapping
from typing import Any

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.families.rules import Computed, Fixed

PLAIN_DECODER = (
    Fixed("shape", "decoder"),
    Fixed("encoder_layers", None),
    Fixed("norm_embedding", False),
    Fixed("position_offset", 0),
    Fixed("token_types", 0),
    Fixed("head", "plain"),
)

ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"}


def equal_heads(key: str, width: str) -> Computed:
    """So many heads that share the width evenly, a key head for each."""

    def read(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        heads = theirs.get(key)
        if not isinstance(heads, int) or heads < 1 or ours["dim"] % heads:
            raise ModelFileError(
                "E401", f"{where}:{key}", f"must divide {width}", expected=ours["dim"], got=heads
            )
        ours.update(heads=heads, kv_heads=heads, head_dim=ours["dim"] // heads)

    def write(config: ModelConfig) -> int:
        if config.kv_heads != config.heads or config.heads * config.head_dim != config.dim:
            raise UsageError(
                "E203",
                "config.heads",
                "this family cannot express the model",
                expected=f"{config.dim} = heads · head_dim, a key for each query head",
                got=f"{config.heads} · {config.head_dim}, {config.kv_heads} key heads",
                do="choose another --family",
            )
        return config.heads

    return Computed(key, write, read)


def same_dropout(*keys: str) -> tuple[Computed, ...]:
    """Several rates of theirs are one of ours, the highest."""

    def read(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        ours["dropout"] = max(theirs.get(key, 0.1) for key in keys)

    return tuple(Computed(key, lambda config: config.dropout, read) for key in keys)
