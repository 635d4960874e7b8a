"""Awaits many things at the same time, up to a limit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

SIDE_BY_SIDE = 16


def is_cancelled() -> bool:
    """Whether it is this task that was cancelled, and not something that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


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
