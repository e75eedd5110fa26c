"""Who may come in, and with how much: hosts, keys, sizes, deadlines, tokens a minute.

Knows: ASGI. Everything is denied that is not allowed; what a client did wrong it is told in
OpenAI's form, and a client that drips or does not listen is let go.
"""

import asyncio
import codecs
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from yantai.base.errors import DataError
from yantai.serve.backend import LEAVING
from yantai.serve.meter import Meter
from yantai.serve.schema import UNAVAILABLE, ApiError, api_error, unavailable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/healthz", "/readyz", "/favicon.ico")
OPEN_FOLDER = "/page/"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SHORTEST_KEY = 16
HASH = "sha256:"


def hashed(key: str) -> str:
    """How a key is kept: a key of ours is long and random, so that a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(content: bytes, where: str) -> dict[str, str]:
    """Names by hashes, from a file with `name sha256:HEX` or a key itself a line.

    Raises:
        DataError: a line is neither, or a key is too short, or has characters that may not be sent.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        place = f"{where}:{number}"
        try:
            words = line.decode("utf-8").split()
        except UnicodeDecodeError as error:
            raise DataError(
                "E304", place, "is not UTF-8", expected="a key, or NAME sha256:HEX, a line",
                got=f"byte 0x{line[error.start]:02x}",
            ) from error  # fmt: skip
        if words and not words[0].startswith("#"):
            *names, key = words
            if len(names) > 1 or _is_hash("".join(names)):
                raise _no_key(place)
            found[_hash_of(key, place)] = names[0] if names else f"key {number}"
    return found


def _is_hash(word: str) -> bool:
    return word.lower().startswith(HASH)


def _hash_of(key: str, where: str) -> str:
    """Of a key, or what is kept of one."""
    if _is_hash(key):
        digits = key[len(HASH) :].lower()
        if not re.fullmatch("[0-9a-f]{64}", digits):
            length = f"{len(digits)} characters"
            raise DataError(
                "E304", where, "a damaged hash", expected=f"{HASH} and 64 hexadecimal digits",
                got=length if len(digits) != 64 else "other characters than 0-9 and a-f",
            )  # fmt: skip
        return digits
    if not key.isascii() or not key.isprintable():
        raise DataError(
            "E304", where, "a key with characters that a client may not send",
            expected="letters, digits and signs of ASCII",
        )  # fmt: skip
    if len(key) < SHORTEST_KEY:
        raise _no_key(where)
    return hashed(key)


def _no_key(where: str) -> DataError:
    wanted = f"NAME sha256:HEX, or a key of at least {SHORTEST_KEY} characters"
    return DataError("E304", where, "no key", expected=wanted)


@dataclass(frozen=True)
class Limits:
    """What a client may do.

    Attributes:
        body_bytes: of a request.
        body_seconds: until all of it is there.
        write_seconds: until a client has taken some of what was sent.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    write_seconds: float = 30.0


class Gate:
    """The middleware before all routes.

    Args:
        app: behind it.
        hosts: names by which the server may be called, without ports.
        keys: names by hashes; empty where none is needed.
        limits: see there.
        meter: of the tokens that keys use.
        clock: seconds, for tests.
        tell: is told of each request when it has ended.
    """

    def __init__(
        self,
        app: App,
        hosts: Iterable[str],
        keys: dict[str, str],
        limits: Limits,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[dict[str, Any]], None] = lambda table: None,
    ):
        self.tell = tell
        self.app, self.keys, self.limits, self.clock = app, keys, limits, clock
        self.hosts = frozenset(name.lower() for name in hosts)
        self.meter = meter or Meter()
        self._bodies: set[asyncio.Timeout] = set()
        self._leaves = self._drains = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; a websocket has nothing to do here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        scope = _origin_form(scope)
        began, status = self.clock(), 499  # until an answer begins: the client has gone

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noted)
        finally:
            state = scope.get("state", {})
            said = {name: state[name] for name in ("route", "key", "prompt_tokens", "tokens")
                    if state.get(name)}  # fmt: skip
            self.tell(
                {"method": scope["method"], "path": scope["path"][:200], "status": status,
                 "ms": round(1000 * (self.clock() - began))} | said
            )  # fmt: skip

    async def _answer(self, scope: Scope, receive: Receive, sending: Send) -> None:
        try:
            _check_framing(scope)
            self._check_host(scope)
            scope["state"] = {"key": self._check_key(scope)}
            self._check_rate(scope)
            if self._drains and scope["method"] not in ("GET", "HEAD"):
                raise unavailable("is shutting down")  # before its body is read
            body = await self._body(scope, receive)
        except ApiError as error:
            await refuse(sending, error, closes=_has_body(scope))
            return
        except TimeoutError:
            if self._leaves:
                await refuse(sending, api_error(LEAVING))
                return
            late = f"the body took longer than {self.limits.body_seconds:g} seconds"
            await refuse(sending, ApiError(408, late, code="timeout"))
            return

        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # from now on, only whether the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, sending)

    def drain(self) -> None:
        """From now on a question is answered by its headers alone."""
        self._drains = True

    def leave(self) -> None:
        """Whoever is still sending is told that the server ends."""
        self._leaves = True
        for deadline in self._bodies:
            if not deadline.expired():
                deadline.reschedule(asyncio.get_running_loop().time())

    def _check_host(self, scope: Scope) -> None:
        """A page of somebody else may lead a browser here by a name of its own."""
        given = [value for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1:
            raise ApiError(400, "one Host header is needed", param="Host", code="invalid_host")
        name = given[0].decode("latin-1").lower()
        bare = name if name.endswith("]") else name.rsplit(":", 1)[0] if ":" in name else name
        port = name[len(bare) :]
        if bare not in self.hosts or (port and not port[1:].isdigit()):
            raise ApiError(
                403, "this server is not called by that name; --allow-host allows it",
                param="Host", code="invalid_host", kind="permission_error",
            )  # fmt: skip

    def _check_key(self, scope: Scope) -> str:
        path, method = scope["path"], scope["method"]
        reads = method in ("GET", "HEAD")
        if not self.keys or (reads and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER))):
            return ""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, key = (
            given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
        )
        found, own = "", hashed(key.strip())
        for known, name in self.keys.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(known, own):
                found = name
        if kind.lower() != "bearer" or not found:
            raise ApiError(
                401, "no valid key: send Authorization: Bearer KEY", code="invalid_api_key",
                kind="authentication_error",
            )  # fmt: skip
        return found

    def _check_rate(self, scope: Scope) -> None:
        """Of questions; what costs no token is answered whatever a key has used."""
        if scope["method"] not in ("GET", "HEAD"):
            self.meter.check(scope["state"]["key"])

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """All of it, within size and time."""
        headers = dict(scope["headers"])
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json":
                raise ApiError(400, "the body must be application/json", param="Content-Type")
        said = headers.get(b"content-length", b"0")
        if said.isdigit() and int(said) > self.limits.body_bytes:
            raise self._too_large()
        parts, size = [], 0
        async with asyncio.timeout(self.limits.body_seconds) as deadline:
            self._bodies.add(deadline)
            try:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the client has gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return b"".join(parts)
            finally:
                self._bodies.discard(deadline)

    def _too_large(self) -> ApiError:
        limit = self.limits.body_bytes
        return ApiError(413, f"the body is larger than {limit:,} bytes", code="body_too_large")


ABSOLUTE = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)


def _origin_form(scope: Scope) -> Scope:
    """The same with a path alone: a target may name the server, which then counts for its Host.

    RFC 9112, 3.2.2: `GET http://HOST/path HTTP/1.1`, as a proxy is asked.
    """
    found = ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
    if found is None:
        return scope
    authority, raw = found[1], found[2] or b"/"
    headers = [(name, authority if name == b"host" else value) for name, value in scope["headers"]]
    return {**scope, "raw_path": raw, "path": unquote(raw.decode("latin-1")), "headers": headers}


TWO_LENGTHS = "two_lengths"
"""Whoever stands between may have read the other one: nothing more comes over this connection."""
MOST_HEADERS = 200


def _has_body(scope: Scope) -> bool:
    """Whether something comes behind the headers."""
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def _check_framing(scope: Scope) -> None:
    """Before all else: whether it is clear where this request ends and the next one begins."""
    headers = dict(scope["headers"])
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise ApiError(
            400, "its length is told twice, by Content-Length and by Transfer-Encoding",
            param="Transfer-Encoding", code=TWO_LENGTHS,
        )  # fmt: skip
    if len(scope["headers"]) > MOST_HEADERS:
        raise ApiError(431, f"more than {MOST_HEADERS} headers", code="too_many_headers")


async def refuse(send: Send, error: ApiError, *, closes: bool = False) -> None:
    """Answer with an error.

    Args:
        send: of ASGI.
        error: what is wrong.
        closes: nothing more is read from this connection.
    """
    body = json.dumps(error.body(), ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if error.wait is not None:
        headers.append((b"retry-after", str(error.wait).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    last = (TWO_LENGTHS, UNAVAILABLE, LEAVING["code"])
    if closes or error.status in (408, 413, 431) or error.code in last:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
