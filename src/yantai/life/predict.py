"""`yantai predict`: a file of rows in, a file of answers out, one for each row, in order.

Knows: tables and the jobs that models do. Rows are answered as they are read, so that a file may be
larger than memory; the answers appear whole or not at all.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO

from yantai.base.errors import DataError, UsageError
from yantai.base.files import write_atomic
from yantai.base.log import counted
from yantai.data.labelled import Columns
from yantai.data.questions import asked_questions
from yantai.infer.answer import answer
from yantai.infer.classify import classify
from yantai.infer.embed import embed
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.infer.rewrite import room_of, summarize, translate
from yantai.infer.tag import tag
from yantai.life.settings import Predict
from yantai.text.chat import check_messages
from yantai.text.reading_json import BadRow
from yantai.text.table import Record, TableReader
from yantai.training.receipt import task_of

TOGETHER = 512

Row = dict[str, Any]
Said = list[dict[str, Any]]


@dataclass(frozen=True)
class Asking:
    """How a job's rows are asked about.

    Attributes:
        check: refuses a row; its second argument is the name of the text's column.
        ask: what a model says of rows; its third argument is that name again.
    """

    check: Callable[[Row, str], None]
    ask: Callable[[LanguageModel, Sequence[Row], str], Said]


def predict(settings: Predict, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai predict`.

    Raises:
        UsageError: the model does not do what is asked of it.
        DataError: a row is bad and the policy is to stop.
    """
    both = settings.out.exists() and settings.data.exists()
    if settings.out.is_dir() or (both and settings.out.samefile(settings.data)):
        raise UsageError("E204", settings.out, "would be overwritten", do="choose another --out")
    model = load(settings.model, dtype=settings.dtype, device=settings.device)
    task, column = _task_of(model, settings), settings.text_column
    asking = ASKINGS[task]
    reader = TableReader(
        settings.data, columns=settings.columns or None, encoding=settings.encoding,
        policy=settings.on_bad_row, check=lambda fields: asking.check(fields, column),
        way_on="mark",
    )  # fmt: skip
    marks = settings.on_bad_row == "mark"
    squad = asked_questions(settings.data, marks=marks) if task == "span" else None
    count = marked = cut = 0

    def write(file: BinaryIO) -> None:
        nonlocal count, marked, cut
        records = squad or iter(reader)
        for said in _answers(model, records, task, column, marks):
            count += 1
            marked += "error" in said
            cut += "truncated" in said
            file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")

    write_atomic(settings.out, write)
    bad = f", {marked:,} of them bad" if marked else ""
    blank = sum(reader.account.dropped.values())
    left_out = f"; {counted(blank, 'blank line')} left out" if blank else ""
    short = f", {cut:,} of them longer than the model reads, and cut" if cut else ""
    emit(f"{settings.out}: {counted(count, 'row')}{bad}{short}{left_out}\n")
    facts = {"rows": count, "bad": marked, "truncated": cut, "blank": blank}
    return {"out": str(settings.out), **facts}


def _task_of(model: LanguageModel, settings: Predict) -> str:
    """What is asked: a model says so itself, or its receipt; of the others one must say it."""
    task = settings.task or model.job or task_of(settings.model)
    task = "chat" if task == "prefer" else task  # it was taught which replies are better
    if not task and model.shape == "encoder":
        raise UsageError(
            "E201", "task", "the model judges nothing yet", expected="--task embed",
            do="teach it a job with yantai finetune",
        )  # fmt: skip
    if not task:
        raise UsageError(
            "E201", "task", "a language model does more than one thing",
            expected="--task translate, summarize, chat or embed", do="say which",
        )  # fmt: skip
    if model.job and task not in (model.job, "embed"):
        model.must_be_for(task)
    return task


def _answers(
    model: LanguageModel, records: Iterator[Record], task: str, column: str, marks: bool
) -> Iterator[dict[str, Any]]:
    while together := list(islice(records, TOGETHER)):
        good = [record for record in together if record.problem is None]
        known = _said_of(model, good, ASKINGS[task], column, marks) if good else []
        found = iter(_marked(model, task, [record.fields for record in good], column, known))
        for record in together:
            said = {"error": record.problem} if record.problem else next(found)
            yield {"row": record.place} | said


def _said_of(
    model: LanguageModel, records: Sequence[Record], asking: Asking, column: str, marks: bool
) -> Said:
    """What a model says of rows; a row that it cannot read is named, or marked.

    Raises:
        DataError: there is one, and the policy is to stop.
    """
    try:
        return asking.ask(model, [record.fields for record in records], column)
    except (DataError, UsageError) as error:
        whole = error  # of one of them: which?
    each = [_said_alone(model, record, asking, column) for record in records]
    if all(isinstance(one, UsageError) for one in each):
        raise whole  # it is no fault of a row
    said: Said = []
    for record, one in zip(records, each, strict=True):
        if isinstance(one, dict):
            said.append(one)
        elif marks:
            said.append({"error": f"{one.where}: {one.what}"})
        else:
            raise DataError(
                one.code if isinstance(one, DataError) else "E304",
                record.place, f"{one.where}: {one.what}", expected=one.expected, got=one.got,
                do=f"{one.do or 'mend the row'} or pass --on-bad-row mark",
            ) from one  # fmt: skip
    return said


def _marked(model: LanguageModel, task: str, rows: Sequence[Row], column: str, said: Said) -> Said:
    """With `truncated` where a text has more tokens than the model reads of it."""
    room = room_of(model.frame, task)
    if room is None:
        return said
    sizes = [len(ids) for ids in model.tokenizer.encode_batch([row[column] for row in rows])]
    return [
        each | {"truncated": True} if size > room else each
        for each, size in zip(said, sizes, strict=True)
    ]


def _said_alone(
    model: LanguageModel, record: Record, asking: Asking, column: str
) -> dict[str, Any] | DataError | UsageError:
    try:
        (said,) = asking.ask(model, [record.fields], column)
    except (DataError, UsageError) as error:
        return error
    return said


def _labels(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
    several = getattr(model.network.config.head, "several", False)
    return [
        ({"labels": each.labels} if several else {"label": each.label})
        | {"probability": each.probability, "probabilities": each.probabilities}
        for each in classify(model, [row[column] for row in rows])
    ]


def _entities(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
    found = tag(model, [row[column] for row in rows])
    return [{"entities": [each._asdict() for each in entities]} for entities in found]


def _pieces(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
    found = answer(model, [row["question"] for row in rows], [row["context"] for row in rows])
    return [
        {"answer": each.text, "start": each.start, "end": each.end, "score": each.score}
        for each in found
    ]


def _replies(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
    conversations = [
        row["messages"] if "messages" in row else [{"role": "user", "content": row[column]}]
        for row in rows
    ]
    longest = min(256, max(1, model.length // 2))
    return [{"reply": each} for each in model.chat_batch(conversations, max_new_tokens=longest)]


def _vectors(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
    found = embed(model, [row[column] for row in rows])
    return [{"vector": [round(number, 6) for number in each]} for each in found.tolist()]


def _rewriting(how: Callable[..., Any]) -> Callable[[LanguageModel, Sequence[Row], str], Said]:
    def ask(model: LanguageModel, rows: Sequence[Row], column: str) -> Said:
        return [{"text": each} for each in how(model, [row[column] for row in rows])]

    return ask


def _check_text(fields: Row, column: str) -> None:
    Columns(column).check_text(fields)


def _check_question(fields: Row, column: str) -> None:
    for name in ("question", "context"):
        Columns(name).check_text(fields)


def _check_conversation(fields: Row, column: str) -> None:
    if "messages" not in fields:
        return _check_text(fields, column)
    try:
        check_messages(fields["messages"])
    except DataError as error:
        raise BadRow("E312", "not a conversation", f"{error.where}: {error.what}") from error


ASKINGS: dict[str, Asking] = {
    "classify": Asking(_check_text, _labels),
    "tag": Asking(_check_text, _entities),
    "span": Asking(_check_question, _pieces),
    "translate": Asking(_check_text, _rewriting(translate)),
    "summarize": Asking(_check_text, _rewriting(summarize)),
    "chat": Asking(_check_conversation, _replies),
    "embed": Asking(_check_text, _vectors),
}
"""--task → how it is asked."""
