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
_PIECE_BYTES = 256 << 10  # a disk reads a larger file in several pieces
_SHARES_EACH = 2  # shares that each reader must read before the rate is judged


class LaneController:
    """Decides the number of lanes (`lanes`)."""

    def __init__(self, least: int = LEAST, most: int = MOST) -> None:
        self.lanes, self.most = least, most
        self._before: tuple[int, float] | None = None  # lanes and rate before the step that is being tried
        self._rest = 0

    def record_rate(self, rate: float, *, is_busy: bool) -> None:
        """Called every `RATE_SECONDS` with the files per second since the last call. `is_busy`: every lane
        always had work, and the store did not ask to slow down."""
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


class ReaderCount:
    """Decides how many threads read files that are not in memory (`readers`). `now`: the present time."""

    def __init__(self, now: float) -> None:
        self._pace = LaneController(READERS, DISK_READERS)
        self._since, self._pieces, self._shares, self._was_idle = now, 0, 0, False

    @property
    def readers(self) -> int:
        return self._pace.lanes

    def record(self, sizes: list[int], now: float, *, is_idle: bool) -> None:
        """Records that a share of files of these sizes was read. `is_idle`: there were fewer shares than
        readers."""
        self._pieces += sum(1 + size // _PIECE_BYTES for size in sizes)
        self._shares += 1
        self._was_idle = self._was_idle or is_idle
        seconds = now - self._since
        if seconds < RATE_SECONDS or self._shares < _SHARES_EACH * self.readers:
            return
        self._pace.record_rate(self._pieces / seconds, is_busy=not self._was_idle)
        self._since, self._pieces, self._shares, self._was_idle = now, 0, 0, False
