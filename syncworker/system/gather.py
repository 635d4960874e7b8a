"""Awaits many things at the same time, up to a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

SIDE_BY_SIDE = 16


def is_cancelled() -> bool:
    """Whether it is this task that was cancelled, and not something that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class QuickQueue(Generic[T]):
    """A queue without an upper limit, for one event loop. `asyncio.Queue` calls eight functions for each
    item. `items`: whoever finds one need not call `get`."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def put(self, item: T) -> None:
        self.items.append(item)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def get(self) -> T:
        while not self.items:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if not waiter.cancelled() and self.items:
                    self._wake()  # it was woken and cancelled at once: another one is to take the item
                raise
        return self.items.popleft()


async def side_by_side(
    work: Callable[[T], Awaitable[None]], items: Iterable[T], lanes: int = SIDE_BY_SIDE
) -> None:
    """Calls `work` for all items, `lanes` at the same time. After an error no other begins; raises the first
    error when those in flight have ended."""
    left = iter(items)

    async def lane() -> None:
        for item in left:
            try:
                await work(item)
            except BaseException:
                deque(left, maxlen=0)
                raise

    for end in await asyncio.gather(*(lane() for _ in range(lanes)), return_exceptions=True):
        if isinstance(end, BaseException):
            raise end
