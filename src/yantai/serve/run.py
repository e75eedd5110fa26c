"""`yantai serve`: models on a port, in front of them the gate.

Knows: how the parts are put together, and uvicorn. It refuses to be open to others without keys.
"""

import asyncio
import ipaddress
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from yantai.base.descriptors import allow_files
from yantai.base.errors import UsageError
from yantai.base.log import say
from yantai.serve.gate import LOOPBACK, Gate, Limits, read_keys
from yantai.serve.listener import (
    HEADER_BYTES,
    MOST_CONNECTIONS,
    DrainingServer,
    PatientProtocol,
)
from yantai.serve.log import RequestLog
from yantai.serve.meter import Meter
from yantai.serve.process import ProcessBackend
from yantai.serve.routes import Service
from yantai.serve.settings import Serve

OTHER_FILES = 32
"""That a server has open beside its connections."""


def serve(settings: Serve, emit: Callable[[str], None]) -> dict[str, Any]:
    """`yantai serve`.

    Raises:
        UsageError: it would be open to others without a key, or two models have one name.
        DataError: the file of keys has something else in it.
    """
    keys: dict[str, str] = {}
    if settings.api_key_file is not None:
        path = settings.api_key_file
        if not path.is_file():
            raise UsageError("E206", path, "no such file", expected="a file of keys")
        keys = read_keys(path.read_bytes(), str(path))
        if not keys:
            raise UsageError("E203", path, "holds no key", do="write one, or leave the flag out")
    if not keys and not _is_loopback(settings.host):
        raise UsageError(
            "E203", "host", "others could come in without a key", got=settings.host,
            do="give --api-key-file, or --host 127.0.0.1",
        )  # fmt: skip
    backends: dict[str, Any] = _backends(settings)
    limits = Limits(body_bytes=settings.max_body_bytes)
    meter = Meter(settings.tokens_per_minute)
    curves = {_name_of(path): _log_of(Path(path).resolve()) for path in settings.models}
    service = Service(backends, meter, curves)
    hosts = {*LOOPBACK, settings.host, *settings.allow_host}
    log = RequestLog(errors_only=settings.log == "errors")

    def tell(table: dict[str, Any]) -> None:
        service.tally.take(table)
        log.tell(table)

    gate = Gate(service.app(), hosts, keys, limits, meter=meter, tell=tell)
    # as many as are accepted in one turn of the loop are not counted yet
    files = allow_files()
    turn = min(256, files // 4)
    config = uvicorn.Config(
        gate, host=settings.host, port=settings.port, backlog=turn,
        http=PatientProtocol.within(limits, most_connections(files, turn), tell), ws="none",
        lifespan="off", access_log=False, log_level="warning", server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES, timeout_keep_alive=15,
    )  # fmt: skip
    door = _bound(settings.host, settings.port)
    address = f"http://{_shown(settings.host)}:{door.getsockname()[1]}"
    names = ", ".join(backends)
    server = DrainingServer(
        config,
        service,
        settings.grace_seconds,
        lambda: emit(f"page {address}/ · API {address}/v1 · models: {names}\n"),
    )
    with door:
        asyncio.run(_serve(server, backends, door))
    log.close()
    return {"answered": service.tally.answers.total(), "tokens": service.tokens}


def most_connections(files: int, turn: int) -> int:
    """At once, so that none is missing for models, logs and the page.

    Args:
        files: that may be open.
        turn: connections that are accepted before the first of them is counted.

    >>> most_connections(1024, 256), most_connections(65_536, 256), most_connections(128, 32)
    (736, 16384, 64)
    """
    return max(1, min(MOST_CONNECTIONS, files - turn - OTHER_FILES))


async def _serve(
    server: DrainingServer, backends: dict[str, ProcessBackend], door: socket.socket
) -> None:
    try:
        for name, backend in backends.items():
            began = time.monotonic()
            await backend.start()
            say(f"{name}: ready after {time.monotonic() - began:.1f} s")
        with _signals():
            await server.serve(sockets=[door])
    finally:
        for backend in backends.values():
            await backend.close()


@contextmanager
def _signals() -> Generator[None, None, None]:
    """uvicorn takes SIGINT and SIGTERM while it serves, and raises them again afterwards."""
    before = {sig: signal.signal(sig, signal.SIG_IGN) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet, so that nobody waits for a model.

    Raises:
        UsageError: another program has the port, or the host is not one of this machine's.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # named TCP, so that what asyncio accepts there sends small pieces at once (TCP_NODELAY)
        door = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(address)
        except OSError:
            door.close()
            raise
    except OSError as error:
        raise UsageError(
            "E203", f"{host}:{port}", f"nothing can listen there ({error.strerror or error})",
            do="give another --port, or 0 for any that is free",
        ) from error  # fmt: skip
    return door


def port_or_any(host: str, port: int) -> int:
    """The port if nobody has it, else 0, for any that is free."""
    try:
        _bound(host, port).close()
    except UsageError:
        return 0
    return port


def _shown(host: str) -> str:
    """As an address has it."""
    named = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"[{named}]" if ":" in named else named


def _backends(settings: Serve) -> dict[str, ProcessBackend]:
    """A process for each model, by the name of its folder."""
    found: dict[str, ProcessBackend] = {}
    for path in settings.models:
        name = _name_of(path)
        if name in found:
            raise UsageError("E203", "models", f"two are called {name!r}", do="rename a folder")
        given = settings.model_dump(include={"dtype", "device", "slots", "waiting", "threads"})
        found[name] = ProcessBackend(given | {"model": path})
    return found


def _log_of(folder: Path) -> Path:
    """The figures of the run that a model folder lies in; of several, the one that ended last."""
    own = folder.parent / "metrics.jsonl"
    others = sorted(folder.parent.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    return others[-1] if others and not own.is_file() else own


def _name_of(path: str) -> str:
    """Of `RUN/model` the run's, else the folder's."""
    folder = Path(path).resolve()
    return folder.parent.name if folder.name in ("model", "last") else folder.name


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
