"""Llama and Qwen3 types: rotary positions, RMS norms before the parts, a gated MLP, no dropout.

Knows: names only. The two differ in q-k norms and in which biases exist.
"""

from collections.abc import Mapping
from typing import Any

from yantai.base.errors import ModelFileError
from yantai.core.config import ModelConfig
from yantai.families.rules import Computed, Family, Field, Fixed, Renamed, Theirs


def _read_rotary(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    """`rope_parameters` (transformers 5) or `rope_theta` with `rope_scaling` (before)."""
    scaling = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelFileError("E401", f"{where}:rope_parameters", "not a table", got=scaling)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise ModelFileError(
            "E402", f"{where}:rope_type", "not supported", expected="default", got=kind
        )
    ours["rotary_base"] = scaling.get("rope_theta", theirs.get("rope_theta", 10_000.0))


def _write_rotary(config: ModelConfig) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": config.rotary_base}


SIZES = (
    Field("vocab_size", "vocab_size"),
    Field("dim", "hidden_size"),
    Field("layers", "num_hidden_layers"),
    Field("heads", "num_attention_heads"),
    Field("kv_heads", "num_key_value_heads", default=lambda ours: ours["heads"]),
    Field("head_dim", "head_dim", default=lambda ours: ours["dim"] // ours["heads"]),
    Field("hidden", "intermediate_size"),
    Field("max_positions", "max_position_embeddings", default=lambda ours: 2048),
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
    Fixed("scale_scores", True),
    Fixed("softcap", None),
    Fixed("window", None),
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


def _same_bias(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["bias_qkv"] = ours["bias_out"] = bool(theirs.get("attention_bias", False))


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    config=(
        *SIZES,
        Computed("attention_bias", lambda config: config.bias_qkv, _same_bias),
        Field("bias_mlp", "mlp_bias", default=lambda ours: False),
        Fixed("qk_norm", False),
    ),
    tensors=TENSORS,
)

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    config=(
        *SIZES,
        Computed("attention_bias", lambda config: config.bias_qkv, _same_bias),
        Theirs("use_sliding_window", False, allowed=(False,)),
        Fixed("bias_mlp", False),
        Fixed("qk_norm", True),
    ),
    tensors=TENSORS,
)
