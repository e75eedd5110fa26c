"""How the rate moves over a run: a factor between 0 and 1 as a function of the step alone.

Knows: steps. The horizon is given; whoever decides it by a clock decides it once and stores it.
"""

import math
from typing import Literal

ScheduleName = Literal["wsd", "cosine", "linear", "constant"]


def factor(name: ScheduleName, step: int, horizon: int, *, warmup: int, cooldown: float) -> float:
    """The share of the peak rate at a step (the first is 0).

    - `wsd`: warm up, stay, then fall linearly to 0 over the last `cooldown` share
      (arXiv 2405.18392).
    - `cosine`: warm up, then half a cosine to a tenth (arXiv 2203.15556).
    - `linear`: warm up, then a straight line to 0 (arXiv 2502.15938).
    - `constant`: warm up, then stay.

    >>> [round(factor("wsd", step, 10, warmup=2, cooldown=0.5), 2) for step in (0, 1, 5, 9)]
    [0.5, 1.0, 1.0, 0.2]
    """
    if step < warmup:
        return (step + 1) / warmup
    left = max(horizon - step, 0)
    if name == "constant":
        return 1.0
    if name == "wsd":
        return min(1.0, left / max(1.0, cooldown * horizon))
    done = (step - warmup) / max(1, horizon - warmup)
    if name == "linear":
        return max(0.0, 1.0 - done)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))
