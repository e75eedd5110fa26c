"""One dial for a whole run: a size names widths, context, batch and rates.

Knows: numbers. The small sizes are ours: `tiny` was tuned with Muon on two CPU cores (see LOG.md),
its neighbours follow it by their width and were not. The others are the published tables of GPT-2
(Radford et al. 2019, table 2) and GPT-3 (arXiv 2005.14165, table 2.1).
"""

from dataclasses import dataclass, replace
from typing import Any

from yantai.base.config import look_up
from yantai.core.config import RecurrentConfig
from yantai.core.recurrent import GATES
from yantai.families.table import family_named


@dataclass(frozen=True)
class Size:
    """A row of the table.

    Attributes:
        layers, dim, heads: of the model; head_dim is dim / heads.
        context: tokens a sequence.
        batch: sequences a step.
        rate: AdamW's peak rate for a GPT-2-type run (the published one where there is one).
        rest_rate: AdamW's peak rate for what Muon leaves, embeddings and norms; None is `rate`.
        matrix_rate: Muon's peak rate.
        tokens: the horizon if no budget is given, in tokens a parameter (arXiv 2203.15556: 20).
    """

    layers: int
    dim: int
    heads: int
    context: int
    batch: int
    rate: float
    rest_rate: float | None = None
    matrix_rate: float = 0.02
    tokens: float = 20.0


AFTER_THE_PARTS = {"rest_rate": 1 / 12, "matrix_rate": 1 / 2}
"""Of these rates, what is left where norms stand after the parts, as in BERT and BART: found for a
small BERT on held-out training novels (LOG.md), and taken over for BART and for fine-tuning."""
UNSCALED = {"rest_rate": 3 / 4, "matrix_rate": 1 / 5}
"""The same where scores are not divided by √head_dim, as in T5: they grow as many times faster
(found for `nano` on novels, LOG.md)."""

SIZES: dict[str, Size] = {
    "nano": Size(3, 128, 2, 256, 16, 6e-3, 1.6e-2),
    "micro": Size(4, 192, 3, 256, 16, 5e-3, 1.4e-2),
    "tiny": Size(4, 256, 4, 256, 16, 4e-3, 1.2e-2),
    "small": Size(6, 384, 6, 256, 16, 3e-3, 8e-3),
    "medium": Size(8, 512, 8, 512, 32, 2e-3),
    "base": Size(12, 768, 12, 1024, 64, 1e-3),
    "large": Size(24, 1024, 16, 2048, 128, 6e-4),
    "gpt2": Size(12, 768, 12, 1024, 512, 6e-4),
    "gpt2-medium": Size(24, 1024, 16, 1024, 512, 3e-4),
    "gpt2-large": Size(36, 1280, 20, 1024, 512, 2.5e-4),
    "gpt2-xl": Size(48, 1600, 25, 1024, 512, 2e-4),
    "gpt3-small": Size(12, 768, 12, 2048, 256, 6e-4),
    "gpt3-medium": Size(24, 1024, 16, 2048, 256, 3e-4),
    "gpt3-large": Size(24, 1536, 16, 2048, 256, 2.5e-4),
    "gpt3-xl": Size(24, 2048, 16, 2048, 512, 2e-4),
    "gpt3-2.7b": Size(32, 2560, 32, 2048, 512, 1.6e-4),
    "gpt3-6.7b": Size(32, 4096, 32, 2048, 1024, 1.2e-4),
    "gpt3-13b": Size(40, 5120, 40, 2048, 1024, 1e-4),
    "gpt3-175b": Size(96, 12288, 96, 2048, 1600, 0.6e-4),
}
"""Where GPT-3's table contradicts itself, heads times their width is the model's width: XL has 16
heads of 128 (printed: 24, but 1.3 billion parameters have 16), 13B is 5,120 wide (printed: 5,140).
"""


def size_named(name: str) -> Size:
    """A row of the table.

    Raises:
        UsageError: no such size; the nearest is named.
    """
    return look_up(SIZES, name, "size")


def size_for(name: str, family: str | None) -> Size:
    """The row of a size with the rates that suit a family; None for nobody knows which.

    >>> size_for("tiny", "qwen3").matrix_rate, size_for("tiny", "bert").matrix_rate
    (0.02, 0.01)
    >>> round(size_for("tiny", "t5").matrix_rate, 6), round(size_for("tiny", "t5").rest_rate, 6)
    (0.004, 0.009)
    """
    size = size_named(name)
    fixed = family_named(family).fixed() if family is not None else {}
    shares: dict[str, float] = {}
    if fixed.get("norm_where") == "after":
        shares = AFTER_THE_PARTS
    elif "scores" not in fixed.get("scaled", ("scores",)):
        shares = UNSCALED
    changed = {name: share * getattr(size, name) for name, share in shares.items()
               if getattr(size, name) is not None}  # fmt: skip
    return replace(size, **changed)


def model_fields(name: str, family: str) -> dict[str, Any]:
    """The fields of `ModelConfig` that a size and a family decide; vocabulary and context are open.

    What a family leaves no choice in comes from its own table.

    A gated MLP has three matrices where a plain one has two, so its width is 8/3·dim instead of
    4·dim, rounded up to a multiple of 64 (arXiv 2002.05202, section 3).
    """
    size = size_named(name)
    if family_named(family).structure is RecurrentConfig:
        return _recurrent_fields(size) | family_named(family).fixed()
    common: dict[str, Any] = {
        "layers": size.layers,
        "dim": size.dim,
        "heads": size.heads,
        "kv_heads": size.heads,
        "head_dim": size.dim // size.heads,
        "max_positions": size.context,
        "tied": True,
    }
    gated = -(-8 * size.dim // 3 // 64) * 64
    fields = common | {"activation": "gelu_tanh", "norm_eps": 1e-5} | family_named(family).fixed()
    if fields["gated"]:
        silu = {"activation": "silu", "norm_eps": 1e-6, "hidden": gated}
        return fields | silu | family_named(family).fixed()
    return fields | {"hidden": 4 * size.dim}


def _recurrent_fields(size: Size) -> dict[str, Any]:
    return {"layers": size.layers, "dim": size.dim, "max_positions": size.context, "tied": True}


def state_width(dim: int, kind: str, shape: str) -> int:
    """How wide a state makes a recurrent layer as large as a Transformer's block, 12·dim².

    A layer has 2·gates matrices of the state's width; a multiple of 64, or of 8 if it is small. In
    an encoder–decoder a Transformer's second block looks at the first: 14·dim² on average.

    >>> [state_width(256, kind, "decoder") for kind in ("rnn", "gru", "lstm")]
    [640, 384, 320]
    """
    block = (12 if shape == "decoder" else 14) * dim * dim
    width = (block / (2 * GATES[kind])) ** 0.5
    step = 64 if width >= 128 else 8
    return max(step, round(width / step) * step)
