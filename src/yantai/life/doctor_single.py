"""Single rows that are odd by themselves, however the others are.

Knows: what is read and what is learned of a row. Nothing here stops a run: each finding is a note
with how many there are and where the first one stands.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from yantai.base.log import counted
from yantai.life.doctor_case import Finding
from yantai.life.doctor_texts import meant, sides_of
from yantai.text.compression import script_of

EMPTY_WORDS = frozenset({"nan", "none", "null", "n/a", "undefined", "#n/a"})
"""What tables write where they have nothing."""
ADDRESS = re.compile(r"(?:https?://|www\.)\S+")
FAR, LEAST_LETTERS, SOME_ROWS = 6.0, 12, 20
"""Times of the usual share of lengths; letters of the longer text; rows that make it usual."""


def look_at_single_rows(task: str, rows: Sequence[Any]) -> Iterator[Finding]:
    """Everything that is known to bite in one row."""
    for name, texts in sides_of(rows).items():
        yield from _told(rows, texts, _lost, f"a {name} has letters that are lost or garbled")
        yield from _told(rows, texts, _wordless, f"a {name} has no words of its own")
    for what, is_odd in ROWS.get(task, ()):
        yield from _told(rows, rows, is_odd, what)
    if task in ("translate", "summarize") and len(rows) >= SOME_ROWS:
        yield from _lengths(rows)
    if task == "translate" and len(rows) >= SOME_ROWS:
        yield from _other_way_round(rows)
    if task == "span":
        yield from _same_id(rows)


def _told(
    rows: Sequence[Any], things: Sequence[Any], is_odd: Callable[[Any], bool], what: str
) -> Iterator[Finding]:
    odd = [row for row, thing in zip(rows, things, strict=True) if is_odd(thing)]
    if odd:
        count = f"in {counted(len(odd), 'row')}"
        yield ("note", f"{odd[0].place}: {what}, {count}")


def _lost(text: str) -> bool:
    return "\N{REPLACEMENT CHARACTER}" in text or bool(meant(text))


def _wordless(text: str) -> bool:
    """Nothing but marks, an address, or a table's word for nothing."""
    rest = ADDRESS.sub("", text).strip()
    return not any(each.isalnum() for each in rest) or rest.casefold() in EMPTY_WORDS


def _speaks_twice(row: Any) -> bool:
    """A role that speaks twice without the other between."""
    roles = [each["role"] for each in row.messages if each["role"] in ("user", "assistant")]
    return any(one == other for one, other in pairwise(roles))


def _answers_with_all(row: Any) -> bool:
    return any(text.strip() == row.context.strip() for text, _ in row.answers)


def _cuts_a_word(row: Any) -> bool:
    """A span whose neighbour is a letter of the same script, but for Han, which has no spaces."""
    for span in row.spans:
        around = (span.start - 1, span.start), (span.end - 1, span.end)
        for one, other in around:
            pair = row.text[max(0, one) : other + 1] if one >= 0 else ""
            if len(pair) == 2 and all(each.isascii() and each.isalnum() for each in pair):
                return True
    return False


ROWS: dict[str, tuple[tuple[str, Callable[[Any], bool]], ...]] = {
    "chat": (("a role speaks twice in a row", _speaks_twice),),
    "span": (("an answer is the whole passage", _answers_with_all),),
    "tag": (("a span begins or ends inside a word", _cuts_a_word),),
}
"""Task → what may be odd in a row of it."""


def _lengths(rows: Sequence[Any]) -> Iterator[Finding]:
    """Targets far longer or shorter than their sources make usual."""
    shares = [len(row.target) / len(row.source) for row in rows]
    usual = median(shares)
    odd = [
        row
        for row, share in zip(rows, shares, strict=True)
        if max(len(row.target), usual * len(row.source)) > LEAST_LETTERS
        and max(share / usual, usual / share) > FAR
    ]
    if odd:
        times = f"over {FAR:.0f} times as long or short as usual"
        count = f"in {counted(len(odd), 'row')}"
        yield ("note", f"{odd[0].place}: a target is {times} beside its source, {count}")


def _other_way_round(rows: Sequence[Any]) -> Iterator[Finding]:
    """A pair whose texts are in the scripts of the other sides."""
    scripts = [(script_of(row.source), script_of(row.target)) for row in rows]
    usual = max(set(scripts), key=scripts.count)
    if usual[0] == usual[1]:
        return
    odd = [row for row, pair in zip(rows, scripts, strict=True) if pair == usual[::-1]]
    if odd:
        count = f"in {counted(len(odd), 'row')}"
        yield ("note", f"{odd[0].place}: source and target are the other way round, {count}")


def _same_id(rows: Sequence[Any]) -> Iterator[Finding]:
    """Two questions with one id, of which a file of predictions has room for one."""
    first: dict[str, Any] = {}
    for row in rows:
        if row.id in first:
            yield ("note", f"{row.place}: the id {row.id!r} is that of {first[row.id].place}, too")
            return
        first[row.id] = row
