"""A backend of this process: a desk in a thread.

Knows: queues between threads and the event loop. Whoever stops listening has cancelled.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from yantai.serve.backend import LEAVING, MOST_UNREAD, UNREAD
from yantai.serve.desk import Desk


class LocalBackend:
    """A desk of this process.

    Args:
        desk: with its engine.
    """

    def __init__(self, desk: Desk):
        self.desk = desk
        self.facts = desk.describe()
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        # templates and tokenizers of strangers run here, not in the event loop
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="yantai-desk")

    @property
    def is_ready(self) -> bool:
        """A thread of this process makes progress, or this process has none to ask."""
        return True

    @property
    def figures(self) -> Mapping[str, float]:
        """Of the engine."""
        return self.desk.engine.figures

    async def ask(self, question: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """See `Backend`."""
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        tables = self._open[number] = asyncio.Queue()

        def tell(table: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(tables.put_nowait, table)

        left = int(question.get("n") or 1)
        try:
            await loop.run_in_executor(self._readers, self.desk.ask, number, question, tell)
            while left:
                table = await tables.get()
                yield table
                if "error" in table:
                    return
                if tables.qsize() > MOST_UNREAD:
                    yield {"error": UNREAD}
                    return
                left -= "end" in table
        finally:
            del self._open[number]
            self.desk.cancel(number)

    def leave(self) -> None:
        """See `Backend`."""
        for tables in self._open.values():
            tables.put_nowait({"error": LEAVING})

    async def close(self) -> None:
        """The engine ends, and with it what it was doing."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self.desk.close)
