"""Texts that become the same in another language, or in another way of writing."""

from collections.abc import Sequence

import numpy as np

from yantai.evaluate.texts import translations_report
from yantai.life.jobs.rewrite import RewriteJob
from yantai.metrics.text import chrf


class TranslateJob(RewriteJob):
    """`--task translate`: BLEU and chrF, beside the source as it is."""

    floor = "the source as it is"
    measure = translations_report

    def simply(self, sources: Sequence[str]) -> list[str]:
        """Nothing is changed."""
        return list(sources)

    def alike(self, truth: Sequence[str], said: Sequence[str]) -> list[float]:
        """By the n-grams of characters."""
        corpus = chrf(said, truth)
        return [corpus(np.array([at])) / 100 for at in range(len(truth))]
