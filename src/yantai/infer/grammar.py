"""Output that keeps to a JSON schema or a regular expression: which tokens may come next.

Knows: `llguidance`, whose automata are linear and have limits of their own. A grammar is made once
and copied for each row; how many are kept is bounded.
"""

import json
from collections import OrderedDict
from typing import Any, Literal

import llguidance
import torch
from torch import Tensor

from yantai.base.errors import DataError
from yantai.infer.endless import is_endless
from yantai.text.tokenizer import Tokenizer

KEPT = 64
LONGEST = 100_000
SPACES: Any = {"whitespace_pattern": r"[ \n\t]{0,8}"}
"""Between what JSON says: enough for lines and indents, and no way to say nothing for ever."""
Kind = Literal["json_schema", "json_object", "regex"]


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
        self._tokens = llguidance.LLTokenizer(
            tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=sorted(ends)
        )
        self._made: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()

    def guide(self, kind: Kind, text: str | dict[str, Any] | None = None) -> GrammarGuide:
        """A new walk through a grammar.

        Args:
            kind: what the text is to be.
            text: the schema, or the expression.

        Raises:
            DataError: it is no grammar, or one that is too large.
        """
        if kind == "regex":
            source = llguidance.LLMatcher.grammar_from_regex(str(text))
        else:
            schema: Any = {"type": "object"} if kind == "json_object" else text
            if len(json.dumps(schema)) > LONGEST:
                raise self._refused("too large")
            if is_endless(schema):
                raise self._refused("what it requires requires itself for ever")
            try:
                source = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=SPACES)
            except ValueError as error:
                raise self._refused(str(error)) from error
        if len(source) > LONGEST:
            raise self._refused("too large")
        known = self._made.get(source)
        if known is None:
            known = llguidance.LLMatcher(self._tokens, source, log_level=0)
            if known.is_error():
                raise self._refused(known.get_error())
            self._try(known)
            self._made[source] = known
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(source)
        return GrammarGuide(known.deep_copy(), self.ends)

    def _try(self, fresh: llguidance.LLMatcher) -> None:
        """Take one step, where grammars fail that nothing satisfies, or that grow too large."""
        trial = fresh.deep_copy()
        allowed = next((id for id, bias in enumerate(trial.compute_logit_bias()) if bias), None)
        if trial.is_error() or allowed is None:
            raise self._refused("nothing satisfies it")
        if allowed not in self.ends:
            trial.consume_token(allowed)
        if trial.is_error():
            raise self._refused(trial.get_error())

    @staticmethod
    def _refused(why: str) -> DataError:
        line = why.strip().splitlines()[0][:300] if why.strip() else "not understood"
        return DataError("E304", "response_format", f"no grammar: {line}")
