"""What a stage writes about itself, so that a later reader can check it.

Knows: hashes, versions, a stage's settings and figures. `yantai verify` walks these files.
"""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from yantai.base.device import describe_machine
from yantai.base.files import sha256_file, sha256_text

PACKAGES = ("yantai", "torch", "tokenizers", "safetensors", "numpy")


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, receipts excepted."""
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "receipt.json"
    }


def digest_of_files(folder: Path) -> str:
    """One hash of the names and the hashes of all files of a folder, receipts excepted."""
    return sha256_text(json.dumps(file_hashes(folder), sort_keys=True))


def task_of(folder: Path) -> str:
    """What the model of a folder was taught, as its receipt says; "" where none says it."""
    try:
        found = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    task = found.get("task") if isinstance(found, dict) else None
    return task if isinstance(task, str) else ""


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def receipt(
    stage: str,
    settings: BaseModel,
    inputs: dict[str, Any],
    outputs: dict[str, str],
    facts: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """The table that becomes receipt.json."""
    return {
        "stage": stage,
        "settings": settings.model_dump(mode="json"),
        "inputs": inputs,
        "outputs": outputs,
        "facts": facts,
        "machine": describe_machine(device),
        "versions": versions(),
    }
