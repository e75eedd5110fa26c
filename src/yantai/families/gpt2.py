"""GPT-2 and GPT-3 types: learned positions, layer norms before the parts, biases everywhere.

Knows: names only. Their products keep inputs before outputs, and q, k, v in one matrix.
"""

from yantai.families.plain import ACTIVATIONS, PLAIN_DECODER, equal_heads, same_dropout
from yantai.families.rules import Family, Field, Fixed, Members, Merged, Renamed, Theirs

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
        equal_heads("n_head", "n_embd"),
        Field("hidden", "n_inner", default=lambda ours: 4 * ours["dim"]),
        Field("max_positions", "n_positions"),
        Field("norm_eps", "layer_norm_epsilon", default=lambda ours: 1e-5),
        Field(
            "activation",
            "activation_function",
            values=ACTIVATIONS,
            default=lambda ours: "gelu_tanh",
        ),
        Field("tied", "tie_word_embeddings", default=lambda ours: True),
        Members("scaled", (), {"scale_attn_weights": ("scores",)}, {"scale_attn_weights": True}),
        Members("biases", ("mlp", "out", "qkv")),
        Theirs("scale_attn_by_inverse_layer_idx", False, allowed=(False,)),
        Theirs("reorder_and_upcast_attn", False),
        *same_dropout("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        Fixed("norm", "layer"),
        Fixed("norm_where", "before"),
        Fixed("position", "learned"),
        Fixed("qk_norm", False),
        Fixed("gated", False),
        Fixed("softcap", None),
        Fixed("window", None),
        *PLAIN_DECODER,
    ),
    tensors=(
        Renamed("embed.tokens.weight", "transformer.wte.weight"),
        Renamed("decoder.entry.positions.weight", "transformer.wpe.weight"),
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
