"""T5, T5 v1.1 and mT5: an encoder and a decoder with relative distances and unscaled scores.

Knows: names only. v1.1 and mT5 have a gated MLP and a head that is not scaled.
"""

from collections.abc import Mapping
from typing import Any

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.families.rules import (
    Computed,
    ConfigRow,
    Family,
    Field,
    Fixed,
    Members,
    Renamed,
    Theirs,
)

_FORWARD = {
    "relu": (False, "relu"),
    "gated-gelu": (True, "gelu_tanh"),
    "gated-silu": (True, "silu"),
    "gelu_new": (False, "gelu_tanh"),
}


def _read_mlp(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    given = theirs.get("feed_forward_proj", "relu")
    if given not in _FORWARD:
        known = ", ".join(_FORWARD)
        raise ModelFileError(
            "E402", f"{where}:feed_forward_proj", "not supported", expected=known, got=given
        )
    ours["gated"], ours["activation"] = _FORWARD[given]


def _write_mlp(config: ModelConfig) -> str:
    wanted = (config.gated, config.activation)
    for name, pair in _FORWARD.items():
        if pair == wanted:
            return name
    raise UsageError(
        "E203",
        "config.activation",
        "this family cannot express the model",
        expected=", ".join(_FORWARD),
        got=f"{'gated ' if config.gated else ''}{config.activation}",
        do="choose another --family",
    )


def _read_key_heads(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["kv_heads"] = ours["heads"]


def _write_heads(config: ModelConfig) -> int:
    if config.kv_heads != config.heads:
        raise UsageError(
            "E203", "config.kv_heads", "this family cannot express the model",
            expected=config.heads, got=config.kv_heads, do="choose another --family",
        )  # fmt: skip
    return config.heads


def _read_layers(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["encoder_layers"] = theirs.get("num_layers", 6)
    ours["layers"] = theirs.get("num_decoder_layers") or ours["encoder_layers"]


def _read_head(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    """Old files say by a head of its own that hidden vectors are not scaled before it."""
    tied = theirs.get("tie_word_embeddings", True) is not False
    ours["tied"] = tied
    scaled = theirs.get("scale_decoder_outputs", tied)
    ours["scaled"] = ("head",) if scaled else ()


def _read_buckets(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["relative"] = {
        "buckets": theirs.get("relative_attention_num_buckets", 32),
        "distance": theirs.get("relative_attention_max_distance", 128),
    }


def _attention(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.part.qkv.{part}": f"{theirs}.{part}" for part in "qkv"} | {
        f"{ours}.part.out": f"{theirs}.o"
    }


def _block(side: str, parts: dict[str, str], mlp: int) -> list[Renamed]:
    ours, theirs = f"{side}.blocks.{{layer}}.", f"{side}.block.{{layer}}.layer."
    gate, value = f"{ours}mlp.part.up.gate.weight", f"{ours}mlp.part.up.value.weight"
    dense = f"{theirs}{mlp}.DenseReluDense"
    named = parts | {
        "mlp.part.down": f"{mlp}.DenseReluDense.wo",
        "mlp.norm": f"{mlp}.layer_norm",
    }
    return [
        *(Renamed(f"{ours}{a}.weight", f"{theirs}{b}.weight") for a, b in named.items()),
        Renamed(gate, f"{dense}.wi_0.weight"),
        Renamed(value, f"{dense}.wi_1.weight", beside=gate),
        Renamed(value, f"{dense}.wi.weight", without=gate),
    ]


def _tensors() -> tuple[Renamed, ...]:
    own = _attention("attn", "0.SelfAttention") | {"attn.norm": "0.layer_norm"}
    across = _attention("cross", "1.EncDecAttention") | {"cross.norm": "1.layer_norm"}
    rows = [Renamed("embed.tokens.weight", "shared.weight")]
    rows += _block("encoder", own, 1) + _block("decoder", own | across, 2)
    for side in ("encoder", "decoder"):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows.append(Renamed(f"{side}.relative.weight", first))
        rows.append(Renamed(f"{side}.norm.weight", f"{side}.final_layer_norm.weight"))
    return (*rows, Renamed("head.weight", "lm_head.weight"))


def _family(name: str, architecture: str, head: tuple[ConfigRow, ...]) -> Family:
    return Family(
        name=name,
        architecture=architecture,
        config=(
            Field("vocab_size", "vocab_size"),
            Field("dim", "d_model"),
            Field("head_dim", "d_kv", default=lambda ours: 64),
            Field("hidden", "d_ff"),
            Field("heads", "num_heads"),
            Computed("num_heads", _write_heads, _read_key_heads),
            Computed(
                "num_layers", lambda config: config.encoder_layers or config.layers, _read_layers
            ),
            Computed("num_decoder_layers", lambda config: config.layers, lambda *_: None),
            Computed("relative_attention_num_buckets", lambda c: c.relative.buckets, _read_buckets),
            Computed(
                "relative_attention_max_distance", lambda c: c.relative.distance, lambda *_: None
            ),
            Field("max_positions", "n_positions", default=lambda ours: 512),
            Field("dropout", "dropout_rate", default=lambda ours: 0.1),
            Field("norm_eps", "layer_norm_epsilon", default=lambda ours: 1e-6),
            Computed("feed_forward_proj", _write_mlp, _read_mlp),
            *head,
            Theirs("is_encoder_decoder", True, allowed=(True,)),
            Fixed("shape", "encoder-decoder"),
            Fixed("norm", "rms_wide"),
            Fixed("norm_where", "before"),
            Fixed("norm_embedding", False),
            Fixed("position", "relative"),
            Fixed("position_offset", 0),
            Fixed("token_types", 0),
            Fixed("head", "plain"),
            Fixed("qk_norm", False),
            Fixed("softcap", None),
            Fixed("window", None),
            Members("biases"),
        ),
        tensors=_tensors(),
        usual={"gated": True, "activation": "gelu_tanh", "scaled": ()},
        initial="neighbours",
        ignored=(r"(encoder|decoder)\.embed_tokens\.weight",),
    )


_T5_HEAD = (
    Computed("tie_word_embeddings", lambda config: config.tied, _read_head),
    Computed("scale_decoder_outputs", lambda config: "head" in config.scaled, lambda *_: None),
)
_MT5_HEAD = (
    Field("tied", "tie_word_embeddings", default=lambda ours: True),
    Members("scaled", ()),
)
T5 = _family("t5", "T5ForConditionalGeneration", _T5_HEAD)
MT5 = _family("mt5", "MT5ForConditionalGeneration", _MT5_HEAD)
