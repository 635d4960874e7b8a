"""How fast this job sends bodies: its own limit, and its share of the one for all jobs (token_bucket.py).

Bodies are cut into pieces of a fortieth of a second. Pieces of all connections wait in one queue (`take`).
Fewer bodies are in flight than without a limit, so that each gets 64 KiB a second or more, or one alone gets
all (`enter`). Without a limit `on` is False, and nothing else is called.

`look` reads the limits again; it is called a few times a second, so a change is in force within one.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from syncworker.system.rates import Limit
from syncworker.system.token_bucket import DRAW_SECONDS, Draw, Schedule, TokenBucket

BODY_RATE = 64 << 10  # bytes a second of each body, at least
_PIECE_SECONDS = 0.025
_PIECE_MAX = 256 << 10
_PIECE_MAX_NS = 2_000_000_000
_EARLY_SECONDS = 0.002  # shorter sleeps cost more than they tell
_BUSY_AGO_NS = 500_000_000
_TOLERATED_SECONDS = 0.04  # as in token_bucket.py
_STALE_SECONDS = 0.75  # a draw that was not used within it is dropped
_ALONE_SECONDS = 2.0
_AGAIN_SECONDS = 0.01


class Turn:
    """A body that may be sent. Call `used` for the bytes that were sent, `leave` when none will follow."""

    def __init__(self, bandwidth: Bandwidth, size: int) -> None:
        self._bandwidth: Bandwidth | None = bandwidth
        self._rest = size

    def used(self, size: int) -> None:
        if self._bandwidth is not None:
            size = min(size, self._rest)
            self._rest -= size
            self._bandwidth.wanted -= size

    def leave(self) -> None:
        """Calling it again does nothing."""
        if self._bandwidth is not None:
            bandwidth, self._bandwidth = self._bandwidth, None
            bandwidth.left(self._rest)


class Bandwidth:
    """`own`, `all_jobs`: bytes a second, 0 for no limit. `moved`: bytes that were let through; `wanted`:
    bytes that bodies in flight have yet to send."""

    def __init__(
        self, own: Limit | None = None, all_jobs: Limit | None = None, bucket: TokenBucket | None = None
    ) -> None:
        self._own_limit, self._all_limit, self._bucket = own, all_jobs, bucket
        self.own = self.all_jobs = self.moved = self.wanted = 0
        self.on = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._inside = 0
        self._line = asyncio.Lock()
        self._own_schedule = Schedule(0)
        self._drawn = 0  # bytes that may be sent from `_drawn_at` on, the next one at `_used_until`
        self._drawn_at = self._used_until = 0.0
        self._members, self._members_at = 1, 0.0
        self._complained = False

    # -- the limits
    def look(self, *, stopping: bool) -> None:
        self.own, self.all_jobs = self._rate(self._own_limit), self._rate(self._all_limit)
        self.on = bool(self.own or self.all_jobs)
        self._wake(everybody=stopping)

    @staticmethod
    def _rate(limit: Limit | None) -> int:
        if limit is not None and (complaint := limit.look()):
            print(f"bandwidth: {complaint}", file=sys.stderr, flush=True)
        return limit.rate if limit else 0

    @property
    def share(self) -> float:
        """Bytes a second that this job may count on now."""
        rates = [float(self.own)] if self.own else []
        if self.all_jobs:
            is_alone = time.monotonic() - self._members_at > _ALONE_SECONDS
            rates.append(self.all_jobs / (1 if is_alone else self._members))
        return min(rates, default=math.inf)

    # -- bodies
    async def enter(self, size: int, stopping: Callable[[], bool]) -> Turn:
        """Waits until one more body may be in flight, or the job is to stop."""
        if (self._turns or not self._has_room()) and not stopping():
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn  # `_wake` has counted it
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self.left(0)
                raise
        else:
            self._inside += 1
        self.wanted += size
        return Turn(self, size)

    def _has_room(self) -> bool:
        return not self.on or self._inside < max(1, self.share // BODY_RATE)

    def left(self, size: int) -> None:
        self._inside -= 1
        self.wanted -= size
        self._wake()

    def _wake(self, *, everybody: bool = False) -> None:
        while self._turns and (everybody or self._has_room()):
            turn = self._turns.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)

    # -- pieces
    def pieces(self, chunk: bytes | memoryview) -> Iterator[memoryview]:
        view = memoryview(chunk)
        while view:
            size = self.piece  # it may change between two pieces
            yield view[:size]
            view = view[size:]

    @property
    def piece(self) -> int:
        if not self.on:
            return _PIECE_MAX
        return max(1, min(_PIECE_MAX, int(self.share * _PIECE_SECONDS)))

    async def take(self, size: int, is_over: Callable[[], bool] = lambda: False) -> None:
        """Returns when `size` bytes may be sent, or are no longer wanted."""
        async with self._line:
            if is_over():
                return
            await self._wait_for_own(size)
            await self._wait_for_all(size, is_over)
            self.moved += size

    async def _wait_for_own(self, size: int) -> None:
        if self.own:
            now = time.monotonic_ns()
            is_busy = self._own_schedule.free_at_ns > now - _BUSY_AGO_NS
            # A piece that was cut under a higher limit must not hold up the others for long.
            duration = min(size * 1_000_000_000 // self.own, _PIECE_MAX_NS)
            at, self._own_schedule = self._own_schedule.book(now, duration, is_busy=is_busy)
            await _sleep_until(at / 1e9)

    async def _wait_for_all(self, size: int, is_over: Callable[[], bool]) -> None:
        while size and self.all_jobs and self._bucket is not None and not is_over():
            if time.monotonic() > self._drawn_at + DRAW_SECONDS + _STALE_SECONDS:
                self._drawn = 0
            if not self._drawn and not self._draw(size, self._bucket):
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            part = min(size, self._drawn)
            at = max(self._used_until, time.monotonic() - _TOLERATED_SECONDS)  # late: no burst
            self._drawn -= part
            self._used_until = at + part / self.all_jobs
            size -= part
            await _sleep_until(at)

    def _draw(self, size: int, bucket: TokenBucket) -> bool:
        """Draws no more than is wanted: bytes that are not used are lost. False: it is not our turn yet."""
        wanted = max(size, self.wanted)
        if self.own:
            wanted = min(wanted, max(size, int(self.own * DRAW_SECONDS)))
        try:
            drawn = bucket.draw(self.all_jobs, wanted)
        except OSError as error:  # a full disk, for example: only this job keeps to the limit of all
            if not self._complained:
                self._complained = True
                print(f"bandwidth: not shared with other jobs: {error}", file=sys.stderr, flush=True)
            drawn = Draw(size, int(max(self._used_until, time.monotonic()) * 1e9), 1)
        if drawn is None:
            return False
        self._drawn, self._drawn_at = drawn.size, drawn.at_ns / 1e9
        self._used_until = self._drawn_at
        self._members, self._members_at = drawn.members, time.monotonic()
        return True


async def _sleep_until(at: float) -> None:
    """Sleeps until this time of the monotonic clock."""
    if (seconds := at - time.monotonic()) > _EARLY_SECONDS:
        await asyncio.sleep(seconds)
