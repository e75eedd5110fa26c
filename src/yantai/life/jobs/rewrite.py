"""Texts that become other texts: translations and summaries."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from yantai.core.face import Model
from yantai.data.pairs import Pair
from yantai.evaluate.texts import summaries_report, translations_report
from yantai.infer.rewrite import rewritten
from yantai.life.jobs.job import NOBODY, PairJob, Prepared, worst_rows
from yantai.metrics.text import ROUGES, chrf, rouges
from yantai.tasks.causal import Causal
from yantai.tasks.frame import Frame
from yantai.tasks.seq2seq import asker_of

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？]|$)", re.DOTALL)


class RewriteJob(PairJob):
    """`--task translate` and `--task summarize`."""

    usual_family = "t5"
    shapes = ("decoder", "encoder-decoder")

    def prepare(
        self, frame: Frame, train: Sequence[Pair], valid: Sequence[Pair], seed: int
    ) -> Prepared:
        """A pair an example."""
        asker = asker_of(frame)

        def examples(rows: Sequence[Pair]) -> Any:
            pairs = [(row.source, row.target) for row in rows]
            return asker.rows(asker.examples(pairs, [row.place for row in rows]), seed)

        return Prepared(Causal(self.name, self.smoothing), examples(train), examples(valid))

    def predict(self, network: Model, frame: Frame, rows: Sequence[Pair]) -> list[str]:
        """What the model makes of the sources."""
        return rewritten(network, frame, [row.source for row in rows])

    def report(
        self,
        train: Sequence[Pair],
        test: Sequence[Pair],
        said: list[str],
        seed: int,
        others: Mapping[str, list[str]] = NOBODY,
    ) -> dict[str, Any]:
        """Beside the source itself, or its first sentence."""
        truth, sources = [row.target for row in test], [row.source for row in test]
        floors: dict[str, Any] = dict(others)
        if self.name == "translate":
            report = translations_report(
                truth, said, floors | {"the source as it is": sources}, seed
            )
        else:
            report = summaries_report(
                truth, said, floors | {"lead-1": first_sentences(sources)}, seed
            )
        shown = zip(sources, truth, said, strict=True)
        keys = ("source", "target", "said")
        return report | {"samples": [dict(zip(keys, row, strict=True)) for row in list(shown)[:5]]}

    def worst(self, rows: Sequence[Pair], said: list[str]) -> list[dict[str, str]]:
        """The texts that have least in common with what should have been written."""
        truth = [row.target for row in rows]
        if self.name == "translate":
            corpus = chrf(said, truth)
            alike = [corpus(np.array([at])) / 100 for at in range(len(rows))]
        else:
            alike = rouges(said, truth)[ROUGES[-1]].tolist()
        return worst_rows(
            rows, [1 - each for each in alike],
            lambda row, at: {"text": row.source, "true": row.target, "said": said[at]},
        )  # fmt: skip


def first_sentences(texts: Sequence[str]) -> list[str]:
    """The first sentence of each text.

    >>> first_sentences(["It rained. Anna went home.", "下雨了。回家。"])
    ['It rained.', '下雨了。']
    """
    found = (_SENTENCE.match(text.strip()) for text in texts)
    return [match.group() if match else "" for match in found]
