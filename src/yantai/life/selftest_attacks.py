"""Attack a server as strangers do, and see whether it goes on serving.

Knows: raw sockets. Each attack says what it saw; a failure is an answer of 5xx, a good client that
is not served, or anything that stays open afterwards.
"""

import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from yantai.life.selftest_requests import SECONDS, Target, at_once, received, spoiled, statuses

WAITING = 503
"""The one 5xx that may be said: while draining, or while the engine makes no progress."""


@dataclass
class Seen:
    """What an attack has seen.

    Attributes:
        answers: how many of each kind.
        failures: in words.
        figures: what was measured, in the unit that the name says.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def take(self, raw: bytes, what: str) -> None:
        """Count the answers in what was received."""
        found = statuses(raw)
        self.answers.update(f"{status // 100}xx" for status in found)
        self.answers.update(["closed"] if not found else [])
        bad = [status for status in found if status >= 500 and status != WAITING]
        if bad:
            self.failures.append(f"{what}: answered with {bad[0]}")


# ---------------------------------------------------------------- F45, F57: malformed requests


def malformed(target: Target, count: int, *, seed: int = 0) -> Seen:
    """Requests that no client should write; after each the server answers others as before."""
    seen = Seen()
    for number in range(count):
        dice = random.Random(seed + number)
        raw = spoiled(target, dice)
        with contextlib.suppress(OSError), target.open() as connection:
            with contextlib.suppress(OSError):
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
            seen.take(received(connection, seconds=SECONDS), f"request {seed + number}")
        if number % 100 == 99 or number == count - 1:
            try:
                target.served()
            except (OSError, RuntimeError) as error:
                seen.failures.append(f"after request {seed + number}: {error}")
                break
    return seen


# ---------------------------------------------------------------- F49, F50: slow clients


def slow(target: Target, count: int, *, deadline: float, seed: int = 0) -> Seen:
    """Clients that send a byte now and then; good ones are served, and all are let go in time.

    Args:
        target: whose deadlines are known.
        count: of slow clients.
        deadline: seconds after which each of them must have been closed.
        seed: of which part of a request they send slowly.
    """
    seen, clients = Seen(), []
    whole = target.request({"prompt": "One", "max_tokens": 2})
    begin = whole.index(b"\r\n\r\n") + 4
    for number in range(count):
        dice = random.Random(seed + number)
        connection = target.open()
        sent = dice.choice((0, 20, begin, begin + 5))
        connection.sendall(whole[:sent])
        connection.setblocking(False)
        clients.append([connection, sent])
    waits, end = [], time.monotonic() + deadline
    while clients and time.monotonic() < end:
        with contextlib.suppress(RuntimeError, OSError):
            waits.append(target.served())
        for client in list(clients):
            connection, sent = client
            try:
                if sent < len(whole) - 1:
                    connection.send(whole[sent : sent + 1])
                    client[1] = sent + 1
                raw = connection.recv(4096)
            except BlockingIOError:
                continue
            except OSError:
                raw = b""
            seen.take(raw, "a slow client")
            connection.close()
            clients.remove(client)
        time.sleep(0.2)
    seen.answers["good_clients"] = len(waits)
    if not waits:
        seen.failures.append("no good client was served beside the slow ones")
    if clients:
        seen.failures.append(f"{len(clients)} slow clients were not let go in {deadline:g} s")
        for connection, _ in clients:
            connection.close()
    return seen


def deaf(target: Target, count: int, *, deadline: float) -> Seen:
    """Clients that ask for a stream and never read it; their places are free again in time."""
    seen, clients = Seen(), []
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.settimeout(SECONDS)
        connection.connect(("127.0.0.1", target.port))
        asked = {"prompt": "One", "max_tokens": target.most_new, "stream": True}
        connection.sendall(
            target.request(asked | {"logit_bias": {str(id): -100 for id in range(8)}})
        )
        clients.append(connection)
    if not _becomes(lambda: target.figures() > 0, SECONDS):
        seen.failures.append("no answer to a deaf client has begun")
    if not _becomes(lambda: target.figures() == 0, deadline):
        seen.failures.append(f"{target.figures()} answers to deaf clients go on after {deadline} s")
    for connection in clients:
        connection.close()
    with contextlib.suppress(OSError):
        try:
            target.served()
            seen.answers["good_clients"] += 1
        except RuntimeError as error:
            seen.failures.append(f"after deaf clients: {error}")
    return seen


# ---------------------------------------------------------------- F51: clients that go


def leavers(target: Target, count: int, *, seed: int = 0) -> Seen:
    """Clients that hang up before, during or after an answer; nothing of theirs is left."""
    seen = Seen()
    target.served()
    before = target.descriptors()
    for number in range(count):
        dice = random.Random(seed + number)
        asked = {
            "prompt": "One",
            "max_tokens": dice.choice((2, target.most_new)),
            "stream": dice.random() < 0.5,
        }
        with contextlib.suppress(OSError), target.open() as connection:
            whole = target.request(asked)
            connection.sendall(whole[: dice.choice((10, len(whole) - 3, len(whole)))])
            time.sleep(dice.choice((0.0, 0.0, 0.01, 0.05)))
            if dice.random() < 0.3:  # without a word
                linger = b"\1\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        seen.answers["left"] += 1
    if not _becomes(lambda: target.figures() == 0, SECONDS):
        seen.failures.append(f"{target.figures()} answers go on for nobody")
    if not _becomes(lambda: target.descriptors() <= before + 2, SECONDS):
        seen.failures.append(f"{target.descriptors() - before} descriptors are left open")
    target.served()
    return seen


def _becomes(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---------------------------------------------------------------- F58: nobody hears another one


def crowd(target: Target, count: int, *, together: int = 32, seed: int = 0) -> Seen:
    """Many greedy questions at once are answered as one by one, to the byte."""
    seen = Seen()
    prompts = [_prompt(random.Random(seed + number)) for number in range(min(count, 64))]
    alone = [_answer(target, prompt) for prompt in prompts]
    for start in range(0, count, together):
        numbers = [number % len(prompts) for number in range(start, min(start + together, count))]
        asked = [target.request(_asked(prompts[number])) for number in numbers]
        for number, (raw, _) in zip(numbers, at_once(target, asked), strict=True):
            text = _text_of(raw)
            seen.answers["equal" if text == alone[number] else "other"] += 1
            if text != alone[number]:
                seen.failures.append(f"question {seed + number} was answered otherwise in a crowd")
    return seen


def _prompt(dice: random.Random) -> str:
    return " ".join(dice.choice(("one", "two", "ink", "stone", "墨", "村")) for _ in range(9))


def _asked(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": 12, "temperature": 0}


def _answer(target: Target, prompt: str) -> str:
    with target.open() as connection:
        connection.sendall(target.request(_asked(prompt)))
        return _text_of(received(connection, until=b'"usage"'))


def _text_of(raw: bytes) -> str:
    body = raw.partition(b"\r\n\r\n")[2]
    with contextlib.suppress(ValueError, LookupError):
        return json.loads(body)["choices"][0]["text"]
    return repr(raw[:200])
