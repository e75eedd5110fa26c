"""How many spans were found whole: precision, recall, F1 by exact place and label.

Knows: sets of spans, said and true (as conlleval counts them).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Spans = Sequence[Any]


def counts(truth: Sequence[Spans], said: Sequence[Spans]) -> NDArray[np.int64]:
    """Shape "text 3": how many spans were right, true and said in each text."""
    rows = [
        (len(set(true) & set(called)), len(set(true)), len(set(called)))
        for true, called in zip(truth, said, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def entity_f1(table: NDArray[np.int64]) -> float:
    """2·right/(true + said) over all texts; 1 where there is nothing to find and nothing was said.

    >>> entity_f1(np.array([[1, 2, 1], [0, 0, 1]]))
    0.5
    """
    right, true, said = table.sum(0)
    return float(2 * right / (true + said)) if true + said else 1.0


def precision(table: NDArray[np.int64]) -> float:
    """Of the spans that were said, the share that is right."""
    right, _, said = table.sum(0)
    return float(right / said) if said else 1.0


def recall(table: NDArray[np.int64]) -> float:
    """Of the spans that are there, the share that was found."""
    right, true, _ = table.sum(0)
    return float(right / true) if true else 1.0
