"""Llama, Mistral, Qwen2, Qwen3: rotary positions, RMS norms before the parts, a gated MLP.

Knows: names only. They differ in q-k norms, in which biases exist and in the window.
"""

import math
from collections.abc import Mapping
from typing import Any

from yantai.base.errors import ModelFileError
from yantai.core.config import ModelConfig
from yantai.families.plain import PLAIN_DECODER
from yantai.families.rules import Computed, Family, Field, Fixed, Members, Renamed, Theirs


def _read_rotary(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before)."""
    given = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise ModelFileError("E401", f"{where}:rope_parameters", "not a table", got=given)
    ours["rotary_base"] = given.get("rope_theta", theirs.get("rope_theta", 10_000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return
    if kind not in ("linear", "dynamic", "yarn", "llama3"):
        expected = "default, linear, dynamic, yarn or llama3"
        raise ModelFileError(
            "E402", f"{where}:rope_type", "not supported", expected=expected, got=kind
        )
    before = given.get("original_max_position_embeddings") or theirs.get(
        "original_max_position_embeddings", ours["max_positions"]
    )
    factor = given.get("factor")
    if factor is None:
        factor = ours["max_positions"] / before if kind == "yarn" else 0.0  # refused by its range
    scaling = {"kind": kind, "factor": factor, "original_positions": before}
    if kind == "dynamic":  # what is written there is the context of the training
        scaling["original_positions"] = ours["max_positions"]
        ours["max_positions"] = int(ours["max_positions"] * factor)
    if kind == "llama3":
        scaling |= {"slow": given.get("low_freq_factor"), "fast": given.get("high_freq_factor")}
    if kind == "yarn":
        scaling |= {"slow": given.get("beta_slow") or 1.0, "fast": given.get("beta_fast") or 32.0}
        scaling |= {"whole": given.get("truncate", True), "magnitude": _magnitude(given, factor)}
    ours["rotary_scaling"] = scaling


def _magnitude(given: Mapping[str, Any], factor: float) -> float:
    """YaRN, arXiv 2309.00071, eq. 22; two further settings divide one such magnitude by another."""
    if given.get("attention_factor") is not None:
        return given["attention_factor"]

    def of(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if given.get("mscale") and given.get("mscale_all_dim"):
        return of(given["mscale"]) / of(given["mscale_all_dim"])
    return of(1.0)


def _write_rotary(config: ModelConfig) -> dict[str, Any]:
    written: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
    scaling = config.rotary_scaling
    if scaling is None:
        return written
    written |= {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind in ("yarn", "llama3"):
        written["original_max_position_embeddings"] = scaling.original_positions
    if scaling.kind == "llama3":
        written |= {"low_freq_factor": scaling.slow, "high_freq_factor": scaling.fast}
    if scaling.kind == "yarn":
        written |= {"beta_slow": scaling.slow, "beta_fast": scaling.fast}
        written |= {"truncate": scaling.whole, "attention_factor": scaling.magnitude}
    return written


def _read_positions(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["max_positions"] = theirs.get("max_position_embeddings", 2048)


def _write_positions(config: ModelConfig) -> int:
    scaling = config.rotary_scaling
    if scaling is not None and scaling.kind == "dynamic":
        return scaling.original_positions
    return config.max_positions


SIZES = (
    Field("vocab_size", "vocab_size"),
    Field("dim", "hidden_size"),
    Field("layers", "num_hidden_layers"),
    Field("heads", "num_attention_heads"),
    Field("kv_heads", "num_key_value_heads", default=lambda ours: ours["heads"]),
    Field("head_dim", "head_dim", default=lambda ours: ours["dim"] // ours["heads"]),
    Field("hidden", "intermediate_size"),
    Computed("max_position_embeddings", _write_positions, _read_positions),
    Field("norm_eps", "rms_norm_eps", default=lambda ours: 1e-6),
    Field("tied", "tie_word_embeddings", default=lambda ours: False),
    Field("activation", "hidden_act", values={"silu": "silu"}, default=lambda ours: "silu"),
    Computed("rope_parameters", _write_rotary, _read_rotary),
    Computed("rope_theta", lambda config: config.rotary_base, lambda *_: None),
    Theirs("attention_dropout", 0.0),
    Fixed("norm", "rms"),
    Fixed("norm_where", "before"),
    Fixed("position", "rotary"),
    Fixed("gated", True),
    Fixed("softcap", None),
    Members("scaled", ("scores",)),
    *PLAIN_DECODER,
)

TENSORS = (
    Renamed("embed.tokens.weight", "model.embed_tokens.weight"),
    *(
        Renamed(f"decoder.blocks.{{layer}}.{ours}", f"model.layers.{{layer}}.{theirs}")
        for ours, theirs in {
            "attn.norm.weight": "input_layernorm.weight",
            "attn.part.qkv.q.weight": "self_attn.q_proj.weight",
            "attn.part.qkv.k.weight": "self_attn.k_proj.weight",
            "attn.part.qkv.v.weight": "self_attn.v_proj.weight",
            "attn.part.out.weight": "self_attn.o_proj.weight",
            "attn.part.qkv.q.bias": "self_attn.q_proj.bias",
            "attn.part.qkv.k.bias": "self_attn.k_proj.bias",
            "attn.part.qkv.v.bias": "self_attn.v_proj.bias",
            "attn.part.out.bias": "self_attn.o_proj.bias",
            "attn.part.q_norm.weight": "self_attn.q_norm.weight",
            "attn.part.k_norm.weight": "self_attn.k_norm.weight",
            "mlp.norm.weight": "post_attention_layernorm.weight",
            "mlp.part.up.gate.weight": "mlp.gate_proj.weight",
            "mlp.part.up.value.weight": "mlp.up_proj.weight",
            "mlp.part.down.weight": "mlp.down_proj.weight",
            "mlp.part.up.gate.bias": "mlp.gate_proj.bias",
            "mlp.part.up.value.bias": "mlp.up_proj.bias",
            "mlp.part.down.bias": "mlp.down_proj.bias",
        }.items()
    ),
    Renamed("decoder.norm.weight", "model.norm.weight"),
    Renamed("head.weight", "lm_head.weight"),
)


NO_WINDOW = (Theirs("use_sliding_window", False, allowed=(False,)), Fixed("window", None))


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    config=(
        *SIZES,
        Members("biases", (), {"attention_bias": ("qkv", "out"), "mlp_bias": ("mlp",)}),
        Fixed("qk_norm", False),
        Fixed("window", None),
    ),
    tensors=TENSORS,
)

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    config=(
        *SIZES,
        Field("window", "sliding_window", default=lambda ours: None),
        Members("biases"),
        Fixed("qk_norm", False),
    ),
    tensors=TENSORS,
)

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    config=(
        *SIZES,
        *NO_WINDOW,
        Members("biases", ("qkv",)),
        Fixed("qk_norm", False),
    ),
    tensors=TENSORS,
)

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    config=(
        *SIZES,
        *NO_WINDOW,
        Members("biases", (), {"attention_bias": ("qkv", "out")}),
        Fixed("qk_norm", True),
    ),
    tensors=TENSORS,
)
