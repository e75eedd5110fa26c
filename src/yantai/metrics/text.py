"""How like a text is to what it should be: BLEU and chrF (sacreBLEU), ROUGE (rouge-score).

Knows: texts. Chinese is compared by characters, in ROUGE too, whose own tokenizer drops all that
is not a Latin letter. Libraries are imported where they count.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.metrics.floor import is_spaced

ROUGES = ("rouge1", "rouge2", "rougeL")
_PIECE = re.compile(r"[\u3040-\u9fff]|[^\W_\u3040-\u9fff]+")


class Corpus:
    """A score of a corpus out of counts of its texts, so that drawing texts counts nothing again.

    Args:
        metric: of sacreBLEU.
        said, truth: texts.
    """

    def __init__(self, metric: Any, said: Sequence[str], truth: Sequence[str]):
        self._metric = metric
        found = metric._extract_corpus_statistics(list(said), [list(truth)])
        self._counts = np.array(found, np.int64)  # "text count"

    def __call__(self, rows: Sequence[int] | NDArray[np.int64]) -> float:
        """The score of these texts, each as often as it is named; 0 to 100."""
        counts = self._counts[np.asarray(rows)].sum(0).tolist()
        return float(self._metric._compute_score_from_stats(counts).score)


def bleu(said: Sequence[str], truth: Sequence[str]) -> Corpus:
    """Corpus BLEU; Chinese by sacreBLEU's own tokenizer for it."""
    return Corpus(_bleu(truth), said, truth)


def bleu_signature(truth: Sequence[str]) -> str:
    """What sacreBLEU wants to be told with a score."""
    metric = _bleu(truth)
    metric.corpus_score([""], [[""]])
    return str(metric.get_signature())


def _bleu(truth: Sequence[str]) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="13a" if is_spaced(truth) else "zh")


def chrf(said: Sequence[str], truth: Sequence[str]) -> Corpus:
    """Corpus chrF2: n-grams of characters, in any language."""
    from sacrebleu.metrics.chrf import CHRF

    return Corpus(CHRF(), said, truth)


class _Pieces:
    """Words, and Chinese characters one by one."""

    def tokenize(self, text: str) -> list[str]:
        """As `rouge_score` asks."""
        return _PIECE.findall(text.lower())


def rouges(said: Sequence[str], truth: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """F1 of shared words, shared pairs of words and the longest common order, of each text.

    >>> float(rouges(["the old mill"], ["the mill"])["rouge1"][0])
    0.8
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGES), tokenizer=_Pieces())
    found = [scorer.score(theirs, mine) for mine, theirs in zip(said, truth, strict=True)]
    return {name: np.array([each[name].fmeasure for each in found]) for name in ROUGES}
