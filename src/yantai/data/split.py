"""A column that says which part a row of a table is for.

Knows: the names of parts. What else a row holds, its job reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader

Part = Literal["train", "valid", "test"]
NAMES: dict[str, Part] = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What may stand in such a column, in letters of any case → the part."""


def read_split(
    path: Path, column: str, *, columns: Sequence[str] | None = None,
    encoding: str = "utf-8", policy: str = "stop",
) -> dict[str, Part]:  # fmt: skip
    """The place of each row of a table → the part that it is for.

    Args:
        path: the table.
        column: the one that says it: train, valid (or validation, val, dev) or test.
        columns: names of all columns, where the table has no line that says them.
        encoding: of the file.
        policy: `"stop"` at a row that does not say it, or leave it out.

    Raises:
        DataError: E304, a row does not say it, or any other fault of a row; the policy is to stop.
        UsageError: there is no such file, or its rows are no table's.
    """

    def check(fields: dict[str, Any]) -> None:
        if column not in fields:
            there = ", ".join(list(fields)[:8])
            raise BadRow("E304", f"no column {column!r}", got=there, do="pass --split-column")
        if _named(fields[column]) is None:
            raise BadRow(
                "E304", "no such part",
                f"the column {column!r} names no part (expected {', '.join(NAMES)})",
                got=repr(fields[column])[:80],
            )  # fmt: skip

    marked = "stop" if policy == "stop" else "mark"
    reader = TableReader(path, columns=columns, encoding=encoding, policy=marked, check=check)
    return {
        record.place: cast(Part, _named(record.fields[column]))
        for record in reader
        if record.problem is None
    }


def _named(value: Any) -> Part | None:
    return NAMES.get(value.strip().lower()) if isinstance(value, str) else None
