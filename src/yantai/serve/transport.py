"""A transport that gathers what is written, and hears out whoever is still sending.

Knows: asyncio. The head and the body of an answer are written one after the other, and so are the
pieces of a stream that come together: they leave as one piece. A connection that is closed while
something is on its way to it is reset, and what the client would have read is gone: so the answer
ends first, and what still comes is thrown away for some time.
"""

import asyncio
from collections.abc import Callable
from typing import Any

GATHERED_BYTES = 65_536
LINGER_SECONDS = 5.0
"""How long the rest of a request is thrown away, after the answer said that nobody reads it."""


class PatientTransport:
    """What a protocol writes to.

    Args:
        transport: of asyncio.
        loop: whose next turn sends what was written in this one.
        still_sends: whether the other side is in the middle of a request.

    Attributes:
        lingers: what comes is thrown away.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        still_sends: Callable[[], bool],
    ):
        self._transport, self._loop, self._still_sends = transport, loop, still_sends
        self._parts: list[bytes] = []
        self._size = 0
        self._end: asyncio.TimerHandle | None = None
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what else is written in this turn."""
        if not data:
            return
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._size += len(data)
        if self._size >= GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        parts, self._parts, self._size = self._parts, [], 0
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def get_write_buffer_size(self) -> int:
        """Bytes that nobody has taken yet."""
        return self._transport.get_write_buffer_size() + self._size

    def is_closing(self) -> bool:
        """Whether nothing is sent any more."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Send the rest and close; hear out who is still sending."""
        self.flush()
        if self.lingers or self._transport.is_closing():
            return
        if not self._still_sends():
            self._transport.close()
            return
        self.lingers = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._end = self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def lost(self) -> None:
        """The connection is gone."""
        if self._end is not None:
            self._end.cancel()
