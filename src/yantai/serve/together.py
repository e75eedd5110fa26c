"""Several questions of one client at once, for as long as the client is there.

Knows: asyncio, and whether a client of HTTP has gone.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from starlette.requests import Request

T = TypeVar("T")
LOOK_SECONDS = 0.2
"""How often it is seen whether a client that waits for a whole answer is still there."""


async def together(
    request: Request, work: Iterable[Coroutine[Any, Any, T]], most: int
) -> list[T] | None:
    """What several questions give, so many at once; None where the client has gone meanwhile.

    Raises:
        ApiError: one of them did; nothing of the others goes on.
    """
    free = asyncio.Semaphore(most)

    async def one(each: Coroutine[Any, Any, T]) -> T:
        async with free:
            return await each

    waiting = list(work)
    tasks = [asyncio.create_task(one(each)) for each in waiting]
    left = set(tasks)
    try:
        while left:
            done, left = await asyncio.wait(
                left, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()  # an error of one is the answer to all
            if left and await request.is_disconnected():
                return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in waiting:
            each.close()  # of one that was not begun
    return [task.result() for task in tasks]
