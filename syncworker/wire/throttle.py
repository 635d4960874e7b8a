"""How many requests a store gets: fewer, and so many a second, once it has asked to slow down.

Halving what is in flight is not enough: a store near by answers so fast that one connection may over-ask it.
So the rate, too, is what the store has just shown to take, and a little more all the time (docs/design.md has
the measurement). Nobody who waits here is forgotten: who leaves wakes as many as may enter, and a stop ends
every wait. Knows nothing of S3, and retries nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from syncworker.errors import RetryError, Stopped, SyncError

_BURST_SECONDS = 0.02
_FASTER = 0.1
_FORGET_SECONDS = 30.0
_CALM_SECONDS = 2.0  # without being asked to slow down: an answer then ends the time in which the store did
TAKEN_SECONDS = 10


def _go_on(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Stopped("told to stop while the storage asks to slow down")


class Gate:
    """How many requests may be in flight, and, once the store has asked to slow down, how many a second.

    In flight: halved when it asks (once in half a second), one more for each full round of answers that
    succeed, never below one. A second: as many as it has just shown to take, then a little more all the time,
    until it asks again; a store near by answers so fast that even one at a time may be too many.
    """

    def __init__(self, most: int) -> None:
        self.most = float(most)
        self.limit = float(most)
        self.rate: float | None = None  # requests a second
        self.inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._lowered_at = -1.0
        self._free_at = 0.0  # when the next request may go, at this rate
        self.slow_since: float | None = None  # the store asks to slow down since then, by the loop's clock
        self._slow_at = 0.0  # when it did last
        self._slow_seconds = 0.0  # in which it did, before
        # [tenth of a second, answers that succeeded in it]
        self._tenths: deque[list[int]] = deque(maxlen=10 * TAKEN_SECONDS)

    def enters_at_once(self) -> bool:
        """Enters if there is room now. Most requests enter so, which saves a coroutine."""
        if self.rate is not None or self.inside >= self.limit:
            return False
        self.inside += 1
        return True

    async def enter(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Waits for a place. Stopped: it would have to wait, and `stopping` says that the job ends."""
        while self.inside >= self.limit:
            _go_on(stopping)
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter.cancelled():
                    self._wake()
            if stopping():
                self._wake()  # nor does the next one begin
                _go_on(stopping)
        self.inside += 1
        if self.rate is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = turn = max(now - _BURST_SECONDS, self._free_at + 1 / self.rate)
            try:
                while (pause := turn - asyncio.get_running_loop().time()) > 0:
                    _go_on(stopping)
                    await asyncio.sleep(min(pause, 0.2))
            except BaseException:
                self.give_back()
                raise

    def give_back(self) -> None:
        """Returns a place in which no request was made."""
        self.inside -= 1
        self._wake()

    def leave(self, error: SyncError | None) -> None:
        self.inside -= 1
        now = asyncio.get_running_loop().time()
        if error is None and self.slow_since is None and self.limit >= self.most and self.rate is None:
            self._count(int(now * 10))  # mostly so
        elif isinstance(error, RetryError) and error.throttled:
            self._slow_at = now
            self.slow_since = self.slow_since or now
            if now - self._lowered_at > 0.5:
                self._lowered_at = now
                self.limit = max(1.0, min(self.limit, self.inside + 1) / 2)
                self.rate = max(1.0, self._rate_now(int(now * 10)))
        else:
            if self.rate is not None or self.slow_since is not None:
                self._calm(now)
            if not isinstance(error, RetryError):  # a refusal, too, is a request that the store has taken
                self._faster(now)
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
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + 1 / self.limit)
        if self.rate is not None:
            self.rate *= 1 + _FASTER / self.rate  # by that part in each second

    def slow_seconds(self, now: float) -> float:
        """For how long the store has asked to slow down, in all."""
        return self._slow_seconds + (now - self.slow_since if self.slow_since is not None else 0.0)

    def taken(self, now: float) -> int:
        """Answers that succeeded in the last `TAKEN_SECONDS`."""
        return sum(count for when, count in self._tenths if when > now * 10 - 10 * TAKEN_SECONDS)

    def _count(self, tenth: int) -> None:
        if self._tenths and self._tenths[-1][0] == tenth:
            self._tenths[-1][1] += 1
        else:
            self._tenths.append([tenth, 1])

    def _rate_now(self, tenth: int) -> float:
        """Answers that succeeded, a second, in the last one or since the first."""
        recent = [(when, count) for when, count in self._tenths if when > tenth - 10]
        return sum(count for _, count in recent) / (tenth + 1 - recent[0][0]) * 10 if recent else 0.0

    def _wake(self) -> None:
        room = int(self.limit) - self.inside
        while self._waiting and room > 0:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1
