"""Detects that the storage is down, because no request succeeds, and waits until it is back.

| seen | then |
| --- | --- |
| a request has no tries left, while others are answered | it fails: the storage is up |
| no request has succeeded for 2 s, or a request has no tries left | one HEAD: is the storage down? |
| the HEAD is answered at once | no: the fault is the request's, which keeps its number of tries |
| the HEAD fails as well | all wait; a HEAD after 1, 2, 4, 8, 15 s; once answered, all have new tries |
| the patience has run out | FatalError for all of them |
| the storage was down, in the minute after it is back | a request without tries left gets new ones |

The last row is for storages whose parts start one by one. A storage that has answered nothing in this attempt
is not waited for: its address may be wrong. Any answer counts, except for failures of the server (5xx) and
requests to slow down. This module knows nothing of S3.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Awaitable, Callable

from syncworker.errors import FatalError, RetryError
from syncworker.system.pause import Pause
from syncworker.system.stop_token import StopToken

_PAUSE_SECONDS = 1.0
_PAUSE_MAX_SECONDS = 15.0
_ASK_SECONDS = 30.0
_STARTING_SECONDS = 60.0  # SeaweedFS answers a HEAD some seconds before it can read what it holds


def gone(error: RetryError) -> FatalError:
    """Returns the error of a job whose storage has answered before, and no longer does."""
    return FatalError(error.code, f"the storage no longer answers: {error.message}: resume when it does")


class Outage:
    """Records failures of all requests, and waits for a storage that is down. `ask` sends one small request
    and returns None if it was answered, otherwise its error. Times are seconds since the epoch, because users
    see them."""

    def __init__(
        self,
        patience_seconds: float,
        ask: Callable[[], Awaitable[RetryError | None]],
        stop: StopToken,
        pause: Pause | None = None,
    ) -> None:
        self.patience_seconds = patience_seconds
        self.has_answered = False
        self.since: float | None = None  # no request has succeeded since
        self.error: RetryError | None = None  # of the last request
        self._ask = ask
        self._stop = stop
        self._pause = pause or Pause()
        self._answered_at = 0.0
        self._back_at = -math.inf  # monotonic: setting the clock back must not give more tries
        self.asking: asyncio.Task[bool] | None = None  # whether it is back: `pass_by` waits for that

    @property
    def until(self) -> float | None:
        """Returns when the patience ends, None if there is none."""
        if self.since is None or not (self.has_answered and self.patience_seconds):
            return None
        return self.since + self.patience_seconds

    def answered(self) -> None:
        self.has_answered = True
        self.since = self.error = None
        self._answered_at = time.time()

    def failed(self, error: RetryError, began_at: float) -> None:
        if self.since is None:
            self.since = max(began_at, self._answered_at)
        error.clear_traceback()
        self.error = error

    def forgive(self) -> None:
        """Restarts the time without a success, after a pause."""
        if self.asking is None:
            self.since = self.error = None

    async def pass_by(self) -> bool:
        """Waits while `_until_it_is_back` runs; returns whether the storage was down. Raises FatalError if
        the patience has run out."""
        return await asyncio.shield(self.asking) if self.asking is not None else False

    def has_lasted(self, seconds: float) -> bool:
        return self.since is not None and time.time() - self.since >= seconds

    @property
    def is_just_over(self) -> bool:
        """Whether the storage was down, and came back so recently that parts of it may still be starting."""
        return time.monotonic() - self._back_at < min(_STARTING_SECONDS, self.patience_seconds)

    async def is_over(self) -> bool:
        """Called for a request that has failed. Returns True if the storage was down and is back, False if
        the request itself is at fault or must not wait. Raises FatalError if the patience has run out."""
        if self.until is None:
            return False
        if self.asking is None:
            # In a separate context: once the job is to stop, a request that settles a write no longer waits.
            self.asking = asyncio.create_task(self._until_it_is_back(), context=contextvars.Context())
        return await self.pass_by()

    async def _until_it_is_back(self) -> bool:
        pause, was_away = _PAUSE_SECONDS, False
        try:
            while not self._stop.requested():
                if await self._pause.wait():
                    self.since = time.time()  # nothing was sent during the pause: the patience restarts
                    continue
                began_at = time.time()
                error = await self._ask_in_time()
                if error is None:
                    self.answered()
                    if was_away:
                        self._back_at = time.monotonic()
                    return was_away
                was_away = True
                # An error answer to HEAD has no message, so keep the request's. If another request has
                # succeeded since, the patience restarts, and there is no other message.
                if self.since is None or not error.code.startswith("Http"):
                    self.failed(error, began_at)
                until = self.until or 0.0
                if time.time() >= until:
                    raise gone(error)
                await self._stop.sleep(min(pause, until - time.time()))
                pause = min(_PAUSE_MAX_SECONDS, pause * 2)
            return False
        finally:
            self.asking = None

    async def _ask_in_time(self) -> RetryError | None:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return await self._ask()
        except TimeoutError:
            return RetryError("Timeout", f"the storage was silent for {_ASK_SECONDS:g} s")
