"""Judge texts by labels: one of them, or any number (sentiment, topic, spam).

Knows: by which loss labels are learned, and how many texts are judged together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yantai.core.config import Labels
from yantai.core.face import Model
from yantai.core.head import widened
from yantai.data.batch import IGNORED, Batch
from yantai.data.examples import Example
from yantai.tasks.frame import Frame, logits_at
from yantai.tasks.task import EveryTarget


@dataclass(frozen=True)
class Classify(EveryTarget):
    """−Σ ln p(label | text), or, where several labels may hold, the mean over them of theirs.

    Attributes:
        truths: "example label", 1 where a label holds, for several; the targets of the rows are
            then numbers of examples. None: the targets are labels.
    """

    truths: NDArray[np.float32] | None = None
    name: str = "classify"
    smoothing: float = 0.0

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over texts, natural logarithm."""
        if self.truths is None:
            return super().loss_sum(model, batch)
        hidden = self.hidden(model, batch)
        judged = batch.targets != IGNORED
        logits = widened(model.logits_of(hidden[judged]))
        truths = torch.from_numpy(self.truths).to(logits)[batch.targets[judged]]
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, truths, reduction="none"
        )
        return losses.mean(dim=-1).sum()


def classified(
    frame: Frame, texts: Sequence[str], targets: Sequence[int], names: Sequence[str]
) -> list[Example]:
    """A target for each text, where it is judged."""
    encoded = frame.tokenizer.encode_batch(texts)
    return [
        frame.example(ids, name, judgement=target)
        for ids, target, name in zip(encoded, targets, names, strict=True)
    ]


def judgements(model: Model, frame: Frame, texts: Sequence[str], batch: int = 8) -> Tensor:
    """Float[text, label]: what the head says of each text; no text changes that of another.

    Args:
        model: in evaluation mode, with a head of labels.
        frame: how texts become tokens.
        texts: in any number, long ones cut at their end.
        batch: rows that are read together.
    """
    if not texts:
        assert isinstance(model.config.head, Labels)
        return torch.empty(0, len(model.config.head.names))
    numbers = range(len(texts))
    names = [f"text {number + 1}" for number in numbers]
    rows = frame.rows(classified(frame, texts, numbers, names))
    return logits_at(model, rows, len(texts), batch)
