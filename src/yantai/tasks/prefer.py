"""Learn from pairs of answers which of two is preferred (DPO, arXiv 2305.18290, eq. 7).

Knows: log-probabilities of answers under two models. An example is two texts, the preferred one
first; the tokens of the answers have targets, the prompts have none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from yantai.core.face import Model
from yantai.core.head import widened
from yantai.data.batch import IGNORED, Batch
from yantai.tasks.task import EveryTarget, read

TOGETHER = 256


@dataclass(frozen=True)
class Prefer(EveryTarget):
    """−Σ ln σ(β·((ln π/π₀)(preferred) − (ln π/π₀)(other))).

    Attributes:
        reference: π₀, the model before; it does not learn.
        beta: how strongly it holds the model back.
    """

    reference: Model
    beta: float = 0.1
    name: str = "prefer"

    def loss_sum(self, model: Model, batch: Batch) -> Tensor:
        """The sum over pairs."""
        return -logsigmoid(self.margins(model, batch)).sum()

    def count(self, batch: Batch) -> int:
        """The pairs."""
        return sum(int(row.max()) + 1 for row in batch.documents) // 2

    def margins(self, model: Model, batch: Batch) -> Tensor:
        """What stands in σ: above 0 the model prefers what it should, more than the one before."""
        self.reference.compute_dtype = model.compute_dtype  # or rounding would be a preference
        own = answer_logs(model, batch)
        with torch.no_grad():
            before = answer_logs(self.reference, batch)
        gained = (own - before).view(-1, 2)
        return self.beta * (gained[:, 0] - gained[:, 1])


def answer_logs(model: Model, batch: Batch) -> Tensor:
    """Float[document]: Σ ln p of the targets of each document, row by row."""
    known = batch.targets != IGNORED
    hidden, targets = read(model, batch)[known], batch.targets[known]

    def logs_of(part: Tensor, aims: Tensor) -> Tensor:
        logs = torch.log_softmax(widened(model.logits_of(part)), -1)
        return logs.gather(1, aims[:, None])[:, 0]

    # the logits of all tokens at once would be the largest tensor of the step: made again instead
    own = torch.cat(
        [
            checkpoint(logs_of, part, aims, use_reentrant=False)
            for part, aims in zip(hidden.split(TOGETHER), targets.split(TOGETHER), strict=True)
        ]
    )
    sizes = batch.documents.max(1).values + 1
    starts = torch.cumsum(sizes, 0) - sizes
    document = (starts[:, None] + batch.documents)[known]
    return own.new_zeros(int(sizes.sum())).index_add(0, document, own)
