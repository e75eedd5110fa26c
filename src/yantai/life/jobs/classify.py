"""Texts and their labels: one, or any number of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import DataError
from yantai.base.log import say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows
from yantai.data.labelled import Columns, Labelled, check_known, label_counts, read_labelled
from yantai.evaluate.judged import judged_report, said_by, scores, softmax
from yantai.life.jobs.job import NOBODY, LabelJob, Prepared, kinds_of, worst_rows
from yantai.metrics.floor import majority, naive_bayes
from yantai.tasks.classify import Classify, classified, judgements
from yantai.tasks.frame import Frame
from yantai.training.recipe import Finetune


class ClassifyJob(LabelJob):
    """`--task classify`."""

    name = "classify"
    least_text = 1_000_000
    """Questions of 0.27 MB and messages of 0.48 MB were judged better unread, reviews of 2.9 MB
    worse (LOG, 2026-11-23 and 24)."""

    def __init__(self, settings: Finetune):
        label = settings.label_column or "label"
        self.columns = Columns(settings.text_column, label, settings.label_separator)
        self.several = settings.label_separator is not None
        self.smoothing = settings.label_smoothing

    def read(self, path: Path, **options: Any) -> tuple[list[Labelled], Any]:
        """Rows of a table."""
        return read_labelled(path, self.columns, **options)

    def learn(self, rows: Sequence[Labelled], path: Path) -> None:
        """The labels.

        Raises:
            DataError: there is one class only.
        """
        self.names = kinds_of(rows)
        if (len(self.names) < 2 and not self.several) or not self.names:
            raise DataError(
                "E307", path, "one class only: there is nothing to tell apart",
                got=", ".join(self.names), do="give rows of two labels at least",
            )  # fmt: skip
        counts = [f"{name} {count:,}" for name, count in label_counts(rows).items()]
        say(f"labels: {', '.join(counts[:12])}{', …' if len(counts) > 12 else ''}")

    def check(self, rows: Sequence[Labelled]) -> None:
        """No label is new."""
        check_known(rows, self.names, "the training part")

    def text_of(self, row: Labelled) -> str:
        """The text."""
        return row.text

    def truth(self, rows: Sequence[Labelled]) -> NDArray:
        """Numbers of labels, or "text label" booleans where several may hold."""
        number = {name: place for place, name in enumerate(self.names)}
        if not self.several:
            return np.array([number[row.labels[0]] for row in rows])
        truth = np.zeros((len(rows), len(self.names)), bool)
        for place, row in enumerate(rows):
            truth[place, [number[label] for label in row.labels]] = True
        return truth

    def prepare(
        self, frame: Frame, train: Sequence[Labelled], valid: Sequence[Labelled], seed: int
    ) -> Prepared:
        """A text an example."""
        known = self.truth([*train, *valid])
        task = Classify(
            known.astype(np.float32) if self.several else None, self.name, self.smoothing
        )
        targets = list(range(len(known))) if self.several else known.tolist()

        def rows(part: Sequence[Labelled], aims: list[int]) -> ExampleRows:
            texts, places = [row.text for row in part], [row.place for row in part]
            return frame.rows(classified(frame, texts, aims, places), seed)

        count = len(train)
        return Prepared(task, rows(train, targets[:count]), rows(valid, targets[count:]))

    def predict(self, network: Model, frame: Frame, rows: Sequence[Labelled]) -> NDArray:
        """Logits, "text label"."""
        return judgements(network, frame, [row.text for row in rows]).numpy()

    def scores(self, rows: Sequence[Labelled], said: NDArray) -> dict[str, float]:
        """Accuracy or micro F1, and macro F1."""
        return scores(self.truth(rows), said_by(said, self.several))

    def report(
        self,
        train: Sequence[Labelled],
        test: Sequence[Labelled],
        said: NDArray,
        seed: int,
        others: Mapping[str, NDArray] = NOBODY,
    ) -> dict[str, Any]:
        """Beside the commonest label and naive Bayes, where there are rows to learn from."""
        floors = {name: said_by(logits, self.several) for name, logits in others.items()}
        if train:
            learned, texts = self.truth(train), [row.text for row in test]
            floors["naive Bayes"] = naive_bayes([row.text for row in train], learned, texts)
            if self.several:
                usual = np.broadcast_to(learned.mean(0) > 0.5, (len(texts), len(self.names)))
                floors["the commonest labels"] = usual
            else:
                floors["the commonest label"] = majority(learned, len(texts))
        return judged_report(self.truth(test), said, self.names, floors, seed)

    def worst(self, rows: Sequence[Labelled], said: NDArray) -> list[dict[str, str]]:
        """The rows whose right label the model thought least likely, or with most wrong labels."""
        truth, judged = self.truth(rows), said_by(said, self.several)
        if self.several:

            def labels(held: NDArray) -> str:
                return ", ".join(np.array(self.names)[held]) or "(none)"

            return worst_rows(
                rows, (truth != judged).sum(1).tolist(),
                lambda row, at: {
                    "text": row.text, "true": labels(truth[at]), "said": labels(judged[at])
                },
            )  # fmt: skip
        chances = softmax(said)
        right = chances[np.arange(len(rows)), truth]
        return worst_rows(
            rows, np.where(truth == judged, 0.0, 1.0 - right).tolist(),
            lambda row, at: {
                "text": row.text, "true": self.names[truth[at]],
                "said": f"{self.names[judged[at]]} ({chances[at].max():.0%})",
            },
        )  # fmt: skip
