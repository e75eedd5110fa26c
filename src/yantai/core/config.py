"""What a Transformer is made of, as frozen data; and the legend of shape letters.

Knows: sizes and parts. Builds nothing; knows neither families nor files.

Shape names used in every signature of the package:

    batch      sequences in a batch             query, key  positions that look / are looked at
    position   tokens in a sequence             head        attention heads
    dim        width of the residual stream     kv_head     key-value heads (grouped queries)
    hidden     width inside the MLP             head_dim    width of one head
    vocab      entries of the vocabulary        layer       blocks of a stack
"""

from typing import Literal

from pydantic import Field, model_validator

from yantai.base.config import Config

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "relu_squared"]


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

    norm: Literal["rms", "layer"] = "rms"
    norm_where: Literal["before", "after"] = "before"
    norm_eps: float = Field(1e-6, gt=0, le=0.1)
    position: Literal["rotary", "learned", "none"] = "rotary"
    rotary_base: float = Field(10_000.0, gt=1, le=1e12)
    rotary_scaling: RotaryScaling | None = None
    bias_qkv: bool = False
    bias_out: bool = False
    bias_mlp: bool = False
    qk_norm: bool = False
    scale_scores: bool = True
    window: int | None = Field(None, ge=1, description="a query sees this many latest keys")
    gated: bool = True
    activation: Activation = "silu"
    tied: bool = Field(True, description="the head shares the token embedding")
    softcap: float | None = Field(None, gt=0, description="logits are softcap · tanh(x / softcap)")
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _agrees(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        return self
