"""The lanes (tasks) that read and send files concurrently: many for small files, a few for large ones.

```
groups of files ─ readers ─ results ─┬─ 32 to 128 lanes (lane_count.py)
                                     └─ large files: 4 lanes, each with several parts in flight
```
A group is read as a whole; then free lanes send its files. So the same few functions run many times in a row,
which costs a fifth less than handling each file from start to end (docs/design.md).

Invariants
- A lane never ends early: an error ends the job by `stop.fail`, and the lane (or a new one, if it died)
  continues to empty its queue, so that nothing waits forever for room in it. After a halt nothing is begun.
- At most `BYTES_IN_FLIGHT` of small files are in memory.
- With `one`, a file is read only just before it is handled.

`Files` does the work for each file; nothing here knows of a store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, cast

from syncworker.plan.compare import Candidate
from syncworker.s3 import etag
from syncworker.system.gather import QuickQueue
from syncworker.system.stop_token import StopToken
from syncworker.transfer.lane_count import LEAST, MOST, RATE_SECONDS, LaneController, Turns
from syncworker.transfer.readers import ReadResult

LARGE_LANES = 4
BYTES_IN_FLIGHT = 64 << 20
_READERS = 16  # tasks that read groups: most of them wait for a thread, or for a free lane
_LARGE_WAITING = 64
_LOOKS = 5  # per measurement


class Budget:
    """Limits how many bytes are held at the same time; an item above the limit passes alone."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._waiting: list[asyncio.Future[None]] = []

    async def acquire(self, size: int) -> None:
        while self.used and self.used + size > self.most:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        self.used += size

    def release(self, size: int) -> None:
        self.used -= size
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()


def _held(work: Candidate) -> int:
    """Returns how many bytes of a file stay in memory from its reading until it is sent."""
    return work.file.size if etag.is_single(work.file.size) else 0


_Tasks = set[asyncio.Task[None]]


async def _ends(tasks: _Tasks) -> None:
    """Waits for all of these tasks, and for tasks that replace one that died."""
    while tasks:
        await asyncio.wait(set(tasks))


class Files(Protocol):
    """What the lanes do with files. `turns`: records how long each file that was sent was in flight."""

    turns: Turns

    async def read(self, group: list[Candidate]) -> list[ReadResult]: ...

    def handle_read(self, result: ReadResult) -> Awaitable[None]: ...

    def send_large(self, result: ReadResult) -> Awaitable[None]: ...

    def is_throttled(self) -> bool:
        """Whether the store has asked to slow down, so that more lanes would not help."""
        ...


class Lanes:
    """Starts its tasks on creation, and ends them in `finish`. `one`: handles one file after another;
    `begin`: the first number of lanes; `pace`: says how many there are to be now."""

    def __init__(self, files: Files, stop: StopToken, *, one: bool, begin: int = LEAST) -> None:
        self._one, self._files = one, files
        self._handle_read = files.handle_read
        self._halt, self._halted = stop.fail, stop.requested
        self._groups: asyncio.Queue[list[Candidate] | None] = asyncio.Queue(maxsize=2 * MOST)
        self._read: QuickQueue[ReadResult | None] = QuickQueue()
        self._turn, self._drained = asyncio.Lock(), asyncio.Event()
        self._large: asyncio.Queue[ReadResult | None] = asyncio.Queue(maxsize=_LARGE_WAITING)
        self._budget = Budget(BYTES_IN_FLIGHT)
        self._all_read = False
        self.pace = LaneController(1, 1) if one else LaneController(begin)
        self._lanes, self._pacing, self._readers, self._large_lanes = _Tasks(), _Tasks(), _Tasks(), _Tasks()
        self._open()
        self._begin(self._adjust_lanes, self._pacing)
        for _ in range(1 if one else _READERS):
            self._begin(self._read_groups, self._readers)
        for _ in range(1 if one else LARGE_LANES):
            self._begin(self._large_lane, self._large_lanes)

    def _begin(self, lane: Callable[[], Coroutine[Any, Any, None]], tasks: _Tasks) -> None:
        task = asyncio.create_task(lane())
        tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, lane, tasks))

    def _ended(
        self, task: asyncio.Task[None], lane: Callable[[], Coroutine[Any, Any, None]], tasks: _Tasks
    ) -> None:
        """Ends the job if a lane has died, and starts a replacement, because others may wait for it."""
        tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._halt(error)
            self._begin(lane, tasks)

    async def put(self, group: list[Candidate]) -> None:
        await self._groups.put(group)

    @property
    def groups_waiting(self) -> int:
        return self._groups.qsize()

    async def put_large(self, result: ReadResult) -> None:
        """Takes a file that is sent in parts; called from `handle_read`."""
        await self._large.put(result)

    async def finish(self) -> None:
        """Waits until everything that was put is done; nothing may be put afterwards."""
        for _ in range(len(self._readers)):
            await self._groups.put(None)
        await _ends(self._readers)
        self._read.put(None)
        self._all_read = True
        await _ends(self._lanes)
        for pacing in self._pacing:
            pacing.cancel()
        for _ in range(len(self._large_lanes)):
            await self._large.put(None)
        await _ends(self._large_lanes)

    def _open(self) -> None:
        while len(self._lanes) < self.pace.lanes:
            self._begin(self._small_lane, self._lanes)

    async def _adjust_lanes(self) -> None:
        """Opens lanes while more are useful; surplus lanes end by themselves."""
        looks, waited, turns = 0, False, self._files.turns
        while self._waiting() or not self._all_read:
            await asyncio.sleep(RATE_SECONDS / _LOOKS)
            looks += 1
            waited = waited or not self._waiting()
            is_busy = not (waited or self._files.is_throttled() or self._halted())
            # Each lane is to count once: a distant store may answer later than in half a second.
            if looks >= _LOOKS and (turns.count >= self.pace.lanes or not is_busy):
                self.pace.record_rate(turns.rate(self.pace.lanes), is_busy=is_busy)
                turns.begin(time.monotonic())
                looks, waited = 0, False
            if self._waiting():
                self._open()

    def _waiting(self) -> int:
        return len(self._read.items) - self._all_read  # the end is marked in the queue

    async def _next_group(self) -> list[Candidate] | None:
        """Returns the next group once the lanes have taken all results, so that groups are read one by one
        unless reading takes longer than sending."""
        async with self._turn:
            while self._read.items:
                self._drained.clear()
                await self._drained.wait()
            return await self._groups.get()

    async def _read_groups(self) -> None:
        while (group := await self._next_group()) is not None:
            await self._read_group(group)  # a separate call, so that no body is held here

    async def _read_group(self, group: list[Candidate]) -> None:
        if self._halted():
            return
        size = sum(map(_held, group))
        await self._budget.acquire(size)
        results: list[ReadResult] = []
        try:
            results = await self._files.read(group)
        except Exception as error:  # noqa: BLE001 - the others would wait for this lane
            self._halt(error)
        if len(results) < len(group):
            self._budget.release(size - sum(_held(result.work) for result in results))
        for result in results:
            if self._one:
                await self._whole(result)
            else:
                self._read.put(result)

    async def _small_lane(self) -> None:
        ready = self._read.items
        try:
            # Checked again before each file, so that only surplus lanes end.
            while len(self._lanes) <= self.pace.lanes:
                result = ready.popleft() if ready else await self._read.get()
                if not ready:
                    self._drained.set()
                if result is None:
                    self._read.put(None)  # for the next lane
                    return
                await self._whole(result)
                del result  # frees its body of up to 8 MiB before the wait for the next result
        finally:
            self._lanes.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _whole(self, result: ReadResult) -> None:
        try:
            if not self._halted():
                await self._handle_read(result)
        except Exception as error:  # noqa: BLE001 - the others would wait for this lane
            self._halt(error)
        finally:
            self._budget.release(_held(result.work))

    async def _large_lane(self) -> None:
        while (result := await self._large.get()) is not None:
            if self._halted():
                continue
            try:
                await self._files.send_large(result)
            except Exception as error:  # noqa: BLE001 - the others would wait for this lane
                self._halt(error)
