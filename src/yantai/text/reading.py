"""The bytes of a source file: unpacked, hashed on the way, refused if they changed or explode.

Knows: gzip and zstd streams, byte-order marks, a file's identity. Knows nothing of rows.

1. `SourceFile` reads raw pieces once, hashes them, and at the end compares the file with what it
   was when it was opened.
2. `unpack` turns the pieces of a .gz or .zst file into its content, with a cap on the ratio.
3. `plain_lines` strips a byte-order mark and recodes what cannot be cut at the byte 10 (UTF-16).

Memory is bounded by a few `PIECE_BYTES`, and for zstd by the window of the frame (128 MiB).
"""

import codecs
import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from yantai.base.errors import DataError, StorageError, UsageError

PIECE_BYTES = 1 << 20
PACKED_PIECE_BYTES = 1 << 16
# A block of zstd turns 4 bytes into 128 KiB, so that the size of one output is bounded by feeding
# a little at a time: 512 bytes become 16 MiB at most.
ZSTD_SLICE_BYTES = 512
ZSTD_WINDOW_BYTES = 1 << 27
# Text is packed about 4:1; only what is made to explode passes 1,000:1 over more than 64 MiB.
BOMB_RATIO = 1000
BOMB_FREE_BYTES = 64 << 20

PACKINGS = {".gz": "gz", ".zst": "zst"}
"""The end of a file's name → how it is packed."""
MAGIC = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}
_NAMES = {"gz": "gzip", "zst": "zstd"}
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class StreamFault(Exception):  # noqa: N818 - caught by the reader, which adds the rows read so far
    """A fault after which nothing more can be read from this file."""

    def __init__(self, code: str, byte: int, what: str, do: str | None = None):
        super().__init__(what)
        self.code, self.byte, self.what, self.do = code, byte, what, do


def shown(path: Path | str) -> str:
    """A path as clean text, also where a file's name is not valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class SourceFile:
    """One file, read once from start to end, that must not change meanwhile.

    Raises:
        DataError: E306, the file changed, grew or vanished.
        StorageError: E503, it cannot be opened or read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.bytes_read = 0
        self._hash = hashlib.sha256()
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise self._changed("the file vanished before it was read") from error
        except OSError as error:
            raise StorageError("E503", shown(path), f"could not be read ({error})") from error
        self._start = os.fstat(self._file.fileno())

    def __enter__(self) -> "SourceFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def pieces(self, size: int) -> Iterator[bytes]:
        """The raw bytes of the file, `size` at a time."""
        while True:
            try:
                piece = self._file.read(size)
            except OSError as error:
                raise StorageError(
                    "E503", f"{shown(self.path)}:{self.bytes_read}", f"could not be read ({error})"
                ) from error
            if not piece:
                return
            self.bytes_read += len(piece)
            self._hash.update(piece)
            # Without this, a file that is written to while it is read might never end.
            if self.bytes_read > self._start.st_size:
                self.check_unchanged()
            yield piece

    def check_unchanged(self) -> None:
        """Compare the file under this name with the one that was opened."""
        try:
            now = self.path.stat()
        except FileNotFoundError as error:
            raise self._changed("the file vanished while it was read") from error
        start = self._start
        before = (start.st_size, start.st_mtime_ns, start.st_ino)
        if before != (now.st_size, now.st_mtime_ns, now.st_ino):
            raise self._changed(
                "the file changed while it was read",
                expected=f"{start.st_size} bytes, mtime_ns {start.st_mtime_ns}",
                got=f"{now.st_size} bytes, mtime_ns {now.st_mtime_ns}"
                + ("" if now.st_ino == start.st_ino else " in another file of this name"),
            )

    def _changed(self, what: str, expected: str | None = None, got: str | None = None) -> DataError:
        do = "start again when nothing writes to it any more"
        return DataError("E306", shown(self.path), what, expected=expected, got=got, do=do)

    def finish(self) -> dict[str, Any]:
        """Check that nothing changed and describe the file: path, size, mtime_ns, sha256."""
        self.check_unchanged()
        return {
            "path": shown(self.path),
            "size": self._start.st_size,
            "mtime_ns": self._start.st_mtime_ns,
            "sha256": self._hash.hexdigest(),
        }


def unpack(source: SourceFile, packing: str) -> Iterator[bytes]:
    """The content of a file.

    Args:
        source: the open file.
        packing: `""`, `"gz"` (RFC 1952, members joined) or `"zst"` (RFC 8878, frames joined).

    Raises:
        StreamFault: E303, the stream is damaged, cut off, of another kind, or a bomb.
    """
    if not packing:
        yield from source.pieces(PIECE_BYTES)
        return
    total = 0
    for piece in (_gunzip if packing == "gz" else _unzstd)(source):
        total += len(piece)
        if total > BOMB_FREE_BYTES and total > BOMB_RATIO * source.bytes_read:
            raise StreamFault(
                "E303",
                source.bytes_read,
                f"{source.bytes_read:,} packed bytes became more than {total:,}, "
                f"over {BOMB_RATIO:,}:1, which no text does",
                "unpack the file yourself if it is what you want",
            )
        if piece:
            yield piece


def _packed_pieces(source: SourceFile, packing: str) -> Iterator[bytes]:
    """Raw pieces, after a look at the first bytes."""
    magic = MAGIC[packing]
    for piece in source.pieces(PACKED_PIECE_BYTES):
        first = source.bytes_read == len(piece)
        # zstd may also start with a skippable frame, 0x184D2A5? (RFC 8878, 3.1.2).
        skippable = packing == "zst" and piece[1:4] == b"\x2a\x4d\x18" and piece[0] >> 4 == 5
        if first and piece[: len(magic)] != magic[: len(piece)] and not skippable:
            name = _NAMES[packing]
            raise StreamFault(
                "E303",
                0,
                f"this is not {name} data; it begins with {piece[:8].hex(' ')}",
                f"remove .{packing} from the name if it is not packed",
            )
        yield piece


def _cut_off(source: SourceFile, packing: str) -> StreamFault:
    what = f"the {_NAMES[packing]} stream is cut off"
    return StreamFault("E303", source.bytes_read, what, "fetch or pack the file again")


def _damaged(byte: int, packing: str, error: Exception) -> StreamFault:
    what = f"the {_NAMES[packing]} stream is damaged ({error})"
    return StreamFault("E303", byte, what, "fetch or pack the file again")


def _gunzip(source: SourceFile) -> Iterator[bytes]:
    engine: Any = None
    members = 0
    for piece in _packed_pieces(source, "gz"):
        while piece:
            if engine is None:
                # gzip pads with zeros after a member (tapes, tar); they are no damage.
                piece = piece.lstrip(b"\0") if members else piece
                if not piece:
                    break
                engine = zlib.decompressobj(wbits=31)
            try:
                content = engine.decompress(piece, PIECE_BYTES)
                while len(content) == PIECE_BYTES and not engine.eof:
                    yield content
                    content = engine.decompress(engine.unconsumed_tail, PIECE_BYTES)
            except zlib.error as error:
                raise _damaged(source.bytes_read - len(piece), "gz", error) from error
            yield content
            piece = engine.unused_data if engine.eof else engine.unconsumed_tail
            if engine.eof:
                members += 1
                engine = None
    if engine is not None or not members:
        raise _cut_off(source, "gz")


def _unzstd(source: SourceFile) -> Iterator[bytes]:
    engine: Any = None
    frames = 0
    for piece in _packed_pieces(source, "zst"):
        contents: list[bytes] = []
        size = 0
        start = source.bytes_read - len(piece)
        for offset in range(0, len(piece), ZSTD_SLICE_BYTES):
            rest = piece[offset : offset + ZSTD_SLICE_BYTES]
            while rest:
                if engine is None:
                    unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
                    engine = unpacker.decompressobj()
                try:
                    contents.append(engine.decompress(rest))
                except zstandard.ZstdError as error:
                    raise _damaged(start + offset, "zst", error) from error
                rest = engine.unused_data if engine.eof else b""
                if engine.eof:
                    frames += 1
                    engine = None
                size += len(contents[-1])
                if size >= PIECE_BYTES:
                    yield b"".join(contents)
                    contents, size = [], 0
        yield b"".join(contents)
    if engine is not None or not frames:
        raise _cut_off(source, "zst")


def check_encoding(name: str) -> str:
    """The Python name of a text encoding.

    Raises:
        UsageError: E201, there is no such encoding.
    """
    try:
        "".encode(name)
        name = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise UsageError(
            "E201", "encoding", f"no text encoding is called {name!r}", do="pass --encoding utf-8"
        ) from error
    return "utf-8" if name == "utf-8-sig" else name


def plain_lines(pieces: Iterator[bytes], encoding: str) -> tuple[Iterator[bytes], int, str]:
    """Make a stream that can be cut at the byte 10.

    UTF-16 and UTF-32, by their mark or by `encoding`, become UTF-8. A byte-order mark is stripped.

    Returns:
        the stream, the offset of its first byte in the content, the encoding of its rows.
    """
    head, pieces = _peek(pieces, 4)
    if encoding == "utf-8":
        for mark, wide in _WIDE_MARKS:
            if head.startswith(mark):
                return _recode(pieces, wide), 0, "utf-8"
    elif "\n".encode(encoding) != b"\n":
        return _recode(pieces, encoding), 0, "utf-8"
    try:
        mark = "\ufeff".encode(encoding)
    except UnicodeEncodeError:
        return pieces, 0, encoding
    if not head.startswith(mark):
        return pieces, 0, encoding
    first = next(pieces)
    return itertools.chain([first[len(mark) :]], pieces), len(mark), encoding


def _peek(pieces: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= size:
            break
    return head, itertools.chain([head] if head else [], pieces)


def _recode(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """UTF-8 from another encoding; a lone surrogate passes, so that only its line is refused."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    done = 0
    first = True
    for piece in itertools.chain(pieces, [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            raise StreamFault(
                "E302",
                done - held + error.start,
                f"not valid {encoding} ({error.reason})",
                "pass the right --encoding",
            ) from error
        done += len(piece)
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        yield text.encode("utf-8", "surrogatepass")
