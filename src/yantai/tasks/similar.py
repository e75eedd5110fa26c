"""Vectors of texts: those of a pair near each other, those of different pairs apart.

Knows: means over texts, and the loss over a batch (InfoNCE, arXiv 1807.03748, eq. 4; with the other
pairs of the batch as negatives, arXiv 1705.00652, section 4.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from yantai.base.pulse import pulse
from yantai.core.face import Model
from yantai.core.mask import Mask, same_document
from yantai.data.batch import Batch
from yantai.data.examples import Example, ExampleRows, batches_of
from yantai.tasks.frame import Frame
from yantai.tasks.task import EveryTarget

ROW = 512
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Similar(EveryTarget):
    """−Σ ln softmax(cos(a, b)/τ) of each text's partner among all texts of the other side.

    Attributes:
        temperature: τ.
    """

    temperature: float = 0.05
    name: str = "embed"

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """The vectors of the tokens, before any head."""
        mask = Mask() if batch.single_document else same_document(batch.documents)
        if model.config.shape == "decoder":
            return model.hidden(batch.ids, mask=mask, positions=batch.positions)
        return model.encode(batch.ids, mask=mask, positions=batch.positions).hidden

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over pairs, the mean of both directions."""
        first, second = self.vectors(model, batch).view(-1, 2, model.config.dim).unbind(1)
        scores = first @ second.t() / self.temperature
        own = torch.arange(len(scores), device=scores.device)
        both = cross_entropy(scores, own, reduction="sum")
        return (both + cross_entropy(scores.t(), own, reduction="sum")) / 2

    def count(self, batch: Batch) -> int:
        """The pairs."""
        return sum(int(row.max()) + 1 for row in batch.documents) // 2

    def vectors(self, model: Model, batch: Batch) -> Float[Tensor, "document dim"]:
        """Of length 1: the mean of what the model makes of a document's tokens, in float32."""
        hidden = self.hidden(model, batch).float()
        there = batch.documents >= 0
        sizes = batch.documents.max(1).values + 1
        starts = torch.cumsum(sizes, 0) - sizes
        document = (starts[:, None] + batch.documents)[there]
        count = int(sizes.sum())
        sums = hidden.new_zeros(count, hidden.shape[-1]).index_add(0, document, hidden[there])
        return normalize(sums / document.bincount(minlength=count)[:, None], dim=-1)


@torch.inference_mode()
def text_vectors(model: Model, frame: Frame, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
    """The vectors of texts, several to a row; the end of one longer than the model is cut.

    Args:
        model: in evaluation mode.
        frame: how it reads.
        texts: none of them empty.
    """
    prompts = [frame.tokenizer.prompt(text)[: frame.length] for text in texts]
    length = max([min(ROW, frame.length), *map(len, prompts)])
    rows = ExampleRows(
        [Example(ids, [number] * len(ids), f"{number}") for number, ids in enumerate(prompts)],
        length,
    )
    found = torch.empty(len(texts), model.config.dim)
    device = next(model.parameters()).device
    for each in batches_of(rows, max(1, BATCH_TOKENS // length)):
        pulse()
        vectors = Similar().vectors(model, each.to(device)).cpu()
        first = torch.ones_like(each.documents, dtype=torch.bool)
        first[:, 1:] = each.documents[:, 1:] != each.documents[:, :-1]
        found[each.targets[first & (each.documents >= 0)]] = vectors
    return found
