"""Functions on logits: from scores to the next token.

Knows: one row of logits at a time, and the ids before it. Order and arithmetic are those of
`transformers`: penalties, then temperature, top-k, top-p, min-p.
"""

import bisect
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from yantai.base.errors import NumericsError
from yantai.infer.settings import Generation

Row = Float[Tensor, "vocab"]

NEAR = (1e-2, 1e-4, 0.0)
"""Beside the likeliest token: tokens at least so likely are looked at first, at last all."""
BLOCK = 256
"""Weights whose sum is taken at once."""


def penalise_repetition(logits: Row, seen: list[int], penalty: float) -> Row:
    """Divide positive and multiply negative logits of tokens seen (arXiv 1909.05858, eq. 8)."""
    if penalty == 1.0 or not seen:
        return logits
    index = torch.tensor(sorted(set(seen)), device=logits.device)
    scores = logits[index]
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits.index_copy(0, index, scores)


def penalise_said(logits: Row, said: list[int], presence: float, frequency: float) -> Row:
    """Take from the logits of tokens that were said, once and for each time, as OpenAI's API does.

    Tokens of the prompt do not count.
    """
    if not said or (presence == 0 and frequency == 0):
        return logits
    index, counts = torch.tensor(said, device=logits.device).unique(return_counts=True)
    less = presence + frequency * counts.to(logits.dtype)
    return logits.index_add(0, index, -less)


def forbid_repeated_ngrams(logits: Row, seen: list[int], size: int) -> Row:
    """−∞ for every token that would complete an n-gram for the second time."""
    if size == 0 or len(seen) < size:
        return logits
    tail = seen[len(seen) - size + 1 :]
    banned = [
        seen[start + size - 1]
        for start in range(len(seen) - size + 1)
        if seen[start : start + size - 1] == tail
    ]
    return (
        logits.index_fill(0, torch.tensor(banned, device=logits.device), -torch.inf)
        if banned
        else logits
    )


def force(logits: Row, new: int, limit: int, settings: Generation) -> Row:
    """−∞ for all but the token that must stand first, or last of `limit` new ones, if any."""
    for place, token in ((0, settings.forced_first_id), (limit - 1, settings.forced_last_id)):
        if token is not None and new == place:
            alone = torch.full_like(logits, -torch.inf)
            alone[token] = 0.0
            return alone
    return logits


def adjust(logits: Row, seen: list[int], settings: Generation) -> Row:
    """Logits after the penalties that the settings ask for, as float32."""
    logits = penalise_repetition(logits.float(), seen, settings.repetition_penalty)
    return forbid_repeated_ngrams(logits, seen, settings.no_repeat_ngram_size)


def pick(logits: Row, settings: Generation, generator: torch.Generator) -> int:
    """The likeliest token, or a drawn one: the same for the same generator in any batch.

    Raises:
        NumericsError: a token is to be drawn from logits that are not finite.
    """
    if not settings.samples:
        return int(logits.argmax())
    tokens, weights = candidates(logits, settings)
    chance = float(torch.rand((), generator=generator, dtype=torch.float64))
    place = place_of(chance, weights)
    return place if tokens is None else int(tokens[place])


def candidates(logits: Row, settings: Generation) -> tuple[Tensor | None, Tensor]:
    """Tokens that may be drawn, None for all, and their chances beside that of the likeliest.

    Of few tokens the likeliest comes first. Top-k keeps those equal to the k-th, too; top-p the
    fewest whose probabilities sum to p (arXiv 1904.09751); min-p those at least so likely beside
    the likeliest (arXiv 2407.01082).

    Raises:
        NumericsError: the logits are not finite.
    """
    largest = float(logits.max())
    if not math.isfinite(largest):
        raise NumericsError("E601", "logits", "no token can be drawn from them", got=largest)
    weights = logits - largest
    if settings.temperature not in (None, 1.0):
        weights /= settings.temperature
    weights.exp_()
    floor, p = settings.min_p or 0.0, 1.0 if settings.top_p is None else settings.top_p
    if settings.top_k is None and p == 1.0:
        return None, weights.masked_fill_(weights < floor, 0.0) if floor else weights
    tokens, few = _likeliest(weights, settings.top_k, p)
    if settings.top_k is not None:
        last = few[min(settings.top_k, len(few)) - 1]
        few = few[few >= last]
    if p < 1.0:
        whole = few.sum() if settings.top_k is not None else weights.sum()
        few = few[: 1 + int((few.cumsum(0)[:-1] < p * whole).sum())]
    few = few[few >= floor]
    return tokens[: len(few)], few


def _likeliest(weights: Row, k: int | None, p: float) -> tuple[Tensor, Tensor]:
    """The first tokens by weight, and their weights: at least k, or a share of p.

    To look for the few that matter near the likeliest is many times faster than to sort them all.
    """
    for least in NEAR:
        tokens = (weights >= least).nonzero()[:, 0]
        near = weights[tokens]
        if len(near) >= k if k is not None else bool(near.sum() >= p * weights.sum()):
            break
    few, order = near.sort(descending=True)
    return tokens[order], few


def place_of(chance: float, weights: Row) -> int:
    """The place where the running sum of the weights passes a share of their whole sum.

    The sum runs over blocks first, and through one of them afterwards.

    Args:
        chance: from 0 to 1, without 1.
        weights: not negative, and not all 0; a place of weight 0 is never found.
    """
    blocks = F.pad(weights, (0, -len(weights) % BLOCK)).view(-1, BLOCK)
    sums = blocks.sum(dim=1, dtype=torch.float64)
    block, before = _passed(chance * float(sums.sum()), sums)
    within, _ = _passed(before, blocks[block].double())
    return block * BLOCK + within


def _passed(wanted: float, values: Row) -> tuple[int, float]:
    """The first place where the running sum is larger, and what is wanted of its own value."""
    sums = values.cumsum(0).tolist()
    last = bisect.bisect_left(sums, sums[-1])  # behind it everything is 0
    place = min(bisect.bisect_right(sums, wanted), last)
    return place, wanted - (sums[place - 1] if place else 0.0)
