"""Questions about texts that are answered by pieces of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yantai.base.log import say
from yantai.core.face import Model
from yantai.data.examples import ExampleRows
from yantai.data.questions import Question, read_questions
from yantai.evaluate.answers import answer_scores, answers_report
from yantai.infer.language_model import LanguageModel
from yantai.life.jobs.job import NOBODY, LabelJob, Prepared, say_inside_tokens, worst_rows
from yantai.metrics.answers import answer_f1
from yantai.metrics.floor import is_spaced, usual_place
from yantai.tasks.frame import Frame
from yantai.tasks.span import SpanTask, answer_questions, questioned
from yantai.text.vocabulary import Kind
from yantai.training.recipe import Finetune


class SpanJob(LabelJob):
    """`--task span`."""

    name = "span"
    usual_kind: Kind = "wordpiece"
    names = ("start", "end")
    together = True

    def __init__(self, settings: Finetune):
        self.refuses = False
        self.chinese = False

    def read(self, path: Path, **options: Any) -> tuple[list[Question], Any]:
        """SQuAD's JSON, or a table."""
        return read_questions(path, **options)

    def learn(self, rows: Sequence[Question], path: Path) -> None:
        """Whether a question may have no answer, and by which rule answers are compared."""
        without = sum(not row.answers for row in rows)
        self.refuses = without > 0
        self.chinese = not is_spaced([row.context for row in rows])
        say(f"questions: {len(rows):,}, {without:,} of them without an answer")

    def check(self, rows: Sequence[Question]) -> None:
        """Any question will do."""

    def text_of(self, row: Question) -> str:
        """The context; it is read by nobody but the model."""
        return row.context

    def prepare(
        self, frame: Frame, train: Sequence[Question], valid: Sequence[Question], seed: int
    ) -> Prepared:
        """A window of a context an example."""
        _say_unfound(frame, train)

        def rows(part: Sequence[Question]) -> ExampleRows:
            answers = [
                (row.answers[0][1], row.answers[0][1] + len(row.answers[0][0]))
                if row.answers
                else None
                for row in part
            ]
            names = [row.place for row in part]
            return frame.rows(questioned(frame, _pairs(part), answers, names), seed)

        return Prepared(SpanTask(frame.length), rows(train), rows(valid))

    def predict(self, network: Model, frame: Frame, rows: Sequence[Question]) -> list[str]:
        """The answers as texts; "" for none."""
        found = answer_questions(network, frame, _pairs(rows))
        return [
            row.context[best.start : best.end].strip() if best.score > 0 or not self.refuses else ""
            for row, best in zip(rows, found, strict=True)
        ]

    def scores(self, rows: Sequence[Question], said: list[str]) -> dict[str, float]:
        """F1 and exact match."""
        return answer_scores(_truth(rows), said, chinese=self.chinese)

    def report(
        self,
        train: Sequence[Question],
        test: Sequence[Question],
        said: list[str],
        seed: int,
        others: Mapping[str, list[str]] = NOBODY,
    ) -> dict[str, Any]:
        """Beside the usual place; where some questions have no answer, beside never answering."""
        floors = dict(others)
        known = [(row.context, row.answers[0]) for row in train if row.answers]
        if known:
            floors["the usual place"] = usual_place(known, [row.context for row in test])
        if self.refuses:
            floors["no answer"] = [""] * len(test)
        return answers_report(_truth(test), said, floors, seed, chinese=self.chinese)

    def worst(self, rows: Sequence[Question], said: list[str]) -> list[dict[str, str]]:
        """The questions whose answer has least in common with a right one."""
        pairs = zip(said, _truth(rows), strict=True)
        wrong = [1 - answer_f1(*pair, chinese=self.chinese) for pair in pairs]
        return worst_rows(
            rows, wrong,
            lambda row, at: {
                "text": row.question, "said": said[at] or "(no answer)",
                "true": " / ".join(dict.fromkeys(text for text, _ in row.answers)) or "(no answer)",
            },
        )  # fmt: skip

    def adopt(self, model: LanguageModel, rows: Sequence[Question]) -> None:
        """Whether it may refuse; of one that does not say, its questions do."""
        labels = model.network.head.labels
        assert labels is not None
        any_without = any(not row.answers for row in rows)
        self.refuses = any_without if labels.refuses is None else labels.refuses
        self.chinese = not is_spaced([row.context for row in rows])


def _say_unfound(frame: Frame, rows: Sequence[Question]) -> None:
    """How many answers are no whole tokens."""
    borders: dict[str, tuple[set[int], set[int]]] = {}
    answered = [(row.context, *row.answers[0]) for row in rows if row.answers]
    lost = 0
    for context, text, start in answered:
        if context not in borders:
            _, offsets = frame.tokenizer.encode_with_offsets(context)
            starts, ends = zip(*offsets, strict=True) if offsets else ((), ())
            borders[context] = set(starts), set(ends)
        starts, ends = borders[context]
        # a token may begin with the space before a word; what is found is stripped of it
        begins = start in starts or (start - 1 in starts and context[start - 1].isspace())
        lost += not (begins and start + len(text) in ends)
    say_inside_tokens(lost, len(answered), "answers")


def _pairs(rows: Sequence[Question]) -> list[tuple[str, str]]:
    return [(row.question, row.context) for row in rows]


def _truth(rows: Sequence[Question]) -> list[list[str]]:
    return [[text for text, _ in row.answers] for row in rows]
