"""Whether the job is to stop: the sentinel and the signals, as one question that any thread may ask.

Signal handlers only set a flag. `check` looks for the sentinel on each call; `stopping`, called in tight
loops and before each small file, at most every 20 ms.

After a stop nothing begins. Writes in flight are waited for, within the time limits of a request, because
nobody could know the result of half a write:

| what was asked | what only reads | what writes |
| --- | --- | --- |
| cancel | dropped at once | waited for |
| SIGTERM, SIGINT, also after a cancel | dropped at once | waited for, 10 s after the signal at most |
| `now` in the sentinel, also later on | dropped at once | dropped at once |

Checking the result of a write (is the object what was sent?) is part of the write: code within `settling` is
told to stop only when writes are dropped.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from contextvars import ContextVar

from syncworker.errors import Stopped
from syncworker.system import durable_files

NOW = b"now"
SIGNAL_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_settling: ContextVar[bool] = ContextVar("settling", default=False)


@contextlib.contextmanager
def settling() -> Iterator[None]:
    """Marks the checks of an answered write: a stop waits for them as for the write itself."""
    token = _settling.set(True)
    try:
        yield
    finally:
        _settling.reset(token)


def is_settling() -> bool:
    return _settling.get()


class Control:
    """`reason` is None, "cancelled", or the name of a signal; once set it stays."""

    def __init__(self, sentinel: str) -> None:
        self._sentinel = sentinel
        self._looked_at = 0.0
        self._signalled_at = math.inf
        self._now = False
        self.reason: str | None = None
        self.since: float | None = None  # seconds since the epoch

    def stop(self, signal_name: str) -> None:
        self._signalled_at = min(self._signalled_at, time.monotonic())
        self._begin(signal_name)

    def cancel(self) -> None:
        """Cancels without a sentinel: for a member of a cluster."""
        self._begin("cancelled")

    def _begin(self, reason: str) -> None:
        if self.reason is None:
            self.reason, self.since = reason, time.time()

    def stopping(self) -> bool:
        """Returns whether nothing new may begin; within `settling`, whether writes are to be dropped."""
        if self.reason is None:
            now = time.monotonic()
            if now - self._looked_at < _LOOK_SECONDS:
                return False
            self._looked_at = now
            if not os.path.lexists(self._sentinel):
                return False
            self._begin("cancelled")
        return not _settling.get() or self.drops_writes()

    def writes_until(self) -> float:
        """Returns when writes are dropped, by the monotonic clock; infinite: they are waited for."""
        if self._now or (durable_files.read_start(self._sentinel, 16) or b"").strip() == NOW:
            self._now = True
            return 0.0
        return self._signalled_at + SIGNAL_SECONDS

    def drops_writes(self) -> bool:
        return self.reason is not None and time.monotonic() >= self.writes_until()

    def check(self) -> None:
        """Raises Stopped when the job is to stop. Always looks for the sentinel."""
        self._looked_at = 0.0
        if self.stopping():
            raise Stopped(self.reason or "")
