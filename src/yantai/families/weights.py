"""Tensors out of safetensors files, one or several that an index names, and into one.

Knows: the file format, whose header is read and checked in full before a tensor is touched, and the
index. Nothing outside the folder is opened, nothing is unpickled, nothing is allocated that the
size of a file on the disk does not stand for.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from yantai.base.errors import ModelFileError
from yantai.base.files import os_error_in, storage_error

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MAX_HEADER = 100_000_000
MAX_INDEX = 100_000_000
MAX_RANK = 16
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a model folder by its name.

    Raises:
        ModelFileError: a file is missing, damaged, not what the index says, or not in the folder.
    """
    if (folder / INDEX).is_file():
        return _from_shards(folder, _weight_map(folder / INDEX))
    path = folder / SINGLE
    if not path.is_file():
        refuse_pickles(folder)
        raise ModelFileError(
            "E403", path, "the file is missing",
            do="fetch the whole folder, or save the model with save_pretrained",
        )  # fmt: skip
    return open_file(path, folder)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file beside its configuration, as readable as that is, and make its bytes durable.

    Args:
        path: of the file, in a folder of `files.new_folder`.
        tensors: by their names; none shares its memory with another.

    Raises:
        StorageError: the disk refused.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
        for config in path.parent.glob("*config.json"):  # the library makes it its owner's alone
            shutil.copymode(config, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        refusal = os_error_in(error)
        if refusal is None:
            raise
        needed = sum(tensor.nbytes for tensor in plain.values())
        raise storage_error(refusal, path, needed) from error


def _damaged(where: str | Path, what: str, **facts: Any) -> ModelFileError:
    """Of a file that is not what its writer wrote."""
    do = "it is damaged, or not all of it is there: fetch it again"
    return ModelFileError("E404", where, what, **facts, do=do)


def refuse_pickles(folder: Path) -> None:
    """Say so where a folder holds weights that could run code.

    Raises:
        ModelFileError: it does.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            raise pickled(path)


def pickled(path: Path) -> ModelFileError:
    """What is said of a file that could run code."""
    return ModelFileError(
        "E406",
        path,
        "pickle files are never opened, they can run code",
        do="convert it: transformers' save_pretrained writes safetensors",
    )


def _from_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        wanted = {name for name, place in weight_map.items() if place == shard}
        path = folder / shard
        if not path.is_file():
            raise ModelFileError(
                "E403", path, "the file is missing, the index names it",
                do="download the rest of the model",
            )  # fmt: skip
        tensors = open_file(path, folder)
        missing, extra = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
        if missing or extra:
            what = f"missing tensor {missing[0]!r}" if missing else f"extra tensor {extra[0]!r}"
            raise ModelFileError("E403", path, f"{what}, by {INDEX}")
        found |= tensors
    return found


def _weight_map(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_INDEX:
        raise ModelFileError("E401", path, "too large", expected=f"under {MAX_INDEX:,} bytes")
    table = _json(path.read_bytes(), str(path))
    weight_map = table.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError("E401", f"{path}:weight_map", "not a table of tensors")
    for name, shard in weight_map.items():
        plain = (
            isinstance(shard, str) and shard not in ("", ".", "..") and not set(shard) & set("/\\")
        )
        if not plain or "\0" in shard or not shard.endswith(".safetensors"):
            raise ModelFileError(
                "E404", f"{path}:weight_map.{name}", "not the name of a file in this folder",
                expected="a name that ends with .safetensors", got=shard,
            )  # fmt: skip
    return weight_map


def open_file(path: Path, folder: Path) -> dict[str, Tensor]:
    """Every tensor of one file.

    Args:
        path: the file.
        folder: where it must lie; the hub's cache may keep it beside.

    Raises:
        ModelFileError: it is damaged, or lies elsewhere.
    """
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":  # the hub's cache links its files from a folder beside
        homes.append(homes[0].parent.parent / "blobs")
    if path.resolve().parent not in homes:
        raise ModelFileError("E404", path, "leads out of the model folder", got=path.resolve())
    names = check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"not a whole safetensors file ({error})") from error


def check_header(path: Path) -> list[str]:
    """The names of the tensors of a file whose header holds together.

    Raises:
        ModelFileError: with the byte or the tensor where it does not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length < 2 or length > min(MAX_HEADER, size - 8):
            limit = f"2 to {max(0, min(MAX_HEADER, size - 8)):,} bytes of header"
            raise _damaged(f"{path}: byte 0", "no header", expected=limit, got=length)
        header = _json(file.read(length), f"{path}: byte 8")
    header.pop("__metadata__", None)
    entries = sorted(
        ((*_entry(name, entry, path, size - 8 - length), name) for name, entry in header.items()),
    )
    at = 0
    for begin, end, name in entries:
        if begin != at:
            kind = "overlaps the one before" if begin < at else "leaves a hole before it"
            raise _damaged(f"{path}:{name}: byte {8 + length + begin}", kind)
        at = end
    if at != size - 8 - length:
        raise _damaged(
            f"{path}: byte {8 + length + at}", "the tensors do not fill the file",
            expected=f"{8 + length + at} bytes", got=f"{size} bytes",
        )  # fmt: skip
    return list(header)


def _entry(name: str, entry: Any, path: Path, room: int) -> tuple[int, int]:
    """Where a tensor begins and ends behind the header."""
    where = f"{path}:{name}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(where, "not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ModelFileError(
            "E404", where, "a type that is not supported", got=dtype,
            do="save the model again in float32, bfloat16 or float16",
        )  # fmt: skip
    if not _whole(shape) or len(shape) > MAX_RANK:
        raise _damaged(where, "not a shape", got=shape)
    if not _whole(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise _damaged(where, "offsets outside the file", expected=f"0 to {room}", got=offsets)
    numbers = 1
    for extent in shape:
        numbers *= extent
    if numbers * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise _damaged(
            where, "shape and size differ",
            expected=f"{numbers * BITS[dtype] // 8} bytes", got=f"{offsets[1] - offsets[0]} bytes",
        )  # fmt: skip
    return offsets[0], offsets[1]


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(item) is int and item >= 0 for item in values)


def _json(content: bytes, where: str) -> dict[str, Any]:
    """A JSON table in which no key stands twice."""

    def table(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _damaged(where, f"the key {key!r} stands twice")
            found[key] = value
        return found

    try:
        value = json.loads(content, object_pairs_hook=table)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(where, "not a JSON table", got=type(value).__name__)
    return value
