"""How likely tokens were, in the tables that `logprobs` are made of.

Knows: logits, and how a token is spelled. Rules and temperatures change nothing of what is told.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yantai.infer.language_model import LanguageModel
from yantai.text.tokenizer import BYTE_TOKEN, Tokenizer

ROWS = 64
"""Tokens of a prompt whose logits are held at a time."""


def chance_of(token: int, logits: Tensor | None, top: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """ln p of a token before any rule, and of the likeliest beside it; without logits of none."""
    logs = None if logits is None else logits.float().log_softmax(-1)

    def row(id: int) -> dict[str, Any]:
        text, spelled = spelling(id, tokenizer)
        chance = None if logs is None else float(logs[id])
        return {"token": text, "logprob": chance, "bytes": list(spelled), "id": id}

    likeliest = torch.topk(logs, top).indices.tolist() if top and logs is not None else []
    return row(token) | {"top": [row(id) for id in likeliest]}


def spelling(id: int, tokenizer: Tokenizer) -> tuple[str, bytes]:
    """A token as it stands inside of a text, with its space; and its bytes."""
    raw = tokenizer.bytes_of_ids
    if raw is not None:
        text = tokenizer.decode([id], skip_special=False)
        return text, raw[id] if id < len(raw) else text.encode()
    if byte := BYTE_TOKEN.fullmatch(tokenizer.token(id)):  # of a character that has no token
        return "\ufffd", bytes.fromhex(byte[1])
    before, known = _anchor(tokenizer)
    text = tokenizer.decode([before, id], skip_special=False).removeprefix(known)
    return text, text.encode()


@functools.lru_cache(maxsize=8)
def _anchor(tokenizer: Tokenizer) -> tuple[int, str]:
    """A token behind which others are spelled as inside of a text, and its own text."""
    before = tokenizer.encode("a")[-1]
    return before, tokenizer.decode([before], skip_special=False)


def place_of(token: str, piece: str, before: int) -> int:
    """The character where a token begins in what was said.

    Bytes of others that came to nothing may stand before it in the same piece.

    Args:
        token: as it is spelled alone.
        piece: what the text grew by when it came.
        before: characters of the text until then.
    """
    return before + (len(piece) - len(token) if token and piece.endswith(token) else 0)


@torch.inference_mode()
def chances_of(
    model: LanguageModel, ids: Sequence[int], top: int, first: int = 0
) -> list[dict[str, Any]]:
    """Of each token of a prompt; `place` is the character of its text where it begins.

    Args:
        model: a decoder.
        ids: of the prompt; what stands at its very beginning has no ln p.
        top: how many of the likeliest are told beside each.
        first: the first token that is told of.
    """
    network, tokenizer = model.network, model.tokenizer
    decoder, place, rows = tokenizer.stream(skip_special=False), 0, []
    device = next(network.parameters()).device
    hidden = network.hidden(torch.tensor([list(ids)], device=device))[0]
    for start in range(0, len(ids), ROWS):
        begin = max(1, start)  # what stands before a token says how likely it is
        logits = network.logits_of(hidden[begin - 1 : start - 1 + ROWS])
        for number in range(max(start, first), min(start + ROWS, len(ids))):
            told = logits[number - begin] if number else None
            row, piece = chance_of(ids[number], told, top, tokenizer), decoder.feed(ids[number])
            rows.append(row | {"place": place_of(row["token"], piece, place)})
            place += len(piece)
    return rows
