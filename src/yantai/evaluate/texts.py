"""How good written texts are, with intervals, beside what anybody has to beat.

Knows: what should have been written, and what was.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from yantai.evaluate.compare import bootstrap, bootstrap_difference, elsewhere
from yantai.metrics.text import ROUGES, Corpus, bleu, bleu_signature, chrf, rouges

Texts = Sequence[str]


def translations_report(
    truth: Texts, said: Texts, floors: dict[str, Texts], seed: int = 0
) -> dict[str, Any]:
    """BLEU and chrF of a corpus; chance is what the right texts of other rows have."""

    def measured(texts: Texts) -> dict[str, Corpus]:
        return {"bleu": bleu(texts, truth), "chrf": chrf(texts, truth)}

    everything, moved = np.arange(len(truth)), elsewhere(truth, seed)
    chance = {} if moved is None else {name: of(everything) for name, of in measured(moved).items()}

    def estimates(corpora: dict[str, Corpus]) -> dict[str, Any]:
        return {
            name: bootstrap(corpus, len(truth), seed, chance.get(name), most=100.0).as_dict()
            for name, corpus in corpora.items()
        }

    mine = measured(said)
    theirs = {name: measured(texts) for name, texts in floors.items()}
    return {
        "n": len(truth),
        "signature": bleu_signature(truth),
        "metrics": estimates(mine),
        "floors": {name: estimates(corpora) for name, corpora in theirs.items()},
        "against": {
            name: bootstrap_difference(
                lambda rows, corpora=corpora: mine["bleu"](rows) - corpora["bleu"](rows),
                len(truth), ("the model is better", f"{name} is better"), seed,
            )
            for name, corpora in theirs.items()
        },
    }  # fmt: skip


def summaries_report(
    truth: Texts, said: Texts, floors: dict[str, Texts], seed: int = 0
) -> dict[str, Any]:
    """ROUGE, the mean over texts; chance is what the right summaries of other texts have."""
    mine, moved = rouges(said, truth), elsewhere(truth, seed)
    chance = (
        {}
        if moved is None
        else {name: float(each.mean()) for name, each in rouges(moved, truth).items()}
    )
    theirs = {name: rouges(texts, truth) for name, texts in floors.items()}

    def estimates(values: dict[str, Any]) -> dict[str, Any]:
        return {
            name: bootstrap(
                lambda rows, each=each: float(np.mean(each[rows])),
                len(truth),
                seed,
                chance.get(name),
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
