"""Predict the next token: pretraining on text and tuning on conversations are both this.

Knows: a row's ids, targets and documents. They differ only in which targets a row has.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from yantai.base.pulse import pulse
from yantai.core.face import Model
from yantai.data.batch import IGNORED
from yantai.data.examples import ExampleRows, batches_of
from yantai.tasks.task import EveryTarget, read

TOGETHER = 1024


@dataclass(frozen=True)
class Causal(EveryTarget):
    """−Σ ln p(targetₜ | ids≤ₜ), nobody looking across a document's border."""

    name: str = "causal"
    smoothing: float = 0.0


def answer_losses(model: Model, rows: ExampleRows, batch: int = 8) -> NDArray[np.float64]:
    """Shape "example 2": −Σ ln p of the targets of each example, and how many it has.

    Args:
        model: in evaluation mode.
        rows: of the examples.
        batch: rows that are read together.
    """
    found = np.zeros((len(rows.examples), 2))
    for own, logs, _ in _targets_of(model, rows, batch, likeliest=False):
        np.add.at(found, own, np.stack((-logs, np.ones(len(logs))), 1))
    return found


def continuations(model: Model, rows: ExampleRows, batch: int = 8) -> NDArray[np.float64]:
    """Shape "example 2": Σ ln p of the targets of each example; 1 where each was the likeliest."""
    found = np.zeros((len(rows.examples), 2))
    missed = np.zeros(len(rows.examples))
    for own, logs, hits in _targets_of(model, rows, batch, likeliest=True):
        np.add.at(found[:, 0], own, logs)
        np.add.at(missed, own, ~hits)
    found[:, 1] = missed == 0
    return found


@torch.inference_mode()
def _targets_of(
    model: Model, rows: ExampleRows, batch: int, *, likeliest: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]]:
    """Of the targets of a batch: the example, ln p, and whether none was likelier."""
    device = next(model.parameters()).device
    for start, each in enumerate(batches_of(rows, batch)):
        pulse()
        moved = each.to(device)
        known = moved.targets != IGNORED
        hidden, aims = read(model, moved)[known], moved.targets[known]
        logs = model.log_probabilities(hidden, aims).cpu().double().numpy()
        hits = np.ones(len(logs), bool)
        if likeliest:
            best = [model.logits_of(part).argmax(-1) for part in hidden.split(TOGETHER)]
            hits = (torch.cat(best) == aims).cpu().numpy()
        places, documents = known.nonzero()[:, 0].cpu(), moved.documents[known].cpu()
        own = [
            rows.members(0, start * batch + place)[document]
            for place, document in zip(places.tolist(), documents.tolist(), strict=True)
        ]
        yield np.array(own, np.int64), logs, hits
