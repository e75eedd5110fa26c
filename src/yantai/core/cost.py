"""What a model costs, derived from its structure: parameters, FLOPs, bytes.

Knows: the modules of a (meta) model. Nothing is written down twice: a new part that multiplies by
a matrix is counted because it holds a `Linear`.
"""

from dataclasses import dataclass

from torch import nn

from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.face import Model
from yantai.core.head import chunk_rows
from yantai.core.layers import Linear
from yantai.core.model import Transformer
from yantai.core.recurrent import GATES, Recurrent


@dataclass(frozen=True)
class Cost:
    """Counts of one model at one context length.

    Attributes:
        parameters: all parameters, a tied matrix once.
        matrix_parameters: weights that multiply every token (the head included, embeddings not).
        attention_flops: FLOPs of scores and mixing, a token, forward, causal half counted.
        forward_flops: FLOPs of one token's forward pass.
    """

    parameters: int
    matrix_parameters: int
    attention_flops: float

    @property
    def forward_flops(self) -> float:
        """2 a weight (multiply and add), plus attention."""
        return 2 * self.matrix_parameters + self.attention_flops

    @property
    def training_flops(self) -> float:
        """Forward plus backward, which costs twice as much (arXiv 2001.08361, section 2.1)."""
        return 3 * self.forward_flops


def count(model: Model, context: int) -> Cost:
    """The cost of a model at a context of so many tokens."""
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        matrix_parameters=sum(inputs * outputs for inputs, outputs in matrix_shapes(model)),
        attention_flops=_attention_flops(model, context),
    )


def _attention_flops(model: Model, context: int) -> float:
    """Of a token: a score and a share of a value for each key that it looks at, in all blocks."""
    if isinstance(model, Recurrent):
        return 4.0 * model.config.dim * context if model.gather is not None else 0.0
    assert isinstance(model, Transformer)
    config = model.config
    seen = min(context, config.window or context)
    keys = 0.0
    for stack in model.stacks:
        own = seen if stack.both_ways or seen < context else (seen + 1) / 2
        across = context if stack.cross else 0
        keys += len(stack.blocks) * (own + across)
    return 4 * config.heads * config.head_dim * keys


def matrix_shapes(model: nn.Module) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix product of a forward pass in training."""
    linears = (module for module in model.modules() if isinstance(module, Linear))
    return [(module.inputs, module.outputs) for module in linears]


def training_bytes(
    cost: Cost,
    config: ModelConfig | RecurrentConfig,
    *,
    batch: int,
    context: int,
    compute_bytes: int,
    copies: int,
) -> int:
    """Memory of training: weights, gradients, `copies` of optimiser state, activations.

    The first three are float32.
    """
    tokens = batch * context
    kept = _kept(config, batch, context) * compute_bytes
    head = min(tokens, chunk_rows(config.vocab_size)) * config.vocab_size * compute_bytes
    head += 2 * config.vocab_size * config.dim * 4  # its gradient, summed up and kept
    return cost.parameters * 4 * (2 + copies) + kept + head


def _kept(config: ModelConfig | RecurrentConfig, batch: int, context: int) -> int:
    """Numbers that the forward leaves for the backward.

    A Transformer's, a token and block: the stream twice, norm outputs, q k v and their rotated
    copies, the mixed heads, what the MLP keeps; and the attention pattern's causal part. Those of
    a recurrent network: what its gates were and what came out of them.
    """
    tokens = batch * context
    if isinstance(config, RecurrentConfig):
        chains = 2 if config.shape == "encoder-decoder" else 1
        return chains * config.layers * tokens * (2 * GATES[config.kind] + 3) * config.hidden
    inner = config.heads * config.head_dim
    kv_inner = config.kv_heads * config.head_dim
    mlp_kept = (4 if config.gated else 2) * config.hidden
    kept = 4 * config.dim + 2 * (inner + 2 * kv_inner) + 2 * inner + mlp_kept
    pattern = batch * config.heads * context * (context + 128) // 2
    blocks = config.layers
    if config.shape == "encoder-decoder":
        blocks += config.encoder_layers or config.layers
    return blocks * (tokens * kept + pattern)
