"""Whether a job is paused: one task looks for the sentinel `ID.pause`, and whatever is new waits here.

While it exists nothing new begins: no request, no reading of files. What is in flight ends, its checks
(`settling`) included. A stop wins over a pause: the job counts as not paused, and all that waits here goes on
to the check that ends the job.

The event loop calls `look` a few times a second; `wait` is for the loop, `blocking` for threads. `on` is a
plain attribute, so hot paths ask that first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from syncworker.system.control import is_settling

_THREAD_SECONDS = 0.05


class Pause:
    """`on`: nothing may begin. `since`: seconds since the epoch. `stale_ns`: files that were read before this
    time (`time.time_ns`) are read again, because a pause may have lasted for days."""

    def __init__(self, sentinel: str | None = None) -> None:
        self._sentinel = sentinel
        self._over = asyncio.Event()
        self._over.set()
        self.on = False
        self.since = 0.0
        self.stale_ns = 0

    def look(self, *, stopping: bool) -> bool:
        """Looks for the sentinel; returns whether that changed the pause."""
        return self.turn(not stopping and self._sentinel is not None and os.path.lexists(self._sentinel))

    def turn(self, on: bool) -> bool:
        """Sets the pause; returns whether that changed it."""
        if on == self.on:
            return False
        self.on = on
        if on:
            self.since = time.time()
            self._over.clear()
        else:
            self.stale_ns = time.time_ns()
            self._over.set()
        return True

    def outdates(self, read_ns: int) -> bool:
        """Returns whether a file that was read at that time must be read again before it is sent."""
        return self.on or read_ns < self.stale_ns

    async def wait(self) -> bool:
        """Waits until the job may begin something, or is to stop; returns whether it had to wait."""
        waited = False
        while self.on and not is_settling():
            waited = True
            await self._over.wait()
        return waited

    def blocking(self, stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Wraps `stopping` for a thread, which calls it between two pieces of work: it waits during a
        pause."""

        def wait_then_ask() -> bool:
            # Not after a stop, or the end of the job, which waits for this thread, would wait for ever.
            while self.on and not stopping():
                time.sleep(_THREAD_SECONDS)
            return stopping()

        return wait_then_ask
