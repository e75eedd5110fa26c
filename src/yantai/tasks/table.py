"""The objectives that are learned from running text, each with the tokens that it needs."""

from dataclasses import dataclass

import numpy as np

from yantai.base.config import look_up
from yantai.base.errors import UsageError
from yantai.tasks.causal import Causal
from yantai.tasks.denoise import Denoise
from yantai.tasks.masked import Masked
from yantai.tasks.task import Task
from yantai.text.tokenizer import MASK, SPANS, Tokenizer
from yantai.text.words import Words


@dataclass(frozen=True)
class Objective:
    """What an objective needs.

    Attributes:
        shape: the models that can learn it.
        specials: special tokens that a new tokenizer gets for it.
    """

    shape: str
    specials: tuple[str, ...] = ()


OBJECTIVES = {
    "causal": Objective("decoder"),
    "masked": Objective("encoder", (MASK,)),
    "denoise": Objective("encoder-decoder", SPANS),
    "infill": Objective("encoder-decoder", (MASK,)),
}
USUAL = {"decoder": "causal", "encoder": "masked", "encoder-decoder": "denoise"}


def objective_named(name: str | None, shape: str, *, whole_words: bool = False) -> str:
    """The objective, by default that of the shape.

    Args:
        name: of the table, or None.
        shape: of the model.
        whole_words: whether words shall be hidden, not tokens.

    Raises:
        UsageError: models of that shape cannot learn it, or it hides nothing.
    """
    name = name or USUAL[shape]
    found = look_up(OBJECTIVES, name, "objective")
    if whole_words and name != "masked":
        raise UsageError("E203", "whole_words", f"the objective {name!r} hides no words")
    if found.shape != shape:
        raise UsageError(
            "E203",
            "objective",
            f"{name!r} is learned by an {found.shape}, this family is a {shape}",
            do=f"choose --objective {USUAL[shape]}, or another --family",
        )
    return name


def make_task(
    name: str,
    tokenizer: Tokenizer,
    seed: int,
    start_id: int | None = None,
    *,
    whole_words: bool = False,
) -> Task:
    """The task of that objective with the ids of its tokens.

    Args:
        name: of the table.
        tokenizer: knows the ids.
        seed: decides what is hidden or damaged.
        start_id: what the decoder of a model that goes on learning reads first; a new one begins
            with the padding token, as T5 does.
        whole_words: `masked` hides words, not tokens.

    Raises:
        UsageError: the tokenizer has not the special tokens that it needs.
    """
    if name == "causal":
        return Causal()
    special = frozenset(tokenizer.control.values())
    if name == "masked":
        ordinary = np.array([id for id in range(tokenizer.vocab_size) if id not in special])
        words = Words(tokenizer) if whole_words else None
        return Masked(_needed(tokenizer.mask_id, "a mask token"), ordinary, seed=seed, words=words)
    end = _needed(tokenizer.eos_id, "an end token")
    start = start_id
    if start is None:
        start = tokenizer.pad_id if tokenizer.pad_id is not None else end
    if name == "infill":
        return Denoise("infill", (_needed(tokenizer.mask_id, "a mask token"),), start, end, seed)
    if not tokenizer.span_ids:
        _needed(None, "sentinel tokens")
    return Denoise("spans", tokenizer.span_ids, start, end, seed)


def _needed(id: int | None, what: str) -> int:
    if id is None:
        raise UsageError(
            "E203", "tokenizer", f"has not {what}, which the objective needs",
            do="let a new one be trained, or choose another --objective",
        )  # fmt: skip
    return id
