"""One continuation on its way: what it has said, how its next token is chosen, when it ends.

Knows: logits of one row. Knows neither models nor neighbours: of the same logits a row says the
same alone and beside others.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from yantai.base.device import mix_seed
from yantai.infer.native.draw import Ask, draw_rows, likeliest_rows
from yantai.infer.sample import adjust, draw, force, next_chance, penalise_said
from yantai.infer.settings import Generation


@runtime_checkable
class Guide(Protocol):
    """Which tokens a grammar allows next."""

    def allowed(self, logits: Tensor) -> Tensor:
        """The logits with −∞ for all other tokens."""
        ...

    def take(self, token: int) -> bool:
        """Go on behind a token; whether the text is complete."""
        ...


def next_tokens(logits: Tensor, rows: Sequence["Row"]) -> Sequence[int | None]:
    """What `Row.choose` may take, found for all rows at once; None where a row finds it alone.

    Args:
        logits: Float[row, vocab].
        rows: as many; each is told what was found before it is asked again.
    """
    found: list[int | None] = [None] * len(rows)
    if any(row.takes_the_likeliest for row in rows):
        known = likeliest_rows(logits)
        found = [
            id if row.takes_the_likeliest else None for id, row in zip(known, rows, strict=True)
        ]
    drawing = [place for place, row in enumerate(rows) if row.draws_alone]
    if len(drawing) > 1:
        drawn = draw_rows([rows[place].ask(logits[place]) for place in drawing])
        for place, token in zip(drawing, drawn or (), strict=False):
            found[place] = token if token >= 0 else None
    return found


class Row:
    """A prompt and what is said behind it.

    Args:
        prompt: ids.
        settings: lengths, sampling, seed.
        stop_ids: tokens that end it; the token itself is still given out.
        number: of the row among those of one request; each draws for itself.
        guide: a grammar, if there is one.
        bias: what is added to the logits of tokens.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        settings: Generation,
        stop_ids: frozenset[int] = frozenset(),
        number: int = 0,
        guide: Guide | None = None,
        bias: Mapping[int, float] | None = None,
    ):
        self.ids, self.start = list(prompt), len(prompt)
        self.settings, self.stop_ids, self.guide = settings, stop_ids, guide
        self._biased = frozenset(bias or ())
        self._bias: tuple[Tensor, Tensor] | None = None
        self._lifts = any(value > 0 for value in (bias or {}).values())
        if bias:
            added = torch.tensor(list(bias.values()), dtype=torch.float32)
            self._bias = torch.tensor(list(bias)), added
        self.takes_the_likeliest = guide is None and settings.is_plain
        free = guide is None and not bias and not settings.minds_what_was_said
        self.draws_alone = settings.samples and free
        self.limit = settings.new_tokens(len(prompt))
        self.ended = "length" if self.limit == 0 else ""
        self._chance: float | None = None
        self._generator = torch.Generator().manual_seed(mix_seed(settings.seed, number))

    @property
    def said(self) -> int:
        """New tokens so far."""
        return len(self.ids) - self.start

    def choose(self, logits: Tensor, known: int | None = None) -> int:
        """Take the next token from the logits behind the newest, and see whether it is the last.

        Args:
            logits: Float[vocab].
            known: what `next_tokens` found for this row.
        """
        if known is None or (not self.draws_alone and self._is_moved(known, logits)):
            known = self._chosen(logits)
        self._chance = None
        return self._take(known)

    def ask(self, logits: Tensor) -> Ask:
        """What the next token is drawn from, and by which number; the same until it is chosen."""
        if self._chance is None:
            self._chance = next_chance(self._generator)
        return Ask(logits, self.settings, self._chance)

    def _is_moved(self, likeliest: int, logits: Tensor) -> bool:
        """Whether the bias may make another token the likeliest; without a copy of all logits."""
        if self._bias is None:
            return False
        if likeliest in self._biased or not self._lifts:  # what sinks overtakes nobody
            return likeliest in self._biased
        index, values = self._bias_beside(logits)
        return bool((logits[index].float() + values).max() >= logits[likeliest].float())

    def _bias_beside(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and what is added to each, where the logits are."""
        assert self._bias is not None
        if self._bias[0].device != logits.device:
            self._bias = (self._bias[0].to(logits.device), self._bias[1].to(logits.device))
        return self._bias

    def _chosen(self, logits: Tensor) -> int:
        settings = self.settings
        chances = force(logits, self.said, self.limit, settings)
        if self._bias is not None:
            index, values = self._bias_beside(logits)
            chances = chances.float().index_add(0, index, values)
        said = self.ids[self.start :]
        chances = penalise_said(
            chances, said, settings.presence_penalty, settings.frequency_penalty
        )
        if self.guide is not None:
            chances = self.guide.allowed(chances)
        chances = adjust(chances, self.ids, settings)
        return draw(self.ask(chances)) if settings.samples else int(chances.argmax())

    def _take(self, token: int) -> int:
        self.ids.append(token)
        if token in self.stop_ids or (self.guide is not None and self.guide.take(token)):
            self.ended = "stop"
        elif self.said >= self.limit:
            self.ended = "length"
        return token
