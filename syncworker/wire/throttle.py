"""Limits the requests to a store that has asked to slow down: how many are in flight, and how many a second.

To halve what is in flight is not enough: a store near by answers so fast that one connection may ask too
much. So the rate is limited as well, to what the store has just shown to take, and then slowly raised
(docs/design.md has the measurement). Each release wakes as many waiters as the limit allows; a stop wakes all
of them. This module knows nothing of S3, and retries nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from syncworker.errors import RetryError, Stopped, SyncError

_BURST_SECONDS = 0.02
_FASTER = 0.1
_FORGET_SECONDS = 30.0
_CALM_SECONDS = 2.0  # without another request to slow down: an answer then ends the slow-down
TAKEN_SECONDS = 10


def _raise_if_stopping(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Stopped("told to stop while the storage asks to slow down")


class AdaptiveThrottle:
    """In flight: halved when the store asks to slow down (once in half a second at most), one more for each
    full round of answers that succeed, never below one. A second: not limited before it asks; then as many as
    it has just shown to take, slowly raised until it asks again."""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = float(max_in_flight)
        self.limit = float(max_in_flight)
        self.rate: float | None = None  # requests a second
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lowered_at = -1.0
        self._free_at = 0.0  # when the next request may go, at this rate
        self.slow_since: float | None = None  # when this slow-down began, by the loop's clock
        self._slow_at = 0.0  # when the store asked last
        self._slow_seconds = 0.0  # of all slow-downs before this one
        # [tenth of a second, answers that succeeded in it]
        self._tenths: deque[list[int]] = deque(maxlen=10 * TAKEN_SECONDS)

    def try_acquire(self) -> bool:
        """Takes a place if there is one now. Most requests do so, which saves a coroutine."""
        if self.rate is not None or self.in_flight >= self.limit:
            return False
        self.in_flight += 1
        return True

    async def acquire(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Waits for a place. Raises Stopped if it has to wait, and `stopping` says that the job ends."""
        while self.in_flight >= self.limit:
            _raise_if_stopping(stopping)
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    self._wake()
            if stopping():
                self._wake()  # the next one is to see the stop, too
                _raise_if_stopping(stopping)
        self.in_flight += 1
        if self.rate is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = turn = max(now - _BURST_SECONDS, self._free_at + 1 / self.rate)
            try:
                while (pause := turn - asyncio.get_running_loop().time()) > 0:
                    _raise_if_stopping(stopping)
                    await asyncio.sleep(min(pause, 0.2))
            except BaseException:
                self.release_unused()
                raise

    def release_unused(self) -> None:
        """Returns a place in which no request was made."""
        self.in_flight -= 1
        self._wake()

    def release(self, error: SyncError | None) -> None:
        self.in_flight -= 1
        now = time.monotonic()
        if isinstance(error, RetryError) and error.throttled:
            self._slow_at = now
            self.slow_since = self.slow_since or now
            if now - self._lowered_at > 0.5:
                self._lowered_at = now
                self.limit = max(1.0, min(self.limit, self.in_flight + 1) / 2)
                self.rate = max(1.0, self._rate_now(int(now * 10)))
        else:
            if self.rate is not None or self.slow_since is not None:
                self._calm(now)
            if not isinstance(error, RetryError):  # a refusal, too, is a request that the store has taken
                self._faster(now)
        if self._waiting:
            self._wake()

    def _calm(self, now: float) -> None:
        """Ends the slow-down after a while without another request to slow down, even if nothing succeeds."""
        if self.slow_since is not None and now - self._slow_at > _CALM_SECONDS:
            self._slow_seconds = self.slow_seconds(now)
            self.slow_since = None
        if now - self._lowered_at > _FORGET_SECONDS:
            self.rate = None

    def _faster(self, now: float) -> None:
        self._count(int(now * 10))
        if self.limit < self.max_in_flight:
            self.limit = min(self.max_in_flight, self.limit + 1 / self.limit)
        if self.rate is not None:
            self.rate *= 1 + _FASTER / self.rate  # by that part in each second

    def slow_seconds(self, now: float) -> float:
        """Returns how long all slow-downs have lasted together."""
        return self._slow_seconds + (now - self.slow_since if self.slow_since is not None else 0.0)

    def taken(self, now: float) -> int:
        """Returns how many answers succeeded in the last `TAKEN_SECONDS`."""
        return sum(count for when, count in self._tenths if when > now * 10 - 10 * TAKEN_SECONDS)

    def _count(self, tenth: int) -> None:
        if self._tenths and self._tenths[-1][0] == tenth:
            self._tenths[-1][1] += 1
        else:
            self._tenths.append([tenth, 1])

    def _rate_now(self, tenth: int) -> float:
        """Returns how many answers a second succeeded, in the last second or since the first answer."""
        recent = [(when, count) for when, count in self._tenths if when > tenth - 10]
        return sum(count for _, count in recent) / (tenth + 1 - recent[0][0]) * 10 if recent else 0.0

    def _wake(self) -> None:
        room = int(self.limit) - self.in_flight
        while self._waiting and room > 0:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
