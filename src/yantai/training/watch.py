"""Numbers that go wrong: named before they reach a weight.

Knows: losses, gradients, weights. A value that is not finite stops the run before the optimiser's
step, so every checkpoint is finite by construction. A loss that jumps follows the run's policy;
the decision is a function of the losses so far, and so the same on a replay.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, pstdev

import torch
from torch import Tensor, nn

from yantai.base.errors import NumericsError
from yantai.data.batch import Batch

WINDOW = 64
YOUNG = 16
PATIENCE = 8


def first_bad(named: Iterable[tuple[str, Tensor]]) -> tuple[str, list[int], float] | None:
    """The first tensor that is not finite: its name, the index and the value."""
    for name, tensor in named:
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            index = (~finite).nonzero()[0].tolist()
            return name, index, float(tensor[tuple(index)])
    return None


def stop_on_nonfinite(
    step: int, loss: float, norm: float, model: nn.Module, batches: list[Batch], rank: int = 0
) -> None:
    """Do nothing if loss and gradient norm are finite, else say where it began.

    Raises:
        NumericsError: E601 with step, rank, tensor, first bad index and the rows of the batch.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    weights = ((f"weight {name}", item.detach()) for name, item in model.named_parameters())
    gradients = (
        (f"gradient {name}", item.grad)
        for name, item in model.named_parameters()
        if item.grad is not None
    )
    bad = first_bad(weights) or (None if math.isfinite(loss) else ("loss", [], loss))
    bad = bad or first_bad(gradients) or ("gradient norm", [], norm)
    name, index, value = bad
    place = f"[{', '.join(map(str, index))}]" if index else ""
    rows = "; ".join(row for batch in batches for row in batch.names[:2])
    raise NumericsError(
        "E601",
        f"step {step}, rank {rank}, {name}{place}",
        "not finite, nothing was updated",
        got=f"{value} (loss {loss}, gradient norm {norm}; rows: {rows})",
        do="resume with a lower --rate, or look at the rows",
    )


@dataclass
class SpikeWatch:
    """Says when a loss stands far above its recent past.

    Attributes:
        sigmas: how many standard deviations above the mean is a jump.
        recent: the last losses that were no jump.
        jumps: steps whose loss jumped.
        passed: steps whose update is left out: the jumps, and what a rewind left out before them.
    """

    sigmas: float = 6.0
    recent: list[float] = field(default_factory=list)
    jumps: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)

    def leave_out(self, step: int, since: int | None = None) -> None:
        """Never learn from a step whose loss jumped, nor from those since an earlier one."""
        self.jumps = sorted({*self.jumps, step})
        first = step if since is None else since
        self.passed = sorted({*self.passed, *range(first, step + 1)})

    def is_spike(self, loss: float, step: int) -> bool:
        """Judge the loss of a step; a normal one is remembered.

        A jump is above mean + sigmas·max(deviation, 1 % of the mean), once 16 losses are known.
        After 8 jumps in a row the next loss is a new level, or a run could pass every step over.
        """
        if all(step - back in self.jumps for back in range(1, PATIENCE + 1)):
            self.recent = []
        if len(self.recent) >= YOUNG:
            mean = fmean(self.recent)
            if loss > mean + self.sigmas * max(pstdev(self.recent), 0.01 * abs(mean)):
                return True
        self.recent = [*self.recent, loss][-WINDOW:]
        return False

    def state(self) -> dict:
        """For the checkpoint."""
        return {"recent": self.recent, "jumps": self.jumps, "passed": self.passed}

    def load(self, state: dict) -> None:
        """From the checkpoint; what was found since then stays found."""
        self.recent = list(state["recent"])
        self.jumps = sorted({*self.jumps, *state.get("jumps", state["passed"])})
        self.passed = sorted({*self.passed, *state["passed"]})
