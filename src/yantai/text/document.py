"""Raw files to documents, with an account of every row.

Knows: which files are read, which rows become documents, what happens to the others. Knows
nothing of tokens or cleaning; the text of a document is exactly the text that its file holds.

    files ──find──▶ bytes ──unpack──▶ rows ──decode, parse──▶ documents
                    reading.py        reading_rows.py         reading_json.py

A bad row stops the reading with its place (`file:line:byte`, the byte counted in the unpacked
file), or is kept raw in quarantine while the reading goes on. A file that is damaged, cut off or
changed while it is read always stops it: what such a file would have held is unknown.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from yantai.base.errors import DataError, StorageError, UsageError
from yantai.base.files import storage_error
from yantai.text.reading import (
    PACKINGS,
    SourceFile,
    StreamFault,
    check_encoding,
    plain_lines,
    shown,
    unpack,
)
from yantai.text.reading_account import Quarantine, RowAccount
from yantai.text.reading_json import BadRow, decode, parse_object, text_of
from yantai.text.reading_rows import SPACE, Gather, Row, elements, lines, paragraphs, whole

KINDS = {".txt": "text", ".md": "page", ".jsonl": "rows", ".ndjson": "rows", ".json": "json"}
POLICIES = ("stop", "quarantine")
SPLITS = {"file": whole, "line": lines, "blank_line": paragraphs}
MAX_ROW_BYTES = 64 << 20
# Inside a folder that Yantai wrote, its own records are no documents.
OWN_FILES = ("manifest.json", "receipt.json")
OWN_FOLDERS = ("quarantine",)


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from.

    Args:
        text: the text, unchanged.
        id: `file:line`, `file:line[index]` in a JSON array, or `file` where that is one document;
            the file is relative to the folder that was named.
        source: that file.
        line: the line on which it begins, from 1.
    """

    text: str
    id: str
    source: str
    line: int

    @property
    def size_bytes(self) -> int:
        """The length of the text in raw UTF-8 bytes."""
        return len(self.text) if self.text.isascii() else len(self.text.encode())


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to read: its path, its name in ids, its kind and its packing."""

    path: Path
    name: str
    kind: str
    packing: str


def kind_of(name: str) -> tuple[str, str] | None:
    """The kind and packing that a file's name promises, or None if it is not read.

    >>> kind_of("a.JSONL.gz"), kind_of("a.pdf")
    (('rows', 'gz'), None)
    """
    stem, suffix = os.path.splitext(name.lower())  # noqa: PTH122 - a name, not a path
    packing = PACKINGS.get(suffix, "")
    if packing:
        suffix = os.path.splitext(stem)[1]  # noqa: PTH122
    kind = KINDS.get(suffix)
    return None if kind is None else (kind, packing)


def find_files(paths: Sequence[Path], account: RowAccount) -> list[FoundFile]:
    """The files under these paths, folders in the order of their names.

    Files of a folder that are not read are counted in `account.files_skipped`.

    Raises:
        UsageError: E206 a path does not exist, E201 a file is named twice.
        DataError: E309 a named file is of a kind that is not read, E305 there is nothing to read.
    """
    for path in paths:
        if not path.exists():
            raise UsageError("E206", shown(path), "there is no such file or folder")
        if (path / "recipe.json").is_file() and (path / "metrics.jsonl").is_file():
            raise DataError(
                "E309", shown(path), "is a run, not a folder of documents",
                do=f"its model is {shown(path / 'model')}",
            )  # fmt: skip
    parents = [os.path.abspath(p if p.is_dir() else p.parent) for p in paths]  # noqa: PTH100
    base = Path(os.path.commonpath(parents))
    found: list[FoundFile] = []
    for path in paths:
        for file in _walk(path) if path.is_dir() else [path]:
            name = shown(Path(os.path.abspath(file)).relative_to(base))  # noqa: PTH100
            kind = kind_of(file.name)
            reason = "" if kind else "unsupported kind"
            if path.is_dir() and _is_own(file.relative_to(path)):
                reason = "a record of Yantai"
            if not file.is_file():
                reason = "not a regular file"
            if kind and not reason:
                found.append(FoundFile(file, name, *kind))
            elif file is path:
                raise _unread(path, reason)
            else:
                account.skip_file(reason, name)
    _check_found(paths, found, account)
    return found


def _walk(folder: Path) -> list[Path]:
    """All files below a folder, sorted by path; hidden files and folders are ignored."""

    def refuse(error: OSError) -> None:
        where = shown(error.filename or folder)
        raise StorageError("E503", where, f"could not be read ({error.strerror})") from error

    files: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=refuse):
        linked = [name for name in folders if (Path(root) / name).is_symlink()]
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root) / name for name in names + linked if not name.startswith(".")]
    return sorted(files, key=lambda file: file.relative_to(folder).parts)


def _is_own(relative: Path) -> bool:
    return relative.name in OWN_FILES or any(part in OWN_FOLDERS for part in relative.parts[:-1])


def _unread(path: Path, reason: str) -> DataError:
    kinds = f"{', '.join(KINDS)}, each also with {' or '.join(PACKINGS)}"
    return DataError("E309", shown(path), f"the file is not read: {reason}", expected=kinds)


def _check_found(paths: Sequence[Path], found: list[FoundFile], account: RowAccount) -> None:
    seen: set[Path] = set()
    for file in found:
        resolved = file.path.resolve()
        if resolved in seen:
            raise UsageError("E201", shown(file.path), "the file is named twice", do="name it once")
        seen.add(resolved)
    if not found:
        skipped = ", ".join(f"{n} {reason}" for reason, n in account.files_skipped.items())
        raise DataError(
            "E305",
            ", ".join(map(shown, paths)),
            "there is no file to read",
            expected=", ".join(KINDS),
            got=skipped or "an empty folder",
        )


class DocumentReader:
    """Reads files and folders as a stream of documents, in the same order every time.

    Args:
        paths: files and folders.
        text_field: the field of a JSON row that holds the text.
        policy: `"stop"` at a bad row, or `"quarantine"` it and go on.
        quarantine: the folder for bad rows, needed by (and used only under) that policy.
        encoding: of all the files; UTF-16 and UTF-32 with a byte-order mark need none.
        split: what is a document in a .txt file: the `"file"`, a `"line"`, or what stands between
            blank lines (`"blank_line"`).
        max_row_bytes: the largest row, and so the bound of the memory.

    `account` and `sources` (path, name, size, mtime_ns and sha256 of each file) are complete when
    the iteration has ended; iterating again fills the same objects anew.

    Raises:
        UsageError: a path or a setting is wrong.
        DataError: E301–E304, E308 a row is bad; E303 a file is damaged; E306 a file changed.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        text_field: str = "text",
        policy: str = "stop",
        quarantine: str | Path | None = None,
        encoding: str = "utf-8",
        *,
        split: str = "file",
        max_row_bytes: int = MAX_ROW_BYTES,
    ):
        if policy not in POLICIES:
            raise UsageError("E201", "policy", f"{policy!r} is not one of {', '.join(POLICIES)}")
        if split not in SPLITS:
            raise UsageError("E201", "split", f"{split!r} is not one of {', '.join(SPLITS)}")
        if policy == "quarantine" and quarantine is None:
            raise UsageError("E201", "quarantine", "no folder is given for the bad rows")
        named = [paths] if isinstance(paths, str | Path) else list(paths)
        if not named:
            raise UsageError("E206", "data", "no file or folder is named", do="give --data")
        self.text_field = text_field
        self.encoding = check_encoding(encoding)
        self.split = split
        self.max_row_bytes = max_row_bytes
        self.account = RowAccount()
        self.sources: list[dict[str, Any]] = []
        self.files = find_files([Path(path) for path in named], self.account)
        self._quarantine_folder = (
            Path(quarantine) if policy == "quarantine" and quarantine else None
        )
        self._quarantine: Quarantine | None = None

    def __iter__(self) -> Iterator[Document]:
        self.account.reset()
        self.sources.clear()
        if self._quarantine_folder is not None:
            self._quarantine = Quarantine(self._quarantine_folder)
        try:
            for file in self.files:
                yield from self._read(file)
        finally:
            if self._quarantine is not None:
                self._quarantine.close()
        self.account.check("reading")

    def _read(self, file: FoundFile) -> Iterator[Document]:
        rows_before = self.account.rows_in
        with SourceFile(file.path) as source:
            try:
                for row, encoding in self._rows(file, source):
                    self.account.rows_in += 1
                    document = self._document(file, row, encoding)
                    if document is not None:
                        self.account.rows_out += 1
                        yield document
            except StreamFault as fault:
                source.check_unchanged()  # a file that is still being written looks cut off
                rows = self.account.rows_in - rows_before
                raise DataError(
                    fault.code,
                    f"{shown(file.path)}:{fault.byte}",
                    f"{fault.what}, after {rows:,} rows read",
                    do=fault.do,
                ) from fault
            except DataError:
                source.check_unchanged()
                raise
            except OSError as error:  # of the file that takes a row too large for memory
                raise storage_error(error, self._quarantine_folder or file.path) from error
            self.sources.append({**source.finish(), "name": file.name})

    def _rows(self, file: FoundFile, source: SourceFile) -> Iterator[tuple[Row, str]]:
        """The rows of a file, each with the encoding of its bytes."""
        pieces, first_byte, encoding = plain_lines(unpack(source, file.packing), self.encoding)

        def overflow(line: int, byte: int) -> BinaryIO:
            if self._quarantine is not None:
                return self._quarantine.large_file()
            raise self._stop(file, Row(line, byte, b"", 0, too_large=True), self._too_large(file))

        gather = Gather(self.max_row_bytes, overflow)
        if file.kind == "text":
            cut = SPLITS[self.split]
        elif file.kind == "page":
            cut = whole
        else:
            cut = lines
            if file.kind == "json":
                pieces, is_array = _holds_array(pieces)
                cut = elements if is_array else lines
        try:
            for row in cut(pieces, first_byte, gather):
                yield row, encoding
        finally:
            gather.close()

    def _is_whole(self, file: FoundFile) -> bool:
        return file.kind == "page" or (file.kind == "text" and self.split == "file")

    def _too_large(self, file: FoundFile) -> BadRow:
        text = file.kind == "text"
        return BadRow(
            "E308",
            "larger than the limit",
            f"{'the file' if self._is_whole(file) else 'the row'} is larger than "
            f"max_row_bytes, {self.max_row_bytes:,} bytes",
            do=f"set {'split to line or blank_line' if text else 'max_row_bytes higher'}",
        )

    def _document(self, file: FoundFile, row: Row, encoding: str) -> Document | None:
        """The document of a row, or None if the row is dropped or quarantined."""
        where = self._where(file.name, file, row)
        is_json = file.kind in ("rows", "json")
        try:
            if row.too_large:
                raise self._too_large(file)
            if row.fault:
                raise BadRow("E301", row.fault)
            if is_json and row.index is None and not row.raw.strip(SPACE):
                self.account.drop("blank line", where)
                return None
            text = decode(row.raw, encoding)
            text = self._json_text(text) if is_json else self._plain_text(file, text)
        except BadRow as bad:
            if self._quarantine is None:
                raise self._stop(file, row, bad) from None
            self._keep(file, row, bad, where)
            return None
        if not text or text.isspace():
            self.account.drop("empty text", where)
            return None
        return Document(text, self._id(file, row), file.name, row.line)

    def _json_text(self, text: str) -> str:
        return text_of(parse_object(text), self.text_field)

    def _plain_text(self, file: FoundFile, text: str) -> str:
        if "\0" in text:
            raise BadRow("E302", "NUL byte", "a NUL byte, which no text has", do="pass --encoding")
        return text if self._is_whole(file) else text.rstrip("\r\n")

    def _id(self, file: FoundFile, row: Row) -> str:
        if self._is_whole(file):
            return file.name
        return f"{file.name}:{row.place}"

    def _where(self, name: str, file: FoundFile, row: Row, at: int | None = None) -> str:
        if self._is_whole(file):
            return f"{name}:{row.byte + (at or 0)}"
        return f"{name}:{row.line}:{row.byte}"

    def _stop(self, file: FoundFile, row: Row, bad: BadRow) -> DataError:
        what = bad.what
        if bad.at is not None and not self._is_whole(file):
            what += f" at byte {bad.at} of the row"
        where = self._where(shown(file.path), file, row, bad.at)
        do = f"{bad.do or 'mend the row'} or pass --on-bad-row quarantine"
        return DataError(bad.code, where, what, got=bad.got, do=do)

    def _keep(self, file: FoundFile, row: Row, bad: BadRow, where: str) -> None:
        assert self._quarantine is not None, "a row is kept only under the policy quarantine"
        record = {
            "file": file.name,
            "line": row.line,
            "byte": row.byte,
            "size": row.size,
            "code": bad.code,
            "reason": bad.reason,
            "what": bad.what,
        }
        self._quarantine.keep(record, row.raw, row.too_large)
        self.account.quarantine(bad.reason, where)


def _holds_array(pieces: Iterator[bytes]) -> tuple[Iterator[bytes], bool]:
    """Whether the first thing in a .json file is an array; lines of objects begin with `{`."""
    held: list[bytes] = []
    for piece in pieces:
        held.append(piece)
        match = re.search(rb"[^ \t\r\n]", piece)
        if match:
            return _chain(held, pieces), match[0] == b"["
    return iter(held), False


def _chain(held: list[bytes], pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield from held
    yield from pieces
