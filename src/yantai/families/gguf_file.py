"""The container of llama.cpp: metadata and tensors of a GGUF file that anybody may have written.

Knows: the format (github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3, little
endian. Every count, length, type and offset is checked against the bytes that the file really has
before anything is allocated for it.
"""

import itertools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yantai.base.errors import ModelFileError

MAGIC, VERSIONS = b"GGUF", (2, 3)
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
STRING, ARRAY = 8, 9
MOST_KEYS = MOST_TENSORS = 65_536
MOST_TEXT, MOST_STRINGS = 1 << 20, 1 << 22
MOST_NUMBERS, MOST_RANK = 1 << 40, 4
ALIGNMENTS = tuple(2**power for power in range(3, 17))
TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 8: ("Q8_0", 32, 34),
         30: ("BF16", 1, 2)}  # fmt: skip
"""Types of tensors that are read: the name, numbers of a block, bytes of a block."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a file.

    Attributes:
        kind: F32, F16, BF16, Q8_0 or Q4_0.
        shape: outputs before inputs, as torch has them.
        data: its bytes, in the file.
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray


def read_gguf_file(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Metadata and tensors by their names.

    Raises:
        ModelFileError: E404 with the byte, whatever is wrong with the file.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ModelFileError("E404", path, "is empty")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(path, content).read()


class _Reader:
    """A place in the bytes of a file, and how much may be read there."""

    def __init__(self, path: Path, content: mmap.mmap):
        self.path, self.content, self.place = path, content, 0

    def read(self) -> tuple[dict[str, Any], dict[str, Stored]]:
        """See `read_gguf_file`."""
        if self._take(4) != MAGIC:
            raise self._bad("not a GGUF file", at=0)
        version = self._number("I")
        if version not in VERSIONS:
            raise self._bad("a version that is not read", at=4, got=version, expected="2 or 3")
        tensors = self._count(MOST_TENSORS, "tensors")
        keys = self._count(MOST_KEYS, "entries")
        facts: dict[str, Any] = {}
        for _ in range(keys):
            at, key = self.place, self._text()
            if key in facts:
                raise self._bad(f"the entry {key!r} a second time", at=at)
            facts[key] = self._value(self._number("I"), key)
        return facts, self._tensors(tensors, facts)

    # ------------------------------------------------------------ tensors

    def _tensors(self, count: int, facts: dict[str, Any]) -> dict[str, Stored]:
        listed: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for _ in range(count):
            at, name = self.place, self._text()
            if name in listed:
                raise self._bad(f"the tensor {name!r} a second time", at=at)
            listed[name] = self._listed(name)
        alignment = facts.get("general.alignment", 32)
        if type(alignment) is not int or alignment not in ALIGNMENTS:
            raise self._bad("no alignment", got=alignment, expected="a power of two from 8 on")
        start = -(-self.place // alignment) * alignment
        size = len(self.content)
        found, ends = {}, []
        for name, (kind, shape, offset, length) in listed.items():
            if offset % alignment or start + offset + length > size:
                what = "begins at no aligned place" if offset % alignment else "reaches beyond it"
                raise self._bad(f"the tensor {name!r} {what}", at=min(size, start + offset))
            ends.append((offset, offset + length, name))
            data = np.frombuffer(self.content, np.uint8, length, start + offset)
            found[name] = Stored(kind, shape, data)
        ends.sort()
        for (_, end, _), (begin, _, name) in itertools.pairwise(ends):
            if begin < end:
                raise self._bad(f"the tensor {name!r} lies in another one", at=start + begin)
        return found

    def _listed(self, name: str) -> tuple[str, tuple[int, ...], int, int]:
        at, rank = self.place, self._number("I")
        if not 1 <= rank <= MOST_RANK:
            raise self._bad(f"the tensor {name!r} has no such rank", at=at, got=rank)
        inner_first = [self._number("Q") for _ in range(rank)]
        numbers = 1
        for width in inner_first:
            numbers *= width
            if not 0 < numbers <= MOST_NUMBERS:
                raise self._bad(f"the tensor {name!r} has no such size", at=at, got=inner_first)
        kind = self._number("I")
        if kind not in TYPES:
            known = ", ".join(each for each, _, _ in TYPES.values())
            raise self._bad(f"the tensor {name!r} has a type that is not read", got=kind,
                            expected=known)  # fmt: skip
        title, block, width = TYPES[kind]
        if inner_first[0] % block:
            raise self._bad(f"rows of {name!r} are no whole blocks", got=inner_first[0])
        return title, tuple(reversed(inner_first)), self._number("Q"), numbers // block * width

    # ------------------------------------------------------------ values

    def _value(self, kind: int, key: str) -> Any:
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind == STRING:
            return self._text()
        if kind != ARRAY:
            raise self._bad(f"{key!r} has no type", got=kind)
        inner = self._number("I")
        if inner == STRING:
            return [self._text() for _ in range(self._count(MOST_STRINGS, key, least=8))]
        if inner not in SCALARS:
            raise self._bad(f"{key!r} is an array of what is not read", got=inner)
        form = np.dtype("<" + SCALARS[inner]) if inner != 7 else np.dtype("?")
        count = self._count(MOST_NUMBERS, key, least=form.itemsize)
        return np.frombuffer(self._take(count * form.itemsize), form).tolist()

    def _count(self, most: int, what: str, least: int = 1) -> int:
        """A number of things, each of which takes at least so many bytes."""
        at, count = self.place, self._number("Q")
        if count > most or count * least > len(self.content) - self.place:
            raise self._bad(f"more {what} than it can hold", at=at, got=count)
        return count

    def _text(self) -> str:
        at = self.place
        size = self._count(MOST_TEXT, "bytes of a text")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise self._bad("a text that is not UTF-8", at=at) from error

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _take(self, size: int) -> bytes:
        if size > len(self.content) - self.place:
            raise self._bad("it ends too early", at=len(self.content))
        self.place += size
        return self.content[self.place - size : self.place]

    def _bad(self, what: str, *, at: int | None = None, **more: Any) -> ModelFileError:
        place = self.place if at is None else at
        return ModelFileError("E404", f"{self.path}:{place}", what, **more)
