"""What a network is made of, as frozen data; and the legend of shape letters.

Knows: sizes and parts. Builds nothing; knows neither families nor files.

Shape names used in every signature of the package:

    batch      sequences in a batch             query, key  positions that look / are looked at
    position   tokens in a sequence             head        attention heads
    dim        width of the residual stream     kv_head     key-value heads (grouped queries)
    hidden     width inside the MLP             head_dim    width of one head
    vocab      entries of the vocabulary        layer       blocks of a stack
"""

from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from yantai.base.config import Config

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "relu_squared"]
NormKind = Literal["rms", "rms_wide", "layer"]
Bias = Literal["head", "mlp", "out", "qkv"]
Scaled = Literal["embedding", "head", "scores"]


class RotaryScaling(Config):
    """How angles change so that a model reads further than it was trained to.

    - `linear`: all frequencies are divided by `factor` (arXiv 2306.15595).
    - `dynamic`: the base grows with the length that is read, past `original_positions` (NTK).
    - `yarn`: slow frequencies are divided, fast ones stay (arXiv 2309.00071).
    - `llama3`: the same with another border (Llama 3.1's release notes).
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float = Field(ge=1, le=10_000)
    original_positions: int = Field(ge=1, description="the context of the training before, tokens")
    slow: float = Field(1.0, gt=0, description="turns in that context below which all is divided")
    fast: float = Field(32.0, gt=0, description="turns in that context above which nothing is")
    whole: bool = Field(True, description="yarn: the border falls on whole dimensions")
    magnitude: float = Field(1.0, gt=0, description="cosines and sines are multiplied by this")

    @model_validator(mode="after")
    def _agrees(self) -> "RotaryScaling":
        if self.fast <= self.slow:
            raise ValueError(f"fast ({self.fast}) must be above slow ({self.slow})")
        return self


class RelativeBuckets(Config):
    """Distances in buckets, each with a learned number a head (T5, arXiv 1910.10683, section 2.1).

    Half of the buckets are single distances, the others grow up to `distance`, in both directions
    where a stack reads both ways.
    """

    buckets: int = Field(32, ge=2, le=4_096)
    distance: int = Field(128, ge=2, le=1_048_576)

    @model_validator(mode="after")
    def _agrees(self) -> "RelativeBuckets":
        if self.buckets % 4 or self.distance <= self.buckets // 2:
            raise ValueError(
                f"buckets ({self.buckets}) must divide by 4, distance ({self.distance}) be above "
                "half of them"
            )
        return self


class Labels(Config):
    """A head that judges instead of writing: a number a label, from one vector of the stream."""

    names: tuple[str, ...] = Field(min_length=1, max_length=100_000, description="of the labels")
    dense: bool = Field(False, description="a layer and tanh before it, as BERT's pooler is")
    bias: bool = True
    several: bool = Field(False, description="any number of labels may hold at once")
    refuses: bool | None = Field(
        None, description="whether a question may have no answer; None: nobody has said"
    )

    @model_validator(mode="after")
    def _agrees(self) -> "Labels":
        seen = Counter(self.names)
        twice = next((name for name in self.names if seen[name] > 1), None)
        if twice is not None:
            raise ValueError(f"the label {twice!r} stands twice")
        return self


class ModelConfig(Config):
    """Every choice that changes what the model computes. Sizes are checked before allocation."""

    vocab_size: int = Field(ge=1, le=4_000_000, description="rows of the token embedding")
    dim: int = Field(ge=1, le=131_072, description="width of the residual stream")
    layers: int = Field(ge=1, le=1_024, description="blocks of the decoder")
    heads: int = Field(ge=1, le=1_024, description="query heads")
    kv_heads: int = Field(ge=1, le=1_024, description="key-value heads; a divisor of heads")
    head_dim: int = Field(ge=1, le=4_096, description="width of one head")
    hidden: int = Field(ge=1, le=1_048_576, description="width inside the MLP")
    max_positions: int = Field(ge=1, le=16_777_216, description="longest context, tokens")

    shape: Literal["decoder", "encoder", "encoder-decoder"] = Field(
        "decoder", description="which stacks there are"
    )
    encoder_layers: int | None = Field(
        None, ge=1, le=1_024, description="blocks of the encoder beside a decoder; None: as many"
    )

    norm: NormKind = "rms"
    norm_where: Literal["before", "after"] = "before"
    norm_eps: float = Field(1e-6, gt=0, le=0.1)
    norm_embedding: bool = Field(False, description="a norm behind the embeddings")
    position: Literal["rotary", "learned", "sinusoidal", "relative", "none"] = "rotary"
    position_offset: int = Field(0, ge=0, le=64, description="learned: the row of the first place")
    rotary_base: float = Field(10_000.0, gt=1, le=1e12)
    rotary_scaling: RotaryScaling | None = None
    relative: RelativeBuckets = RelativeBuckets()
    token_types: int = Field(
        0, ge=0, le=64, description="kinds of token with a vector of their own"
    )
    biases: tuple[Bias, ...] = Field((), description="groups of matrices that have biases")
    scaled: tuple[Scaled, ...] = Field(
        ("scores",), description="scores by 1/√head_dim, embedding by √dim, head by 1/√dim"
    )
    qk_norm: bool = False
    window: int | None = Field(None, ge=1, description="a query sees this many latest keys")
    gated: bool = True
    activation: Activation = "silu"
    head: Literal["plain", "transformed"] | Labels = Field(
        "plain", description="transformed: a layer and a norm before the head, as BERT has it"
    )
    tied: bool = Field(True, description="the head shares the token embedding")
    softcap: float | None = Field(None, gt=0, description="logits are softcap · tanh(x / softcap)")
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("biases", "scaled", mode="after")
    @classmethod
    def _in_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """The same choice is the same tuple, however it was written."""
        return tuple(sorted(set(names)))

    @model_validator(mode="after")
    def _agrees(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        if self.encoder_layers is not None and self.shape != "encoder-decoder":
            raise ValueError(f"encoder_layers beside the shape {self.shape!r}")
        return self

    @property
    def shares_embedding(self) -> bool:
        """Whether the head's matrix is the embedding's; one that judges has its own."""
        return self.tied and not isinstance(self.head, Labels)

    @property
    def reads_both_ways(self) -> bool:
        """Whether ids go into an encoder."""
        return self.shape != "decoder"


class RecurrentConfig(Config):
    """A network that reads one token after another and keeps what it needs in a state.

    - `rnn`: hₜ = tanh(W·xₜ + U·hₜ₋₁ + b) (Elman 1990).
    - `lstm`: with a cell that gates write, erase and show (Hochreiter and Schmidhuber 1997).
    - `gru`: two gates and no cell (arXiv 1406.1078).

    As an encoder–decoder, the encoder reads both ways, and each step of the decoder looks at all
    that it read (arXiv 1508.04025, global attention).
    """

    kind: Literal["rnn", "lstm", "gru"]
    vocab_size: int = Field(ge=1, le=4_000_000, description="rows of the token embedding")
    dim: int = Field(ge=1, le=131_072, description="width of the embedding and the head")
    layers: int = Field(ge=1, le=1_024, description="networks on top of each other")
    hidden: int = Field(ge=2, le=131_072, description="width of a state")
    max_positions: int = Field(ge=1, le=16_777_216, description="context in training, tokens")
    shape: Literal["decoder", "encoder-decoder"] = "decoder"
    tied: bool = Field(True, description="the head shares the token embedding")
    dropout: float = Field(0.0, ge=0, lt=1)

    head: Literal["plain"] | Labels = "plain"

    # what shared parts ask, and these networks never have
    biases: ClassVar[tuple[str, ...]] = ()
    scaled: ClassVar[tuple[str, ...]] = ()
    position: ClassVar[str] = "none"
    window: ClassVar[None] = None
    softcap: ClassVar[None] = None

    @property
    def shares_embedding(self) -> bool:
        """Whether the head's matrix is the embedding's; one that judges has its own."""
        return self.tied and not isinstance(self.head, Labels)

    @model_validator(mode="after")
    def _agrees(self) -> "RecurrentConfig":
        if self.shape == "encoder-decoder" and self.hidden % 2:
            raise ValueError(f"hidden ({self.hidden}) must be even: half of it reads backwards")
        return self
