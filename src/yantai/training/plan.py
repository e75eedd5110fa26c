"""What a run will take, said before the first step: steps, memory, time, energy.

Knows: costs of a model, a measured peak of this machine, a budget. A horizon that depends on a
clock is decided at fixed moments and stored, so that a resumed run follows the same plan.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from yantai.core.cost import Cost, matrix_shapes
from yantai.data.batch import Batch

WATTS_ENV = "YANTAI_WATTS"
REPLAN_SHARES = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)


@dataclass
class Horizon:
    """When the run ends, and the moments at which a clock was asked.

    Attributes:
        steps: the fixed number of steps, or None for a budget of minutes.
        seconds: the budget of wall time, or None.
        decisions: [step, horizon] pairs; the last one at or before a step holds.
    """

    steps: int | None = None
    seconds: float | None = None
    decisions: list[list[int]] = field(default_factory=list)

    def at(self, step: int) -> int:
        """The horizon that holds at a step."""
        if self.steps is not None:
            return self.steps
        known = [horizon for decided, horizon in self.decisions if decided <= step]
        return known[-1] if known else 1_000_000_000

    def decide(self, step: int, elapsed: float, seconds_per_step: float, reserve: float) -> None:
        """Ask the clock, where the budget is time and the next moment to ask has come.

        The moments are after 8 steps and at the shares of the budget in `REPLAN_SHARES`, counted in
        time or in planned steps, whichever is further: a machine that gets faster would else come
        to the end of its plan before it is asked again. The last ones are so late that a machine of
        changing speed still ends within a hundredth. Once the time is over, no plan is made longer.

        Args:
            step: steps done.
            elapsed: seconds since the run began, earlier sessions included.
            seconds_per_step: recent mean, a step's share of the validations included.
            reserve: seconds to leave for the last validation and the last save.
        """
        if self.seconds is None or step < 8 or len(self.decisions) >= len(REPLAN_SHARES):
            return
        done = max(elapsed / self.seconds, step / self.at(step))
        if done < REPLAN_SHARES[len(self.decisions)]:
            return
        steps = int(max(0.0, self.seconds - elapsed - reserve) / seconds_per_step)
        if steps == 0 and self.at(step) <= step + 1:
            return
        self.decisions.append([step, step + max(1, steps)])

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What a step does.

    Attributes:
        tokens: that it reads.
        flops: of its forward and backward.
    """

    tokens: int
    flops: float


def work_of(batches: Sequence[Batch], cost: Cost, passes: int = 1) -> Work:
    """The work of a step that learns these batches so often; all steps of a run are much alike."""
    read = sum(batch.ids.numel() for batch in batches)
    tokens = sum(batch.token_count for batch in batches)
    targets = sum(batch.target_count for batch in batches)
    return Work(tokens, passes * cost.step_flops(read, targets, source=tokens - read))


@dataclass(frozen=True)
class Peak:
    """The machine's own limit for a model's matrix products.

    Attributes:
        flops: FLOP/s of the products of one forward and backward pass, at their shapes.
    """

    flops: float


def measure_peak(
    model: nn.Module, tokens: int, dtype: torch.dtype, device: torch.device, seconds: float = 1.0
) -> Peak:
    """Time each distinct product x·Wᵀ, g·W and gᵀ·x of the model alone, best of several.

    A GPU is given many at a time: one alone would be over before the next was asked for.
    """
    shapes = matrix_shapes(model)
    rows = min(tokens, 8192)
    per_shape = seconds / max(1, len(set(shapes)))
    best = {shape: _best_time(shape, rows, dtype, device, per_shape) for shape in set(shapes)}
    flops = sum(6 * rows * inputs * outputs for inputs, outputs in shapes)
    return Peak(flops / sum(best[shape] for shape in shapes))


def _best_time(
    shape: tuple[int, int], rows: int, dtype: torch.dtype, device: torch.device, budget: float
) -> float:
    inputs, outputs = shape
    x = torch.randn(rows, inputs, device=device).to(dtype)
    g = torch.randn(rows, outputs, device=device).to(dtype)
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    together = 10 if device.type == "cuda" else 1
    best, spent, count = float("inf"), 0.0, 0
    while count < 3 or (spent < budget and count < 50):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(together):
            torch.mm(x, weight.t())
            torch.mm(g, weight)
            torch.mm(g.t(), x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken = time.perf_counter() - began
        best, spent, count = min(best, taken / together), spent + taken, count + 1
    return best


def energy_estimate(seconds: float, device: torch.device, cores: int) -> dict[str, Any]:
    """Watt-hours, as an estimate that says what it rests on.

    Assumes a power for the whole time: `YANTAI_WATTS` if set, else 15 W a CPU core or 700 W a GPU.
    """
    if os.environ.get(WATTS_ENV):
        watts, basis = float(os.environ[WATTS_ENV]), f"the {WATTS_ENV} you set"
    elif device.type == "cuda":
        watts, basis = 700.0, "700 W assumed for a data-centre GPU"
    else:
        watts, basis = 15.0 * cores, f"15 W assumed for each of {cores} cores"
    return {"watt_hours": round(watts * seconds / 3600, 3), "watts": watts, "basis": basis}
