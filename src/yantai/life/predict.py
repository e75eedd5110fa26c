"""`yantai predict`: a file of rows in, a file of answers out, one for each row, in order.

Knows: tables and the jobs that models do. Rows are answered as they are read, so that a file may be
larger than memory; the answers appear whole or not at all.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

from yantai.base.errors import UsageError
from yantai.base.files import write_atomic
from yantai.data.labelled import Columns
from yantai.infer.classify import classify
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.infer.tag import tag
from yantai.life.settings import Predict
from yantai.text.table import TableReader

TOGETHER = 512


def predict(settings: Predict, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai predict`.

    Raises:
        UsageError: the model does no job.
        DataError: a row is bad and the policy is to stop.
    """
    model = load(settings.model, dtype=settings.dtype, device=settings.device)
    if model.job not in ANSWERS:
        raise UsageError(
            "E201", settings.model, "judges nothing", do="make a model with yantai finetune"
        )
    columns = Columns(settings.text_column)
    reader = TableReader(
        settings.data, columns=settings.columns or None, encoding=settings.encoding,
        policy=settings.on_bad_row, check=columns.check_text,
    )  # fmt: skip
    count = marked = 0

    def write(file: BinaryIO) -> None:
        nonlocal count, marked
        for answer in _answers(model, reader, columns):
            count += 1
            marked += "error" in answer
            file.write(json.dumps(answer, ensure_ascii=False).encode() + b"\n")

    write_atomic(settings.out, write)
    emit(f"{settings.out}: {count:,} rows{f', {marked:,} of them bad' if marked else ''}\n")
    return {"out": str(settings.out), "rows": count, "bad": marked}


def _answers(
    model: LanguageModel, reader: TableReader, columns: Columns
) -> Iterator[dict[str, Any]]:
    records = iter(reader)
    while together := list(islice(records, TOGETHER)):
        good = [record.fields[columns.text] for record in together if record.problem is None]
        found = iter(ANSWERS[model.job](model, good))
        for record in together:
            answer = {"error": record.problem} if record.problem else next(found)
            yield {"row": record.place} | answer


def _labels(model: LanguageModel, texts: list[str]) -> list[dict[str, Any]]:
    several = model.network.config.head.several
    return [
        ({"labels": each.labels} if several else {"label": each.label})
        | {"probability": each.probability, "probabilities": each.probabilities}
        for each in classify(model, texts)
    ]


def _entities(model: LanguageModel, texts: list[str]) -> list[dict[str, Any]]:
    return [{"entities": [each._asdict() for each in found]} for found in tag(model, texts)]


ANSWERS: dict[str, Callable[[LanguageModel, list[str]], list[dict[str, Any]]]] = {
    "classify": _labels,
    "tag": _entities,
}
