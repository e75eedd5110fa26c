"""How often labels are right: accuracy, F1, a confusion matrix, calibration.

Knows: numbers of labels, said and true. Macro F1 is the mean over the labels that occur in truth;
the same definitions as scikit-learn's, in a form that a bootstrap can call thousands of times.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Holds = NDArray[np.bool_]
BINS = 15


def confusion(truth: Numbers, said: Numbers, labels: int) -> Numbers:
    """How often each label (row) was called each label (column).

    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    cells = np.bincount(truth * labels + said, minlength=labels * labels)
    return cells.reshape(labels, labels)


def accuracy(truth: Numbers, said: Numbers) -> float:
    """The share of texts whose label is right."""
    return float((truth == said).mean())


def macro_f1(truth: Numbers, said: Numbers) -> float:
    """The mean of the labels' F1, each counting the same however rare it is."""
    labels = int(max(truth.max(), said.max())) + 1
    matrix = confusion(truth, said, labels)
    there = matrix.sum(1) > 0
    return float(_f1(matrix.diagonal(), matrix.sum(1), matrix.sum(0))[there].mean())


def _f1(right: NDArray, true: NDArray, said: NDArray) -> NDArray[np.float64]:
    """2·right/(true + said); 0 where neither occurs."""
    whole = true + said
    return np.divide(2.0 * right, whole, out=np.zeros(len(whole)), where=whole > 0)


def exact_match(truth: Holds, said: Holds) -> float:
    """Of texts with several labels: the share that has all of them, and no other."""
    return float((truth == said).all(1).mean())


def macro_f1_of_several(truth: Holds, said: Holds) -> float:
    """The mean F1 of the labels that hold somewhere."""
    there = truth.any(0)
    if not there.any():
        return 0.0
    return float(_f1((truth & said).sum(0), truth.sum(0), said.sum(0))[there].mean())


def micro_f1_of_several(truth: Holds, said: Holds) -> float:
    """F1 over all pairs of text and label at once."""
    right, true, called = (truth & said).sum(), truth.sum(), said.sum()
    return float(_f1(np.array([right]), np.array([true]), np.array([called]))[0])


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> list[dict[str, float]]:
    """How sure, how often right, and how many there are in each of the 15 bins that has any."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {"confidence": float(confidence[own].mean()), "accuracy": float(right[own].mean()),
         "count": int(own.sum())}
        for number in range(BINS) if (own := bins == number).any()
    ]  # fmt: skip


def f1_of_each(truth: Holds, said: Holds) -> NDArray[np.float64]:
    """F1 of each label; 0 for one that neither holds nor is said."""
    return _f1((truth & said).sum(0), truth.sum(0), said.sum(0))


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy in 15 equal bins (arXiv 1706.04599, eq. 3)."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sizes = np.bincount(bins, minlength=BINS)
    sure = np.bincount(bins, confidence, minlength=BINS)
    hits = np.bincount(bins, right.astype(float), minlength=BINS)
    return float(np.abs(sure - hits).sum() / max(1, sizes.sum()))
