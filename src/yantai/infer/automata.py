"""JSON schemas and regular expressions → automata of `llguidance`. Imports no torch.

Knows: what the library holds and what it does not. Bounds of numbers that it would not keep are
made a little stricter, or refused.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Literal

import llguidance

from yantai.base.errors import DataError
from yantai.infer.endless import is_endless

LONGEST = 100_000
"""Characters of a grammar."""
SPACES: Any = {"whitespace_pattern": r"[ \n\t]{0,8}"}
"""Between what JSON says: enough for lines and indents, and no way to say nothing for ever."""
SAFE = 2**53 - 1
"""Beyond it neither the library nor most readers of JSON tell neighbours apart."""
NARROW, LEAST = 1e-6, 1e-9
"""Of a range that begins behind 0: the share of it that is left out, and the smallest range."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
VALUES = ("enum", "const", "default", "examples")
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose tables have names of the writer's own, and schemas behind them."""
SKETCH = re.compile(r"regex parse error:\n {4}(.*)\n {4}( *)(\^+).*\nerror: (.*)")
"""How the library says what is wrong with an expression: it, marks below it, the reason."""
Kind = Literal["json_schema", "json_object", "regex"]


def vocabulary(text: str, size: int, ends: Sequence[int]) -> llguidance.LLTokenizer:
    """Tokens that automata walk by.

    Args:
        text: a tokenizer.json.
        size: of its vocabulary.
        ends: tokens that end a text; at least one.
    """
    return llguidance.LLTokenizer(text, n_vocab=size, eos_token=list(ends))


def automaton(
    tokens: llguidance.LLTokenizer,
    ends: Collection[int],
    kind: Kind,
    text: str | dict[str, Any] | None = None,
) -> llguidance.LLMatcher:
    """The automaton of a schema or an expression, at its beginning.

    Args:
        tokens, ends: as of `vocabulary`.
        kind: what a text is to be.
        text: the schema, or the expression.

    Raises:
        DataError: it is no grammar, nothing satisfies it, or it is too large.
    """
    source = _source(kind, text)
    if len(source) > LONGEST:
        raise refused("too large")
    made = llguidance.LLMatcher(tokens, source, log_level=0)
    if made.is_error():
        raise refused(made.get_error())
    _try(made, ends)
    return made


def _source(kind: Kind, text: str | dict[str, Any] | None) -> str:
    if kind == "regex":
        return llguidance.LLMatcher.grammar_from_regex(str(text))
    schema: Any = {"type": "object"} if kind == "json_object" else text
    if len(json.dumps(schema)) > LONGEST:
        raise refused("too large")
    if is_endless(schema):
        raise refused("what it requires requires itself for ever")
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(bounded(schema), defaults=SPACES)
    except (ValueError, RecursionError) as error:
        raise refused(str(error)) from error


def _try(fresh: llguidance.LLMatcher, ends: Collection[int]) -> None:
    """Take one step, where grammars fail that nothing satisfies, or that grow too large."""
    trial = fresh.deep_copy()
    allowed = next((id for id, bias in enumerate(trial.compute_logit_bias()) if bias), None)
    if trial.is_error() or allowed is None:
        raise refused("nothing satisfies it")
    if allowed not in ends:
        trial.consume_token(allowed)
    if trial.is_error():
        raise refused(trial.get_error())


def refused(why: str) -> DataError:
    """It is no grammar of ours."""
    line = " ".join(why.split())[:300] or "not understood"
    if sketch := SKETCH.search(why):
        expression, before, marks, reason = sketch.groups()
        at = len(before)
        odd = expression[at : at + min(len(marks), 40)]
        line = f"regex parse error: {reason[:200]}, at character {at + 1}, {odd!r}"
    return DataError("E304", "response_format", f"no grammar: {line}")


def bounded(schema: Any) -> Any:
    """The same schema with bounds that are kept: no text follows it that does not follow the other.

    Raises:
        DataError: between its bounds there is nothing that could be kept.

    >>> bounded({"type": "integer", "minimum": -(2**63), "maximum": 9})
    {'type': 'integer', 'maximum': 9, 'minimum': -9007199254740991}
    >>> bounded({"exclusiveMinimum": 0, "maximum": 0.5})
    {'maximum': 0.5, 'minimum': 5e-07}
    """
    if isinstance(schema, list):
        return [bounded(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    own = {name: _bounded_in(name, value) for name, value in schema.items()}
    _keep_within(own, LOWER, 1)
    _keep_within(own, UPPER, -1)
    _leave_out_zero(own, LOWER, UPPER, 1)
    _leave_out_zero(own, UPPER, LOWER, -1)
    return own


def _bounded_in(keyword: str, value: Any) -> Any:
    if keyword in VALUES:
        return value
    if keyword in MAPS and isinstance(value, dict):
        return {name: bounded(each) for name, each in value.items()}
    return bounded(value)


def _keep_within(own: dict[str, Any], near: tuple[str, str], sign: int) -> None:
    """A bound beyond what is told apart becomes the last that is."""
    for name in near:
        if not _is_number(own.get(name)):
            continue
        value = own[name]
        if sign * value > SAFE:
            raise refused(f"{name} beyond {sign * SAFE:,}, where numbers are not told apart")
        if sign * value < -SAFE:
            del own[name]
            if not any(_is_number(own.get(each)) for each in near):
                own[near[0]] = -sign * SAFE


def _leave_out_zero(
    own: dict[str, Any], near: tuple[str, str], far: tuple[str, str], sign: int
) -> None:
    """Without 0, and with less than 1 on the other side, the library would let 0 through."""
    ends = [sign * own[each] for each in far if _is_number(own.get(each))]
    if own.get(near[1]) != 0 or isinstance(own[near[1]], bool) or not ends or min(ends) >= 1:
        return
    if min(ends) < LEAST:
        raise refused(f"between {near[1]} and {far[0]} there is less than {LEAST}")
    del own[near[1]]
    if not (_is_number(own.get(near[0])) and sign * own[near[0]] > 0):
        own[near[0]] = sign * min(ends) * NARROW


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
