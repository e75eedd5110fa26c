"""Texts that become other texts: translations and summaries."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yantai.base.errors import UsageError
from yantai.core.face import Model
from yantai.data.pairs import Pair, read_pairs
from yantai.evaluate.texts import summaries_report, translations_report
from yantai.families.rules import Family
from yantai.infer.rewrite import rewritten
from yantai.life.jobs.job import NOBODY, LanguageJob, Prepared
from yantai.tasks.causal import Causal
from yantai.tasks.frame import Frame
from yantai.tasks.seq2seq import asker_of
from yantai.training.recipe import Finetune

_SENTENCE = re.compile(r".+?(?:[.!?](?=\s|$)|[。！？]|$)", re.DOTALL)


class RewriteJob(LanguageJob):
    """`--task translate` and `--task summarize`."""

    usual_family = "t5"

    def __init__(self, settings: Finetune):
        self.name = settings.task
        self.source = settings.text_column
        self.target = settings.label_column or "target"

    def read(self, path: Path, **options: Any) -> tuple[list[Pair], Any]:
        """Rows of a table."""
        return read_pairs(path, self.source, self.target, **options)

    def text_of(self, row: Pair) -> str:
        """Both texts, so that a model from scratch has read what it is to write."""
        return f"{row.source}\n{row.target}"

    def check_family(self, family: Family) -> None:
        """An encoder writes nothing."""
        if family.fixed()["shape"] == "encoder":
            raise UsageError(
                "E203", "family", f"{family.name} is an encoder and writes nothing",
                expected="a decoder or an encoder–decoder", do="choose --family t5 or llama",
            )  # fmt: skip

    def prepare(
        self, frame: Frame, train: Sequence[Pair], valid: Sequence[Pair], seed: int
    ) -> Prepared:
        """A pair an example."""
        asker = asker_of(frame)

        def examples(rows: Sequence[Pair]) -> Any:
            pairs = [(row.source, row.target) for row in rows]
            return asker.rows(asker.examples(pairs, [row.place for row in rows]), seed)

        return Prepared(Causal(name=self.name), examples(train), examples(valid))

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


def first_sentences(texts: Sequence[str]) -> list[str]:
    """The first sentence of each text.

    >>> first_sentences(["It rained. Anna went home.", "下雨了。回家。"])
    ['It rained.', '下雨了。']
    """
    found = (_SENTENCE.match(text.strip()) for text in texts)
    return [match.group() if match else "" for match in found]
