"""How things are timed here: in turn, A B A B, in one process, and told with their spread.

A figure alone says little on a shared machine; the ratio of two taken side by side says more.
"""

import statistics
import time
from collections.abc import Callable


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every contender once a round, `rounds` times; each returns its own figure."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


def rate(step: Callable[[], object], count: int, repeats: int) -> float:
    """`count` units a call, over `repeats` calls: units a second."""
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return count * repeats / (time.perf_counter() - began)


def ratio_line(name: str, ours: list[float], theirs: list[float], wanted: float | None) -> str:
    """The ratio of each round: its median and its range, beside what is wanted."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median(ratios)
    goal = "" if wanted is None else f"  (wanted {wanted:g}: {'yes' if middle >= wanted else 'NO'})"
    return f"{name:44} {middle:6.2f}   [{min(ratios):.2f} … {max(ratios):.2f}]{goal}"


def figures_line(name: str, values: list[float], unit: str) -> str:
    """A contender's own figures."""
    middle = statistics.median(values)
    return f"{name:44} {middle:10,.0f} {unit}   [{min(values):,.0f} … {max(values):,.0f}]"
