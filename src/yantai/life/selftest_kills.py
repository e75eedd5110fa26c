"""Kill -9 real training runs at random moments, go on, and compare with a run nobody touched.

Knows: chains of kills, and a disk that refuses large files. Equal means: the same hash of weights,
optimiser, state, loss log and exported models.
"""

import random
import signal
from pathlib import Path
from typing import Any

from yantai.base.files import TEMPORARY
from yantai.life.selftest_runs import Forks, recipe, remains, write_corpus

MOST_KILLS = 4


def kill_runs(folder: Path, *, kills: int, seed: int, steps: int = 40) -> dict[str, Any]:
    """F01: chains of one to four kills, each resumed until it is done.

    Returns:
        Figures, and `failures`, a list of `what` and `repeat`.
    """
    figures: dict[str, Any] = {"kills": 0, "runs": 0, "kills_inside_a_save": 0, "failures": []}
    with Forks() as forks:
        unbroken: dict[str, str] = {}
        while figures["kills"] < kills:
            number = figures["runs"]
            dice = random.Random(seed + number)
            wanted = min(kills - figures["kills"], dice.randint(1, MOST_KILLS))
            data = write_corpus(folder / "documents.jsonl")
            if not unbroken:
                whole = recipe(data, folder / "unbroken", steps=steps)
                answer = forks.run(whole, folder / "unbroken.log")
                assert answer["status"] == 0, (folder / "unbroken.log").read_text()
                unbroken, seconds = remains(folder / "unbroken"), answer["seconds"]
            run = folder / f"run-{number}"
            problem = _chain(forks, run, data, wanted, seconds, dice, steps, figures)
            problem = problem or _compare(remains(run), unbroken)
            figures["runs"] += 1
            if problem is not None:
                repeat = f"yantai selftest --only kills --kills {wanted} --seed {seed + number}"
                what = f"run {number}, {wanted} kills: {problem}"
                figures["failures"].append({"what": what, "repeat": repeat})
    return figures


def _chain(
    forks: Forks,
    run: Path,
    data: Path,
    kills: int,
    seconds: float,
    dice: random.Random,
    steps: int,
    figures: dict[str, Any],
) -> str | None:
    """Kill a run so many times, then let it end; returns what went wrong."""
    settings = recipe(data, run, steps=steps)
    log = run.with_suffix(".log")
    left = kills
    while True:
        # what is resumed has less left to do, so the later moments have their turn too
        after = dice.uniform(0, 0.6 * seconds) if left else None
        status = forks.run(settings, log, kill_after=after)["status"]
        if status == -signal.SIGKILL:
            left -= 1
            figures["kills"] += 1
            inside = any((run / "checkpoints").glob(f"{TEMPORARY}*"))
            figures["kills_inside_a_save"] += inside
        elif status != 0:
            lines = log.read_text().splitlines() or ["nothing was said"]
            return f"exit status {status} ({lines[-1]})"
        else:
            return None


def _compare(got: dict[str, str], expected: dict[str, str]) -> str | None:
    names = [name for name in expected if got.get(name) != expected[name]]
    return f"not the bits of the unbroken run: {', '.join(names)}" if names else None


def starve_run(folder: Path, *, steps: int = 40) -> dict[str, Any]:
    """F06, F07: a run whose large files are refused goes on, says so, and can be resumed.

    Returns:
        Figures, and `failures`.
    """
    data = write_corpus(folder / "documents.jsonl")
    repeat = "yantai selftest --only storage"
    problems = []
    with Forks() as forks:
        unbroken = recipe(data, folder / "unbroken", steps=steps)
        assert forks.run(unbroken, folder / "unbroken.log")["status"] == 0
        tensors = next((folder / "unbroken" / "checkpoints").glob("step-*/tensors.safetensors"))
        settings, log = recipe(data, folder / "run", steps=steps), folder / "run.log"
        limit = tensors.stat().st_size // 2
        status = forks.run(settings, log, file_limit=limit)["status"]
        said = log.read_text()
        if status != 5:
            problems.append(f"exit status {status} instead of 5")
        if "EFBIG" not in said or said.count("training goes on") < 3:
            problems.append("the refusals were not told")
        if any((folder / "run").rglob(f"{TEMPORARY}*")):
            problems.append("half-written files were left behind")
        status = forks.run(settings, log)["status"]
        if status != 0:
            problems.append(f"resuming gave exit status {status}")
        elif difference := _compare(remains(folder / "run"), remains(folder / "unbroken")):
            problems.append(difference)
    failures = [{"what": f"a starved run: {problem}", "repeat": repeat} for problem in problems]
    return {"starved_runs": 1, "failures": failures}
