"""The process that has the model: a desk behind a socket, lines of JSON in and out.

Knows: its socket. It ends when the server does. Started by `process.py`:

    python -m yantai.serve.worker FD '{"model": "run/model", …}'

In: {"ask": 7, "question": {…}} or {"cancel": 7}. Out: {"ready": facts} once, {"beat": figures} from
then on, and {"id": 7, …} with what the desk says.
"""

import json
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BEAT_SECONDS = 0.5
READERS = 2
"""Threads in which templates and tokenizers run."""
FACTS = ("steps", "tokens", "seconds", "best_loss")
"""Of a run, those that a reader of the page may want to know."""


def main(descriptor: int, settings: dict[str, Any]) -> None:
    """Load the model, then answer until the socket is closed."""
    # a terminal's Ctrl-C, and a SIGTERM to all processes of a service, are the server's to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    lock = threading.Lock()

    def send(table: dict[str, Any]) -> None:
        line = json.dumps(table, ensure_ascii=False).encode() + b"\n"
        try:
            with lock:
                channel.sendall(line)
        except OSError:  # the server has gone, and with it whoever asked
            os._exit(0)

    import torch

    from yantai.base.device import give_back_memory, prepare_process
    from yantai.base.errors import YantaiError
    from yantai.infer.opening import load
    from yantai.serve.desk import Desk

    torch.set_flush_denormal(True)  # see `tiny_is_zero`; this whole process computes
    try:
        prepare_process(settings.get("threads"), keep_memory=False)
        model = load(
            settings["model"], dtype=settings["dtype"], device=settings["device"], probes=True
        )
        desk = Desk(
            model, slots=settings["slots"], waiting=settings["waiting"],
            about=_about(Path(settings["model"])),
        )  # fmt: skip
        give_back_memory()
    except YantaiError as error:
        send({"failed": error.table()})
        return
    send({"ready": desk.describe()})

    def beat() -> None:
        waiter = threading.Event()
        while not waiter.wait(BEAT_SECONDS):
            send({"beat": desk.engine.figures | {"busy": desk.engine.is_busy}})

    threading.Thread(target=beat, daemon=True, name="yantai-beat").start()
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="yantai-desk")
    # who asks for a grammar may wait for those of others, and nobody else for these
    makers = ThreadPoolExecutor(1, thread_name_prefix="yantai-grammar")

    def ask(number: int, question: dict[str, Any]) -> None:
        try:
            desk.ask(number, question, lambda table: send({"id": number, **table}))
        except Exception:  # whatever it is, the next question is answered
            error = {"status": 500, "message": "internal error", "code": None, "param": None}
            send({"id": number, "error": error})
            raise

    with channel.makefile("rb") as lines:
        for line in lines:
            table = json.loads(line)
            if "cancel" in table:
                desk.cancel(table["cancel"])
                continue
            question = table["question"]
            if question.get("bias"):  # JSON has no numbers as keys
                question["bias"] = {int(id): value for id, value in question["bias"].items()}
            desk.expect(table["ask"])
            pool = makers if question.get("format") else readers
            pool.submit(ask, table["ask"], question)
    os._exit(0)  # threads in the middle of a step would keep the process


def _about(folder: Path) -> dict[str, Any]:
    """What the receipts of a model and of the run beside it say; {} where there are none."""
    from yantai.training.receipt import task_of

    def table(path: Path, *names: str) -> dict[str, Any]:
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    about: dict[str, Any] = {"task": task} if (task := task_of(folder)) else {}
    facts = table(folder.resolve().parent / "receipt.json", "facts")
    run = {name: facts[name] for name in FACTS if isinstance(facts.get(name), int | float)}
    hours = table(folder.resolve().parent / "receipt.json", "facts", "energy").get("watt_hours")
    run |= {"watt_hours": hours} if isinstance(hours, int | float) else {}
    return about | ({"run": run} if run else {})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
