"""How well questions are answered, with intervals, beside what anybody has to beat.

Knows: the right answers to each question, and what was said.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.evaluate.compare import bootstrap, bootstrap_difference, elsewhere
from yantai.metrics.answers import answer_f1, exact_match

Truth = Sequence[Sequence[str]]


def answer_scores(truth: Truth, said: Sequence[str], *, chinese: bool) -> dict[str, float]:
    """Values alone, for a validation while training."""
    return {name: float(each.mean()) for name, each in _each(truth, said, chinese).items()}


def answers_report(
    truth: Truth,
    said: Sequence[str],
    floors: Mapping[str, Sequence[str]],
    seed: int = 0,
    *,
    chinese: bool,
) -> dict[str, Any]:
    """What is told of a test; chance is what the right answers to other questions have.

    Args:
        truth: the right answers to each question; none where it has none.
        said: the model's; "" for none.
        floors: what others said, by their name.
        seed: of the bootstrap.
        chinese: whether CMRC's rule holds, not SQuAD's.
    """
    mine = _each(truth, said, chinese)
    theirs = {name: _each(truth, others, chinese) for name, others in floors.items()}
    count = len(truth)
    moved = elsewhere([answers[0] if answers else "" for answers in truth], seed)
    chance = {} if moved is None else answer_scores(truth, moved, chinese=chinese)

    def estimates(values: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
        return {
            name: bootstrap(
                lambda rows, each=each: float(each[rows].mean()), count, seed, chance.get(name)
            ).as_dict()
            for name, each in values.items()
        }

    return {
        "n": count,
        "rule": "cmrc" if chinese else "squad",
        "metrics": estimates(mine),
        "floors": {name: estimates(values) for name, values in theirs.items()},
        "against": {
            name: bootstrap_difference(
                lambda rows, values=values: float((mine["f1"] - values["f1"])[rows].mean()),
                count,
                ("the model is better", f"{name} is better"),
                seed,
            )
            for name, values in theirs.items()
        },
    }


def _each(truth: Truth, said: Sequence[str], chinese: bool) -> dict[str, NDArray[np.float64]]:
    pairs = list(zip(said, truth, strict=True))
    return {
        "f1": np.array([answer_f1(*pair, chinese=chinese) for pair in pairs]),
        "exact_match": np.array([exact_match(*pair, chinese=chinese) for pair in pairs]),
    }
