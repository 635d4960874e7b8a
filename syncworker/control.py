"""Whether to go on: the sentinel and the signals, as one question that any thread may ask.

Signal handlers only set a flag. `check` looks for the sentinel every time; `stopping`, asked in tight loops
and before each small file, at most every 20 ms.
"""

from __future__ import annotations

import os
import time

from syncworker.errors import Stopped

_LOOK_SECONDS = 0.02


class Control:
    """`reason` is None, "cancelled", or the name of a signal; once set it stays."""

    def __init__(self, sentinel: str) -> None:
        self._sentinel = sentinel
        self._looked_at = 0.0
        self.reason: str | None = None

    def stop(self, signal_name: str) -> None:
        self.reason = self.reason or signal_name

    def stopping(self) -> bool:
        if self.reason is None:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = now
                if os.path.lexists(self._sentinel):
                    self.reason = "cancelled"
        return self.reason is not None

    def check(self) -> None:
        """Raises Stopped when it is time, as of this very moment."""
        self._looked_at = 0.0
        if self.stopping():
            raise Stopped(self.reason or "")
