"""Many awaits side by side, but never more than some at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

SIDE_BY_SIDE = 16


async def side_by_side(
    work: Callable[[T], Awaitable[None]], items: Iterable[T], lanes: int = SIDE_BY_SIDE
) -> None:
    """Does the work for all items, a few at a time. After an error none is begun; the first error is raised
    when those under way have ended."""
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
