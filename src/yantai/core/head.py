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


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


class _LinearCrossEntropy(torch.autograd.Function):
    """The gradient of the loss is p − onehot, so it can be taken on the way forward."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None):
        used = weight.to(hidden.dtype)
        learn = torch.is_grad_enabled() or ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        d_hidden = torch.empty_like(hidden) if learn else None
        d_weight = torch.zeros_like(weight) if learn else None
        total = hidden.new_zeros((), dtype=_wide(hidden[:0]).dtype)
        for start in range(0, len(targets), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = hidden[rows]
            logits = _wide(soft_cap(chunk @ used.t(), cap))
            index = targets[rows].clamp_min(0)[:, None]
            keep = (targets[rows] >= 0)[:, None]
            log_sum = logits.logsumexp(dim=-1, keepdim=True)
            losses = (log_sum - logits.gather(1, index)).masked_fill_(~keep, 0.0)
            total += losses.sum()
            if d_hidden is None or d_weight is None:
                continue
            slope = None if cap is None else 1 - (logits / cap).square_()
            gradient = logits.sub_(log_sum).exp_()  # p
            gradient.scatter_add_(1, index, gradient.new_full((len(index), 1), -1.0))
            gradient.mul_(keep)
            if slope is not None:
                gradient *= slope
            gradient = gradient.to(hidden.dtype)
            torch.mm(gradient, used, out=d_hidden[rows])
            d_weight += gradient.t() @ chunk
        ctx.save_for_backward(d_hidden, d_weight)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor):
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * gradient.to(d_hidden.dtype), d_weight * gradient, None, None
