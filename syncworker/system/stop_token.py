"""Whether an attempt is to end: it was asked to stop (system/control.py), or it has failed."""

from __future__ import annotations

import asyncio
import time

from syncworker.errors import RetryError, Stopped
from syncworker.system.control import Control, is_settling

_LOOK_SECONDS = 0.1


class StopToken:
    """`fatal` is the error that ends the attempt. After a stop or a fatal error nothing new begins, and what
    is in flight ends."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.fatal: Exception | None = None

    def requested(self) -> bool:
        return (self.fatal is not None and not is_settling()) or self.control.stopping()

    def raise_if_requested(self) -> None:
        """Raises Stopped when asked to stop; else the fatal error, if there is one."""
        self.control.check()
        if self.fatal is not None:
            raise self.fatal

    def raise_stopped(self) -> None:
        """Raises Stopped when asked to stop, or when an error has ended the attempt."""
        self.control.check()
        if self.fatal is not None:
            raise Stopped("the job has failed")

    async def sleep(self, seconds: float) -> None:
        """Sleeps for so long, or until a stop is requested."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.requested():
            await asyncio.sleep(min(left, _LOOK_SECONDS))

    def fail(self, error: Exception) -> None:
        """Ends the attempt with this error, if it is the first. A stop has its own flag."""
        if not isinstance(error, Stopped) and not (isinstance(error, RetryError) and self.control.stopping()):
            self.fatal = self.fatal or error

    def end_with(self, error: Exception) -> None:
        """Ends the attempt with the error of a task that watches it, whatever failed before."""
        self.fatal = error
