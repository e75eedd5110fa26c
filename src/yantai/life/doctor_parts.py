"""What shows only beside something else: one part beside another, a file beside its recipe.

Knows: the recipe, the parts of the rows, the files that they were read from. Columns that nobody
reads and that contradict the job, an encoding that fits by accident, texts of training that are
written otherwise than those of the test, warm-up longer than the run, a context that cuts.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yantai.base.errors import YantaiError
from yantai.life.doctor_case import Finding
from yantai.life.doctor_jobs import BYTES_A_TOKEN, steps_of
from yantai.life.jobs.job import Job
from yantai.text.table import TableReader
from yantai.text.tokenizer import HAN
from yantai.training.recipe import Finetune
from yantai.training.sizes import size_named

SOME, NEARLY_ALL = 0.05, 0.8
"""Shares of the rows: no accident; what one part has and another has not."""
LEAST = 20
CRUMBS = 8
"""Windows of a passage: in more of them most hold no answer, and none the sense of the whole."""
PLAIN = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".conll")
NOT_THIS = {"0", "0.0", "false", "no", "n", "negative", "contradiction", "否"}
VERDICT = re.compile(
    r"label|same|paraphrase|duplicate|match|relevant|similar|entail|score|标签|相似|相关", re.I
)


def look_beside(
    settings: Finetune, job: Job, parts: dict[str, list[Any]], text_of: Callable[[Any], str]
) -> Iterator[Finding]:
    """Everything that is known to bite."""
    yield from _encoding(settings)
    yield from _warm_up(settings, job, parts["train"])
    yield from _context(settings, job, parts["train"], text_of)
    yield from _windows(settings, job, parts["train"])
    yield from _unread_columns(settings, job)
    yield from _other_style(settings, parts, text_of)


def _encoding(settings: Finetune) -> Iterator[Finding]:
    """Bytes that are UTF-8 and are read as something in which any byte is a letter."""
    name = settings.encoding.lower().replace("_", "-")
    if name.startswith("utf"):
        return
    for path in (settings.data, settings.valid, settings.test):
        if path is None or path.suffix not in PLAIN or not path.is_file():
            continue
        raw = path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) < len(raw):
            line = f"is UTF-8, and is read as {settings.encoding}: every letter beyond ASCII would"
            yield ("problem", f"encoding: {path} {line} be two or three others; leave it out")
            return


def _warm_up(settings: Finetune, job: Job, rows: Sequence[Any]) -> Iterator[Finding]:
    """A rate that never arrives."""
    steps = steps_of(settings, job, rows)
    if settings.warmup and steps is not None and settings.warmup > steps / 2:
        line = f"{settings.warmup:,} steps of about {max(1, round(steps)):,}: the rate never"
        yield ("problem", f"warmup: {line} reaches what it was set to; leave it out")


def _context(
    settings: Finetune, job: Job, rows: Sequence[Any], text_of: Callable[[Any], str]
) -> Iterator[Finding]:
    """Texts that a model from scratch, whose tokenizer there is not yet, would cut."""
    if settings.model != "scratch" or job.name in ("tag", "span"):
        return
    limit = settings.context or size_named(settings.size).context
    cut = [row for row in rows if len(text_of(row).encode()) / BYTES_A_TOKEN > 1.2 * limit]
    if len(cut) > SOME * len(rows):
        line = f"about {len(cut) / len(rows):.0%} of the texts are longer than {limit} tokens and"
        kind = "problem" if settings.context and len(cut) > len(rows) / 2 else "note"
        yield (kind, f"context: {line} are cut, such as {cut[0].place}; raise it")


def _windows(settings: Finetune, job: Job, rows: Sequence[Any]) -> Iterator[Finding]:
    """A context that the question fills, so that a passage is read in crumbs."""
    if settings.model != "scratch" or job.name != "span":
        return
    limit = settings.context or size_named(settings.size).context
    asked, read = (
        sorted(len(getattr(row, name).encode()) / BYTES_A_TOKEN for row in rows)[len(rows) // 2]
        for name in ("question", "context")
    )
    room = limit - asked - 3
    if room < read and (room < limit / 3 or read > CRUMBS * room):
        line = f"a question takes about {asked:.0f} of {limit} tokens, a passage of about"
        yield ("problem", f"context: {line} {read:.0f} would be read in crumbs; raise it")


def _unread_columns(settings: Finetune, job: Job) -> Iterator[Finding]:
    """Verdicts beside the texts, of which the job knows nothing."""
    if job.name not in ("embed", "prefer"):
        return
    try:
        columns = settings.columns or None
        reader = TableReader(settings.data, columns=columns, encoding=settings.encoding)
        records = list(reader)
    except YantaiError:
        return  # the reader of the rows has said it
    if job.name == "embed":
        yield from _pairs_that_are_none(records, settings)
    else:
        yield from _scores(records, settings.data)


def _pairs_that_are_none(records: Sequence[Any], settings: Finetune) -> Iterator[Finding]:
    read = {settings.text_column, settings.label_column}
    names = [name for name in records[0].fields if name not in read and VERDICT.search(name)]
    for name in names:
        said = [str(record.fields.get(name)).strip().lower() for record in records]
        odd = [record for record, word in zip(records, said, strict=True) if word in NOT_THIS]
        if SOME * len(records) < len(odd) < len(records) and len(set(said)) <= 5:
            word = odd[0].fields[name]
            line = f"{len(odd):,} pairs have {word!r} in the column {name!r}, which is not read"
            yield ("problem", f"{odd[0].place}: {line}: all are learned as belonging together")


def _scores(records: Sequence[Any], path: Path) -> Iterator[Finding]:
    names = list(records[0].fields)
    for name in names:
        other = name.replace("chosen", "rejected")
        if name == other or other not in names:
            continue
        found = [(record, _number(record.fields.get(name)), _number(record.fields.get(other)))
                 for record in records]  # fmt: skip
        pairs = [(record, one, two) for record, one, two in found
                 if one is not None and two is not None]  # fmt: skip
        odd = [record for record, one, two in pairs if one < two]
        if len(pairs) >= LEAST and len(odd) > SOME * len(pairs):
            line = f"{len(odd):,} of {len(pairs):,} rows have a lower {name} than {other}"
            yield ("problem", f"{odd[0].place}: {line}: is the better answer the chosen one?")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


STYLES: dict[str, re.Pattern[str]] = {
    "spaces between Chinese words": re.compile(f"[{HAN}] [{HAN}]"),
    "full-width marks": re.compile("[，。！？；：]"),
    "capital letters": re.compile("[A-Z]"),
    "a mark at the end": re.compile(r"[.!?。！？…]\W*$"),
    "line breaks": re.compile(r"\n"),
    "digits": re.compile(r"\d"),
}


def _other_style(
    settings: Finetune, parts: dict[str, list[Any]], text_of: Callable[[Any], str]
) -> Iterator[Finding]:
    """What nearly all texts of training have and hardly any of the test, or the other way."""
    files = {"valid": settings.valid, "test": settings.test}
    sides: dict[str, Callable[[Any], str]] = {"text": text_of}
    if hasattr(parts["train"][0], "target"):
        sides = {"source": lambda row: row.source, "target": lambda row: row.target}
    for part, path in files.items():
        rows = parts.get(part, [])
        if len(rows) < LEAST:
            continue
        for side, read in sides.items():
            for style, pattern in STYLES.items():
                shares = [sum(pattern.search(read(row)) is not None for row in each) / len(each)
                          for each in (parts["train"], rows)]  # fmt: skip
                if abs(shares[0] - shares[1]) > NEARLY_ALL:
                    line = (
                        f"{shares[1]:.0%} of the {side}s have {style}, in training {shares[0]:.0%}"
                    )
                    yield ("problem", f"{path}: {line}: are they written by the same rules?")
