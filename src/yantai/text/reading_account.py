"""What became of every row: the account, and the quarantine that keeps the bad ones.

Knows: counts by reason, places, raw bytes. Knows nothing of how a row is read.

    quarantine/rows.jsonl       one line a bad row: file, line, byte, size, code, reason, what and
                                its raw bytes in base64
    quarantine/row-00001.raw    the raw bytes of a row too large to stand in a line of that file
"""

import base64
import contextlib
import json
import os
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from yantai.base.errors import DataError
from yantai.base.files import storage_error

FIRST = 10
INLINE_BYTES = 1 << 20


@dataclass
class RowAccount:
    """The rows of one stage: every one goes in, and out, or away for a reason.

    Args:
        rows_in: rows met.
        rows_out: rows handed on.
        dropped: how many were left out as a rule says, by reason.
        quarantined: how many were bad and are kept in quarantine, by reason.
        first: the first ten places of each reason.
        files_skipped: files that were not read, by reason; they hold no counted rows.
        first_skipped: the first ten names of each of those reasons.
    """

    rows_in: int = 0
    rows_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)
    files_skipped: dict[str, int] = field(default_factory=dict)
    first_skipped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, where: str) -> None:
        """Count a row that a rule leaves out."""
        _count(self.dropped, self.first, reason, where)

    def quarantine(self, reason: str, where: str) -> None:
        """Count a bad row that is kept in quarantine."""
        _count(self.quarantined, self.first, reason, where)

    def skip_file(self, reason: str, name: str) -> None:
        """Count a file that is not read."""
        _count(self.files_skipped, self.first_skipped, reason, name)

    def check(self, where: str = "rows") -> None:
        """Hold the law of the account.

        Raises:
            DataError: E310, the rows do not add up.
        """
        dropped, quarantined = sum(self.dropped.values()), sum(self.quarantined.values())
        if self.rows_in != self.rows_out + dropped + quarantined:
            raise DataError(
                "E310",
                where,
                "the rows do not add up",
                expected=f"{self.rows_in} in",
                got=f"{self.rows_out} out + {dropped} dropped + {quarantined} quarantined",
                do="report this as a bug",
            )

    def reset(self) -> None:
        """Start again from nothing, in place: others may hold this account."""
        self.rows_in = self.rows_out = 0
        for table in (self.dropped, self.quarantined, self.first):
            table.clear()

    def losses(self) -> str:
        """The reasons for which rows are gone, the most frequent first, in one phrase."""
        both = [(f"dropped: {reason}", count) for reason, count in self.dropped.items()]
        both += [(f"quarantined: {reason}", count) for reason, count in self.quarantined.items()]
        both.sort(key=lambda item: -item[1])
        return ", ".join(f"{count} {reason}" for reason, count in both)

    def as_dict(self) -> dict[str, Any]:
        """The account as it stands in a manifest."""
        return asdict(self)


def check_stages(stages: dict[str, RowAccount], where: str) -> None:
    """Hold the law over stages in a row: each adds up, and takes all that the one before gave.

    Raises:
        DataError: E310 rows are missing, E305 no row came through.
    """
    before: RowAccount | None = None
    for name, stage in stages.items():
        stage.check(f"{where} ({name})")
        if before is not None and stage.rows_in != before.rows_out:
            raise DataError(
                "E310",
                f"{where} ({name})",
                "documents were lost between two stages",
                expected=f"{before.rows_out} in",
                got=stage.rows_in,
                do="pass the account of the stage just before",
            )
        before = stage
    if before is None or before.rows_out:
        return
    rows = next(iter(stages.values())).rows_in
    losses = "; ".join(stage.losses() for stage in stages.values() if stage.rows_in)
    raise DataError(
        "E305",
        where,
        f"no training tokens are left of {rows} rows ({losses or 'there was nothing to read'})",
        do="look at the rows that were left out for these reasons",
    )


def _count(table: dict[str, int], first: dict[str, list[str]], reason: str, where: str) -> None:
    table[reason] = table.get(reason, 0) + 1
    places = first.setdefault(reason, [])
    if len(places) < FIRST:
        places.append(where)


class Quarantine:
    """A folder of bad rows, raw. It exists only once there is one.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._rows: BinaryIO | None = None
        self._large = 0
        # What an earlier reading left would be counted as if it belonged to this one.
        with self._storage(folder):
            for path in [folder / "rows.jsonl", *folder.glob("row-*.raw")]:
                path.unlink(missing_ok=True)

    def large_file(self) -> BinaryIO:
        """A file for the bytes of the next row, which is too large to be held in memory."""
        self._large += 1
        path = self._large_path()
        with self._storage(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            return path.open("wb")

    def _large_path(self) -> Path:
        return self.folder / f"row-{self._large:05d}.raw"

    def keep(self, record: dict[str, Any], raw: bytes, in_large_file: bool) -> None:
        """Add a row; its bytes are `raw`, or already in the file of `large_file`."""
        if not in_large_file and len(raw) > INLINE_BYTES:
            with self.large_file() as file, self._storage(self._large_path()):
                file.write(raw)
            in_large_file = True
        if in_large_file:
            record = {**record, "raw_file": self._large_path().name}
        else:
            record = {**record, "raw_base64": base64.b64encode(raw).decode()}
        path = self.folder / "rows.jsonl"
        with self._storage(path):
            if self._rows is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._rows = path.open("wb")
            self._rows.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    @contextlib.contextmanager
    def _storage(self, path: Path) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise storage_error(error, path) from error

    def close(self) -> None:
        """Make what was kept durable."""
        if self._rows is not None:
            rows, self._rows = self._rows, None
            with self._storage(self.folder / "rows.jsonl"), rows:
                rows.flush()
                os.fsync(rows.fileno())


def read_quarantine(folder: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The records of a quarantine, each with the exact bytes that the row had."""
    path = folder / "rows.jsonl"
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            record = json.loads(line)
            if "raw_file" in record:
                yield record, (folder / Path(record["raw_file"]).name).read_bytes()
            else:
                yield record, base64.b64decode(record["raw_base64"])
