"""Requests to a server, good ones and spoiled ones, as bytes.

Knows: HTTP as it should and should not be written. Choice n depends on seed + n alone.
"""

import contextlib
import json
import os
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 10.0


@dataclass
class Target:
    """A server that is attacked.

    Attributes:
        port: on 127.0.0.1.
        key: that opens it.
        model: the name of a model that completes.
        process: whose descriptors are counted; None for this one's.
        figures: how many are being answered and are waiting, as the server says.
        most_new: tokens that may be asked for.
    """

    port: int
    key: str
    model: str
    process: int | None = None
    figures: Callable[[], int] = lambda: 0
    most_new: int = 4000

    def open(self, timeout: float = SECONDS) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def request(self, body: dict[str, Any], path: str = "/v1/completions") -> bytes:
        """A good request, as bytes."""
        return self.post(json.dumps({"model": self.model, **body}).encode(), path)

    def post(self, content: bytes, path: str) -> bytes:
        """A request with any body."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def served(self) -> float:
        """Seconds that a good client waits for its answer.

        Raises:
            RuntimeError: it gets none.
        """
        began = time.monotonic()
        with self.open() as connection:
            asked = {"prompt": "One", "max_tokens": 2, "temperature": 0}
            connection.sendall(self.request(asked))
            status = statuses(received(connection, until=b'"usage"'))
        if status != [200]:
            raise RuntimeError(f"a good client got {status or 'nothing'}")
        return time.monotonic() - began

    def descriptors(self) -> int:
        """Open ones of the server's process."""
        return sum(1 for _ in Path(f"/proc/{self.process or os.getpid()}/fd").iterdir())


def statuses(raw: bytes) -> list[int]:
    """The statuses of the answers in what came."""
    found = []
    for piece in raw.split(b"HTTP/1.1 ")[1:]:
        if piece[:3].isdigit():
            found.append(int(piece[:3]))
    return found


def received(connection: socket.socket, until: bytes = b"", seconds: float = SECONDS) -> bytes:
    """What comes until the other side closes, says `until`, or falls silent."""
    end, raw = time.monotonic() + seconds, b""
    with contextlib.suppress(OSError):
        while (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            piece = connection.recv(65_536)
            if not piece:
                break
            raw += piece
            if until and until in raw:
                break
    return raw


def is_whole(raw: bytes) -> bool:
    """Whether an answer is there to the length that it says of itself."""
    head, found, body = raw.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if found and line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return False


def at_once(
    target: Target, asked: Sequence[bytes], *, every: float = 0.0
) -> list[tuple[bytes, float]]:
    """Requests over a connection each: what was answered, and after how many seconds.

    Args:
        target: that is asked.
        asked: all of them are sent before any answer is read, or as `every` says.
        every: seconds from one to the next, whether or not anybody was answered meanwhile.
    """
    raws: dict[socket.socket, bytes] = {}
    sent: dict[socket.socket, float] = {}
    took: dict[socket.socket, float] = {}
    left, due = deque(asked), time.monotonic()
    end = due + every * len(asked) + 6 * SECONDS
    with selectors.DefaultSelector() as chooser:
        while (left or chooser.get_map()) and time.monotonic() < end:
            while left and time.monotonic() >= due:
                connection = target.open()
                connection.sendall(left.popleft())
                raws[connection], sent[connection] = b"", time.monotonic()
                chooser.register(connection, selectors.EVENT_READ)
                due += every
            for key, _ in chooser.select(max(0.0, due - time.monotonic()) if left else 1.0):
                connection, piece = key.fileobj, b""
                assert isinstance(connection, socket.socket)
                with contextlib.suppress(OSError):
                    piece = connection.recv(65_536)
                raws[connection] += piece
                if not piece or is_whole(raws[connection]):
                    chooser.unregister(connection)
                    connection.close()
                    took[connection] = time.monotonic() - sent[connection]
    for connection in raws:
        connection.close()
    return [(raw, took.get(connection, 6 * SECONDS)) for connection, raw in raws.items()]


def spoiled(target: Target, dice: random.Random) -> bytes:
    """A request in which something is wrong, at least often."""
    asked: dict[str, Any] = {"prompt": "One two", "max_tokens": 2}
    path = dice.choice(
        ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/classify")
    )
    way = dice.randrange(5)
    if way == 0:  # a body that is something else
        return target.post(dice.choice(BODIES)(dice), path)
    if way == 1:  # fields that are something else
        name = dice.choice(FIELDS)
        return target.request(asked | {name: dice.choice(VALUES)(dice)}, path)
    if way == 2:  # headers that contradict each other, or are too many
        return dice.choice(HEADS)(target, dice)
    whole = bytearray(target.request(asked, path))
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(whole))
        kind = dice.randrange(4)
        if kind == 0:
            whole[at] = dice.randrange(256)
        elif kind == 1:
            del whole[at : at + dice.randint(1, 30)]
        elif kind == 2:
            whole[at:at] = whole[at : at + dice.randint(1, 30)]
        else:
            whole[at:at] = dice.choice((b"\0", b"\r\n", b"\n\n", b"\xff", b" ", b"%00", b": "))
        if not whole:
            break
    return bytes(whole)


BODIES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda dice: b"",
    lambda dice: b"null",
    lambda dice: b"[" * dice.randint(10, 5000),
    lambda dice: b'{"a":' * dice.randint(10, 2000) + b"1" + b"}" * 10,
    lambda dice: b'{"prompt": "a", "prompt": "b"}',
    lambda dice: b'{"prompt": "a", "temperature": 1e400}',
    lambda dice: b'{"prompt": "a", "temperature": NaN}',
    lambda dice: b'{"prompt": "\\ud800", "max_tokens": 2}',
    lambda dice: b'{"prompt": "\\u0000", "max_tokens": 2}',
    lambda dice: dice.randbytes(dice.randint(1, 3000)),
    lambda dice: "é".encode("latin-1") * dice.randint(1, 50),
    lambda dice: b'{"prompt": "' + b"a" * dice.randint(1, 300_000) + b'"}',
    lambda dice: json.dumps({"messages": [{"role": "user"}] * dice.randint(1, 300)}).encode(),
)
FIELDS = (
    "prompt", "max_tokens", "n", "temperature", "top_p", "top_k", "seed", "stop", "stream",
    "logprobs", "logit_bias", "model", "user", "echo", "response_format", "messages", "input",
    "presence_penalty", "best_of", "nothing",
)  # fmt: skip
VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda dice: None, lambda dice: True, lambda dice: "", lambda dice: "\0", lambda dice: [],
    lambda dice: {}, lambda dice: -1, lambda dice: 0, lambda dice: 2**63, lambda dice: -(2**63),
    lambda dice: 10**40, lambda dice: 0.5, lambda dice: [[]], lambda dice: [None],
    lambda dice: {"": None}, lambda dice: "x" * dice.randint(1, 5000), lambda dice: [0] * 5000,
    lambda dice: {str(id): 1 for id in range(5000)}, lambda dice: ["a"] * 5000,
    lambda dice: {"type": "regex", "regex": "(" * 900 + "a" + ")" * 900},
    lambda dice: {"type": "regex", "regex": "(a{0,1000}){0,1000}"},
    lambda dice: {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}},
)  # fmt: skip


def _head(lines: str, body: str = "") -> Callable[[Target, random.Random], bytes]:
    def make(target: Target, dice: random.Random) -> bytes:
        own = f"Host: 127.0.0.1:{target.port}\r\nAuthorization: Bearer {target.key}\r\n"
        own += "Content-Type: application/json\r\n"
        return lines.replace("OWN\r\n", own).encode() + body.encode()

    return make


POST = "POST /v1/completions HTTP/1.1\r\nOWN\r\n"
HEADS: tuple[Callable[[Target, random.Random], bytes], ...] = (
    _head(POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\nGET /"),
    _head(POST + "Content-Length: 5\r\nContent-Length: 50\r\n\r\n", "12345"),
    _head(POST + "Content-Length: -1\r\n\r\n", "{}"),
    _head(POST + "Content-Length: 99999999999999999999\r\n\r\n", "{}"),
    _head(POST + "Transfer-Encoding: chunked\r\n\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
    _head(POST + "Transfer-Encoding: chunked\r\n\r\n", "ffffffffffffffff\r\n{}"),
    _head(POST + "Transfer-Encoding: gzip, chunked\r\n\r\n", "0\r\n\r\n"),
    _head(POST + "X: " + "a" * 1_000_000 + "\r\n\r\n"),
    _head(POST + "X: y\r\n" * 10_000 + "\r\n"),
    _head("GET /healthz HTTP/1.1\r\nOWN\r\nRange: bytes=" + "0-," * 10_000 + "0-\r\n\r\n"),
    _head("GET /healthz HTTP/1.1\r\nOWN\r\n\r\n" * 50),
    _head("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    lambda target, dice: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(300),
    _head("GET http://elsewhere/healthz HTTP/1.1\r\nOWN\r\n\r\n"),
    _head("GET //v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    _head("GET /v1/%2e%2e/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    _head("GET /page/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    _head("GET /v1/models HTTP/1.0\r\n\r\n"),
    _head("GET /v1/models HTTP/1.1\r\nHost: a/v1?x\r\n\r\n"),
    _head("A" * 100_000),
    _head("\r\n" * 5000),
)  # fmt: skip
