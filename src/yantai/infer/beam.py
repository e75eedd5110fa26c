"""Beam search: of all continuations, the few likeliest so far are followed.

Knows: log-probabilities and when to stop. Arithmetic and the three ways of stopping are those of
`transformers`, so that the same model gives the same ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from yantai.base.pulse import pulse
from yantai.infer.reader import Reader, Rereader
from yantai.infer.sample import adjust, force
from yantai.infer.settings import Generation

NEVER_CHOSEN = -1e9


@dataclass(frozen=True)
class Beam:
    """A continuation and its summed ln p (of a finished one: divided by length^penalty)."""

    score: float
    ids: tuple[int, ...]


@dataclass
class Search:
    """The beams of one prompt.

    Attributes:
        settings: number of beams, length penalty, early stopping.
        limit: the most new tokens.
        stop_ids: tokens that end a continuation; they are its last token.
    """

    settings: Generation
    limit: int
    stop_ids: frozenset[int]
    running: list[Beam] = field(default_factory=list)
    finished: list[Beam] = field(default_factory=list)
    may_improve: bool = True

    def __post_init__(self) -> None:
        others = [Beam(NEVER_CHOSEN, ())] * (self.settings.num_beams - 1)
        self.running = [Beam(0.0, ()), *others]
        if self.limit == 0:
            self.finished, self.may_improve = self.running, False

    @property
    def wanted(self) -> int:
        """How many candidates a step needs, so that enough go on if the best ones end."""
        return max(2, 1 + len(self.stop_ids)) * self.settings.num_beams

    @property
    def is_over(self) -> bool:
        """Whether nothing further can change the result."""
        full = len(self.finished) == self.settings.num_beams
        return not self.may_improve or (full and self.settings.early_stopping is True)

    def advance(self, candidates: Sequence[tuple[float, int, int]]) -> list[int]:
        """Follow the best candidates.

        Args:
            candidates: (summed ln p, number of the beam, next token), the likeliest first.

        Returns:
            For each beam that goes on, the number of the beam that it came from.
        """
        count, penalty = self.settings.num_beams, self.settings.length_penalty
        length = len(self.running[0].ids) + 1
        parents, running, ended = [], [], []
        for rank, (score, parent, token) in enumerate(candidates):
            ids = (*self.running[parent].ids, token)
            if token not in self.stop_ids and length < self.limit:
                if len(running) < count:
                    running.append(Beam(score, ids))
                    parents.append(parent)
            elif rank < count:
                ended.append(Beam(score / length**penalty, ids))
        best_first = sorted(self.finished + ended, key=lambda beam: -beam.score)
        self.finished, self.running = best_first[:count], running
        self.may_improve = bool(running) and self._can_improve(length)
        return parents

    def _can_improve(self, length: int) -> bool:
        """Whether the best running beam might still beat the worst finished one."""
        if len(self.finished) < self.settings.num_beams:
            return True
        penalty = self.settings.length_penalty
        if self.settings.early_stopping == "never" and penalty > 0:
            length = self.limit
        return self.running[0].score / length**penalty > self.finished[-1].score


@torch.inference_mode()
def beam_search(
    reader: Reader | Rereader,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    settings: Generation,
    stop_ids: frozenset[int],
) -> list[list[int]]:
    """Prompts with their continuations, the best `num_return_sequences` of each, likeliest first.

    Args:
        reader: reads `num_beams` copies of each prompt.
        prompts: token ids.
        limits: new tokens at most, a prompt each.
        settings: how to search.
        stop_ids: tokens that end a continuation.
    """
    count = settings.num_beams
    searches = [Search(settings, limit, stop_ids) for limit in limits]
    logits = reader.prompts()
    alive = list(range(len(searches)))
    while True:
        chances = logits.float().log_softmax(dim=-1)
        left, rows, tokens = [], [], []
        for place, number in enumerate(alive):
            search, start = searches[number], place * count
            if search.is_over:  # it was before it began
                continue
            known = chances[start : start + count]
            parents = search.advance(_candidates(known, search, prompts[number]))
            if search.is_over:  # its rows have no further positions
                continue
            spare = count - len(parents)
            left.append(number)
            rows += [start + parent for parent in parents] + [start] * spare
            tokens += [beam.ids[-1] for beam in search.running] + [0] * spare
        if not left:
            break
        pulse()
        reader.take(rows, same_memory=left == alive)
        alive, logits = left, reader.one_more(tokens)
    return [
        [*prompt, *beam.ids]
        for search, prompt in zip(searches, prompts, strict=True)
        for beam in search.finished[: settings.num_return_sequences]
    ]


def _candidates(
    chances: torch.Tensor, search: Search, prompt: Sequence[int]
) -> list[tuple[float, int, int]]:
    """(summed ln p, number of the beam, next token) from the ln p of each beam, best first."""
    rows = []
    for row, beam in zip(chances, search.running, strict=False):
        row = force(row, len(beam.ids), search.limit, search.settings)
        rows.append(adjust(row, [*prompt, *beam.ids], search.settings) + beam.score)
    scores = torch.stack(rows)
    best = scores.flatten().topk(min(search.wanted, scores.numel()))
    vocab = scores.shape[1]
    return [
        (score, place // vocab, place % vocab)
        for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
