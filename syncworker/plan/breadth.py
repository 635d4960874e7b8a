"""How many ranges of a listing are requested side by side, and how long they are.

A distant store answers each page after a delay, so two requests at once list twice as fast. A near one is
busy with a single page, and most stores search for the start of each range. We find out by measuring: more
ranges as long as a page takes little longer than one alone, fewer if all together are hardly faster than one
after the other. A store that answers faster than we read a page needs no second request.

Pure: no clock. The event loop records, the planner's thread reads; the numbers may be a page old.
"""

from __future__ import annotations

PAGES_AHEAD = 64  # in memory, of all ranges
_MOST = 64
_READ_SECONDS = 0.0015  # of our own time, for a page
_FIRST_SECONDS, _FIRST_MOST = 0.004, 12  # at first: a range for each 4 ms that the first page took
_STEP = 1.5
_LIKE_ALONE = 2.0  # times the quickest page: while the mean is shorter, more are tried
_GAIN = 1.6  # times as fast as one after the other: if the gain is smaller, there are too many
_REST_PAGES = 32  # before more are tried after a reduction
_FULL = 500  # keys: shorter pages are quicker, so they are not compared


class Breadth:
    """`ranges`: how many there should be now; `pages_each`: about how long each is to be."""

    def __init__(self) -> None:
        self.ranges = 1
        self._began = False
        self._quickest: float | None = None
        self._round: list[float] = []  # as many pages as there are ranges
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
            # A page without keys is no work for the store, so its time is that of the way.
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
        """Fewer if there are more ranges, as the pages of all of them are held until they are read."""
        return max(1, PAGES_AHEAD // (2 * self.ranges))


def _useful(seconds: float) -> int:
    """How many pages we can read in the time that one takes to arrive."""
    return min(_MOST, 2 + int(seconds / _READ_SECONDS))
