"""Whether to go on: the sentinel and the signals, as one question that any thread may ask.

Signal handlers only set a flag. `check` looks for the sentinel every time; `stopping`, asked in tight loops
and before each small file, at most every 20 ms.

A stop begins nothing and lets what writes end by itself, however long the storage takes within the limits of
a request: half a write is the one thing that nobody could account for. So

| what was asked | what only reads | what writes |
| --- | --- | --- |
| cancel | dropped at once | waited for |
| SIGTERM, SIGINT, also after a cancel | dropped at once | waited for, 10 s after the signal at most |
| `now` in the sentinel, also later on | dropped at once | dropped at once |

Finding out what a write has done (is the object what was sent?) is part of the write: what runs within
`settling` is told to stop only when writes are dropped.
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
    """For what an answered write still needs to be counted: a stop waits for it as for the write itself."""
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
        """Whether nothing new may begin; of what settles a write, whether it is to end as well."""
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
        """When writes are dropped, by the monotonic clock; infinite: they are waited for."""
        if self._now or (durable_files.read_start(self._sentinel, 16) or b"").strip() == NOW:
            self._now = True
            return 0.0
        return self._signalled_at + SIGNAL_SECONDS

    def drops_writes(self) -> bool:
        return self.reason is not None and time.monotonic() >= self.writes_until()

    def check(self) -> None:
        """Raises Stopped when it is time, as of this very moment."""
        self._looked_at = 0.0
        if self.stopping():
            raise Stopped(self.reason or "")
