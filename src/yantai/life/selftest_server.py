"""A real server on this machine, with a model that was trained for a few steps, under attack.

Knows: how it is begun and asked to end, and what its process leaves behind.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from yantai.base.descriptors import allow_files
from yantai.base.errors import ResourceError
from yantai.life.selftest_attacks import Seen, crowd, deaf, leavers, malformed, slow
from yantai.life.selftest_floods import flood, long_prompts, overload
from yantai.life.selftest_requests import SECONDS, Target, received
from yantai.life.selftest_runs import recipe, write_corpus

KEY = "sk-selftest-0123456789"
BODY_SECONDS, WRITE_SECONDS = 30.0, 30.0
"""The server's own deadlines."""
GRACE = 15.0
WAITING = 64
CONTEXT = 1100
FILES = 2048
"""That are open at once: clients, and the server's own."""


def attack_server(
    folder: Path, *, requests: int, clients: int, kills: int, seed: int = 0, patient: bool = True
) -> dict[str, Any]:
    """F45, F47, F49 to F54, F57, F58 on a server of its own.

    Args:
        folder: for the model and the logs.
        requests: malformed ones.
        clients: slow ones, deaf ones, those that leave, and a tenth of those that come at once.
        kills: of the process that has the model.
        seed: of every choice.
        patient: wait for the server's deadlines, too, with slow clients and deaf ones.

    Returns:
        Figures, and `failures`.
    """
    model = _model(folder)
    figures: dict[str, Any] = {}
    failures: list[dict[str, str]] = []
    repeat = f"yantai selftest --only server --requests {requests} --clients {clients} "
    repeat += f"--kills {kills} --seed {seed}"
    if (allowed := allow_files(FILES)) < FILES:
        raise ResourceError(
            "E801", "selftest", "too few files may be open", expected=FILES, got=allowed,
            do="raise the hard limit (ulimit -Hn), or attack from another machine",
        )  # fmt: skip

    def note(name: str, seen: Seen) -> None:
        figures[name] = sum(seen.answers.values())
        figures.update({key: round(value, 1) for key, value in seen.figures.items()})
        failures.extend({"what": f"{name}: {each}", "repeat": repeat} for each in seen.failures)

    with running(model, folder) as (process, target):
        note("malformed_requests", malformed(target, requests, seed=seed))
        note("clients_that_left", leavers(target, clients, seed=seed))
        note("questions_in_a_crowd", crowd(target, 10 * clients, seed=seed))
        note("long_prompts", long_prompts(target))
        note("flood", flood(target, 10 * clients))
        note("overload", overload(target, 2 * clients))
        if patient:
            note("slow_clients", slow(target, clients, deadline=BODY_SECONDS + 15, seed=seed))
            note("deaf_clients", deaf(target, max(1, clients // 10), deadline=WRITE_SECONDS + 15))
        note("killed_workers", killed(target, process, kills))
        note("drained_streams", drained(target, process, min(32, clients)))
    return {**figures, "failures": failures}


def _model(folder: Path) -> Path:
    """A model that has learned next to nothing."""
    settings = recipe(write_corpus(folder / "corpus.jsonl"), folder / "run", steps=4)
    settings |= {"resume": False, "context": CONTEXT}
    (folder / "recipe.yaml").write_text(json.dumps(settings | {"verb": "pretrain"}))
    command = [sys.executable, "-m", "yantai.cli", "run", str(folder / "recipe.yaml")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "run" / "model"


@contextlib.contextmanager
def running(
    model: Path, folder: Path
) -> Generator[tuple[subprocess.Popen[str], Target], None, None]:
    """A server on a free port; it is gone afterwards."""
    (folder / "keys").write_text(KEY + "\n")
    command = [sys.executable, "-m", "yantai.cli", "serve", str(model), "--port", "0"]
    command += ["--api-key-file", str(folder / "keys"), "--threads", "1", "--slots", "8"]
    command += ["--waiting", str(WAITING), "--grace-seconds", str(GRACE), "--dtype", "float32"]
    with (folder / "server.log").open("w") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r":(\d+)/ .* models: (\S+)", line)
            if found is None:
                raise RuntimeError(
                    f"the server did not open: {(folder / 'server.log').read_text()}"
                )
            target = Target(int(found[1]), KEY, found[2], process.pid, most_new=CONTEXT - 100)
            target.figures = lambda: _busy(target)
            yield process, target
        finally:
            process.kill()


def _busy(target: Target) -> int:
    """Requests that are answered or wait, as the server says."""
    headers = {"Authorization": f"Bearer {target.key}"}
    address = f"http://127.0.0.1:{target.port}/metrics"
    with urlopen(Request(address, headers=headers), timeout=SECONDS) as answer:
        text = answer.read().decode()
    found = re.findall(r"^yantai_engine_(?:active|waiting)\{.*\} (\d+)", text, re.MULTILINE)
    return sum(map(int, found))


def _worker(process: int) -> int | None:
    """The process that has the model."""
    path = Path(f"/proc/{process}/task/{process}/children")
    found = path.read_text().split() if path.exists() else []
    return int(found[-1]) if found else None


def killed(target: Target, process: subprocess.Popen[str], count: int) -> Seen:
    """Kill or stop the worker in the middle of answers; each time another one takes its place."""
    seen = Seen()
    for number in range(count):
        worker = _worker(process.pid)
        if worker is None:
            break
        asked = target.request({"prompt": "One", "max_tokens": 200, "stream": True})
        with target.open() as connection:
            connection.sendall(asked)
            connection.recv(100)
            os.kill(worker, signal.SIGSTOP if number % 5 == 4 else signal.SIGKILL)
            raw = received(connection, until=b"unavailable", seconds=3 * SECONDS)
        seen.answers["told" if b"unavailable" in raw or b"[DONE]" in raw else "hung"] += 1
        end, error = time.monotonic() + 6 * SECONDS, "it does not come back"
        while time.monotonic() < end:
            with contextlib.suppress(OSError, RuntimeError):
                target.served()
                error = ""
                break
            time.sleep(0.2)
        if error or seen.answers["hung"]:
            seen.failures.append(f"kill {number}: {error or 'the client was not told'}")
            break
    return seen


def drained(target: Target, process: subprocess.Popen[str], count: int) -> Seen:
    """Ask the server to end while it streams: all streams are whole, and nothing is left."""
    seen = Seen()
    worker = _worker(process.pid)
    asked = target.request({"prompt": "One", "max_tokens": 60, "stream": True})
    connections: list[socket.socket] = []
    for _ in range(count):
        connections.append(target.open())
        connections[-1].sendall(asked)
    firsts = [connection.recv(4096) for connection in connections]
    process.send_signal(signal.SIGTERM)
    for first, connection in zip(firsts, connections, strict=True):
        raw = first + received(connection, until=b"[DONE]", seconds=GRACE + SECONDS)
        seen.answers["whole" if b"[DONE]" in raw else "cut"] += 1
        connection.close()
    if seen.answers["cut"]:
        seen.failures.append(f"{seen.answers['cut']} streams were cut")
    try:
        status = process.wait(GRACE + 2)
    except subprocess.TimeoutExpired:
        status = -1
    if status != 0:
        seen.failures.append(f"the server ended with {status}")
    if worker is not None and Path(f"/proc/{worker}").exists():
        time.sleep(1)
        if Path(f"/proc/{worker}").exists():
            seen.failures.append("its worker is still there")
    return seen
