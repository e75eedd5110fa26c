"""How a server listens: patient with clients within limits, and in no haste when it has to end.

Knows: uvicorn and h11, in front of the gate. Of requests and models it knows nothing.
"""

import asyncio
import itertools
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from yantai.serve.gate import Limits
from yantai.serve.routes import Service
from yantai.serve.schema import ApiError
from yantai.serve.transport import PatientTransport

HEADER_SECONDS, HEADER_BYTES = 10.0, 65_536
LEAST_BYTES = 16_384
"""That a client has to take of what waits for it, in `Limits.write_seconds`, or all of it."""
MOST_CONNECTIONS = 16_384
LOOKED_AT = 64
"""Of the oldest connections, when room is needed."""
INVALID = "invalid_http"
LAST_SECONDS = 1.0
"""After the time of grace: until an answer has said that it ends here."""


class Idle:
    """Connections that ask nothing at the moment, the oldest first."""

    def __init__(self) -> None:
        self._there: dict[Any, None] = {}
        self._lingering: dict[Any, None] = {}

    def add(self, one: Any) -> None:
        """It asks nothing from now on."""
        self._there.pop(one, None)
        self._there[one] = None

    def linger(self, one: Any) -> None:
        """It was answered, and what still comes from it is thrown away."""
        self._lingering[one] = None

    def discard(self, one: Any) -> None:
        """It asks, or is gone."""
        self._there.pop(one, None)
        self._lingering.pop(one, None)

    def end_oldest(self, otherwise: Any) -> None:
        """Make room.

        First goes who only sends what nobody reads, then who has asked nothing for longest and has
        taken all that was said; where there is nobody of these, the other.
        """
        oldest = itertools.chain(self._lingering, itertools.islice(self._there, LOOKED_AT))
        one = next(
            (each for each in oldest if not each.transport.get_write_buffer_size()), otherwise
        )
        self.discard(one)
        one.transport.abort()


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that lets a client go whose headers do not come, or who takes nothing.

    Closing is not enough for the latter: a transport that is closed waits until the last byte was
    taken, and this one never is.
    """

    write_seconds = Limits().write_seconds
    most, idle = MOST_CONNECTIONS, Idle()
    tell: Callable[[dict[str, Any]], None] = staticmethod(lambda table: None)
    _alarm: Any = None
    _unread: Any = None
    _waiting = 0

    @classmethod
    def within(
        cls,
        limits: Limits,
        most: int = MOST_CONNECTIONS,
        tell: Callable[[dict[str, Any]], None] = lambda table: None,
    ) -> "type[PatientProtocol]":
        """The same with limits of its own.

        Args:
            limits: of which it has the time for writing.
            most: connections at once. For a further one the oldest goes that asks nothing.
            tell: is told of what is no HTTP, as the gate's is of requests.
        """
        own = {"write_seconds": limits.write_seconds, "most": most, "idle": Idle(),
               "tell": staticmethod(tell)}  # fmt: skip
        return type("LimitedProtocol", (cls,), own)

    def connection_made(self, transport: Any) -> None:
        """The time for the first headers begins."""
        patient: Any = PatientTransport(transport, self.loop, self._still_sends)
        self._patient: PatientTransport = patient
        super().connection_made(patient)
        if len(self.connections) > self.most:
            self.idle.end_oldest(otherwise=self)
        self.idle.add(self)
        self._alarm = self.loop.call_later(HEADER_SECONDS, self._let_go)

    def data_received(self, data: bytes) -> None:
        """The first bytes of a further request begin its time, its last header ends it."""
        if self.transport.is_closing():  # nobody reads that any more
            return
        if self._alarm is None and self.conn.their_state is h11.IDLE:
            self._alarm = self.loop.call_later(HEADER_SECONDS, self._let_go)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._alarm = _disarmed(self._alarm)
            self.idle.discard(self)

    def pause_writing(self) -> None:
        """Much was sent and not taken: the time for that begins."""
        super().pause_writing()
        self._unread = _disarmed(self._unread)  # of what was left of an earlier answer
        self._watch()

    def resume_writing(self) -> None:
        """Most of it was taken; the rest of an answer that is complete has its time anew."""
        super().resume_writing()
        self._unread = _disarmed(self._unread)
        whole = self.cycle is None or self.cycle.response_complete
        if whole and self.transport.get_write_buffer_size():
            self._watch()

    def on_response_complete(self) -> None:
        """What is left of an answer has its time, too."""
        super().on_response_complete()
        self._patient.flush()
        if self.conn.their_state is h11.IDLE:
            self.idle.add(self)
        if self.transport.get_write_buffer_size():
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets an answer in the form of all others, if there was none yet."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        if self.conn.our_state is h11.IDLE:  # else the gate tells of its request
            peer = "{}:{}".format(*self.client) if self.client else ""
            self.tell({"method": "", "path": "", "status": 400, "ms": 0, "code": INVALID,
                       "peer": peer})  # fmt: skip
        body = json.dumps(ApiError(400, msg.rstrip("."), code=INVALID).body()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close"),
                   (b"content-length", str(len(body)).encode())]  # fmt: skip
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """It is a request like others, and has its line."""

    def connection_lost(self, exc: Exception | None) -> None:
        """There is nobody to wait for."""
        self._alarm, self._unread = _disarmed(self._alarm), _disarmed(self._unread)
        self.idle.discard(self)
        self._patient.lost()
        super().connection_lost(exc)

    def _still_sends(self) -> bool:
        still = self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if still:
            self.idle.linger(self)
        return still

    def _watch(self) -> None:
        if self._unread is None:
            self._waiting = self.transport.get_write_buffer_size()
            self._unread = self.loop.call_later(self.write_seconds, self._give_up)

    def _let_go(self) -> None:
        self._alarm = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()

    def _give_up(self) -> None:
        self._unread = None
        self._patient.flush()
        left, before = self.transport.get_write_buffer_size(), self._waiting
        if left > max(0, before - LEAST_BYTES):
            self.transport.abort()
        elif left:
            self._watch()


def _disarmed(alarm: Any) -> None:
    if alarm is not None:
        alarm.cancel()


class DrainingServer(uvicorn.Server):
    """When it is asked to end it says that it is not ready, and goes on until nothing is open.

    Whoever looks after servers sees `/readyz` say so, and new questions get 503. After the time of
    grace open answers end with a word about it. A second time ends it at once.

    Args:
        config: of uvicorn; its app is the gate.
        service: what it serves.
        grace: seconds for open answers.
        when_open: is called once it listens.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        grace: float = 30.0,
        when_open: Callable[[], None] = lambda: None,
    ):
        config.timeout_graceful_shutdown = int(LAST_SECONDS)
        super().__init__(config)
        self.service, self.grace, self.when_open = service, grace, when_open
        self._until: float | None = None
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says where, once it listens."""
        await super().startup(sockets)
        self.when_open()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begins to end; a second time ends at once."""
        if self._until is not None:
            self.force_exit = True
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.drain()

    def drain(self) -> None:
        """Take nothing new; end when nothing is open, or when the time of grace is over."""
        self.service.is_draining = True
        self.config.app.drain()  # ty: ignore[missing-attribute]
        self._until = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it has to end."""
        if self._until is not None and not self.should_exit:
            late = time.monotonic() - self._until
            if late >= 0:
                self.service.leave()
                self.config.app.leave()  # ty: ignore[missing-attribute]
            self.should_exit = not self.server_state.tasks or late >= LAST_SECONDS
        return await super().on_tick(counter)


def _is_news(record: logging.LogRecord) -> bool:
    """Neither a request that ended together with the server nor what has its line elsewhere."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    return not record.getMessage().startswith("Invalid HTTP request")
