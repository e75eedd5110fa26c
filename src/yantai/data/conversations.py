"""Rows that are conversations, in the forms in which people keep them.

Knows: three forms. `messages`, as OpenAI has them; `instruction`, `input`, `output` (and `system`,
`history`), as Alpaca has them; `conversations` of `from` and `value`, as ShareGPT has them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError
from yantai.data.labelled import not_empty
from yantai.text.chat import Message, check_messages
from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SPEAKERS |= {"system": "system"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, the last one an assistant's.

    Attributes:
        messages: tables with `role` and `content`.
        place: `file:line`; see `Record`.
    """

    messages: tuple[Message, ...]
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Conversations that begin alike stay in one part."""
        first = next((each for each in self.messages if each["role"] == "user"), self.messages[0])
        return (first["content"],)


def read_conversations(path: Path, **options: Any) -> tuple[list[Conversation], Any]:
    """The conversations of a file.

    Args:
        path: see `TableReader`, as for `options`.

    Raises:
        DataError: a row is bad and the policy is to stop, or there is none.
    """
    reader = TableReader(path, check=messages_of, **options)
    rows = [Conversation(messages_of(record.fields), record.place) for record in reader]
    return not_empty(rows, reader), reader.account


def messages_of(fields: dict[str, Any]) -> tuple[Message, ...]:
    """The conversation of a row.

    Raises:
        BadRow: it is none, or nobody answers at its end.
    """
    if "messages" in fields:
        messages = fields["messages"]
    elif "conversations" in fields:
        messages = _shared(fields["conversations"], fields.get("system"))
    elif "instruction" in fields and "output" in fields:
        messages = _instructed(fields)
    else:
        there = ", ".join(list(fields)[:8])
        what = "no 'messages', 'conversations', or 'instruction' and 'output'"
        raise BadRow("E304", "no conversation", what, got=there)
    if not isinstance(messages, list):
        raise BadRow("E304", "the messages are no list", got=repr(messages)[:80])
    try:
        check_messages(messages)
    except DataError as error:
        raise BadRow("E312", "not a conversation", f"{error.where}: {error.what}") from error
    last = messages[-1]
    if last["role"] != "assistant" or not last["content"].strip():
        raise BadRow("E307", "nothing to learn: the assistant says nothing at the end")
    return tuple({"role": each["role"], "content": each["content"]} for each in messages)


def _shared(turns: Any, system: Any) -> Any:
    if not isinstance(turns, list):
        return turns
    found = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    for turn in turns:
        who = turn.get("from") if isinstance(turn, dict) else None
        if who not in SPEAKERS:
            raise BadRow("E312", "unknown speaker", got=repr(who)[:80])
        found.append({"role": SPEAKERS[who], "content": turn.get("value")})
    return found


def _instructed(fields: dict[str, Any]) -> list[Message]:
    more = fields.get("input")
    asked = fields["instruction"]
    if isinstance(asked, str) and isinstance(more, str) and more.strip():
        asked = f"{asked}\n{more}"
    system = fields.get("system")
    found = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    for turn in fields.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            raise BadRow("E304", "history is not a list of pairs", got=repr(turn)[:80])
        found += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    found.append({"role": "user", "content": asked})
    return [*found, {"role": "assistant", "content": fields["output"]}]
