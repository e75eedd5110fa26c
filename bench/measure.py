"""How things are timed here: in turn, A B A B, each in a process of its own, with their spread.

A figure alone says little on a shared machine; the ratio of two taken side by side says more. A
contender has its process to itself because settings of a process (threads, how memory is kept)
belong to what is compared; while one runs, the others wait for a message and take no core.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable


class Contender:
    """A step in a process of its own; calling it gives units a second over some repeats.

    Args:
        make: builds the step, in the new process; must be importable from there.
        arguments: for `make`.
        units: what one step counts for.
        repeats: steps a call.
    """

    def __init__(self, make: Callable, arguments: tuple, units: int, repeats: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, arguments, units, repeats), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def __call__(self) -> float:
        self._pipe.send(True)
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send(False)
        self._process.join()


def _serve(pipe, make, arguments, units, repeats):
    import torch

    torch.set_num_threads(2)
    step = make(*arguments)
    step()
    step()
    pipe.send(None)
    while pipe.recv():
        pipe.send(rate(step, units, repeats))


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every contender once a round, `rounds` times; each returns its own figure."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


def contest(
    makers: dict[str, tuple[Callable, tuple]], units: int, rounds: int, repeats: int = 3
) -> dict[str, list[float]]:
    """Figures of contenders that take turns, each in a process of its own."""
    runs = {
        name: Contender(make, arguments, units, repeats)
        for name, (make, arguments) in makers.items()
    }
    figures = in_turn(dict(runs), rounds)
    for contender in runs.values():
        contender.close()
    return figures


def rate(step: Callable[[], object], count: int, repeats: int) -> float:
    """`count` units a call, over `repeats` calls: units a second.

    A step that gives a number of seconds is measured by these, not by the time that it took.
    """
    began = time.perf_counter()
    told = [step() for _ in range(repeats)]
    seconds = [each for each in told if isinstance(each, float)]
    return count * repeats / (sum(seconds) or time.perf_counter() - began)


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
