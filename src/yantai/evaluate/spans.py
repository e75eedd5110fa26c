"""How well spans are found, with intervals, beside what anybody has to beat.

Knows: true spans of texts and what was said of the same texts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.evaluate.compare import bootstrap, bootstrap_difference
from yantai.metrics import spans as metrics

METRICS: dict[str, Callable[[NDArray[np.int64]], float]] = {
    "entity_f1": metrics.entity_f1,
    "precision": metrics.precision,
    "recall": metrics.recall,
}
Spans = Sequence[Sequence[tuple[int, int, str]]]


def span_scores(truth: Spans, said: Spans) -> dict[str, float]:
    """Values alone, for a validation while training."""
    table = metrics.counts(truth, said)
    return {name: metric(table) for name, metric in METRICS.items()}


def spans_report(
    truth: Spans, said: Spans, kinds: Sequence[str], floors: dict[str, Spans], seed: int = 0
) -> dict[str, Any]:
    """What is told of a test.

    Args:
        truth: the spans of each text.
        said: what the model said of it.
        kinds: labels of spans.
        floors: what others said, by their name.
        seed: of the bootstrap.
    """
    tables = {name: metrics.counts(truth, theirs) for name, theirs in floors.items()}
    mine = metrics.counts(truth, said)
    return {
        "n": len(truth),
        "metrics": _estimates(mine, seed),
        "floors": {name: _estimates(table, seed) for name, table in tables.items()},
        "against": {
            name: bootstrap_difference(
                lambda rows, table=table: (
                    metrics.entity_f1(mine[rows]) - metrics.entity_f1(table[rows])
                ),
                len(truth),
                ("the model is better", f"{name} is better"),
                seed,
            )
            for name, table in tables.items()
        },
        "kinds": {kind: _of_kind(truth, said, kind) for kind in kinds},
    }


def _estimates(table: NDArray[np.int64], seed: int) -> dict[str, Any]:
    return {
        name: bootstrap(
            lambda rows, metric=metric: metric(table[rows]), len(table), seed, chance=0.0
        ).as_dict()
        for name, metric in METRICS.items()
    }


def _of_kind(truth: Spans, said: Spans, kind: str) -> dict[str, float]:
    def only(texts: Spans) -> Spans:
        return [[span for span in spans if span[2] == kind] for spans in texts]

    table = metrics.counts(only(truth), only(said))
    return {"entity_f1": metrics.entity_f1(table), "spans": int(table[:, 1].sum())}
