"""A model with another vocabulary, or another head, out of one that there is.

Knows: the matrices that have a row a token. A new row begins as the mean of the rows of what its
text was spelled with before, so that a model's first guess about it is the old one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from yantai.core.config import Labels
from yantai.core.face import Model
from yantai.core.initialise import build, build_meta, materialise

ROWS = ("embed.tokens.weight", "head.weight", "head.bias")


@torch.no_grad()
def grow_vocabulary(model: Model, rows: int, spelled: Mapping[int, Sequence[int]]) -> Model:
    """A model with new rows for new entries; everything else is the same.

    Args:
        model: what is grown; it is not changed.
        rows: how many the new vocabulary needs; never fewer than the model has.
        spelled: new entry → the old ids whose mean its row begins as; none: the mean of all.
    """
    old = dict(model.named_parameters())
    config = model.config.model_copy(update={"vocab_size": max(rows, model.config.vocab_size)})
    first = old["embed.tokens.weight"]
    grown = materialise(build_meta(config), first.device, first.dtype)
    for name, parameter in grown.named_parameters():
        before = old[name]
        if name not in ROWS:
            parameter.copy_(before)
            continue
        parameter[: len(before)] = before
        parameter[len(before) :] = before.mean(0)
        for row, ids in spelled.items():
            parameter[row] = before[list(ids)].mean(0) if ids else before.mean(0)
    return grown.train(model.training)


def with_head(
    model: Model, labels: Labels, *, table: str, dropout: float | None = None, seed: int = 0
) -> Model:
    """The body of a model with a new head of labels.

    Args:
        model: any; its own head stays behind.
        labels: of the new head.
        table: of first weights.
        dropout: in training; None keeps the model's.
        seed: of the head's first weights.
    """
    changes: dict[str, Any] = {"head": labels}
    if dropout is not None:
        changes["dropout"] = dropout
    config = model.config.model_copy(update=changes)
    first = next(model.parameters())
    judging = build(config, seed=seed, table=table, device=first.device, dtype=first.dtype)
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in judging.named_parameters():
            if not name.startswith("head."):
                parameter.copy_(known[name])
    return judging
