"""Rows of two texts: one that is read, and one that is to be written.

Knows: two columns of a table, and which rows make no sense.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yantai.data.labelled import not_empty
from yantai.text.reading_json import BadRow
from yantai.text.table import TableReader


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and what is to be made of it.

    Attributes:
        source, target: both not empty.
        place: `file:line`.
    """

    source: str
    target: str
    place: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Rows that are read in the same words stay in one part."""
        return (self.source,)


def read_pairs(path: Path, source: str, target: str, **options: Any) -> tuple[list[Pair], Any]:
    """The rows of a table.

    Args:
        path: see `TableReader`, as for `options`.
        source, target: names of columns.

    Raises:
        DataError: a row is bad and the policy is to stop, or there is none.
    """

    def check(fields: dict[str, Any]) -> None:
        for name, flag in ((source, "--text-column"), (target, "--label-column")):
            if name not in fields:
                there = ", ".join(list(fields)[:8])
                raise BadRow("E304", f"no column {name!r}", got=there, do=f"pass {flag}")
            value = fields[name]
            if not isinstance(value, str) or not value.strip():
                raise BadRow("E304", f"{name!r} is empty or no text", got=repr(value)[:80])

    reader = TableReader(path, check=check, **options)
    rows = [
        Pair(record.fields[source].strip(), record.fields[target].strip(), record.place)
        for record in reader
    ]
    return not_empty(rows, reader), reader.account
