"""`yantai evaluate` on rows: how well a taught model does its job, beside floors and another model.

Knows: rows and jobs; the metrics are those of the fine-tuning that made the model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from yantai.base.errors import UsageError, YantaiError
from yantai.base.log import counted, say
from yantai.families.labels import Job as LabelTask
from yantai.infer.language_model import LanguageModel
from yantai.infer.opening import load
from yantai.life.jobs import JOBS, MEASURED
from yantai.life.jobs.job import Job
from yantai.life.report import table_of, write_report
from yantai.life.rows import known_rows, rows_that_fit
from yantai.life.settings import Evaluate
from yantai.text.table import PARQUET, SEPARATORS, TableReader
from yantai.training.receipt import task_of
from yantai.training.recipe import Finetune

LABEL_TASKS = get_args(LabelTask)


def rows_of_task(settings: Evaluate) -> str:
    """What a language model was taught, if the data are rows of that and no running text.

    Rows are a table, or have a column that documents have not.
    """
    task = task_of(settings.model)
    if task not in JOBS or len(settings.data) != 1 or not settings.data[0].is_file():
        return ""
    try:
        reader = TableReader(settings.data[0], encoding=settings.encoding, policy="mark")
        if reader.kind in (*SEPARATORS, PARQUET):
            return task
        fields = next(iter(reader)).fields
    except (YantaiError, StopIteration):
        return ""
    target = settings.label_column or "target"
    return task if target in fields or settings.text_field not in fields else ""


def evaluate_rows(
    settings: Evaluate, model: LanguageModel, emit: Callable[[str], None]
) -> dict[str, Any]:
    """Score a model on the rows of a file.

    Raises:
        UsageError: the model and the task do not fit, or there is not one file.
        DataError: a row is bad, or has a label that the model has not.
    """
    task = settings.task or model.job
    if model.job and task != model.job:
        raise UsageError("E203", "task", "the model does another job", expected=model.job, got=task)
    if task not in MEASURED:
        raise UsageError("E201", "task", "unknown", expected=", ".join(MEASURED), got=task)
    if task in LABEL_TASKS and model.job != task:
        raise UsageError(
            "E203", "task", "the model was not taught it", expected=f"a model for {task}",
            got=f"a model for {model.job or 'language'}", do="make one with yantai finetune",
        )  # fmt: skip
    if len(settings.data) != 1:
        raise UsageError("E201", "data", "rows are read from one file", got=len(settings.data))
    if settings.on_bad_row == "quarantine" and settings.out is None:
        raise UsageError(
            "E203", "on_bad_row", "bad rows have no place to be kept", do="give --out, too"
        )
    job = MEASURED[task](_recipe(settings, task))
    rows, train = _read(settings, job, settings.data[0]), []
    if task not in LABEL_TASKS:
        job.check_family(model.family)
    job.adopt(model, rows)
    rows = known_rows(job, rows, _quarantine(settings, settings.data[0]))
    rows = rows_that_fit(job, model.frame, rows, _quarantine(settings, settings.data[0]))
    if settings.train is not None:
        train = _read(settings, job, settings.train)
        train = known_rows(job, train, _quarantine(settings, settings.train))
    said = job.predict(model.network, model.frame, rows)
    others = {}
    if settings.against is not None:
        other = load(settings.against, dtype=settings.dtype, device=settings.device)
        others[str(settings.against)] = _said_by_other(settings, job, task, other, rows)
    report = {"task": task, **job.report(train, rows, said, settings.seed, others)}
    known = {job.text_of(row) for row in train}
    report["known_rows"] = sum(job.text_of(row) in known for row in rows)
    emit(table_of(report))
    if report["known_rows"]:
        line = f"{counted(report['known_rows'], 'row')} of {len(rows):,} are among those of --train"
        emit(f"  note: {line}: floors know their answers\n")
    if settings.out is not None:
        write_report(settings.out, report, job.worst(rows, said), f"{settings.model}: {task}", emit)
    return report


def _said_by_other(
    settings: Evaluate, job: Job, task: str, other: LanguageModel, rows: list[Any]
) -> Any:
    if other.job and other.job != task:
        raise UsageError("E203", "against", "the model does another job", got=other.job)
    theirs = MEASURED[task](_recipe(settings, task))
    theirs.adopt(other, rows)
    if getattr(theirs, "names", ()) != getattr(job, "names", ()):
        raise UsageError(
            "E203", "against", "the models have different labels",
            expected=", ".join(getattr(job, "names", ())[:8]),
            got=", ".join(getattr(theirs, "names", ())[:8]),
        )  # fmt: skip
    return theirs.predict(other.network, other.frame, rows)


def _recipe(settings: Evaluate, task: str) -> Finetune:
    """A job reads its columns from the settings of a fine-tuning."""
    known = task if task in JOBS else "chat"
    given: dict[str, Any] = {"model": "-", "task": known, "data": settings.data[0], "out": Path()}
    given |= {"text_column": settings.text_column, "label_column": settings.label_column}
    return Finetune(**given, label_separator=settings.label_separator)


def _quarantine(settings: Evaluate, path: Path) -> Path | None:
    """Where bad rows of a file are kept, if they are."""
    if settings.on_bad_row != "quarantine" or settings.out is None:
        return None
    return settings.out / "quarantine" / path.stem


def _read(settings: Evaluate, job: Job, path: Path) -> list[Any]:
    quarantine = _quarantine(settings, path)
    rows, account = job.read(
        path, columns=settings.columns or None, encoding=settings.encoding,
        policy=settings.on_bad_row, quarantine=quarantine,
    )  # fmt: skip
    kept_back = sum(account.quarantined.values())
    if kept_back:
        say(f"note: {path}: {counted(kept_back, 'bad row')} in {quarantine}")
    return rows
