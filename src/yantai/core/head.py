"""From hidden vectors to logits and to the loss, without ever holding all logits at once.

Knows: one matrix and the cross-entropy. A vocabulary of V and N positions would need N·V numbers
three times over (logits, log-probabilities, gradient); here a chunk of positions at a time gives
its loss and its gradient together, in float32, and only the gradients of the inputs are kept.
A CPU wants chunks that stay in its caches; a GPU wants large ones, and never to be waited for.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from yantai.core.config import Labels, ModelConfig, RecurrentConfig
from yantai.core.layers import Linear, activate, dropout, make_norm

CHUNK = 1024
CHUNK_NUMBERS = 2**23
LARGE_NUMBERS = 2**28
SOFTMAX_ROWS = 64
ROW_UNIT = 64

OfChunk = Callable[[Tensor, Tensor, float | None, float], tuple[Tensor, Tensor]]
"""`loss_of_chunk`, or a compiled form of it."""


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
        self.of_chunk: OfChunk | None = None

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
    count: int | None = None,
    of_chunk: OfChunk | None = None,
) -> Float[Tensor, ""]:
    """Σ −ln softmax(hidden·weightᵀ + bias)[target] over positions whose target is not negative.

    With `smoothing` ε a target is the mixture of itself, 1 − ε, and of all entries alike, ε
    (arXiv 1512.00567, section 7).

    Args:
        hidden, weight, targets, cap, bias, smoothing: as in the formula.
        count: how many targets are not negative; a GPU need not be asked then.
        of_chunk: takes large chunks, with this; None does so on a GPU alone.
    """
    if of_chunk is None and hidden.device.type != "cpu":
        of_chunk = loss_of_chunk
    how = (cap, smoothing, count, of_chunk)
    return _LinearCrossEntropy.apply(hidden, weight, targets, bias, *how)


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
    chunk = CHUNK if hidden.device.type == "cpu" else large_chunk_rows(len(targets), len(weight))
    for start in range(0, len(targets), chunk):
        rows = slice(start, start + chunk)
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


def places_of(targets: Int[Tensor, "position"], count: int | None = None) -> Int[Tensor, "place"]:
    """Where the targets are, and after them further places, up to a multiple of 64.

    oneDNN compiles a kernel for each number of rows and keeps a thousand of them. Where the number
    of targets is known nothing is asked of the device.
    """
    known = targets >= 0
    if count is not None:
        return (~known).byte().argsort(stable=True)[: count + -count % ROW_UNIT]
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
        bias: Tensor | None,
        cap: float | None,
        smoothing: float,
        count: int | None,
        of_chunk: OfChunk | None,
    ):
        """The loss, and with it the gradients."""
        rows, aims, places = hidden, targets, None
        if of_chunk is not None and count is None:
            count = int((targets >= 0).sum())
        if of_chunk is not None and count != len(targets):
            places = places_of(targets, count)
            rows, aims = hidden[places], targets[places[:count]]
        elif of_chunk is None and not bool((targets >= 0).all()):
            places = places_of(targets)
            rows, aims = hidden[places], targets[places]
            aims = aims[aims >= 0]
        used = weight.to(hidden.dtype)
        learn = any(ctx.needs_input_grad)
        added = bias.to(hidden.dtype) if bias is not None else None
        if of_chunk is not None:
            total, d_rows, d_weight, d_bias = _by_large_chunks(
                rows, used, aims, cap, added, smoothing, learn, of_chunk
            )
        else:
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
        d_hidden, d_weight = d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient
        return d_hidden, d_weight, None, d_bias, *[None] * 4


def chunk_rows(vocab: int) -> int:
    """How many positions have their logits at one time."""
    return max(256, min(2048, CHUNK_NUMBERS // vocab // ROW_UNIT * ROW_UNIT))


def large_chunk_rows(rows: int, vocab: int) -> int:
    """The same on a GPU: a few chunks of one size, a multiple of 64."""
    chunks = max(1, -(-rows * vocab // LARGE_NUMBERS))
    each = -(-max(rows, 1) // chunks)
    return each + -each % ROW_UNIT


def loss_of_chunk(
    logits: Float[Tensor, "position vocab"],
    targets: Int[Tensor, "position"],
    cap: float | None,
    smoothing: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "position vocab"]]:
    """The sum of the losses and its gradient to the logits, in their type.

    All in one direction: nothing here waits for a number. The target's own part of the gradient is
    p − 1 in the wide type, so that it does not vanish in the rounding of p.
    """
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    index, capped = targets[:, None], soft_cap(logits, cap)
    logs = torch.log_softmax(capped, dim=-1, dtype=wide)
    picked, aimed = logs.gather(1, index), capped.gather(1, index)
    total = -picked.sum()

    def to_logits(gradient: Tensor, at: Tensor) -> Tensor:
        gradient = gradient - smoothing / logits.shape[1] if smoothing else gradient
        gradient = gradient * (1 - (at / cap).square()) if cap is not None else gradient
        return gradient.to(logits.dtype)

    if smoothing:  # −Σᵥ ln pᵥ/V is −ln p of the target, and its logit above the mean one
        above = aimed.to(wide) - capped.mean(1, keepdim=True, dtype=wide)
        total = total + smoothing * above.sum()
    own = to_logits(torch.expm1(picked) + smoothing, aimed)
    return total, to_logits(logs.exp_(), capped).scatter_(1, index, own)


def _room(
    hidden: Tensor, used: Tensor, bias: Tensor | None, wide: torch.dtype, learn: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For the loss and its gradients to the inputs, the rows and the bias; empty where none is."""
    return (
        hidden.new_zeros((), dtype=wide),
        torch.empty_like(hidden if learn else hidden[:0]),
        hidden.new_zeros(used.shape if learn else (0,), dtype=wide),
        hidden.new_zeros(len(used) if learn and bias is not None else 0, dtype=wide),
    )


def _by_large_chunks(
    hidden: Tensor,
    used: Tensor,
    targets: Tensor,
    cap: float | None,
    bias: Tensor | None,
    smoothing: float,
    learn: bool,
    of_chunk: OfChunk,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_loss_and_gradients` gives, with as little between the products as can be."""
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    chunk = large_chunk_rows(len(hidden), len(used))
    total, d_hidden, d_weight, d_bias = _room(hidden, used, bias, wide, learn)
    d_hidden[len(targets) :] = 0
    for start in range(0, len(targets), chunk):
        aims = targets[start : start + chunk]
        rows = slice(start, start + len(aims))
        loss, d_logits = of_chunk(
            torch.nn.functional.linear(hidden[rows], used, bias), aims, cap, smoothing
        )
        total += loss
        if not learn:
            continue
        torch.mm(d_logits, used, out=d_hidden[rows])
        d_weight += d_logits.t() @ hidden[rows]
        if bias is not None:
            d_bias += d_logits.sum(0, dtype=wide)
    return total, d_hidden, d_weight, d_bias


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
    total, d_hidden, d_weight, d_bias = _room(hidden, used, bias, wide, learn)
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
