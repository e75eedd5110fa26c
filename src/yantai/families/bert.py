"""BERT and RoBERTa: an encoder with norms after the parts, a further layer before the head.

Knows: names only. The two differ in names, in how places are counted and in kinds of tokens.
"""

from collections.abc import Mapping
from typing import Any

from yantai.families.plain import ACTIVATIONS, equal_heads, same_dropout
from yantai.families.rules import Computed, Family, Field, Fixed, Members, Renamed, Theirs

_SHARED = (
    Field("vocab_size", "vocab_size"),
    Field("dim", "hidden_size"),
    Field("layers", "num_hidden_layers"),
    equal_heads("num_attention_heads", "hidden_size"),
    Field("hidden", "intermediate_size"),
    Field("norm_eps", "layer_norm_eps", default=lambda ours: 1e-12),
    Field("activation", "hidden_act", values=ACTIVATIONS, default=lambda ours: "gelu"),
    Field("tied", "tie_word_embeddings", default=lambda ours: True),
    Field("token_types", "type_vocab_size", default=lambda ours: 2),
    *same_dropout("hidden_dropout_prob", "attention_probs_dropout_prob"),
    Theirs("is_decoder", False, allowed=(False,)),
    Theirs("add_cross_attention", False, allowed=(False,)),
    Theirs("position_embedding_type", "absolute", allowed=("absolute",)),
    Fixed("shape", "encoder"),
    Fixed("encoder_layers", None),
    Fixed("norm", "layer"),
    Fixed("norm_where", "after"),
    Fixed("norm_embedding", True),
    Fixed("position", "learned"),
    Fixed("head", "transformed"),
    Fixed("gated", False),
    Fixed("qk_norm", False),
    Fixed("softcap", None),
    Fixed("window", None),
    Members("scaled", ("scores",)),
    Members("biases", ("head", "mlp", "out", "qkv")),
)

_BLOCK = {
    "attn.part.qkv.q": "attention.self.query",
    "attn.part.qkv.k": "attention.self.key",
    "attn.part.qkv.v": "attention.self.value",
    "attn.part.out": "attention.output.dense",
    "attn.norm": "attention.output.LayerNorm",
    "mlp.part.up.value": "intermediate.dense",
    "mlp.part.down": "output.dense",
    "mlp.norm": "output.LayerNorm",
}


def _tensors(body: str, head: Mapping[str, str]) -> tuple[Renamed, ...]:
    rows = [
        Renamed("embed.tokens.weight", f"{body}.embeddings.word_embeddings.weight"),
        Renamed("encoder.entry.positions.weight", f"{body}.embeddings.position_embeddings.weight"),
        Renamed("encoder.entry.types.weight", f"{body}.embeddings.token_type_embeddings.weight"),
    ]
    for kind in ("weight", "bias"):
        rows.append(Renamed(f"encoder.entry.norm.{kind}", f"{body}.embeddings.LayerNorm.{kind}"))
        rows += [
            Renamed(
                f"encoder.blocks.{{layer}}.{ours}.{kind}",
                f"{body}.encoder.layer.{{layer}}.{theirs}.{kind}",
            )
            for ours, theirs in _BLOCK.items()
        ]
        for part in ("transform", "norm"):
            rows.append(Renamed(f"head.{part}.{kind}", f"{head[part]}.{kind}"))
    rows.append(Renamed("head.bias", f"{head['top']}.bias"))
    rows.append(Renamed("head.weight", f"{head['top']}.decoder.weight"))
    return tuple(rows)


BERT = Family(
    name="bert",
    architecture="BertForMaskedLM",
    config=(
        *_SHARED,
        Field("max_positions", "max_position_embeddings"),
        Fixed("position_offset", 0),
    ),
    tensors=_tensors(
        "bert",
        {
            "transform": "cls.predictions.transform.dense",
            "norm": "cls.predictions.transform.LayerNorm",
            "top": "cls.predictions",
        },
    ),
    usual={"activation": "gelu", "token_types": 2, "norm_eps": 1e-12},
    initial="neighbours",
    ignored=(
        r"bert\.pooler\..*",
        r"cls\.seq_relationship\..*",
        r"bert\.embeddings\.position_ids",
        r"cls\.predictions\.decoder\.bias",
    ),
    prefix="bert.",
)


def _read_places(theirs: Mapping[str, Any], ours: dict[str, Any], where: str) -> None:
    """Their table of places begins with the rows up to the padding token's, which are not used."""
    ours["position_offset"] = int(theirs.get("pad_token_id") or 0) + 1
    ours["max_positions"] = theirs.get("max_position_embeddings", 514) - ours["position_offset"]


ROBERTA = Family(
    name="roberta",
    architecture="RobertaForMaskedLM",
    config=(
        *_SHARED,
        Computed(
            "max_position_embeddings",
            lambda config: config.max_positions + config.position_offset,
            _read_places,
        ),
        Computed("pad_token_id", lambda config: config.position_offset - 1, lambda *_: None),
    ),
    tensors=_tensors(
        "roberta",
        {"transform": "lm_head.dense", "norm": "lm_head.layer_norm", "top": "lm_head"},
    ),
    usual={"activation": "gelu", "token_types": 1, "norm_eps": 1e-5, "position_offset": 2},
    initial="neighbours",
    ignored=(
        r"roberta\.pooler\..*",
        r"roberta\.embeddings\.position_ids",
        r"lm_head\.decoder\.bias",
    ),
    prefix="roberta.",
)
