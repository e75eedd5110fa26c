"""GPT-2 and GPT-3 types: learned positions, layer norms before the parts, biases everywhere.

Knows: names only. Their products keep inputs before outputs, and q, k, v in one matrix.
"""

from collections.abc import Mapping
from typing import Any

from yantai.base.errors import ModelFileError, UsageError
from yantai.core.config import ModelConfig
from yantai.families.rules import Computed, Family, Field, Fixed, Merged, Renamed, Theirs


def _heads(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    heads = theirs.get("n_head")
    if not isinstance(heads, int) or heads < 1 or ours["dim"] % heads:
        raise ModelFileError(
            "E401", f"{where}:n_head", "must divide n_embd", expected=ours["dim"], got=heads
        )
    ours.update(heads=heads, kv_heads=heads, head_dim=ours["dim"] // heads)


def _write_heads(config: ModelConfig) -> int:
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


def _dropout(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    rates = {theirs.get(key, 0.1) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    ours["dropout"] = max(rates)


_BLOCK = {
    "attn.norm.weight": "ln_1.weight",
    "attn.norm.bias": "ln_1.bias",
    "mlp.norm.weight": "ln_2.weight",
    "mlp.norm.bias": "ln_2.bias",
    "attn.part.out.bias": "attn.c_proj.bias",
    "mlp.part.up.value.bias": "mlp.c_fc.bias",
    "mlp.part.down.bias": "mlp.c_proj.bias",
}
_BLOCK_TRANSPOSED = {
    "attn.part.out.weight": "attn.c_proj.weight",
    "mlp.part.up.value.weight": "mlp.c_fc.weight",
    "mlp.part.down.weight": "mlp.c_proj.weight",
}
_OURS = "decoder.blocks.{layer}."
_THEIRS = "transformer.h.{layer}."


def _qkv(kind: str) -> tuple[str, ...]:
    return tuple(f"{_OURS}attn.part.qkv.{part}.{kind}" for part in "qkv")


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    config=(
        Field("vocab_size", "vocab_size"),
        Field("dim", "n_embd"),
        Field("layers", "n_layer"),
        Computed("n_head", _write_heads, _heads),
        Field("hidden", "n_inner", default=lambda ours: 4 * ours["dim"]),
        Field("max_positions", "n_positions"),
        Field("norm_eps", "layer_norm_epsilon", default=lambda ours: 1e-5),
        Field(
            "activation",
            "activation_function",
            values={"gelu_tanh": "gelu_new", "gelu": "gelu", "relu": "relu", "silu": "silu"},
            default=lambda ours: "gelu_tanh",
        ),
        Field("tied", "tie_word_embeddings", default=lambda ours: True),
        Field("scale_scores", "scale_attn_weights", default=lambda ours: True),
        Theirs("scale_attn_by_inverse_layer_idx", False, allowed=(False,)),
        Theirs("reorder_and_upcast_attn", False),
        Computed("resid_pdrop", lambda config: config.dropout, _dropout),
        Computed("embd_pdrop", lambda config: config.dropout, lambda *_: None),
        Computed("attn_pdrop", lambda config: config.dropout, lambda *_: None),
        Fixed("norm", "layer"),
        Fixed("norm_where", "before"),
        Fixed("position", "learned"),
        Fixed("bias_qkv", True),
        Fixed("bias_out", True),
        Fixed("bias_mlp", True),
        Fixed("qk_norm", False),
        Fixed("gated", False),
        Fixed("softcap", None),
        Fixed("window", None),
    ),
    tensors=(
        Renamed("embed.tokens.weight", "transformer.wte.weight"),
        Renamed("embed.positions.weight", "transformer.wpe.weight"),
        *(Renamed(_OURS + ours, _THEIRS + theirs) for ours, theirs in _BLOCK.items()),
        *(
            Renamed(_OURS + ours, _THEIRS + theirs, transposed=True)
            for ours, theirs in _BLOCK_TRANSPOSED.items()
        ),
        Merged(_qkv("weight"), _THEIRS + "attn.c_attn.weight", transposed=True),
        Merged(_qkv("bias"), _THEIRS + "attn.c_attn.bias"),
        Renamed("decoder.norm.weight", "transformer.ln_f.weight"),
        Renamed("decoder.norm.bias", "transformer.ln_f.bias"),
        Renamed("head.weight", "lm_head.weight"),
    ),
    initial="gpt2",
    ignored=(r".*\.attn\.(masked_)?bias",),
    prefix="transformer.",
)
