"""Rows of one question and two answers, of which one is preferred.

Knows: two forms. `prompt`, `chosen`, `rejected` as texts (or lists of messages, as `trl` has them);
`conversations`, `chosen`, `rejected` with `from` and `value`, as ShareGPT has them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yantai.data.conversations import messages_of
from yantai.data.labelled import not_empty
from yantai.text.chat import Message
from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader


@dataclass(frozen=True, slots=True)
class Preference:
    """Two conversations that differ in their last answer.

    Attributes:
        chosen, rejected: messages.
        place: `file:line`.
    """

    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Rows with the same question stay in one part."""
        return (self.chosen[-2]["content"] if len(self.chosen) > 1 else "",)


def read_preferences(path: Path, **options: Any) -> tuple[list[Preference], Any]:
    """The rows of a file; arguments as of `read_conversations`."""
    reader = TableReader(path, check=_both, **options)
    rows = [Preference(*_both(record.fields), record.place) for record in reader]
    return not_empty(rows, reader), reader.account


def _both(fields: dict[str, Any]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if "chosen" not in fields or "rejected" not in fields:
        there = ", ".join(list(fields)[:8])
        raise BadRow("E304", "no 'chosen' and 'rejected'", got=there)
    chosen, rejected = (_with(fields, fields[name]) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise BadRow("E304", "both answers are the same")
    return chosen, rejected


def _with(fields: dict[str, Any], answer: Any) -> tuple[Message, ...]:
    if "conversations" in fields:
        turns = fields["conversations"]
        if not isinstance(turns, list):
            raise BadRow("E304", "the conversation is no list", got=repr(turns)[:80])
        return messages_of({"conversations": [*turns, answer], "system": fields.get("system")})
    before = fields.get("prompt", [])
    if isinstance(before, str):
        before = [{"role": "user", "content": before}]
    if isinstance(answer, str):
        answer = [{"role": "assistant", "content": answer}]
    if not isinstance(before, list) or not isinstance(answer, list):
        raise BadRow("E304", "prompt and answers are neither texts nor messages")
    return messages_of({"messages": [*before, *answer]})
