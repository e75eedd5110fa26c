"""From hidden vectors to logits and to the loss, without ever holding all logits at once.

Knows: one matrix and the cross-entropy. A vocabulary of V and N positions would need N·V numbers
three times over (logits, log-probabilities, gradient); here a chunk of positions at a time gives
its loss and its gradient together, in float32, and only the gradients of the inputs are kept.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from yantai.core.config import Labels, ModelConfig, RecurrentConfig
from yantai.core.layers import Linear, activate, dropout, make_norm

CHUNK = 1024
CHUNK_NUMBERS = 2**23
SOFTMAX_ROWS = 64
ROW_UNIT = 64


class Head(Linear):
    """One row a token, or a label, on the hidden vector or on what a further layer makes of it."""

    def __init__(self, config: ModelConfig | RecurrentConfig):
        labels = config.head if isinstance(config.head, Labels) else None
        rows = len(labels.names) if labels else config.vocab_size
        bias = labels.bias if labels else "head" in config.biases
        super().__init__(config.dim, rows, bias=bias)
        self.labels = labels
        self.transform = self.norm = None
        if labels is not None and labels.dense:
            self.transform = Linear(config.dim, config.dim, bias=True)
        elif isinstance(config, ModelConfig) and config.head == "transformed":
            self.transform = Linear(config.dim, config.dim, bias=True)
            self.norm = make_norm(config.norm, config.dim, config.norm_eps)
            self.activation = config.activation
        self.scale = config.dim**-0.5 if "head" in config.scaled and labels is None else None
        self.cap = config.softcap if labels is None else None
        self.dropout = config.dropout if labels is not None else 0.0

    def ready(self, hidden: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """What the rows are multiplied with."""
        if self.transform is not None and self.norm is not None:
            hidden = self.norm(activate(self.activation, self.transform(hidden)))
        elif self.transform is not None:
            hidden = torch.tanh(self.transform(hidden))
        hidden = dropout(hidden, self.dropout, self.training)
        return hidden if self.scale is None else hidden * self.scale

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch row"]:
        """Logits, before any cap."""
        return super().forward(self.ready(x))


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap·tanh(x/cap), which keeps |logit| below the cap (arXiv 2408.00118, section 2)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def cross_entropy_sum(
    hidden: Float[Tensor, "position dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "position"],
    cap: float | None = None,
    bias: Float[Tensor, "vocab"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Σ −ln softmax(hidden·weightᵀ + bias)[target] over positions whose target is not negative.

    With `smoothing` ε a target is the mixture of itself, 1 − ε, and of all entries alike, ε
    (arXiv 1512.00567, section 7).
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, cap, bias, smoothing)


def token_log_probabilities(
    hidden: Float[Tensor, "position dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "position"],
    cap: float | None = None,
    bias: Float[Tensor, "vocab"] | None = None,
) -> Float[Tensor, "position"]:
    """ln p(target) of each position, float32; targets must not be negative."""
    weight = weight.to(hidden.dtype)
    bias = bias.to(hidden.dtype) if bias is not None else None
    parts = []
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        logits = widened(soft_cap(torch.nn.functional.linear(hidden[rows], weight, bias), cap))
        picked = logits.gather(1, targets[rows, None])[:, 0]
        parts.append(picked - logits.logsumexp(dim=-1))
    return torch.cat(parts) if parts else hidden.new_zeros(0)


def _log_chances(picked: Tensor, logits: Tensor, index: Tensor) -> Tensor:
    """ln of probabilities; where one is too small for its type, from the logits themselves."""
    if bool((picked > torch.finfo(picked.dtype).tiny).all()):
        return picked.log()
    return logits.to(picked.dtype).log_softmax(dim=-1).gather(1, index)


def widened(logits: Tensor) -> Tensor:
    """Numbers that are summed up: in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def places_of(targets: Int[Tensor, "position"]) -> Int[Tensor, "place"]:
    """Where the targets are, and after them further places, up to a multiple of 64.

    oneDNN compiles a kernel for each number of rows and keeps a thousand of them.
    """
    known = targets >= 0
    places = known.nonzero()[:, 0]
    more = -len(places) % ROW_UNIT
    return torch.cat((places, (~known).nonzero()[:more, 0])) if more else places


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of the loss is p − onehot, so it can be taken on the way forward."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        cap: float | None,
        bias: Tensor | None,
        smoothing: float,
    ):
        """The loss, and with it the gradients."""
        rows, aims, places = hidden, targets, None
        if not bool((targets >= 0).all()):
            places = places_of(targets)
            rows, aims = hidden[places], targets[places]
            aims = aims[aims >= 0]
        used = weight.to(hidden.dtype)
        learn = any(ctx.needs_input_grad)
        added = bias.to(hidden.dtype) if bias is not None else None
        total, d_rows, d_weight, d_bias = _loss_and_gradients(
            rows, used, aims, cap, added, smoothing, learn
        )
        if learn:
            d_hidden = d_rows
            if places is not None:
                d_hidden = torch.zeros_like(hidden).index_copy_(0, places, d_rows)
            d_bias = d_bias.to(bias.dtype) if bias is not None else None
            ctx.save_for_backward(d_hidden, d_weight.to(weight.dtype), d_bias)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        """Scaled by what comes from above."""
        (gradient,) = gradients
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        d_bias = d_bias * gradient if d_bias is not None else None
        return d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient, None, None, d_bias, None


def chunk_rows(vocab: int) -> int:
    """How many positions have their logits at one time."""
    return max(256, min(2048, CHUNK_NUMBERS // vocab // ROW_UNIT * ROW_UNIT))


def _loss_and_gradients(
    hidden: Tensor,
    used: Tensor,
    targets: Tensor,
    cap: float | None,
    bias: Tensor | None,
    smoothing: float,
    learn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss's sum, its gradient to `hidden`, and to `used` and `bias` in the wide type.

    Products want many rows, the softmax wants few, so that its float32 numbers never leave the
    cache: logits come a chunk at a time, and a few rows at a time turn into gradients in place.
    Rows after the last target teach nothing.
    """
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    vocab = len(used)
    chunk = chunk_rows(vocab)
    step = SOFTMAX_ROWS if hidden.device.type == "cpu" else chunk
    total = hidden.new_zeros((), dtype=wide)
    d_hidden = torch.empty_like(hidden if learn else hidden[:0])
    d_weight = hidden.new_zeros(used.shape if learn else (0,), dtype=wide)
    d_bias = hidden.new_zeros(vocab if learn and bias is not None else 0, dtype=wide)
    buffer = hidden.new_empty((min(chunk, len(hidden)), vocab))
    few = hidden.new_empty((step, vocab), dtype=wide)
    minus = few.new_full((step, 1), smoothing - 1.0)
    for start in range(0, len(hidden), chunk):
        rows = slice(start, start + chunk)
        aims = targets[rows]
        logits = torch.mm(hidden[rows], used.t(), out=buffer[: len(hidden[rows])])
        if bias is not None:
            logits += bias
        logits[len(aims) :] = 0
        for part, target in zip(logits[: len(aims)].split(step), aims.split(step), strict=True):
            index = target[:, None]
            if cap is not None:
                part.copy_(soft_cap(part, cap))
            chances = torch.softmax(part, dim=-1, dtype=wide, out=few[: len(part)])
            total -= _log_chances(chances.gather(1, index), part, index).sum()
            if smoothing:  # −Σᵥ ln pᵥ/V is −ln p of the target, and its logit above the mean one
                above = part.gather(1, index).to(wide) - part.mean(1, keepdim=True, dtype=wide)
                total += smoothing * above.sum()
            if not learn:
                continue
            chances.scatter_add_(1, index, minus[: len(part)])
            if smoothing:
                chances -= smoothing / vocab
            if cap is not None:
                chances *= 1 - (part / cap).square_()
            part.copy_(chances)
        if learn:
            torch.mm(logits, used, out=d_hidden[rows])
            d_weight += logits.t() @ hidden[rows]
            if bias is not None:
                d_bias += logits.sum(0, dtype=wide)
    return total, d_hidden, d_weight, d_bias
