"""A stream of bytes cut into rows: by line, by blank line, by array element, or not at all.

Knows: where a row begins and ends, its line and byte, the limit on its size. Knows nothing of what
is inside a row; a damaged row is cut like any other, so that the rows after it are read.

No row larger than the limit is ever held in memory: what is too large is handed on, piece by
piece, to a file that `Gather` asks for.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

SPACE = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it stands in its file.

    Args:
        line: the line on which it begins, from 1; 0 in a file without lines.
        byte: the offset of its first byte in the (unpacked) file.
        raw: its bytes without the end of the line; empty if it is larger than the limit.
        size: how many bytes it has, also when `raw` does not hold them.
        too_large: it passed the limit, and its bytes went to a file.
        index: its place in a JSON array, from 0.
        fault: why it is bad whatever its content is.
    """

    line: int
    byte: int
    raw: bytes
    size: int
    too_large: bool = False
    index: int | None = None
    fault: str | None = None

    @property
    def place(self) -> str:
        """Its line; in an array that and its place there; in a file without lines this alone."""
        at = "" if self.index is None else f"[{self.index}]"
        return f"{self.line or ''}{at}"


class Gather:
    """Collects the pieces of one row, and moves them to a file once they pass the limit.

    Args:
        limit: the most bytes that a row may have.
        overflow: called with (line, byte) of a row that is larger; gives the file that takes its
            bytes, or raises.
    """

    def __init__(self, limit: int, overflow: Callable[[int, int], BinaryIO]):
        self.limit = limit
        self._overflow = overflow
        self._pieces: list[bytes] = []
        self._file: BinaryIO | None = None
        self.size = 0
        self.line = 0
        self.byte = 0

    def begin(self, line: int, byte: int) -> None:
        """Start a row at this place."""
        self._pieces, self._file = [], None
        self.size, self.line, self.byte = 0, line, byte

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the row."""
        self.size += len(piece)
        if self._file is None:
            self._pieces.append(piece)
            if self.size <= self.limit:
                return
            self._file = self._overflow(self.line, self.byte)
            piece = b"".join(self._pieces)
            self._pieces = []
        self._file.write(piece)

    def close(self) -> None:
        """Let go of the file of a row that will not be finished."""
        if self._file is not None:
            self._file.close()

    def finish(self, index: int | None = None, fault: str | None = None) -> Row:
        """The row that was gathered."""
        if self._file is None:
            raw = b"".join(self._pieces)
            return Row(self.line, self.byte, raw, self.size, index=index, fault=fault)
        self._file.close()
        return Row(self.line, self.byte, b"", self.size, too_large=True, index=index, fault=fault)


def whole(pieces: Iterator[bytes], first_byte: int, gather: Gather) -> Iterator[Row]:
    """The whole stream as one row."""
    gather.begin(1, first_byte)
    for piece in pieces:
        gather.add(piece)
    yield gather.finish()


def lines(pieces: Iterator[bytes], first_byte: int, gather: Gather) -> Iterator[Row]:
    """One row a line; a line ends at the byte 10, and the last one may end with the file."""
    line, byte = 1, first_byte
    gather.begin(line, byte)
    for piece in pieces:
        parts = piece.split(b"\n")
        for part in parts[:-1]:
            size = len(part)
            if gather.size or size > gather.limit:
                gather.add(part)
                row = gather.finish()
                size = row.size
                yield row
            else:
                yield Row(line, byte, part, size)
            line += 1
            byte += size + 1
            gather.size = 0
            gather.begin(line, byte)
        if parts[-1]:
            gather.add(parts[-1])
    if gather.size:
        yield gather.finish()


def paragraphs(pieces: Iterator[bytes], first_byte: int, gather: Gather) -> Iterator[Row]:
    """One row a run of lines that are not blank; the lines between them belong to no row."""
    inside = False  # in a paragraph
    blank = True  # nothing but spaces on this line so far
    held: list[bytes] = []  # those spaces: they are part of the row if more follows on the line
    line, byte, held_bytes = 1, first_byte, 0
    for part in _cut(pieces):
        held.append(part)
        held_bytes += len(part)
        byte += len(part)
        if part.strip(SPACE) or held_bytes > gather.limit:
            blank = False
        if not blank:
            if not inside:
                gather.begin(line, byte - held_bytes)
                inside = True
            for earlier in held:
                gather.add(earlier)
            held, held_bytes = [], 0
        if part.endswith(b"\n"):
            if blank and inside:
                yield gather.finish()
                inside = False
            held, held_bytes, blank = [], 0, True
            line += 1
    if inside:
        yield gather.finish()


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends, in parts where a line crosses the border of two pieces."""
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            yield part + b"\n"
        if rest:
            yield rest


def elements(pieces: Iterator[bytes], first_byte: int, gather: Gather) -> Iterator[Row]:
    """One row an element of the one JSON array that the stream holds."""
    scanner = _ArrayScanner(first_byte, gather)
    for piece in pieces:
        yield from scanner.feed(piece)
    yield from scanner.end()


class _ArrayScanner:
    """Follows strings and brackets only, so that a damaged element does not hide the next one."""

    _outside = re.compile(rb'["\[\]{},]')
    _inside = re.compile(rb'["\\]')

    def __init__(self, first_byte: int, gather: Gather):
        self.gather = gather
        self.line, self.byte, self.index = 1, first_byte, 0
        self.depth = 0
        self.in_string = False
        self.escaped = False  # the last piece ended on a backslash
        self.begun = False  # the current element has a first byte
        self.closed = False

    def feed(self, piece: bytes) -> Iterator[Row]:
        """The elements that end in this piece."""
        start = 0
        position = int(self.escaped)
        self.escaped = False
        while not self.closed:
            match = (self._inside if self.in_string else self._outside).search(piece, position)
            if match is None:
                break
            mark, position = match[0], match.end()
            if self.in_string:
                if mark == b"\\":
                    position += 1
                    self.escaped = position > len(piece)
                else:
                    self.in_string = False
            elif mark == b'"':
                self.in_string = True
            elif mark in b"[{":
                self.depth += 1
                if self.depth == 1:
                    self._skip(piece[start:position])
                    start = position
            else:
                self.depth -= mark != b","
                if self.depth == (1 if mark == b"," else 0):
                    self._take(piece[start : match.start()])
                    yield from self._separate(mark)
                    start = position
        self._take(piece[start:])

    def _skip(self, piece: bytes) -> None:
        self.line += piece.count(b"\n")
        self.byte += len(piece)

    def _take(self, piece: bytes) -> None:
        if not self.begun:
            rest = piece.lstrip(SPACE)
            self._skip(piece[: len(piece) - len(rest)])
            if not rest:
                return
            self.gather.begin(self.line, self.byte)
            self.begun, piece = True, rest
        self.gather.add(piece)
        self._skip(piece)

    def _separate(self, mark: bytes) -> Iterator[Row]:
        """A comma or the closing bracket ends an element."""
        self.closed = mark != b","
        if self.begun or self.index or not self.closed:
            missing = "trailing comma" if self.closed else "missing element"
            yield self._finish(None if self.begun else missing)
        self._skip(mark)

    def _finish(self, fault: str | None) -> Row:
        if not self.begun:
            self.gather.begin(self.line, self.byte)
        row = self.gather.finish(self.index, fault)
        self.index += 1
        self.begun = False
        return row

    def end(self) -> Iterator[Row]:
        """What is left when the file ends."""
        if self.closed:
            if self.begun:
                yield self._finish("content after the array")
            return
        if self.begun and self.depth == 1 and not self.in_string:
            yield self._finish(None)
        yield self._finish("truncated JSON")
