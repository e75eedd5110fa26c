"""Predict the next token: pretraining on text and tuning on conversations are both this.

Knows: a row's ids, targets and documents. They differ only in which targets a row has.
"""

from dataclasses import dataclass

from torch import Tensor

from yantai.core.face import Model
from yantai.core.mask import Mask, same_document
from yantai.data.batch import Batch
from yantai.data.pack import RowSource


@dataclass(frozen=True)
class Causal:
    """−Σ ln p(targetₜ | ids≤ₜ), nobody looking across a document's border."""

    name: str = "causal"

    def rows(self, source: RowSource) -> RowSource:
        """As they are."""
        return source

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """The vectors that the head reads."""
        mask = Mask() if batch.single_document else same_document(batch.documents)
        return model.hidden(batch.ids, mask=mask, positions=batch.positions)

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over the batch's targets, natural logarithm."""
        return model.loss_of(self.hidden(model, batch), batch.targets)
