"""The few things that a task must say; the trainer asks for nothing else. And how all of them read.

Knows: rows of text, a model, a batch, a loss. Knows nothing of steps or files.
"""

from typing import Protocol

from torch import Tensor

from yantai.core.face import Model
from yantai.core.mask import Mask, same_document
from yantai.core.stack import Memory
from yantai.data.batch import Batch
from yantai.data.pack import RowSource


class Task(Protocol):
    """What is learned from a batch."""

    @property
    def name(self) -> str:
        """Of the table of tasks."""
        ...

    def rows(self, source: RowSource) -> RowSource:
        """What is made of rows of running text, in the same order; often the rows themselves."""
        ...

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """The vectors that the head reads, where the batch's targets are; "batch position dim"."""
        ...

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum of the losses of what is to be learned in the batch."""
        ...

    def count(self, batch: Batch) -> int:
        """How many losses that are: the trainer divides by those of a whole step."""
        ...


class EveryTarget:
    """What most tasks do: the loss is −Σ ln p(target) over the targets of the rows as they are."""

    @property
    def smoothing(self) -> float:
        """The share of a target that all entries have alike while the model learns.

        How good the model is, is measured without.
        """
        return 0.0

    def rows(self, source: RowSource) -> RowSource:
        """As they are."""
        return source

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """The vectors that the head reads."""
        return read(model, batch)

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over the batch's targets, natural logarithm."""
        smoothing = self.smoothing if model.training else 0.0
        hidden = self.hidden(model, batch)
        return model.loss_of(hidden, batch.targets, smoothing, batch.target_count)

    def count(self, batch: Batch) -> int:
        """The targets."""
        return batch.target_count


def read(model: Model, batch: Batch) -> Tensor:
    """The vectors at the batch's positions, nobody looking across a document's border.

    Where there is a source, an encoder reads it, and the others look at their own document there.
    """
    if batch.source is None:
        mask = Mask() if batch.single_document else same_document(batch.documents)
        return model.hidden(batch.ids, mask=mask, positions=batch.positions, types=batch.types)
    assert batch.source_documents is not None
    own = same_document(batch.source_documents)
    memory = model.encode(batch.source, mask=own, positions=batch.source_positions)
    across = Mask(documents=batch.source_documents, query_documents=batch.documents)
    return model.hidden(
        batch.ids,
        mask=same_document(batch.documents),
        positions=batch.positions,
        memory=Memory(memory.hidden, across),
    )
