"""What jobs have in common whose answer is another text: translations and summaries."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from yantai.core.face import Model
from yantai.data.pairs import Pair
from yantai.infer.rewrite import rewritten
from yantai.life.jobs.job import NOBODY, PairJob, Prepared, worst_rows
from yantai.tasks.causal import Causal
from yantai.tasks.frame import Frame
from yantai.tasks.seq2seq import asker_of

SHOWN = 5


class RewriteJob(PairJob, ABC):
    """A source in, a target out, by encoder–decoders and by decoders alone.

    A job says beside what it is measured, by what, and how alike two texts are.
    """

    usual_family = "t5"
    shapes = ("decoder", "encoder-decoder")
    floor: ClassVar[str]
    measure: ClassVar[Callable[..., dict[str, Any]]]

    @abstractmethod
    def simply(self, sources: Sequence[str]) -> list[str]:
        """What somebody simple would write."""

    @abstractmethod
    def alike(self, truth: Sequence[str], said: Sequence[str]) -> list[float]:
        """How much each text has in common with what should have been written, 0 to 1."""

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
        """Beside somebody simple."""
        truth, sources = [row.target for row in test], [row.source for row in test]
        floors = {**others, self.floor: self.simply(sources)}
        report = type(self).measure(truth, said, floors, seed)
        shown = list(zip(sources, truth, said, strict=True))[:SHOWN]
        keys = ("source", "target", "said")
        return report | {"samples": [dict(zip(keys, row, strict=True)) for row in shown]}

    def worst(self, rows: Sequence[Pair], said: list[str]) -> list[dict[str, str]]:
        """The texts that have least in common with what should have been written."""
        alike = self.alike([row.target for row in rows], said)
        return worst_rows(
            rows, [1 - each for each in alike],
            lambda row, at: {"text": row.source, "true": row.target, "said": said[at]},
        )  # fmt: skip
