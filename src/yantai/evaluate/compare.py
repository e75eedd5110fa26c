"""Intervals and paired tests: how much a number can be believed.

Knows: lists of numbers. Knows no models. All resampling is seeded.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, isfinite, sqrt
from typing import Any, TypeVar

import numpy as np

RESAMPLES = 2000
FEW_DIFFER = 25
T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and what chance alone would give."""

    value: float
    low: float
    high: float
    chance: float | None = None

    def raised(self) -> "Estimate":
        """e to the power of each number: a perplexity out of a loss."""
        value, low, high = (exp(min(each, 700.0)) for each in (self.value, self.low, self.high))
        return Estimate(value, low, high, None if self.chance is None else exp(self.chance))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: an end that is unknown is None."""
        low, high = (end if isfinite(end) else None for end in (self.low, self.high))
        return {"value": self.value, "low": low, "high": high, "chance": self.chance}


def elsewhere(values: Sequence[T], seed: int = 0) -> list[T] | None:
    """What is right of other rows: each value moved to another row, none to its own.

    Who writes something right of something else has only chance on his side; None of one row alone.

    >>> sorted(elsewhere("abc")), elsewhere("a")
    (['a', 'b', 'c'], None)
    """
    if len(values) < 2:
        return None
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(values))
    moved = list(values)
    for at, other in zip(order, np.roll(order, 1), strict=True):
        moved[at] = values[other]
    return moved


def interval_text(estimate: dict[str, Any], form: str = ".4f") -> str:
    """The interval for a person.

    >>> interval_text({"low": 0.1, "high": 0.3}), interval_text({"low": None, "high": None})
    ('95 %: 0.1000 to 0.3000', 'no interval: one piece alone shows no spread')
    """
    if estimate["low"] is None:
        return "no interval: one piece alone shows no spread"
    return f"95 %: {estimate['low']:{form}} to {estimate['high']:{form}}"


def proportion(successes: int, trials: int, chance: float | None = None) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927), which is right near 0 and 1 too.

    >>> estimate = proportion(9, 10)
    >>> round(estimate.low, 3), round(estimate.high, 3)
    (0.596, 0.982)
    """
    if trials == 0:
        return Estimate(0.0, 0.0, 1.0, chance)
    z, share = 1.959964, successes / trials
    middle = share + z * z / (2 * trials)
    spread = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = max(0.0, (middle - spread) / scale) if successes else 0.0
    high = min(1.0, (middle + spread) / scale) if successes < trials else 1.0  # to the last digit
    return Estimate(share, low, high, chance)


def ratio(
    tops: Sequence[float], bottoms: Sequence[float], seed: int = 0, chance: float | None = None
) -> Estimate:
    """Σtops/Σbottoms with a bootstrap interval over the pairs (Efron 1979, percentiles)."""
    top, bottom = np.asarray(tops, float), np.asarray(bottoms, float)
    value = float(top.sum() / bottom.sum())
    if len(top) < 2:
        return Estimate(value, float("nan"), float("nan"), chance)
    sums = _resampled_ratio(top, bottom, seed)
    low, high = np.quantile(sums, (0.025, 0.975))
    return Estimate(value, float(low), float(high), chance)


def _resampled_ratio(top: np.ndarray, bottom: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(seed))
    rows = generator.integers(len(top), size=(RESAMPLES, len(top)))
    return top[rows].sum(1) / bottom[rows].sum(1)


def bootstrap(
    metric: Callable[[np.ndarray], float],
    count: int,
    seed: int = 0,
    chance: float | None = None,
    most: float = 1.0,
) -> Estimate:
    """Any metric of rows, with the percentiles of it over rows drawn again.

    Where all rows are wrong, or all are right, drawing them again shows no spread, and further rows
    could still be others: the interval is then Wilson's.

    Args:
        metric: numbers of rows, any of them more than once → value.
        count: of the rows.
        seed: of the drawing; the same rows are drawn for every metric of the same count.
        chance: what is reached without looking.
        most: what the metric is at its best; 0 is its worst.
    """
    value = metric(np.arange(count))
    if count < 2:
        return Estimate(value, float("nan"), float("nan"), chance)
    values = [metric(rows) for rows in _drawn(count, seed)]
    low, high = np.quantile(values, (0.025, 0.975))
    if low == high and value in (0.0, most) and isfinite(most):
        edge = proportion(count if value else 0, count)
        low, high = edge.low * most, edge.high * most
    return Estimate(value, float(low), float(high), chance)


def bootstrap_difference(
    difference: Callable[[np.ndarray], float],
    count: int,
    verdicts: tuple[str, str],
    seed: int = 0,
    hits: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Whether two differ on the same rows: the paired bootstrap of a difference.

    It is too sure where only a handful of rows differ, so there the exact test of McNemar (1947)
    must agree.

    Args:
        difference: numbers of rows → first minus second.
        count: of the rows.
        verdicts: what a difference above 0 means, and one below.
        seed: of the drawing.
        hits: which rows each has right, where rows are right or wrong.
    """
    estimate = bootstrap(difference, count, seed, most=float("inf"))
    verdict = verdicts[0] if estimate.value > 0 else verdicts[1]
    if not (estimate.low > 0 or estimate.high < 0) or (hits and not _differ(*hits)):
        verdict = "no difference shown"
    return {**estimate.as_dict(), "verdict": verdict}


def _differ(hits: np.ndarray, others: np.ndarray) -> bool:
    """Whether one alone has more rows right than chance would give it, if few are in question."""
    from scipy.stats import binomtest

    one, other = int((hits & ~others).sum()), int((others & ~hits).sum())
    return one + other >= FEW_DIFFER or (
        one + other > 0 and binomtest(one, one + other).pvalue < 0.05
    )


def paired_t(differences: Sequence[float], verdicts: tuple[str, str]) -> dict[str, Any]:
    """Whether a few paired runs differ: the mean of their differences by Student's t (1908).

    With three runs a bootstrap draws from three numbers and is far too sure; t knows how few there
    are. It takes the differences as normally distributed.

    >>> paired_t([0.1, 0.2, 0.3], ("up", "down"))["verdict"]
    'no difference shown'
    >>> paired_t([0.1, 0.11, 0.12], ("up", "down"))["verdict"]
    'up'
    """
    from scipy.stats import t

    values = np.asarray(differences, float)
    mean = float(values.mean())
    reach = float("nan")
    if len(values) > 1:
        spread = float(values.std(ddof=1)) / sqrt(len(values))
        reach = float(t.ppf(0.975, len(values) - 1)) * spread
    verdict = verdicts[0] if mean > 0 else verdicts[1]
    if not (mean - reach > 0 or mean + reach < 0):
        verdict = "no difference shown"
    return {**Estimate(mean, mean - reach, mean + reach).as_dict(), "verdict": verdict}


def _drawn(count: int, seed: int) -> Iterator[np.ndarray]:
    generator = np.random.Generator(np.random.Philox(seed))
    for _ in range(RESAMPLES):
        yield generator.integers(count, size=count)


def paired_ratio_difference(
    tops: Sequence[float],
    other_tops: Sequence[float],
    bottoms: Sequence[float],
    seed: int = 0,
    *,
    names: tuple[str, str] = ("the first", "the second"),
) -> dict[str, Any]:
    """Whether two models differ on the same pieces of text: the paired bootstrap of the difference.

    Args:
        tops: what the first loses on each piece.
        other_tops: what the second loses.
        bottoms: size of each piece.
        seed: of the drawing.
        names: what the verdict calls them.

    Returns:
        The difference (first minus second) with its interval, and the verdict in words: "no
        difference shown" where the interval holds 0.
    """
    difference = np.asarray(tops, float) - np.asarray(other_tops, float)
    estimate = ratio(difference, bottoms, seed)
    if not np.isfinite(estimate.low):
        verdict = "no difference shown (one piece of text alone cannot show one)"
    elif estimate.low <= 0 <= estimate.high:
        verdict = "no difference shown"
    else:
        verdict = f"{names[0] if estimate.value < 0 else names[1]} is lower"
    return {**estimate.as_dict(), "verdict": verdict}
