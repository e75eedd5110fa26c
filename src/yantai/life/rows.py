"""The rows of a fine-tuning: read, shared out, and what a part is known by.

Knows: files of rows and shares. What a row is, its job says.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yantai.base.errors import DataError
from yantai.base.files import sha256_text, write_atomic
from yantai.base.log import counted, say
from yantai.data.labelled import share_groups, share_out
from yantai.data.split import read_split
from yantai.life.jobs.job import Job
from yantai.tasks.frame import Frame
from yantai.training.recipe import Finetune

PARTS = ("train", "valid", "test")
VALIDATION_ROWS = 2000


@dataclass(frozen=True)
class Parts:
    """The rows, by what they are for."""

    train: list[Any]
    valid: list[Any]
    test: list[Any]


def parts_of(settings: Finetune, job: Job) -> Parts:
    """The rows that were given, and shares of the training rows where a part was not.

    Raises:
        DataError: a row is bad, or a part would have none.
    """
    files = {"train": settings.data, "valid": settings.valid, "test": settings.test}
    rows = {name: _read(settings, job, name, path) for name, path in files.items() if path}
    if settings.split_column is not None:
        rows = named_parts(settings, rows["train"], settings.out)
        if "train" not in rows:
            raise DataError(
                "E305", settings.data, f"no row is for training by its {settings.split_column!r}",
                got=", ".join(f"{len(part):,} {name}" for name, part in rows.items()),
            )  # fmt: skip
    given = frozenset(rows)
    share = share_groups if job.together else share_out
    missing = [name for name in PARTS if name not in given]
    sizes = [settings.shares[PARTS.index(name)] for name in ("train", *missing)]
    seed = settings.seed if settings.split_seed is None else settings.split_seed
    rows["train"], *others = share(rows["train"], sizes, seed)
    rows |= dict(zip(missing, others, strict=True))
    job.learn(rows["train"], settings.data)
    keeps = settings.on_bad_row == "quarantine"
    for name in ("valid", "test"):
        folder = settings.out / "quarantine" / name if keeps and name in given else None
        rows[name] = known_rows(job, rows[name], folder)
        if not rows[name]:
            raise DataError(
                "E305", settings.data, f"too few rows for a {name} part",
                got=_amount(job, [row for part in rows.values() for row in part]),
                do=f"give more, or --{name}",
            )  # fmt: skip
    say("rows: " + ", ".join(f"{len(part):,} {name}" for name, part in rows.items()))
    return Parts(rows["train"], rows["valid"], rows["test"])


def named_parts(settings: Finetune, rows: list[Any], out: Path) -> dict[str, list[Any]]:
    """Rows by the part that the split column names; only parts that have any.

    Rows that name none are kept in `quarantine/split` below `out`, if that is the policy.

    Raises:
        DataError: a row names none, and the policy is to stop.
    """
    assert settings.split_column is not None
    part_of = read_split(
        settings.data, settings.split_column, columns=settings.columns or None,
        encoding=settings.encoding, policy=settings.on_bad_row,
    )  # fmt: skip
    odd = [row for row in rows if row.place not in part_of]
    if odd:
        what = f"the column {settings.split_column!r} names no part"
        path = out / "quarantine" / "split" / "unknown.jsonl"
        keep_rows(path, [(row, what) for row in odd])
        line = f"{counted(len(odd), 'row')} whose {settings.split_column!r} names no part are in"
        say(f"note: {line} {path.parent}; the first: {odd[0].place}")
    parts = {name: [row for row in rows if part_of.get(row.place) == name] for name in PARTS}
    return {name: part for name, part in parts.items() if part}


def _amount(job: Job, rows: Sequence[Any]) -> str:
    """Of rows, and of the groups that stay in one part."""
    if not job.together:
        return counted(len(rows), "row")
    groups = len({row.labels for row in rows})
    return f"{counted(len(rows), 'row')} of {counted(groups, 'group')} that stay together"


def _read(settings: Finetune, job: Job, name: str, path: Path) -> list[Any]:
    keeps = settings.on_bad_row == "quarantine"
    quarantine = settings.out / "quarantine" / name
    rows, account = job.read(
        path, columns=settings.columns or None, encoding=settings.encoding,
        policy=settings.on_bad_row, quarantine=quarantine if keeps else None,
    )  # fmt: skip
    kept_back = sum(account.quarantined.values())
    if kept_back:
        say(f"note: {path}: {counted(kept_back, 'bad row')} in {quarantine}")
    return rows


def known_rows(job: Job, rows: list[Any], quarantine: Path | None) -> list[Any]:
    """Those of which the job knows every label; the others are kept in `unknown.jsonl`.

    Args:
        job: whose rows they are.
        rows: a part.
        quarantine: a folder; None stops at the first such row.

    Raises:
        DataError: there is one and no quarantine, or no row is left.
    """
    if quarantine is None:
        job.check(rows)
        return rows
    first: list[DataError] = []

    def why(row: Any) -> str:
        try:
            job.check([row])
        except DataError as error:
            first.append(error)
            return f"{error.what}: {error.got}"
        return ""

    known = _sorted_out(rows, why, quarantine / "unknown.jsonl", "labels that are not known")
    if not known and first:
        raise first[0]
    return known


def rows_that_fit(job: Job, frame: Frame, rows: list[Any], quarantine: Path | None) -> list[Any]:
    """Those of which something can be learned or scored; the others are kept in `unfit.jsonl`.

    Args:
        job: whose rows they are.
        frame: how the model reads.
        rows: a part.
        quarantine: a folder; None leaves it to the training to stop at such a row.

    Raises:
        DataError: no row is left.
    """
    if quarantine is None or not rows:
        return rows
    why = job.unfit(frame)
    fit = _sorted_out(rows, why, quarantine / "unfit.jsonl", "nothing to learn")
    if not fit:
        left = f"no row is left: {why(rows[0])}"
        raise DataError("E305", rows[0].place, left, do="raise --context, or mend the rows")
    return fit


def _sorted_out(rows: list[Any], why: Callable[[Any], str], path: Path, what: str) -> list[Any]:
    """Rows of which nothing odd can be said; the others become lines of a file of the quarantine.

    Each line has the file, its line, what is odd, and what was read of the row.
    """
    found = [(row, why(row)) for row in rows]
    odd = [(row, said) for row, said in found if said]
    if odd:
        keep_rows(path, odd)
        row, said = odd[0]
        line = f"{counted(len(odd), 'row')} with {what} in {path.parent}"
        say(f"note: {line}; the first: {row.place}: {said}")
    return [row for row, said in found if not said]


def keep_rows(path: Path, odd: Sequence[tuple[Any, str]]) -> None:
    """Write rows that a table's reader found nothing wrong with, and what is wrong all the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row, said in odd:
        file, _, line = row.place.partition(":")
        table = {"file": file, "line": line, "what": said, "row": asdict(row)}
        lines.append(json.dumps(table, ensure_ascii=False) + "\n")
    write_atomic(path, "".join(lines))


def sample_of(rows: list[Any]) -> list[Any]:
    """At most so many, evenly."""
    return rows[:: max(1, -(-len(rows) // VALIDATION_ROWS))]


def digest_of(rows: Sequence[Any]) -> str:
    """Of rows."""
    return sha256_text(repr(rows))
