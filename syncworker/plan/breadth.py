"""Decides how many ranges of a listing are requested concurrently, and how long they are.

A distant store answers each page after a delay, so two concurrent requests list twice as fast. A near store
is busy with a single page, and most stores search for the start of each range. We find out by measuring: use
more ranges while a page takes little longer than a single one; use fewer if concurrent requests are hardly
faster than sequential ones. A store that answers faster than we read a page needs no second request.

Pure: no clock. The event loop records, the planner's thread reads; the numbers may be a page old.
"""

from __future__ import annotations

PAGES_AHEAD = 64  # in memory, of all ranges
_MOST = 64
_READ_SECONDS = 0.0015  # of our own time, for a page
_FIRST_SECONDS, _FIRST_MOST = 0.004, 12  # at first: a range for each 4 ms that the first page took
_STEP = 1.5
_LIKE_ALONE = 2.0  # times the quickest page: while the mean is shorter, more ranges are tried
_GAIN = 1.6  # speed-up over sequential requests: if it is smaller, there are too many ranges
_REST_PAGES = 32  # after a reduction, before more ranges are tried
_FULL = 500  # keys: shorter pages are quicker, so they are not compared


class Breadth:
    """`ranges`: the number to use now; `pages_each`: about how many pages each should have."""

    def __init__(self) -> None:
        self.ranges = 1
        self._began = False
        self._quickest: float | None = None
        self._round: list[float] = []  # the times of as many pages as there are ranges
        self._rest = 0

    def go_on(self, ranges: str | None) -> None:
        """Starts with the number of the last sync, if it is known."""
        if ranges and ranges.isdecimal() and 0 < int(ranges) <= _MOST:
            self.ranges, self._began = int(ranges), True

    def record(self, seconds: float, keys: int) -> None:
        """Records how long a page with this many keys took."""
        if not self._began:
            self._began = True
            most = min(_FIRST_MOST, int(seconds / _FIRST_SECONDS))
            # A page without keys is no work for the store, so its time is that of the network.
            self.ranges = max(1, most) if keys else _useful(seconds)
        if keys < _FULL:
            return
        self._quickest = quickest = min(seconds, self._quickest or seconds)
        self._rest -= 1
        self._round.append(seconds)
        if len(self._round) < self.ranges:
            return
        mean, longest = sum(self._round) / len(self._round), max(self._round)
        self._round.clear()
        if self.ranges > 1 and self.ranges * quickest < _GAIN * longest:
            self.ranges = max(1, int(self.ranges / _STEP))
            self._rest = _REST_PAGES
        elif mean < _LIKE_ALONE * quickest and self._rest <= 0:
            self.ranges = max(1, min(_useful(quickest), int(self.ranges * _STEP) + 1))

    @property
    def pages_each(self) -> int:
        """Fewer if there are more ranges, because all their pages are held until they are read."""
        return max(1, PAGES_AHEAD // (2 * self.ranges))


def _useful(seconds: float) -> int:
    """How many pages we can read in the time that one takes to arrive."""
    return min(_MOST, 2 + int(seconds / _READ_SECONDS))
