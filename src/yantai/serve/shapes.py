"""Answers in OpenAI's shapes: whole ones, and pieces of a stream.

Knows: tables of a desk → JSON. Knows no HTTP.
"""

import base64
import json
import struct
from dataclasses import dataclass, field
from typing import Any

REASONS = {"stop": "stop", "length": "length", "cancelled": "stop", "failed": "stop"}


@dataclass
class Choice:
    """One text as it grows."""

    text: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    tokens: int = 0

    def take(self, table: dict[str, Any]) -> None:
        """A piece, or the end."""
        self.text += table.get("text", "")
        self.rows += table.get("logprobs") or []
        if "end" in table:
            self.reason, self.tokens = REASONS.get(table["end"], "stop"), table["tokens"]

    def follow(self, before: "Choice") -> None:
        """Stand behind what was said before; places of its tokens move."""
        moved = [row | {"place": row["place"] + len(before.text)} for row in self.rows]
        self.text, self.rows = before.text + self.text, before.rows + moved


def usage(prompt: int, said: int, reused: int = 0) -> dict[str, Any]:
    """`usage`."""
    return {
        "prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
        "prompt_tokens_details": {"cached_tokens": reused},
    }  # fmt: skip


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("token", "logprob", "bytes")}


def chat_logprobs(rows: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    """`logprobs` of a chat's choice."""
    if not rows:
        return None
    found = [_row(row) | {"top_logprobs": [_row(each) for each in row["top"]]} for row in rows]
    return {"content": found, "refusal": None}


def _name(row: dict[str, Any]) -> str:
    """A token as completions call it: one that is no whole character, by its bytes."""
    if "\ufffd" not in row["token"]:
        return row["token"]
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in row["bytes"])


def text_logprobs(rows: list[dict[str, Any]] | None, start: int = 0) -> dict[str, Any] | None:
    """`logprobs` of a completion's choice; `start` is where its text begins."""
    if not rows:
        return None
    return {
        "tokens": [_name(row) for row in rows],
        "token_logprobs": [row["logprob"] for row in rows],
        "top_logprobs": [
            None
            if row["logprob"] is None
            else {_name(each): each["logprob"] for each in (*row["top"], row)}
            for row in rows
        ],
        "text_offset": [start + row["place"] for row in rows],
    }


@dataclass(frozen=True)
class Frame:
    """What every answer to a request has in common.

    Attributes:
        id, created, model: as the client is told.
        chat: whether it is a chat, or a completion.
        logprobs: whether they were asked for.
    """

    id: str
    created: int
    model: str
    chat: bool
    logprobs: bool

    def whole(self, choices: list[Choice], prompt: int, reused: int) -> dict[str, Any]:
        """All texts at once."""
        said = sum(choice.tokens for choice in choices)
        return self._table("chat.completion" if self.chat else "text_completion") | {
            "choices": [self._choice(index, choice) for index, choice in enumerate(choices)],
            "usage": usage(prompt, said, reused),
        }

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        common = {"index": index, "finish_reason": choice.reason}
        if not self.chat:
            rows = choice.rows if self.logprobs else None
            return common | {"text": choice.text, "logprobs": text_logprobs(rows)}
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        rows = choice.rows if self.logprobs else None
        return common | {"message": message, "logprobs": chat_logprobs(rows)}

    def piece(
        self, index: int, text: str, rows: list[dict[str, Any]] | None, reason: str | None,
        *, first: bool = False, start: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """A piece of a stream."""
        common = {"index": index, "finish_reason": reason}
        if not self.chat:
            choice = common | {"text": text, "logprobs": text_logprobs(rows, start)}
        else:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            if text or first:
                delta["content"] = text
            choice = common | {"delta": delta, "logprobs": chat_logprobs(rows)}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._table(kind) | {"choices": [choice]}

    def last(self, prompt: int, said: int, reused: int) -> dict[str, Any]:
        """The piece with `usage`, where a client asked for it."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return self._table(kind) | {"choices": [], "usage": usage(prompt, said, reused)}

    def _table(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def vectors(found: list[list[float]], packed: bool, model: str, tokens: int) -> dict[str, Any]:
    """`/v1/embeddings`; packed are little-endian floats in base64."""
    data: list[dict[str, Any]] = []
    for index, vector in enumerate(found):
        value: Any = vector
        if packed:
            value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": value})
    counts = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": counts}


def event(table: dict[str, Any] | str) -> bytes:
    """A line of a stream of events."""
    text = table if isinstance(table, str) else json.dumps(table, ensure_ascii=False)
    return f"data: {text}\n\n".encode()
