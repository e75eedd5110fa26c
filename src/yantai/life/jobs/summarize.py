"""Texts that become short ones."""

import re
from collections.abc import Sequence

from yantai.evaluate.texts import summaries_report
from yantai.life.jobs.rewrite import RewriteJob
from yantai.metrics.text import ROUGES, rouges

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？]|$)", re.DOTALL)


class SummarizeJob(RewriteJob):
    """`--task summarize`: ROUGE, beside the first sentence."""

    floor = "lead-1"
    measure = summaries_report

    def simply(self, sources: Sequence[str]) -> list[str]:
        """The first sentence."""
        return first_sentences(sources)

    def alike(self, truth: Sequence[str], said: Sequence[str]) -> list[float]:
        """By the longest common order of words."""
        return rouges(said, truth)[ROUGES[-1]].tolist()


def first_sentences(texts: Sequence[str]) -> list[str]:
    """The first sentence of each text.

    >>> first_sentences(["It rained. Anna went home.", "下雨了。回家。"])
    ['It rained.', '下雨了。']
    """
    found = (_SENTENCE.match(text.strip()) for text in texts)
    return [match.group() if match else "" for match in found]
