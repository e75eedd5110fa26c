"""Blanks in a text, filled by an encoder that guesses tokens or an encoder–decoder that restores.

Knows: which control token stands for a blank, and how the answer is put back into the text.
"""

from itertools import pairwise
from typing import Any

import torch

from yantai.base.config import build
from yantai.base.errors import UsageError
from yantai.core.stack import Memory
from yantai.infer.generate import check_room, generate_ids
from yantai.infer.language_model import LanguageModel
from yantai.infer.reader import encode_rows
from yantai.infer.settings import Generation
from yantai.text.tokenizer import Tokenizer

BLANK = "___"
TOKENS_A_BLANK = 12
LOOK_AHEAD = 16


def fill(model: LanguageModel, text: str, *, blank: str = BLANK, **settings: Any) -> str:
    """The text with its blanks filled.

    Args:
        model: an encoder fills each blank with one token, an encoder–decoder with several.
        text: with at least one blank; a space before a blank belongs to what fills it.
        blank: what is replaced.
        settings: those of `Generation`, for an encoder–decoder; lengths are of all blanks
            together where each has a sentinel (T5), of one blank where the model writes the whole
            text (BART).

    Raises:
        UsageError: there is no blank, too many, or the model cannot fill any.

    >>> fill(model, "Once upon a ___, there was a ___.")  # doctest: +SKIP
    """
    parts = text.split(blank)
    if len(parts) < 2:
        raise UsageError("E201", "text", "has no blank", expected=f"{blank!r} somewhere")
    if model.shape == "decoder" or model.job:
        raise UsageError("E201", "model", f"a {model.job or model.shape} model fills no blanks")
    tokenizer = model.tokenizer
    pieces = [tokenizer.encode(part.rstrip(" ")) for part in parts[:-1]]
    pieces.append(tokenizer.encode(parts[-1]))
    if model.shape == "encoder":
        if settings:
            raise UsageError("E201", next(iter(settings)), "an encoder guesses a token a blank")
        return _joined(tokenizer, parts, pieces, _guessed(model, pieces))
    blanks = len(parts) - 1
    if tokenizer.span_ids:
        chosen = _settings(settings, TOKENS_A_BLANK * blanks)
        return _joined(tokenizer, parts, pieces, _restored(model, pieces, chosen))
    chosen = _settings(settings, TOKENS_A_BLANK)
    return _joined(tokenizer, parts, pieces, _rewritten(model, pieces, chosen))


def _settings(given: dict[str, Any], new_tokens: int) -> Generation:
    """The caller's, with a length where none is said.

    Raises:
        UsageError: one of them makes no sense for one text that is whole at its end.
    """
    for name in ("num_return_sequences", "stop"):
        if given.get(name) not in (None, 1, ()):
            raise UsageError("E201", name, "a text with its blanks filled is one text, whole")
    if given.get("max_new_tokens") is None and given.get("max_length") is None:
        given = given | {"max_new_tokens": new_tokens}
    return build(Generation, given, "fill")


def _joined(
    tokenizer: Tokenizer, parts: list[str], pieces: list[list[int]], fills: list[list[int]]
) -> str:
    """The caller's parts, letter for letter, and between them what fills the blanks."""
    text, before = "", []
    for part, piece, filled in zip(parts, pieces, [*fills, []], strict=True):
        text, before = text + part, before + piece
        if not filled:
            continue
        word = tokenizer.decode(filled, after=before)
        if word.startswith(" ") and text.endswith(" "):
            text = text[:-1]
        text, before = text + word, before + filled
    return text


def _mask(tokenizer: Tokenizer) -> int:
    if tokenizer.mask_id is None:
        raise UsageError("E203", "tokenizer", "has no mask token, which stands for a blank")
    return tokenizer.mask_id


def _with_blanks(tokenizer: Tokenizer, pieces: list[list[int]], blanks: list[int]) -> list[int]:
    """BOS, the pieces with a token between each two, EOS: a document as training saw it."""
    ids = [tokenizer.bos_id] if tokenizer.bos_id is not None else []
    for piece, token in zip(pieces, [*blanks, tokenizer.eos_id], strict=True):
        ids += piece
        ids += [token] if token is not None else []
    return ids


@torch.inference_mode()
def _guessed(model: LanguageModel, pieces: list[list[int]]) -> list[list[int]]:
    """For each blank the likeliest token that is no control token."""
    tokenizer = model.tokenizer
    mask = _mask(tokenizer)
    ids = _with_blanks(tokenizer, pieces, [mask] * (len(pieces) - 1))
    check_room(model.network, ids, 0)
    logits = model.logits(ids)[0]
    logits[:, sorted(tokenizer.control.values())] = -torch.inf
    logits[:, tokenizer.vocab_size :] = -torch.inf
    return [[int(logits[place].argmax())] for place, id in enumerate(ids) if id == mask]


def _restored(
    model: LanguageModel, pieces: list[list[int]], settings: Generation
) -> list[list[int]]:
    """For each blank what follows its sentinel in the answer."""
    tokenizer = model.tokenizer
    sentinels = tokenizer.span_ids[: len(pieces) - 1]
    if len(sentinels) < len(pieces) - 1:
        raise UsageError(
            "E201", "text", "more blanks than the model has sentinels",
            expected=f"at most {len(tokenizer.span_ids)}", got=len(pieces) - 1,
        )  # fmt: skip
    source, start = _with_blanks(tokenizer, pieces, list(sentinels)), model.first_ids()
    answer = _continued(model, source, start, settings)
    spans: dict[int, list[int]] = {}
    current: list[int] = []
    for id in answer:
        if id in tokenizer.span_ids:
            current = spans.setdefault(id, [])
        elif id not in model.eos_ids:
            current.append(id)
    return [spans.get(sentinel, []) for sentinel in sentinels]


@torch.inference_mode()
def _rewritten(
    model: LanguageModel, pieces: list[list[int]], settings: Generation
) -> list[list[int]]:
    """For each blank what a model that writes whole texts has in its place.

    The pieces are written for it. Of what it would write after one of them as much is taken as
    makes it, and the next piece after it, likeliest.
    """
    tokenizer = model.tokenizer
    source = _with_blanks(tokenizer, pieces, [_mask(tokenizer)] * (len(pieces) - 1))
    check_room(model.network, source, 0)
    memory = encode_rows(model.network, [source])
    row = model.first_ids() + ([tokenizer.bos_id] if tokenizer.bos_id is not None else [])
    end = [tokenizer.eos_id] if tokenizer.eos_id is not None else []
    fills = []
    for piece, following in pairwise([*pieces[:-1], pieces[-1] + end]):
        row += piece
        free = [id for id in _continued(model, source, row, settings) if id not in model.eos_ids]
        endings = [free[:size] + following[:LOOK_AHEAD] for size in range(1, len(free) + 1)]
        chances = [_log_chance(model, memory, row, ending) for ending in endings]
        best = max(range(len(chances)), key=chances.__getitem__, default=-1)
        fills.append(free[: best + 1])
        row += fills[-1]
    return fills


def _log_chance(model: LanguageModel, memory: Memory, row: list[int], ending: list[int]) -> float:
    """ln p(ending | row, source)."""
    ids = torch.tensor([row + ending], device=memory.hidden.device)
    check_room(model.network, ids[0, :-1].tolist(), 0)
    hidden = model.network.hidden(ids[:, :-1], memory=memory)[0, len(row) - 1 :]
    return float(model.network.log_probabilities(hidden, ids[0, len(row) :]).sum())


def _continued(
    model: LanguageModel, source: list[int], start: list[int], settings: Generation
) -> list[int]:
    (row,) = generate_ids(model.network, [start], settings, model.eos_ids, sources=[source])
    return row[len(start) :]
