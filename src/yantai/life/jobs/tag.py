"""Texts and the named spans in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError
from yantai.base.log import say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows
from yantai.data.labelled import check_known
from yantai.data.tagged import SpanColumns, Tagged, read_tagged
from yantai.evaluate.spans import span_scores, spans_report
from yantai.infer.language_model import LanguageModel
from yantai.life.jobs.job import NOBODY, LabelJob, Prepared, kinds_of, say_inside_tokens, worst_rows
from yantai.metrics.floor import known_phrases
from yantai.tasks.frame import Frame
from yantai.tasks.tag import (
    Marked,
    Tag,
    labels_of,
    marked,
    spans_of,
    tag_texts,
    tagged,
    token_labels,
)
from yantai.text.spans import Span
from yantai.text.vocabulary import Kind
from yantai.training.recipe import Finetune


class TagJob(LabelJob):
    """`--task tag`."""

    name = "tag"
    usual_kind: Kind = "wordpiece"

    def __init__(self, settings: Finetune):
        self.columns = SpanColumns(settings.text_column, settings.label_column or "entities")
        self.kinds: tuple[str, ...] = ()

    def read(self, path: Path, **options: Any) -> tuple[list[Tagged], Any]:
        """Rows of a table, or sentences of a file of columns."""
        return read_tagged(path, self.columns, **options)

    def learn(self, rows: Sequence[Tagged], path: Path) -> None:
        """The kinds of span.

        Raises:
            DataError: there is no span at all.
        """
        self.kinds = kinds_of(rows)
        self.names = labels_of(self.kinds)
        if not self.kinds:
            raise DataError("E307", path, "no row has a span: there is nothing to find")
        counts = Counter(span.label for row in rows for span in row.spans)
        say("spans: " + ", ".join(f"{kind} {counts[kind]:,}" for kind in self.kinds))

    def check(self, rows: Sequence[Tagged]) -> None:
        """No kind is new."""
        check_known(rows, self.kinds, "the training part")

    def text_of(self, row: Tagged) -> str:
        """The text."""
        return row.text

    def prepare(
        self, frame: Frame, train: Sequence[Tagged], valid: Sequence[Tagged], seed: int
    ) -> Prepared:
        """A text an example, or several of a long one."""

        def rows(part: Sequence[Tagged]) -> ExampleRows:
            texts = [marked(frame, row.text) for row in part]
            pairs = zip(texts, part, strict=True)
            aims = [token_labels(text, row.spans, self.names) for text, row in pairs]
            if part is train:
                self._say_unfound(texts, aims, part)
            return frame.rows(tagged(frame, texts, aims, [row.place for row in part]), seed)

        return Prepared(Tag(), rows(train), rows(valid))

    def _say_unfound(
        self, texts: Sequence[Marked], aims: Sequence[list[int]], rows: Sequence[Tagged]
    ) -> None:
        """How many spans the right labels of all tokens do not give back."""
        named = ([self.names[aim] for aim in own] for own in aims)
        given = [set(spans_of(text, own)) for text, own in zip(texts, named, strict=True)]
        lost = sum(len(set(row.spans) - own) for row, own in zip(rows, given, strict=True))
        say_inside_tokens(lost, sum(len(row.spans) for row in rows), "spans")

    def predict(
        self, network: Model, frame: Frame, rows: Sequence[Tagged]
    ) -> list[tuple[Span, ...]]:
        """The spans of each text."""
        return tag_texts(network, frame, [row.text for row in rows], self.names)

    def scores(self, rows: Sequence[Tagged], said: list[tuple[Span, ...]]) -> dict[str, float]:
        """F1, precision and recall of whole spans."""
        return span_scores([row.spans for row in rows], said)

    def report(
        self,
        train: Sequence[Tagged],
        test: Sequence[Tagged],
        said: list[tuple[Span, ...]],
        seed: int,
        others: Mapping[str, list[tuple[Span, ...]]] = NOBODY,
    ) -> dict[str, Any]:
        """Beside somebody who knows the phrases of the training part by heart."""
        floors: dict[str, Any] = dict(others)
        if train:
            phrases = [(row.text, row.spans) for row in train]
            floors["known phrases"] = known_phrases(phrases, [row.text for row in test])
        return spans_report([row.spans for row in test], said, self.kinds, floors, seed)

    def worst(self, rows: Sequence[Tagged], said: list[tuple[Span, ...]]) -> list[dict[str, str]]:
        """The texts with most spans that are missed or are none."""
        missed = [set(row.spans) - set(own) for row, own in zip(rows, said, strict=True)]
        wrong = [set(own) - set(row.spans) for row, own in zip(rows, said, strict=True)]

        def shown(text: str, spans: set[Span]) -> str:
            return ", ".join(f"{text[s.start : s.end]} ({s.label})" for s in sorted(spans)) or "–"

        return worst_rows(
            rows, [len(one) + len(other) for one, other in zip(missed, wrong, strict=True)],
            lambda row, at: {
                "text": row.text, "missed": shown(row.text, missed[at]),
                "said wrongly": shown(row.text, wrong[at]),
            },
        )  # fmt: skip

    def adopt(self, model: LanguageModel, rows: Sequence[Tagged]) -> None:
        """Its labels, and the kinds of span that they stand for."""
        super().adopt(model, rows)
        kinds = (name.partition("-")[2] for name in self.names if name.startswith(("B-", "I-")))
        self.kinds = tuple(dict.fromkeys(kinds))
