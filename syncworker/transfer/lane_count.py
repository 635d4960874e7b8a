"""Decides how many small files are in flight: more while that raises the throughput.

A few dozen files keep a near store busy; a distant one answers late, so twice as many in flight are sent
twice as fast. We find out by measuring: raise the number of lanes, and lower it again if throughput did not
improve. wire/throttle.py handles a store that asks to slow down. Pure: no clock. Requests without a body, for
example deletions, need no such search: `side_by_side`.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

LEAST = 32
MOST = 128
RATE_SECONDS = 0.5
_STEP = 1.5
_GAIN = 1.15  # a step that raises the rate by less than this factor is undone
_REST_TIMES = 20  # measurements without a step after a step was undone
READERS = 4  # threads that read files and hash them
DISK_READERS = 32  # maximum of threads that read small files that are not in memory


class LaneController:
    """Decides the number of lanes (`lanes`)."""

    def __init__(self, least: int = LEAST, most: int = MOST) -> None:
        self.lanes, self.most = least, most
        self._before: tuple[int, float] | None = None  # lanes and rate before the step that is being tried
        self._rest = 0

    def record_rate(self, rate: float, *, is_busy: bool) -> None:
        """Called every `RATE_SECONDS`, or less often, with the files per second since the last call.
        `is_busy`: every lane always had work, and the store did not ask to slow down."""
        if not is_busy or not rate:  # if nothing is sent, more lanes do not help
            self.lanes = self._before[0] if self._before else self.lanes
            self._before = None
        elif self._before is None:
            self._rest -= 1
            if self._rest < 0:
                self._try_more(rate)
        elif rate >= self._before[1] * _GAIN:
            self._try_more(rate)
        else:
            self.lanes = self._before[0]
            self._before, self._rest = None, _REST_TIMES

    def _try_more(self, rate: float) -> None:
        more = min(self.most, int(self.lanes * _STEP))
        self._before = (self.lanes, rate) if more > self.lanes else None
        self.lanes = more


class Turns:
    """Measures the throughput of lanes by how long each file is in flight.

    Counting the files would mislead: with a store that answers after 200 ms, a lane sends two or three in
    half a second, by chance."""

    def __init__(self) -> None:
        self.begin(0.0)

    def begin(self, now: float) -> None:
        """Begins to measure: files that were in flight before do not count."""
        self._since, self.count, self._seconds = now, 0, 0.0

    def record(self, started: float, now: float) -> None:
        if started >= self._since:
            self.count += 1
            self._seconds += now - started

    def rate(self, lanes: int) -> float:
        """Returns how many files a second this many lanes send if each always has a file in flight."""
        return lanes * self.count / self._seconds if self._seconds else 0.0
