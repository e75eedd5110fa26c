"""Output that keeps to a JSON schema or a regular expression: which tokens may come next.

Knows: `llguidance`, whose automata are linear and have limits of their own. A grammar is tried in a
process of its own first, made once, and copied for each row; how many are kept is bounded.
"""

import json
from collections import OrderedDict
from typing import Any

import llguidance
import torch
from torch import Tensor

from yantai.base.errors import DataError
from yantai.infer.automata import Kind, automaton, vocabulary
from yantai.infer.trial import Trial
from yantai.text.tokenizer import Tokenizer

KEPT, KEPT_BYTES = 64, 256 << 20
"""Grammars that are kept, and what they may hold together."""


class GrammarGuide:
    """A matcher on its way; see `infer/row.py` for what a row asks of it."""

    def __init__(self, matcher: llguidance.LLMatcher, ends: frozenset[int]):
        self._matcher, self._ends = matcher, ends

    def allowed(self, logits: Tensor) -> Tensor:
        """The logits with −∞ for all tokens that would leave the grammar."""
        rows = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        keep = torch.zeros(logits.shape[-1], dtype=torch.bool)
        keep[: min(len(rows), len(keep))] = rows[: len(keep)] > 0
        return logits.masked_fill(~keep.to(logits.device), -torch.inf)

    def take(self, token: int) -> bool:
        """Go on; whether nothing more may come."""
        if token in self._ends:
            return True
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise DataError("E304", "response_format", self._matcher.get_error()[:300])
        return self._matcher.is_stopped()


class Grammars:
    """Grammars of one vocabulary.

    Args:
        tokenizer: of the model.
        ends: tokens that end a text; at least one.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int]):
        self.ends = ends
        known = (tokenizer.to_json(), tokenizer.vocab_size, sorted(ends))
        self._tokens, self._trial = vocabulary(*known), Trial(*known)
        self._made: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def guide(self, kind: Kind, text: str | dict[str, Any] | None = None) -> GrammarGuide:
        """A new walk through a grammar.

        Args:
            kind: what the text is to be.
            text: the schema, or the expression.

        Raises:
            DataError: it is no grammar, or one that is too large or takes too long to make.
        """
        key = json.dumps([kind, text])
        known = self._made.get(key)
        if known is None:
            size = self._trial.check(kind, text)
            known = self._made[key] = automaton(self._tokens, self.ends, kind, text)
            self._sizes[key] = size
            while len(self._made) > KEPT or sum(self._sizes.values()) > KEPT_BYTES:
                del self._sizes[self._made.popitem(last=False)[0]]
        else:
            self._made.move_to_end(key)
        return GrammarGuide(known.deep_copy(), self.ends)
