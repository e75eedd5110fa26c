"""How good written texts are, with intervals, beside what anybody has to beat.

Knows: what should have been written, and what was.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from yantai.evaluate.compare import bootstrap, bootstrap_difference
from yantai.metrics.text import ROUGES, bleu, bleu_signature, chrf, rouges

CORPUS_RESAMPLES = 300
Texts = Sequence[str]


def translations_report(
    truth: Texts, said: Texts, floors: dict[str, Texts], seed: int = 0
) -> dict[str, Any]:
    """BLEU and chrF of a corpus."""
    measured = {"bleu": bleu, "chrf": chrf}

    def at(metric: Callable[[Texts, Texts], float], texts: Texts) -> Callable[[Any], float]:
        return lambda rows: metric([texts[row] for row in rows], [truth[row] for row in rows])

    def estimates(texts: Texts) -> dict[str, Any]:
        return {
            name: bootstrap(at(metric, texts), len(truth), seed, draws=CORPUS_RESAMPLES).as_dict()
            for name, metric in measured.items()
        }

    return {
        "n": len(truth),
        "signature": bleu_signature(truth),
        "metrics": estimates(said),
        "floors": {name: estimates(texts) for name, texts in floors.items()},
        "against": {
            name: bootstrap_difference(
                lambda rows, texts=texts: at(bleu, said)(rows) - at(bleu, texts)(rows),
                len(truth), ("the model is better", f"{name} is better"), seed,
                draws=CORPUS_RESAMPLES,
            )
            for name, texts in floors.items()
        },
    }  # fmt: skip


def summaries_report(
    truth: Texts, said: Texts, floors: dict[str, Texts], seed: int = 0
) -> dict[str, Any]:
    """ROUGE, the mean over texts."""
    mine = rouges(said, truth)
    theirs = {name: rouges(texts, truth) for name, texts in floors.items()}

    def estimates(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: bootstrap(
                lambda rows, each=each: float(np.mean(each[rows])), len(truth), seed
            ).as_dict()
            for name, each in values.items()
        }

    last = ROUGES[-1]
    return {
        "n": len(truth),
        "metrics": estimates(mine),
        "floors": {name: estimates(values) for name, values in theirs.items()},
        "against": {
            name: bootstrap_difference(
                lambda rows, values=values: float(np.mean((mine[last] - values[last])[rows])),
                len(truth), ("the model is better", f"{name} is better"), seed,
            )
            for name, values in theirs.items()
        },
    }  # fmt: skip
