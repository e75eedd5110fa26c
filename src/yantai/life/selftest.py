"""Break training on purpose, on this machine, and see whether anything is lost.

Knows: the parts of the self-test and how their figures are told. Each part lives in a file of its
own: random kills of real runs (`selftest_kills.py`), kills and refusals at single system calls of
a save (`selftest_saves.py`), damaged checkpoints (`selftest_damage.py`) and model folders
(`selftest_folders.py`), and a server under attack (`selftest_server.py`). A failure carries the one
command that repeats it. Imports no torch; what needs it runs in processes of its own.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from yantai.base.config import Config
from yantai.base.log import duration, say
from yantai.life.selftest_damage import damage_checkpoints
from yantai.life.selftest_folders import damage_folders
from yantai.life.selftest_kills import kill_runs, starve_run
from yantai.life.selftest_saves import kill_saves, refuse_saves
from yantai.life.selftest_server import attack_server

Part = Literal["all", "kills", "saves", "storage", "damage", "folders", "server"]


class Selftest(Config):
    """Kill, starve and damage small training runs here, and prove that nothing is lost.

    Example: yantai selftest --kills 200
    """

    kills: int = Field(20, ge=0, description="kill -9 at random moments of real runs")
    seed: int = Field(0, ge=0, description="decides every random choice of the test")
    flips: int = Field(1000, ge=0, description="flipped bits in checkpoints; every header byte too")
    truncations: int = Field(200, ge=0, description="checkpoints cut short")
    folders: int = Field(1000, ge=0, description="damaged model folders that are opened")
    steps: int = Field(40, ge=8, description="optimiser steps of each run")
    server: bool = Field(False, description="a server, too: attacked, starved, killed, drained")
    requests: int = Field(10_000, ge=1, description="malformed requests to the server")
    clients: int = Field(200, ge=1, description="slow clients of the server, and ones that leave")
    only: Part = Field("all", description="kills, saves, storage, damage, folders, server, or all")
    quick: bool = Field(False, description="a tenth of everything, in half a minute")


def selftest(settings: Selftest, emit: Callable[[str], None] = say) -> dict[str, Any]:
    """Run `yantai selftest`; `emit` gets one line at a time.

    Returns:
        `seed`, `passed`, `failures` (each with `what` and `repeat`), and a table of figures for
        each part.
    """
    share = 0.1 if settings.quick else 1.0
    kills, flips = _part_of(settings.kills, share), _part_of(settings.flips, share)
    truncations, folders = _part_of(settings.truncations, share), _part_of(settings.folders, share)
    seed, steps = settings.seed, settings.steps
    # a shared quick test looks at every third system call
    stride = 3 if settings.quick else 1
    emit(f"seed {seed}")
    parts: dict[str, list[Callable[[Path], dict[str, Any]]]] = {
        "kills": [lambda folder: kill_runs(folder, kills=kills, seed=seed, steps=steps)],
        "saves": [lambda folder: kill_saves(folder, stride=stride)],
        "storage": [
            lambda folder: refuse_saves(folder, stride=stride),
            lambda folder: starve_run(folder, steps=steps),
        ],
        "damage": [lambda folder: damage_checkpoints(folder, flips, truncations, seed=seed)],
        "folders": [lambda folder: damage_folders(folder, folders, seed=seed)],
    }
    if settings.server or settings.only == "server":
        requests, clients = _part_of(settings.requests, share), _part_of(settings.clients, share)
        lost = _part_of(settings.kills, share)
        parts["server"] = [
            lambda folder: attack_server(
                folder, requests=requests, clients=clients, kills=lost, seed=seed
            )
        ]
    result: dict[str, Any] = {"seed": seed, "passed": True, "failures": []}
    for name, tests in parts.items():
        if settings.only not in ("all", name):
            continue
        result[name] = {}
        for test in tests:
            _run_part(name, test, result, emit)
    result["passed"] = not result["failures"]
    for failure in result["failures"]:
        emit(f"FAILED: {failure['what']}; repeat it with: {failure['repeat']}")
    emit("all passed" if result["passed"] else f"{len(result['failures'])} failed")
    return result


def _part_of(count: int, share: float) -> int:
    return min(count, max(1, round(count * share)))


def _run_part(
    name: str,
    test: Callable[[Path], dict[str, Any]],
    result: dict[str, Any],
    emit: Callable[[str], None],
) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="yantai-selftest-") as folder:
        figures = test(Path(folder))
    result["failures"] += figures.pop("failures")
    result[name] |= figures
    shown = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items())
    emit(f"{name}: {shown} ({duration(time.monotonic() - began)})")
