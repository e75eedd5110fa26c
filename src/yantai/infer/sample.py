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
from yantai.infer.native.draw import Ask, draw_rows
from yantai.infer.settings import Generation

Row = Float[Tensor, "vocab"]

LEAST, BINS = 20.0, 2048
"""Logarithms below the likeliest that are told apart, and in how many bins."""
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


def draw(asked: Ask) -> int:
    """A token, by the compiled part where there is one.

    Raises:
        NumericsError: the logits are not finite.
    """
    drawn = draw_rows([asked])
    if drawn is None or drawn[0] < 0:
        return place_of(asked.chance, chances(asked.logits, asked.settings))
    return drawn[0]


def next_chance(generator: torch.Generator) -> float:
    """What decides the next token that is drawn: from 0 to 1, without 1."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def chances(logits: Row, settings: Generation) -> Row:
    """How likely each token is beside the likeliest; 0 for what is not drawn.

    Top-k keeps those equal to the k-th, too; top-p the fewest whose probabilities sum to p
    (arXiv 1904.09751); min-p those at least so likely beside the likeliest (arXiv 2407.01082).

    Raises:
        NumericsError: the logits are not finite.
    """
    largest = float(logits.max())
    if not math.isfinite(largest):
        raise NumericsError("E601", "logits", "no token can be drawn from them", got=largest)
    weights = logits - largest
    if settings.heat != 1.0:
        weights /= settings.heat
    weights.exp_()
    if settings.top_k is not None and settings.top_k < len(weights):
        weights.masked_fill_(weights < weights.topk(settings.top_k).values[-1], 0.0)
    if settings.share < 1.0:
        keep_top_p(weights, settings.share)
    if settings.min_p:
        weights.masked_fill_(weights < settings.min_p, 0.0)
    return weights


def keep_top_p(weights: Row, p: float) -> None:
    """Set to 0 all but the largest that sum to a share of p.

    A vocabulary is not sorted for that: it is counted how much lies in each of many bins of
    logarithms, and only the bin in which the sum passes p is looked at closely.

    Args:
        weights: from 0 to 1, the largest is 1.
        p: below 1.
    """
    below = weights.log().neg_().clamp_(max=LEAST)
    bins = (below * (BINS / max(float(below.max()), 1e-6))).long()  # 0 for the largest
    # in float64, in which it does not show that a GPU adds in any order
    mass = torch.bincount(bins, weights.double(), minlength=BINS + 1).cumsum(0)
    wanted = p * float(mass[-1])
    last = int((mass < wanted).sum())
    inside = (bins == last).nonzero()[:, 0]
    values, order = weights[inside].sort(descending=True, stable=True)
    before = float(mass[last - 1]) if last else 0.0
    kept = 1 + int((before + values.double().cumsum(0)[:-1] < wanted).sum())
    weights.masked_fill_(bins > last, 0.0)
    weights[inside[order[kept:]]] = 0.0


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
