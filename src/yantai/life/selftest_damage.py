"""Flip bits in checkpoints and cut them short, and see that each is noticed and named.

Knows: the bytes of a checkpoint. A damaged newest checkpoint must be passed over for the one
before it, with the file and the tensor named; two damaged ones must stop with E408.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from yantai.base.errors import ModelFileError
from yantai.training.store import MANIFEST, STATE, TENSORS, Store

REPEAT = "yantai selftest --only damage --seed {seed}"


def damage_checkpoints(
    folder: Path, flips: int, truncations: int, *, seed: int = 0
) -> dict[str, Any]:
    """F10: flipped bits at random places and in every header byte, and files cut short.

    Returns:
        Figures, and `failures`.
    """
    dice = random.Random(seed)
    said: list[str] = []
    store = Store(folder / "checkpoints", "damaged", say=said.append)
    for step in (10, 20):
        values = np.random.default_rng(step).normal(size=(60, 50)).astype(np.float32)
        arrays = {"weight.first": values, "weight.second": values[:20] + 1, "count": np.arange(9)}
        store.save(step, arrays, {"step": step, "recent": [0.5] * 20})
    newest = folder / "checkpoints" / "step-000020"
    failures = []
    counts = {"flipped_bits": 0, "truncations": 0}
    for name, kind, damaged in _damages(newest, dice, flips, truncations):
        counts[kind] += 1
        path = newest / name
        whole = path.read_bytes()
        path.write_bytes(damaged)
        problem = _unnoticed(store, said, path, whole, damaged)
        path.write_bytes(whole)
        if problem is not None:
            what = f"{name}, {kind}: {problem}"
            failures.append({"what": what, "repeat": REPEAT.format(seed=seed)})
    if not _both_damaged(store, folder):
        what = "two damaged checkpoints did not stop the run"
        failures.append({"what": what, "repeat": REPEAT.format(seed=seed)})
    return {**counts, "failures": failures}


def _damages(
    newest: Path, dice: random.Random, flips: int, truncations: int
) -> Iterator[tuple[str, str, bytes]]:
    """(file, kind, damaged bytes): header bytes one by one, then random places."""
    raw = {name: (newest / name).read_bytes() for name in (TENSORS, STATE, MANIFEST)}
    header = 8 + int.from_bytes(raw[TENSORS][:8], "little")
    places = [(TENSORS, place) for place in range(header if flips else 0)]
    for _ in range(flips):
        name = dice.choices((TENSORS, STATE, MANIFEST), weights=(8, 1, 1))[0]
        places.append((name, dice.randrange(len(raw[name]))))
    for name, place in places:
        damaged = bytearray(raw[name])
        damaged[place] ^= 1 << dice.randrange(8)
        yield name, "flipped_bits", bytes(damaged)
    for _ in range(truncations):
        name = dice.choice((TENSORS, STATE, MANIFEST))
        yield name, "truncations", raw[name][: dice.randrange(len(raw[name]))]


def _unnoticed(
    store: Store, said: list[str], path: Path, whole: bytes, damaged: bytes
) -> str | None:
    """None if the store goes back to step 10 and names what is damaged."""
    said.clear()
    found = store.newest()
    if found is None or found.step != 10:
        return f"step {found and found.step} was trusted"
    if not any(str(path) in line for line in said):
        return f"{path.name} was not named: {said}"
    if path.name == TENSORS:
        place = _place_of_damage(whole, damaged)
        if not any(f"{path}:{place}" in line for line in said):
            return f"{place} was not named: {said}"
    return None


def _place_of_damage(whole: bytes, damaged: bytes) -> str:
    """The tensor that holds the first changed byte, by the header of the whole file."""
    length = 8 + int.from_bytes(whole[:8], "little")
    pairs = enumerate(zip(whole, damaged, strict=False))
    first = next((place for place, (a, b) in pairs if a != b), len(damaged))
    header = json.loads(whole[8:length])
    spans = sorted((length + span["data_offsets"][1], name) for name, span in header.items())
    if len(damaged) < length:  # so nothing of the first tensor is there either
        return spans[0][1]
    if first < length:
        return "header"
    return next(name for end, name in spans if first < end)


def _both_damaged(store: Store, folder: Path) -> bool:
    for step in (10, 20):
        path = folder / "checkpoints" / f"step-{step:06d}" / TENSORS
        path.write_bytes(path.read_bytes()[:-1])
    try:
        store.newest()
    except ModelFileError as error:
        return error.code == "E408"
    return False
