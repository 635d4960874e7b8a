"""How many small files are under way at a time: more for as long as more of them makes it faster.

A store near by is busy with a few dozen; one far away answers each in its own time, so that twice as many
under way are sent twice as fast. We find out by measuring: raise the number of lanes, and lower it again if
throughput did not improve. wire/throttle.py handles a store that asks to slow down. Pure: no clock.
Requests without a body, as deletions, need no such search: `side_by_side`.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")

LEAST = 32
MOST = 128
LOOK_SECONDS = 0.5
_STEP = 1.5
_GAIN = 1.15  # of a step that is worth it: half of the lanes more, a sixth of the files
_REST_LOOKS = 20  # after a step that was not


class Pace:
    """`lanes` is how many there should be now."""

    def __init__(self, least: int = LEAST, most: int = MOST) -> None:
        self.least, self.most = least, most
        self.lanes = least
        self._before: tuple[int, float] | None = None  # lanes and rate before the step that is being tried
        self._rest = 0

    def look(self, rate: float, *, is_busy: bool) -> None:
        """Called every `LOOK_SECONDS` with the files a second since the last call; `is_busy`: every lane had
        work all the time, and the store did not ask to slow down."""
        if not is_busy or not rate:  # where nothing moves, more would not help
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
            self._before, self._rest = None, _REST_LOOKS

    def _try_more(self, rate: float) -> None:
        more = min(self.most, int(self.lanes * _STEP))
        self._before = (self.lanes, rate) if more > self.lanes else None
        self.lanes = more
