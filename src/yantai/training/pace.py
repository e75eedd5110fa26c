"""How fast a run goes, and what is left of it.

Knows: seconds of steps and validations, a horizon. A machine may change its speed at any time:
what is left follows the latest steps, what is planned (`plan.py`) a longer mean.
"""

from collections.abc import Collection, Sequence

VALIDATIONS = 8
"""In a run, where the recipe does not say how often."""
LATE_SECONDS = 10.0
"""Of the latest steps together, by which the others are estimated."""


def mean_without_the_longest(seconds: Collection[float]) -> float:
    """What a step takes, where one of them may have waited for something else."""
    return (sum(seconds) - max(seconds)) / (len(seconds) - 1)


def mean_of_late(seconds: Sequence[float]) -> float:
    """What a step takes now: the mean of the latest that took ten seconds together, or of all.

    >>> mean_of_late([0.5, 0.5, 1.0, 4.0, 6.0])
    5.0
    """
    together, count = 0.0, 0
    for each in reversed(seconds):
        together, count = together + each, count + 1
        if together >= LATE_SECONDS:
            break
    return together / max(1, count)


def validations_by(step: int, horizon: int, every: int | None) -> int:
    """How many validations are due by a step.

    Args:
        step: steps done.
        horizon: of the run; there is always a validation at it.
        every: steps between them, or None for so many in a run.

    >>> [validations_by(step, 16, None) for step in (1, 2, 15, 16)]
    [0, 1, 7, 8]
    >>> [validations_by(step, 16, 5) for step in (4, 5, 15, 16)]
    [0, 1, 3, 4]
    """
    if every:
        return step // every + (step == horizon and step % every > 0)
    return VALIDATIONS * step // horizon


def seconds_left(
    step: int, horizon: int, steps: Sequence[float], validating: float, every: int | None
) -> float:
    """Seconds until the end of a run.

    Args:
        step, horizon, every: as of `validations_by`.
        steps: seconds of the latest steps.
        validating: seconds of a validation.
    """
    due = validations_by(horizon, horizon, every) - validations_by(step, horizon, every)
    return (horizon - step) * mean_of_late(steps) + due * validating
