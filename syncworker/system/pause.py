"""Whether a job is paused: the sentinel `ID.pause`, which one task looks for and everything new waits for.

While it is there nothing new begins: no request, no reading of files. What is in flight ends, with what finds
out what it has done (`settling`). A stop wins: the job then counts as not paused, and all that waits here
goes on to the check that ends the job.

`look` is called by the event loop a few times a second; `wait` is for the loop, `blocking` for threads. To
ask `on` costs an attribute, so hot paths ask that first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from syncworker.system.control import is_settling

_THREAD_SECONDS = 0.05


class Pause:
    """`on`: nothing may begin. `since`: seconds since the epoch. `stale_ns`: what was read from a file before
    this moment (`time.time_ns`) is read again, because a pause may have lasted for days."""

    def __init__(self, sentinel: str | None = None) -> None:
        self._sentinel = sentinel
        self._over = asyncio.Event()
        self._over.set()
        self.on = False
        self.since = 0.0
        self.stale_ns = 0

    def look(self, *, stopping: bool) -> bool:
        """Looks for the sentinel; whether the answer differs from the last one."""
        return self.turn(not stopping and self._sentinel is not None and os.path.lexists(self._sentinel))

    def turn(self, on: bool) -> bool:
        """Sets the pause; whether that changed it."""
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
        """Whether a file that was read at that time must be read again before it is sent."""
        return self.on or read_ns < self.stale_ns

    async def wait(self) -> bool:
        """Returns when the job may begin something, or is to stop; whether that took time."""
        waited = False
        while self.on and not is_settling():
            waited = True
            await self._over.wait()
        return waited

    def blocking(self, stopping: Callable[[], bool]) -> Callable[[], bool]:
        """`stopping` for a thread, which asks it between two pieces of its work: it waits here."""

        def wait_then_ask() -> bool:
            while self.on and not stopping():  # asked here as well: who ends the job may wait for this thread
                time.sleep(_THREAD_SECONDS)
            return stopping()

        return wait_then_ask
