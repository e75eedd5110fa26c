"""The few things that a task must say; the trainer asks for nothing else.

Knows: rows of text, a model, a batch, a loss. Knows nothing of steps or files.
"""

from typing import Protocol

from torch import Tensor

from yantai.core.face import Model
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
        """The sum of the losses of the batch's targets; the trainer divides by their count."""
        ...
