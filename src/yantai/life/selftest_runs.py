"""Small real training runs in processes that can be killed, and what is left of them.

Knows: the recipe of a small run, a server that imports torch once and forks a child for each run,
and the hashes that a run ends on. Run as a program it is that server: a JSON object a line on
standard input (`settings`, `kill_after`, `signals`, `file_limit`, `log`), one a line as an answer.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from yantai.base.files import sha256_text
from yantai.base.log import CLOCK_COLUMNS, MetricsFile
from yantai.training.store import TENSORS, Store

SERVER = "yantai.life.selftest_runs"
# decided by a clock or by where a run lies, not by what it computes
OUTSIDE = ("seconds", "out", "resume")


def write_corpus(path: Path, seed: int = 0, documents: int = 48) -> Path:
    """Documents of made-up words, so that the test needs no data."""
    dice = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(dice.choices(syllables, k=dice.randint(1, 3))) for _ in range(60)]
    lines = []
    for _ in range(documents):
        text = " ".join(dice.choices(words, k=dice.randint(10, 40)))
        lines.append(json.dumps({"text": text.capitalize() + "."}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(data: Path, out: Path, *, seed: int = 0, steps: int = 40, **changes: Any) -> dict:
    """Settings of a run of about 40,000 parameters that uses everything that can go wrong."""
    return {
        "data": [str(data)],
        "out": str(out),
        "size": "nano",
        "layers": 2,
        "dim": 32,
        "heads": 2,
        "hidden": 64,
        "vocab_size": 300,
        "context": 32,
        "batch": 2,
        "accumulate": 2,
        "steps": steps,
        "warmup": 2,
        "save_every": 4,
        "valid_every": 10,
        "valid_tokens": 128,
        "dropout": 0.1,
        "ema": 0.9,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
        "seed": seed,
        "resume": True,
    } | changes


def remains(run: Path) -> dict[str, str]:
    """Hashes of all that a run ends on: tensors, state, loss log, model folders.

    What a clock decides, and where the run lies, stay outside.
    """
    saved = json.loads((run / "recipe.json").read_bytes())
    newest = Store(run / "checkpoints", saved["run"], say=lambda line: None).newest()
    found = {"tensors": "none", "state": "none"}
    if newest is not None:
        found["tensors"] = newest.files[TENSORS]["sha256"]
        found["state"] = _hash(_timeless(newest.state()))
    rows = MetricsFile(run / "metrics.jsonl").rows()
    for row in rows:
        for column in CLOCK_COLUMNS:
            row.pop(column, None)
    found["log"] = _hash(rows)
    for name in ("model", "last"):
        receipt = run / name / "receipt.json"
        if receipt.is_file():
            found[name] = _hash(json.loads(receipt.read_bytes()))
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in OUTSIDE}
    return value


def _hash(value: Any) -> str:
    return sha256_text(json.dumps(value, sort_keys=True))


class Forks:
    """A process that has torch in memory and forks a child for each run; use with `with`."""

    def __enter__(self) -> "Forks":
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def run(self, settings: dict[str, Any], log: Path, **how: Any) -> dict[str, Any]:
        """Train in a child.

        Args:
            settings: of `Pretrain`.
            log: the child's standard error goes there.
            how: `kill_after` seconds; `signals`, a list of [seconds, number], counted from the
                fork, or with `from_first_step` from the first logged step; `file_limit`, bytes.

        Returns:
            `status`: the exit status, or minus the signal that killed it; `seconds`.
        """
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps({"settings": settings, "log": str(log), **how}) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server of the self-test died"
        return json.loads(answer)


def _child(request: dict[str, Any]) -> int:
    """Train; returns the exit status that the command line would have."""
    from yantai.base.errors import YantaiError
    from yantai.training.pretrain import pretrain
    from yantai.training.recipe import Pretrain

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    if limit := request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        pretrain(Pretrain(**request["settings"]))
    except YantaiError as error:
        sys.stderr.write(f"error[{error.code}] {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _watch(child: int, request: dict[str, Any]) -> int:
    """Send what was asked for, when it is due; returns the raw wait status."""
    began: float | None = time.monotonic()
    metrics = Path(request["settings"]["out"]) / "metrics.jsonl"
    if request.get("from_first_step"):
        began = None
    due = [tuple(pair) for pair in request.get("signals", ())]
    if request.get("kill_after") is not None:
        due.append((request["kill_after"], signal.SIGKILL))
    due.sort()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if began is None and metrics.exists() and metrics.stat().st_size:
            began = time.monotonic()
        while due and began is not None and time.monotonic() - began >= due[0][0]:
            os.kill(child, due.pop(0)[1])
        time.sleep(0.002)


def _serve() -> None:
    import torch

    import yantai.training.setup as module
    from yantai.training.plan import Peak

    torch.set_num_threads(1)
    # what measures this machine and what draws is not under test, and is slow
    setattr(module, "measure_peak", lambda *arguments: Peak(1e12))  # noqa: B010
    setattr(module, "plot_loss", lambda *arguments: [])  # noqa: B010
    for line in sys.stdin:
        request = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os._exit(_child(request))
        status = os.waitstatus_to_exitcode(_watch(child, request))
        answer = {"status": status, "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
