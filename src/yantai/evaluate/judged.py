"""How well labels are given, with intervals, beside what anybody has to beat.

Knows: true labels and what a model said of them. Every value has a 95 % bootstrap interval and
what chance alone would give; the floors are scored on the same rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.evaluate.compare import Estimate, bootstrap, bootstrap_difference
from yantai.metrics import classify as metrics

LUCK = 100
Metric = Callable[[NDArray, NDArray], float]
OF_ONE: dict[str, Metric] = {
    "accuracy": metrics.accuracy,
    "macro_f1": metrics.macro_f1,
    "micro_f1": metrics.accuracy,  # where each row has one label they are the same
}
OF_SEVERAL: dict[str, Metric] = {
    "micro_f1": metrics.micro_f1_of_several,
    "macro_f1": metrics.macro_f1_of_several,
    "exact_match": metrics.exact_match,
}


def metrics_for(truth: NDArray) -> dict[str, Metric]:
    """The metrics that fit; the first one is the one that decides."""
    return OF_ONE if truth.ndim == 1 else OF_SEVERAL


def scores(truth: NDArray, said: NDArray) -> dict[str, float]:
    """Values alone, for a validation while training."""
    return {name: metric(truth, said) for name, metric in metrics_for(truth).items()}


def said_by(logits: NDArray[np.float32], several: bool) -> NDArray:
    """The likeliest label of each text, or those that are likelier than not."""
    return logits > 0 if several else logits.argmax(1)


def judged_report(
    truth: NDArray,
    logits: NDArray[np.float32],
    names: Sequence[str],
    floors: dict[str, NDArray],
    seed: int = 0,
) -> dict[str, Any]:
    """What is told of a test.

    Args:
        truth: numbers of labels, or "text label" booleans where several may hold.
        logits: "text label", of the model.
        names: of the labels.
        floors: what others said of the same texts, by their name.
        seed: of the bootstrap.
    """
    several = truth.ndim == 2
    said = said_by(logits, several)
    chance = {name: metric(truth, _guess(truth)) for name, metric in metrics_for(truth).items()}
    report: dict[str, Any] = {
        "n": len(truth),
        "metrics": {
            name: _estimate(metric, truth, said, seed, chance[name]).as_dict()
            for name, metric in metrics_for(truth).items()
        },
        "floors": {
            floor: {
                name: _estimate(metric, truth, theirs, seed, chance[name]).as_dict()
                for name, metric in metrics_for(truth).items()
            }
            for floor, theirs in floors.items()
        },
        "against": {
            floor: _against(truth, said, theirs, floor, seed) for floor, theirs in floors.items()
        },
    }
    report["labels"] = list(names)
    if several:
        sure = 1 / (1 + np.exp(-np.abs(logits.astype(float))))
        f1 = metrics.f1_of_each(truth, said)
        report["kinds"] = {
            name: {"f1": float(f1[at]), "rows": int(truth[:, at].sum())}
            for at, name in enumerate(names)
        }
    else:
        sure = softmax(logits).max(1)
        report["confusion"] = metrics.confusion(truth, said, len(names)).tolist()
    return report | _calibration(sure, said == truth, seed)


def _calibration(sure: NDArray, right: NDArray, seed: int) -> dict[str, Any]:
    """How far confidence is from accuracy; with several labels, each judgement counts.

    Chance is how far it would be, with so many rows, from a model that is right just as often as it
    is sure to be.
    """
    draws = np.random.Generator(np.random.Philox(seed)).random((LUCK, *sure.shape))
    luck = [metrics.calibration_error(sure.ravel(), (draw < sure).ravel()) for draw in draws]
    error = bootstrap(
        lambda rows: metrics.calibration_error(sure[rows].ravel(), right[rows].ravel()),
        len(sure), seed, float(np.mean(luck)),
    )  # fmt: skip
    return {
        "calibration_error": error.value,
        "calibration": error.as_dict() | {"bins": metrics.reliability(sure.ravel(), right.ravel())},
    }


def _guess(truth: NDArray) -> NDArray:
    """Somebody who knows how often each label occurs, and nothing else."""
    if truth.ndim == 1:
        return np.full(len(truth), np.bincount(truth).argmax())
    return np.broadcast_to(truth.mean(0) > 0.5, truth.shape)


def _estimate(metric: Metric, truth: NDArray, said: NDArray, seed: int, chance: float) -> Estimate:
    return bootstrap(lambda rows: metric(truth[rows], said[rows]), len(truth), seed, chance)


def _against(
    truth: NDArray, said: NDArray, theirs: NDArray, floor: str, seed: int
) -> dict[str, Any]:
    metric = next(iter(metrics_for(truth).values()))
    return bootstrap_difference(
        lambda rows: metric(truth[rows], said[rows]) - metric(truth[rows], theirs[rows]),
        len(truth),
        ("the model is better", f"{floor} is better"),
        seed,
        hits=(said == truth, theirs == truth) if truth.ndim == 1 else None,
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of each row."""
    shifted = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
