"""From hidden vectors to logits and to the loss, without ever holding all logits at once.

Knows: one matrix and the cross-entropy. A vocabulary of V and N positions would need N·V numbers
three times over (logits, log-probabilities, gradient); here a chunk of positions at a time gives
its loss and its gradient together, in float32, and only the gradients of the inputs are kept.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 1024


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """cap·tanh(x/cap), which keeps |logit| below the cap (arXiv 2408.00118, section 2)."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def cross_entropy_sum(
    hidden: Float[Tensor, "position dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "position"],
    cap: float | None = None,
) -> Float[Tensor, ""]:
    """Σ −ln softmax(hidden·weightᵀ)[target] over positions whose target is not negative."""
    return _LinearCrossEntropy.apply(hidden, weight, targets, cap)


def token_log_probabilities(
    hidden: Float[Tensor, "position dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, "position"],
    cap: float | None = None,
) -> Float[Tensor, "position"]:
    """ln p(target) of each position, float32; targets must not be negative."""
    weight = weight.to(hidden.dtype)
    parts = []
    for start in range(0, len(targets), CHUNK):
        rows = slice(start, start + CHUNK)
        logits = _wide(soft_cap(hidden[rows] @ weight.t(), cap))
        picked = logits.gather(1, targets[rows, None])[:, 0]
        parts.append(picked - logits.logsumexp(dim=-1))
    return torch.cat(parts) if parts else hidden.new_zeros(0)


def _log_chances(picked: Tensor, logits: Tensor, index: Tensor) -> Tensor:
    """ln of probabilities; where one is too small for its type, from the logits themselves."""
    if bool((picked > torch.finfo(picked.dtype).tiny).all()):
        return picked.log()
    return logits.to(picked.dtype).log_softmax(dim=-1).gather(1, index)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of the loss is p − onehot, so it can be taken on the way forward."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None):
        used = weight.to(hidden.dtype)
        d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = hidden.new_zeros((), dtype=wide)
        learn = any(ctx.needs_input_grad[:2])
        for start in range(0, len(targets), CHUNK):
            rows = slice(start, start + CHUNK)
            keep = (targets[rows] >= 0)[:, None]
            index = targets[rows].clamp_min(0)[:, None]
            logits = soft_cap(hidden[rows] @ used.t(), cap)
            chances = logits.softmax(dim=-1, dtype=wide)
            losses = -_log_chances(chances.gather(1, index), logits, index)
            total += losses.masked_fill_(~keep, 0.0).sum()
            if not learn:
                continue
            chances.scatter_add_(1, index, chances.new_full((len(index), 1), -1.0))
            if cap is not None:
                chances *= 1 - (logits / cap).square_()
            gradient = chances.to(hidden.dtype)
            kept = hidden[rows] * keep
            torch.mm(gradient, used, out=d_hidden[rows])
            d_hidden[rows] *= keep
            d_weight += gradient.t() @ kept
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (gradient,) = gradients
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient, None, None
