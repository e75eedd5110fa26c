"""Checkpoints on disk: written whole or not at all, checked before they are trusted, kept safely.

Knows: named arrays, JSON, hashes, folders `step-N`. Knows neither torch nor training, so the save
path can be killed at every system call in seconds.

    RUN/checkpoints/step-000120/   tensors.safetensors  state.json  manifest.json

The manifest names the run, the step, the SHA-256 of each file and a checksum of each tensor, and
carries a hash of itself. A folder whose manifest does not hold is no checkpoint.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from yantai.base.errors import ModelFileError
from yantai.base.files import (
    json_text,
    make_folder,
    new_folder,
    remove_folder,
    remove_temporaries,
    sha256_file,
    sha256_text,
    storage_error,
    write_atomic,
    write_json,
)

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_CHUNK = 1 << 22
_TYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
    "bool": "BOOL",
}

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that claims to be a checkpoint of some run.

    Attributes:
        folder: where it is.
        step, run_id: as its manifest says.
        files: name → {bytes, sha256, and for tensors their checksums}.
    """

    folder: Path
    step: int
    run_id: str
    files: Mapping[str, Mapping[str, Any]]

    def verify(self) -> str | None:
        """None if every file has the size and hash that the manifest gives, else what is wrong."""
        for name, facts in self.files.items():
            path = self.folder / name
            try:
                size = path.stat().st_size
                if size == facts["bytes"] and sha256_file(path) == facts["sha256"]:
                    continue
                place = _first_damaged(path, facts.get("tensors", {}))
            except FileNotFoundError:
                return f"{path}: missing"
            except OSError as error:
                return f"{path}: unreadable ({error.strerror})"
            if size != facts["bytes"]:
                return f"{path}{place}: {size:,} bytes instead of {facts['bytes']:,}"
            return f"{path}{place}: its SHA-256 is not that of the manifest"
        return None

    def state(self) -> dict[str, Any]:
        """The JSON part."""
        return json.loads((self.folder / STATE).read_bytes())


class Store:
    """The checkpoints of one run.

    Args:
        folder: `RUN/checkpoints`.
        run_id: only checkpoints of this run are ever deleted or resumed.
        keep: how many of the newest to keep.
        say: told what happens that a person should know.
    """

    def __init__(
        self, folder: Path, run_id: str, *, keep: int = 2, say: Callable[[str], None] = print
    ):
        self.folder, self.run_id, self.keep, self.say = folder, run_id, keep, say

    def save(self, step: int, tensors: Arrays, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint and delete what is older than the newest `keep`.

        Raises:
            StorageError: the disk refused; older checkpoints stand, nothing new is visible.
        """
        final = self.folder / f"step-{step:06d}"
        make_folder(self.folder)
        with new_folder(final) as temporary:
            needed = sum(array.nbytes for array in tensors.values())
            try:
                files = {TENSORS: _write_tensors(temporary / TENSORS, tensors)}
            except OSError as error:
                raise storage_error(error, final / TENSORS, needed) from error
            content = (json.dumps(dict(state), sort_keys=True) + "\n").encode()
            write_atomic(temporary / STATE, content)
            files[STATE] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
            manifest = {"format": 1, "run": self.run_id, "step": step, "files": files}
            write_json(temporary / MANIFEST, manifest | {"hash": _hash_of(manifest)})
        try:
            self._retain()
        except OSError as error:  # what is saved is saved
            self.say(f"older checkpoints could not be tidied away ({error.strerror})")
        return final

    def found(self) -> list[Checkpoint]:
        """This run's checkpoints, newest first by the step in the manifest; files unverified."""
        return self._look()[0]

    def _look(self) -> tuple[list[Checkpoint], list[str]]:
        """This run's checkpoints, and what is wrong with folders whose manifest does not hold."""
        mine, problems = [], []
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in paths:
            if not _NAME.fullmatch(path.name):
                continue
            checkpoint = read_manifest(path)
            if isinstance(checkpoint, str):
                problems.append(checkpoint)
            elif checkpoint.run_id == self.run_id:
                mine.append(checkpoint)
        return sorted(mine, key=lambda checkpoint: -checkpoint.step), problems

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are named and passed over.

        Returns None if none was ever completed, so that the run begins at step 0.

        Raises:
            ModelFileError: there are checkpoints, and every one of them is damaged.
            StorageError: what a crash left behind cannot be cleared away.
        """
        remove_temporaries(self.folder)
        checkpoints, problems = self._look()
        for problem in problems:
            self.say(f"a checkpoint is damaged: {problem}; trying another")
        for checkpoint in checkpoints:
            problem = checkpoint.verify()
            if problem is None:
                return checkpoint
            self.say(f"checkpoint of step {checkpoint.step} is damaged: {problem}; trying an older")
            problems.append(problem)
        if problems:
            raise ModelFileError(
                "E408",
                self.folder,
                f"no checkpoint can be trusted ({problems[-1]})",
                do="restore the folder from a backup, or start again with another --out",
            )
        return None

    def _retain(self) -> None:
        """Delete what is older than the newest `keep` that verify; damaged ones do not count."""
        checkpoints = self.found()
        if len(checkpoints) <= self.keep:
            return
        good = 0
        for number, checkpoint in enumerate(checkpoints):
            good += checkpoint.verify() is None
            if good == self.keep:
                for older in checkpoints[number + 1 :]:
                    remove_folder(older.folder)
                return


def read_manifest(folder: Path) -> Checkpoint | str:
    """The checkpoint that a folder claims to be, or what is wrong with its manifest."""
    path = folder / MANIFEST
    try:
        written = path.read_bytes()
        manifest = json.loads(written)
        if json_text(manifest).encode() != written:
            return f"{path}: not as it was written"
        claimed = manifest.pop("hash")
        if _hash_of(manifest) != claimed:
            return f"{path}: its hash does not hold"
        return Checkpoint(folder, manifest["step"], manifest["run"], manifest["files"])
    except FileNotFoundError:
        return f"{path}: missing"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return f"{path}: unreadable ({error})"


def problem_of(folder: Path) -> str | None:
    """None if a folder is a whole checkpoint of whatever run, else what is wrong with it."""
    checkpoint = read_manifest(folder)
    return checkpoint if isinstance(checkpoint, str) else checkpoint.verify()


def _hash_of(manifest: Mapping[str, Any]) -> str:
    return sha256_text(json.dumps(manifest, sort_keys=True))


class _Summing:
    """Writes, and knows the size and the hash of what was meant to be written."""

    def __init__(self, file: BinaryIO):
        self.file, self.bytes, self.sha256 = file, 0, sha256()

    def write(self, content: bytes | memoryview) -> int:
        """All of it; returns its CRC-32."""
        checksum = 0
        for start in range(0, len(content), _CHUNK):
            part = content[start : start + _CHUNK]
            self.file.write(part)
            self.sha256.update(part)
            checksum = zlib.crc32(part, checksum)
        self.bytes += len(content)
        return checksum


def _write_tensors(path: Path, tensors: Arrays) -> dict[str, Any]:
    """A safetensors file, written without a second copy of the numbers.

    Format: uint64 length of the header, the header in JSON padded to 8 bytes, the data
    (https://huggingface.co/docs/safetensors). Widest types first, so that all are aligned.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        array, begin = arrays[name], end
        end += array.nbytes
        shape = list(tensors[name].shape)  # ascontiguousarray gives a scalar a dimension
        kind = _TYPES[array.dtype.name]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        out = _Summing(file)
        out.write(len(text).to_bytes(8, "little") + text)
        checksums = {}
        for name in names:
            begin = out.bytes
            checksum = out.write(arrays[name].reshape(-1).view(np.uint8).data)
            checksums[name] = [begin, out.bytes, checksum]
    return {"bytes": out.bytes, "sha256": out.sha256.hexdigest(), "tensors": checksums}


def _first_damaged(path: Path, tensors: Mapping[str, tuple[int, int, int]]) -> str:
    """`:name` of the first tensor whose bytes are not what was written, or `:header`."""
    if not tensors:
        return ""
    with path.open("rb") as file:
        for name, (begin, end, checksum) in sorted(tensors.items(), key=lambda item: item[1][0]):
            file.seek(begin)
            found, read = 0, 0
            for part in _parts(file, end - begin):
                found, read = zlib.crc32(part, found), read + len(part)
            if read != end - begin or found != checksum:
                return f":{name}"
    return ":header"


def _parts(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count and (part := file.read(min(count, _CHUNK))):
        count -= len(part)
        yield part
