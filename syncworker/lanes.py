"""The lanes in which files are read and sent, side by side: many for groups of small files, two for large.

Small files go in as many lanes as help (pace.py), large ones in two, each with several parts in flight.

Invariants
- A lane never ends early: what it raises ends the job by `halt`, and the lane goes on emptying its queue, so
  that nobody waits for a place in it for ever. After a halt nothing is begun.
- At most `BYTES_IN_FLIGHT` of small files are in memory at a time.

What a file needs is the caller's (`do_group`, `do_large`); nothing here knows of a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from syncworker import etag
from syncworker.pace import LOOK_SECONDS, MOST, Pace
from syncworker.reader import Read, Work

LARGE_LANES = 2
BYTES_IN_FLIGHT = 64 << 20
_LARGE_WAITING = 64
_LOOKS = 5  # in the time of one measurement


class Budget:
    """At most so many bytes at a time; one that is larger than all passes alone."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._changed = asyncio.Condition()

    async def take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.used == 0 or self.used + size <= self.most)
            self.used += size

    async def give(self, size: int) -> None:
        async with self._changed:
            self.used -= size
            self._changed.notify_all()


class Lanes:
    """Opened when made, closed by `finish`. `one`: one file at a time. `sent` counts the files that have gone
    out; `is_throttled`: the store has asked to slow down, so more lanes would help nobody."""

    def __init__(
        self,
        *,
        one: bool,
        do_group: Callable[[list[Work]], Awaitable[None]],
        do_large: Callable[[Read], Awaitable[None]],
        halt: Callable[[Exception], None],
        halted: Callable[[], bool],
        sent: Callable[[], int],
        is_throttled: Callable[[], bool],
    ) -> None:
        self._do_group, self._do_large = do_group, do_large
        self._halt, self._halted = halt, halted
        self._sent, self._is_throttled = sent, is_throttled
        self._small: asyncio.Queue[list[Work] | None] = asyncio.Queue(maxsize=2 * MOST)
        self._large: asyncio.Queue[Read | None] = asyncio.Queue(maxsize=_LARGE_WAITING)
        self._budget = Budget(BYTES_IN_FLIGHT)
        self._all_handed_out = False
        self._pace = Pace(1, 1) if one else Pace()
        self._lanes: set[asyncio.Task[None]] = set()
        self._open()
        self._pacing = asyncio.create_task(self._keep_pace())
        self._large_lanes = [
            asyncio.create_task(self._large_lane()) for _ in range(1 if one else LARGE_LANES)
        ]

    async def put(self, group: list[Work]) -> None:
        await self._small.put(group)

    async def put_large(self, result: Read) -> None:
        """From within `do_group`: a file that goes in parts."""
        await self._large.put(result)

    async def finish(self) -> None:
        """All has been put: returns when all has been done."""
        await self._small.put(None)
        self._all_handed_out = True
        while self._lanes:
            await asyncio.wait(set(self._lanes))
        self._pacing.cancel()
        for _ in self._large_lanes:
            await self._large.put(None)
        await asyncio.gather(*self._large_lanes)

    def _open(self) -> None:
        while len(self._lanes) < self._pace.lanes:
            self._lanes.add(asyncio.create_task(self._small_lane()))

    async def _keep_pace(self) -> None:
        """As many lanes as help; those too many end by themselves."""
        before = self._sent()
        while self._groups_left() or not self._all_handed_out:
            waited = False
            for _ in range(_LOOKS):
                await asyncio.sleep(LOOK_SECONDS / _LOOKS)
                waited = waited or not self._groups_left()
            sent = self._sent()
            is_busy = not (waited or self._is_throttled() or self._halted())
            self._pace.look((sent - before) / LOOK_SECONDS, is_busy=is_busy)
            before = sent
            if self._groups_left():
                self._open()

    def _groups_left(self) -> int:
        return self._small.qsize() - self._all_handed_out  # the end is marked in the queue

    async def _small_lane(self) -> None:
        try:
            # Counted before each group: never do all lanes end because there are a few too many.
            while len(self._lanes) <= self._pace.lanes:
                group = await self._small.get()
                if group is None:
                    self._small.put_nowait(None)  # for the next lane
                    return
                if not self._halted():
                    await self._whole_group(group)
        finally:
            self._lanes.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _whole_group(self, group: list[Work]) -> None:
        size = min(sum(work.file.size for work in group if etag.is_single(work.file.size)), BYTES_IN_FLIGHT)
        await self._budget.take(size)
        try:
            await self._do_group(group)
        except Exception as error:  # noqa: BLE001 - the others would wait for this lane
            self._halt(error)
        finally:
            await self._budget.give(size)

    async def _large_lane(self) -> None:
        while (result := await self._large.get()) is not None:
            if self._halted():
                continue
            try:
                await self._do_large(result)
            except Exception as error:  # noqa: BLE001 - the others would wait for this lane
                self._halt(error)
