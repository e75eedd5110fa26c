"""What a model costs, derived from its structure: parameters, FLOPs, bytes.

Knows: the modules of a (meta) model. Nothing is written down twice: a new part that multiplies by
a matrix is counted because it holds a `Linear`.
"""

from dataclasses import dataclass

from torch import nn

from yantai.core.config import ModelConfig, RecurrentConfig
from yantai.core.face import Model
from yantai.core.head import chunk_rows, large_chunk_rows
from yantai.core.layers import Linear
from yantai.core.recurrent import GATES, Recurrent


@dataclass(frozen=True)
class Cost:
    """Counts of one model at one context length; FLOPs are those of a forward pass.

    Attributes:
        parameters: all parameters, a tied matrix once.
        encoder, decoder: FLOPs of a token that goes through that stack; 0 where there is none.
        head: FLOPs of the logits of a position.
    """

    parameters: int
    encoder: float
    decoder: float
    head: float

    @property
    def forward_flops(self) -> float:
        """Of a token that goes through all there is."""
        return self.encoder + self.decoder + self.head

    @property
    def training_flops(self) -> float:
        """Forward plus backward, which costs twice as much (arXiv 2001.08361, section 2.1)."""
        return 3 * self.forward_flops

    def step_flops(self, tokens: int, targets: int, source: int = 0) -> float:
        """Forward and backward of a step.

        Args:
            tokens: that the decoder reads, or an encoder that is alone.
            targets: positions whose logits are made.
            source: tokens that the encoder beside a decoder reads.
        """
        own = self.decoder or self.encoder
        return 3 * (own * tokens + self.encoder * source + self.head * targets)


def count(model: Model, context: int) -> Cost:
    """The cost of a model at a context of so many tokens: 2 a weight, plus attention."""
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        encoder=_stack_flops(model, "encoder", context),
        decoder=_stack_flops(model, "decoder", context),
        head=2.0 * _weights(model.head),
    )


def _weights(part: nn.Module) -> int:
    return sum(inputs * outputs for inputs, outputs in matrix_shapes(part))


def _stack_flops(model: Model, name: str, context: int) -> float:
    """Of a token in one of the stacks; what is between it and the head counts with it."""
    stack = getattr(model, name)
    if stack is None:
        return 0.0
    flops = 2.0 * _weights(stack)
    if isinstance(model, Recurrent):
        if name == "decoder" and model.gather is not None:
            flops += 2.0 * _weights(model.gather) + 4.0 * model.config.dim * context
        return flops
    config = model.config
    seen = min(context, config.window or context)
    own = seen if stack.both_ways or seen < context else (seen + 1) / 2
    across = context if stack.cross else 0
    # a score and a share of a value for each key that the token looks at
    return flops + 4.0 * config.heads * config.head_dim * len(stack.blocks) * (own + across)


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
    on_gpu: bool = False,
) -> int:
    """Memory of training: weights, gradients, `copies` of optimiser state, activations.

    The first three are float32. On a GPU memory is given back at once: activations go while
    gradients come, so the larger of them counts; and there weights in the type of the arithmetic
    are activations too, which wait for the backward.
    """
    tokens = batch * context
    if on_gpu:
        rows = min(tokens, large_chunk_rows(tokens, config.vocab_size))
        numbers = rows * config.vocab_size, config.vocab_size * config.dim
        # logits, their logarithms, the gradient in both types; that of the head, narrow and wide
        head = numbers[0] * (2 * compute_bytes + 4) + numbers[1] * (8 + compute_bytes)
        narrow = cost.parameters * compute_bytes if compute_bytes < 4 else 0
        kept = _kept(config, batch, context, flash=compute_bytes < 4) * compute_bytes
        passing = max(kept + head + narrow, cost.parameters * 4)
        return cost.parameters * 4 * (1 + copies) + passing
    kept = _kept(config, batch, context) * compute_bytes
    head = min(tokens, chunk_rows(config.vocab_size)) * config.vocab_size * compute_bytes
    head += 2 * config.vocab_size * config.dim * 4  # its gradient, summed up and kept
    return cost.parameters * 4 * (2 + copies) + kept + head


def _kept(
    config: ModelConfig | RecurrentConfig, batch: int, context: int, *, flash: bool = False
) -> int:
    """Numbers that the forward leaves for the backward.

    A Transformer's, a token and block: the stream twice, norm outputs, q k v and their rotated
    copies, the mixed heads, what the MLP keeps; and the attention pattern's causal part. With flash
    attention (arXiv 2307.08691) these are q, k and v once, and a float32 a head for the pattern.
    Those of a recurrent network: what its gates were and what came out of them.
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
    if flash and config.position != "relative":  # whose numbers the fast kernels do not take
        kept -= 2 * (inner + kv_inner)
        kept += inner + kv_inner if config.qk_norm else 0
        kept += config.dim if config.dropout else 0  # a byte a number that both parts say
        pattern = 2 * tokens * config.heads
    blocks = config.layers
    if config.shape == "encoder-decoder":
        blocks += config.encoder_layers or config.layers
    return blocks * (tokens * kept + pattern)
