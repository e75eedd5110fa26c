"""Functions on logits: from scores to the next token.

Knows: one row of logits at a time, and the ids before it. Order and arithmetic are those of
`transformers`: penalties, then temperature, top-k, top-p, min-p.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from yantai.infer.settings import Generation

Row = Float[Tensor, "vocab"]


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


def keep_top_k(logits: Row, k: int) -> Row:
    """−∞ for all but the k largest (and those equal to the k-th)."""
    smallest = logits.topk(min(k, len(logits))).values[-1]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Row, p: float) -> Row:
    """Keep the fewest tokens whose probabilities sum to p (arXiv 1904.09751)."""
    if p >= 1.0:
        return logits
    ascending, order = logits.sort()
    drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    drop[-1] = False
    return logits.masked_fill(drop.scatter(0, order, drop), -torch.inf)


def keep_min_p(logits: Row, share: float) -> Row:
    """Keep tokens at least `share` as likely as the likeliest (arXiv 2407.01082)."""
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < share * probabilities.max(), -torch.inf)


def force(logits: Row, new: int, limit: int, settings: Generation) -> Row:
    """−∞ for all but the token that must stand first, or last of `limit` new ones, if any."""
    for place, token in ((0, settings.forced_first_id), (limit - 1, settings.forced_last_id)):
        if token is not None and new == place:
            alone = torch.full_like(logits, -torch.inf)
            alone[token] = 0.0
            return alone
    return logits


def adjust(logits: Row, seen: list[int], settings: Generation) -> Row:
    """Logits after everything that the settings ask for, as float32."""
    logits = logits.float()
    logits = penalise_repetition(logits, seen, settings.repetition_penalty)
    logits = forbid_repeated_ngrams(logits, seen, settings.no_repeat_ngram_size)
    if not settings.samples:
        return logits
    if settings.temperature is not None and settings.temperature != 1.0:
        logits = logits / settings.temperature
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p is not None:
        logits = keep_top_p(logits, settings.top_p)
    if settings.min_p:
        logits = keep_min_p(logits, settings.min_p)
    return logits


def pick(logits: Row, settings: Generation, generator: torch.Generator) -> int:
    """The likeliest token, or a drawn one: the same for the same generator in any batch."""
    if not settings.samples:
        return int(logits.argmax())
    probabilities = logits.softmax(dim=-1)
    return int(torch.multinomial(probabilities.cpu(), 1, generator=generator))
