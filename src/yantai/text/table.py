"""Rows with named columns: CSV, TSV, JSON lines, JSON arrays, each also packed, and Parquet.

Knows: where a record begins and ends, what its columns are called, which record is bad and why.
Knows nothing of what the columns mean.

A field of a CSV file may hold line breaks between quotes (RFC 4180); a quote that is never closed
spoils its own line only. In TSV a quote is a character like any other.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from yantai.base.errors import DataError, UsageError
from yantai.base.files import storage_error
from yantai.text.reading import (
    PACKINGS,
    PIECE_BYTES,
    SourceFile,
    StreamFault,
    check_encoding,
    plain_lines,
    shown,
    unpack,
)
from yantai.text.reading_account import Quarantine, RowAccount
from yantai.text.reading_json import BadRow, decode, parse_object
from yantai.text.reading_parquet import parquet_rows
from yantai.text.reading_rows import SPACE, Gather, Row, elements, lines

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_KINDS = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"
MAX_ROW_BYTES = 16 << 20
MAX_RECORD_LINES = 2_000


@dataclass(frozen=True, slots=True)
class Record:
    """One row.

    Attributes:
        fields: column → value; texts, or what JSON holds.
        place: `file:line`, `file:line[index]` in a JSON array, `file:[index]` in Parquet.
        problem: what is wrong with it, where bad records are marked.
    """

    fields: dict[str, Any]
    place: str
    problem: str | None = None


def _too_large() -> BadRow:
    return BadRow("E308", "larger than the limit", f"a row of over {MAX_ROW_BYTES:,} bytes")


class TableReader:
    """Reads one file of records, in the same order every time.

    Args:
        path: the file; its name says what it is.
        columns: names of the columns, where the file has no line that says them.
        separator: what stands between columns; by default a comma, or a tab in .tsv.
        encoding: of the file.
        policy: `"stop"` at a bad record, `"quarantine"` it and go on, or `"mark"` it in its place.
        quarantine: the folder for bad records.
        check: looks at the fields of a record and raises `BadRow` if they make no sense.
        way_on: the policy that an error advises.

    `account` and `source` (path, size, mtime_ns, sha256) are complete when the iteration has ended.

    Raises:
        UsageError: the path or a setting is wrong.
        DataError: E301–E304, E308 a record is bad; E303 the file is damaged; E309 its kind.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        columns: Sequence[str] | None = None,
        separator: str | None = None,
        encoding: str = "utf-8",
        policy: str = "stop",
        quarantine: Path | None = None,
        check: Callable[[dict[str, Any]], object] | None = None,
        way_on: str = "quarantine",
    ):
        self.path, self._way_on = Path(path), way_on
        self._check = check
        if not self.path.is_file():
            raise UsageError("E206", shown(path), "there is no such file")
        self.packing = PACKINGS.get(self.path.suffix.lower(), "")
        name = self.path.with_suffix("") if self.packing else self.path
        self.kind = name.suffix.lower()
        if self.kind not in (*SEPARATORS, *JSON_KINDS) and (self.kind != PARQUET or self.packing):
            kinds = ", ".join([*SEPARATORS, *JSON_KINDS])
            raise DataError(
                "E309", shown(path), "not a file of records",
                expected=f"{kinds}, also packed, or {PARQUET}",
            )  # fmt: skip
        if self.kind not in SEPARATORS and (columns or separator):
            raise UsageError("E203", "columns", "rows of this file name their own columns")
        self.columns = list(columns) if columns else None
        self.separator = separator or SEPARATORS.get(self.kind, "")
        self.encoding = check_encoding(encoding)
        self.account, self.source = RowAccount(), {}
        self._quarantine_folder = quarantine if policy == "quarantine" else None
        self._quarantine: Quarantine | None = None
        self._marks = policy == "mark"
        if policy == "quarantine" and quarantine is None:
            raise UsageError("E201", "quarantine", "no folder is given for the bad rows")

    def __iter__(self) -> Iterator[Record]:
        self.account.reset()
        if self._quarantine_folder is not None:
            self._quarantine = Quarantine(self._quarantine_folder)
        try:
            with SourceFile(self.path) as source:
                try:
                    yield from self._records(source)
                except StreamFault as fault:
                    source.check_unchanged()
                    raise DataError(
                        fault.code, f"{shown(self.path)}:{fault.byte}", fault.what, do=fault.do
                    ) from fault
                self.source = source.finish()
        finally:
            if self._quarantine is not None:
                self._quarantine.close()
        self.account.check("reading")

    def _records(self, source: SourceFile) -> Iterator[Record]:
        for row, value in self._parquet(source) if self.kind == PARQUET else self._found(source):
            where = self._where(row)
            if self._check is not None and not isinstance(value, BadRow):
                try:
                    self._check(value)
                except BadRow as bad:
                    value = bad
            if isinstance(value, BadRow) and self._marks:
                self.account.rows_out += 1
                yield Record({}, where, value.what)
                continue
            if isinstance(value, BadRow):
                self._refuse(row, value, where)
                continue
            self.account.rows_out += 1
            yield Record(value, where)

    def _parquet(self, source: SourceFile) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
        for _ in source.pieces(PIECE_BYTES):
            pass  # hashed; a Parquet file is described at its end
        for row, fields in parquet_rows(self.path):
            self.account.rows_in += 1
            too_large = row.size > MAX_ROW_BYTES
            yield row, _too_large() if too_large else fields

    def _found(self, source: SourceFile) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
        """Each row, and its fields or what is wrong with it."""
        pieces, first, encoding = plain_lines(unpack(source, self.packing), self.encoding)

        def overflow(line: int, byte: int) -> BinaryIO:
            if self._quarantine is not None:
                return self._quarantine.large_file()
            row = Row(line, byte, b"", 0, too_large=True)
            raise self._stop(row, _too_large(), self._where(row))

        gather = Gather(MAX_ROW_BYTES, overflow)
        cut = elements if self.kind == ".json" else lines
        rows = cut(pieces, first, gather)
        read = self._json if self.kind in JSON_KINDS else self._cells
        try:
            yield from read(rows, encoding)
        except OSError as error:  # of the file that takes a row too large for memory
            raise storage_error(error, self._quarantine_folder or self.path) from error
        finally:
            gather.close()

    def _json(
        self, rows: Iterator[Row], encoding: str
    ) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
        for row in rows:
            self.account.rows_in += 1
            if row.index is None and not row.too_large and not row.raw.strip(SPACE):
                self.account.drop("blank line", self._where(row))
                continue
            try:
                if row.too_large:
                    raise _too_large()
                if row.fault:
                    raise BadRow("E301", row.fault)
                yield row, parse_object(decode(row.raw, encoding))
            except BadRow as bad:
                yield row, bad

    def _cells(
        self, rows: Iterator[Row], encoding: str
    ) -> Iterator[tuple[Row, dict[str, Any] | BadRow]]:
        names = self.columns
        for row in self._joined(rows):
            if names is None:
                names = self._header(row, encoding)
                continue
            self.account.rows_in += 1
            if not row.too_large and not row.raw.strip(SPACE):
                self.account.drop("blank line", self._where(row))
                continue
            try:
                if row.too_large:
                    raise _too_large()
                cells = self._cut(decode(row.raw, encoding))
                if len(cells) != len(names):
                    raise BadRow(
                        "E304", "columns do not fit the header",
                        f"{len(cells)} columns where the header has {len(names)}",
                        got=f"{', '.join(cells)[:80]!r}",
                    )  # fmt: skip
                yield row, dict(zip(names, cells, strict=True))
            except BadRow as bad:
                yield row, bad

    def _header(self, row: Row, encoding: str) -> list[str]:
        try:
            names = [name.strip() for name in self._cut(decode(row.raw, encoding))]
        except BadRow as bad:
            raise self._stop(row, bad, self._where(row)) from None
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or "" in names:
            what = f"the column {twice!r} stands twice" if twice else "a column without a name"
            raise DataError(
                "E304", self._where(row), what, do="mend the header, or name the columns by flag"
            )
        return names

    def _cut(self, text: str) -> list[str]:
        """The cells of a record."""
        text = text.rstrip("\r\n")
        if self.kind == ".tsv":
            return text.split(self.separator)
        try:
            found = list(csv.reader([text], delimiter=self.separator, strict=True))
        except csv.Error as error:
            what = "a carriage return outside of quotes" if "\r" in text else str(error)
            raise BadRow("E301", "not CSV", f"not CSV ({what})") from error
        return found[0] if found else []

    def _joined(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Lines of a CSV record in one: a quote that is open goes on in the next line."""
        if self.kind == ".tsv":
            yield from rows
            return
        waiting: deque[Row] = deque()
        while True:
            row = waiting.popleft() if waiting else next(rows, None)
            if row is None:
                return
            if row.too_large:
                yield row
                continue
            more, raw = [], row.raw
            while raw.count(b'"') % 2 and len(more) < MAX_RECORD_LINES:
                line = waiting[len(more)] if len(more) < len(waiting) else next(rows, None)
                if line is None:
                    break
                if len(more) >= len(waiting):
                    waiting.append(line)
                if line.too_large:  # what would join it is spoiled, and it is told by itself
                    break
                more.append(line)
                raw += b"\n" + line.raw
            if raw.count(b'"') % 2:  # never closed: this line alone is spoiled
                yield row
                continue
            for _ in more:
                waiting.popleft()
            yield Row(row.line, row.byte, raw, len(raw))

    def _where(self, row: Row) -> str:
        return f"{shown(self.path.name)}:{row.place}"

    def _refuse(self, row: Row, bad: BadRow, where: str) -> None:
        if self._quarantine is None:
            raise self._stop(row, bad, where)
        record = {
            "file": shown(self.path.name), "line": row.line, "byte": row.byte, "size": row.size,
            "code": bad.code, "reason": bad.reason, "what": bad.what,
        }  # fmt: skip
        if row.index is not None:
            record["index"] = row.index
        self._quarantine.keep(record, row.raw, row.too_large)
        self.account.quarantine(bad.reason, where)

    def _stop(self, row: Row, bad: BadRow, where: str) -> DataError:
        where = f"{shown(self.path)}{where.removeprefix(shown(self.path.name))}"
        do = f"{bad.do or 'mend the row'} or pass --on-bad-row {self._way_on}"
        return DataError(bad.code, where, bad.what, got=bad.got, do=do)
