"""BART: an encoder and a decoder with norms after the parts and places learned from row 2 on.

Knows: names only.
"""

from collections.abc import Mapping
from typing import Any

import torch

from yantai.base.errors import ModelFileError
from yantai.families.plain import ACTIVATIONS, equal_heads
from yantai.families.rules import Computed, Constant, Family, Field, Fixed, Members, Renamed, Theirs


def _read_layers(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    ours["encoder_layers"], ours["layers"] = theirs["encoder_layers"], theirs["decoder_layers"]


def _same_as(key: str, of_encoder: str, field: str) -> Computed:
    """A size of the decoder that must be the encoder's."""

    def read(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
        wanted = theirs.get(of_encoder)
        if theirs.get(key, wanted) != wanted:
            raise ModelFileError(
                "E402", f"{where}:{key}", f"must be {of_encoder}", expected=wanted, got=theirs[key]
            )

    return Computed(key, lambda config: getattr(config, field), read)


def _attention(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.part.qkv.{part}": f"{theirs}.{part}_proj" for part in "qkv"} | {
        f"{ours}.part.out": f"{theirs}.out_proj",
        f"{ours}.norm": f"{theirs}_layer_norm",
    }


_MLP = {"mlp.part.up.value": "fc1", "mlp.part.down": "fc2", "mlp.norm": "final_layer_norm"}
_BLOCKS = {
    "encoder": _attention("attn", "self_attn") | _MLP,
    "decoder": _attention("attn", "self_attn") | _attention("cross", "encoder_attn") | _MLP,
}


def _tensors() -> tuple[Renamed, ...]:
    rows = [Renamed("embed.tokens.weight", "model.shared.weight")]
    for side, parts in _BLOCKS.items():
        rows.append(
            Renamed(f"{side}.entry.positions.weight", f"model.{side}.embed_positions.weight")
        )
        for kind in ("weight", "bias"):
            norm = f"model.{side}.layernorm_embedding.{kind}"
            rows.append(Renamed(f"{side}.entry.norm.{kind}", norm))
            rows += [
                Renamed(
                    f"{side}.blocks.{{layer}}.{ours}.{kind}",
                    f"model.{side}.layers.{{layer}}.{theirs}.{kind}",
                )
                for ours, theirs in parts.items()
            ]
    return (*rows, Renamed("head.weight", "lm_head.weight"))


BART = Family(
    name="bart",
    architecture="BartForConditionalGeneration",
    config=(
        Field("vocab_size", "vocab_size"),
        Field("dim", "d_model"),
        Computed("encoder_layers", lambda c: c.encoder_layers or c.layers, _read_layers),
        Computed("decoder_layers", lambda c: c.layers, lambda *_: None),
        equal_heads("encoder_attention_heads", "d_model"),
        _same_as("decoder_attention_heads", "encoder_attention_heads", "heads"),
        Field("hidden", "encoder_ffn_dim"),
        _same_as("decoder_ffn_dim", "encoder_ffn_dim", "hidden"),
        Field("max_positions", "max_position_embeddings", default=lambda ours: 1024),
        Field("activation", "activation_function", values=ACTIVATIONS, default=lambda ours: "gelu"),
        Field("tied", "tie_word_embeddings", default=lambda ours: True),
        Field("dropout", "dropout", default=lambda ours: 0.1),
        Members("scaled", ("scores",), {"scale_embedding": ("embedding",)}),
        Members("biases", ("mlp", "out", "qkv")),
        Theirs("is_encoder_decoder", True, allowed=(True,)),
        Theirs("attention_dropout", 0.0),
        Fixed("shape", "encoder-decoder"),
        Fixed("norm", "layer"),
        Fixed("norm_eps", 1e-5),
        Fixed("norm_where", "after"),
        Fixed("norm_embedding", True),
        Fixed("position", "learned"),
        Fixed("position_offset", 2),
        Fixed("token_types", 0),
        Fixed("head", "plain"),
        Fixed("gated", False),
        Fixed("qk_norm", False),
        Fixed("softcap", None),
        Fixed("window", None),
    ),
    tensors=_tensors(),
    constants=(Constant("final_logits_bias", lambda config: torch.zeros(1, config.vocab_size)),),
    usual={"activation": "gelu"},
    initial="gpt2",
    ignored=(r"model\.(encoder|decoder)\.embed_tokens\.weight",),
    prefix="model.",
)
