"""How many ranges of a listing are asked for side by side, and how long they are.

A store far away answers each page in its own time, so that twice as many under way are listed twice as fast;
one near by is busy with a single page, and most begin each range anew. Which it is, shows: more are begun as
long as a page takes little longer than one alone, fewer when all together are hardly faster than one after
the other. A store that answers sooner than a page is read here needs no company.

Pure: no clock. The event loop records, the planner's thread asks: numbers that may be a page old.
"""

from __future__ import annotations

PAGES_AHEAD = 64  # in memory, of all ranges
_MOST = 64
_READ_SECONDS = 0.0015  # of our own time, for a page
_FIRST_SECONDS, _FIRST_MOST = 0.004, 12  # a range for each of these, before anything else is known
_STEP = 1.5
_LIKE_ALONE = 2.0  # times the quickest page: no longer than that, and more are tried
_GAIN = 1.6  # times as fast as one after the other: less than that, and there are too many
_REST_PAGES = 32  # after that
_FULL = 500  # keys: pages of fewer are quicker, and tell nothing of the others


class Breadth:
    """`ranges`: how many there should be now; `pages_each`: about how long each is to be."""

    def __init__(self) -> None:
        self.ranges = 1
        self._began = False
        self._quickest: float | None = None
        self._round: list[float] = []  # as many pages as there are ranges
        self._rest = 0

    def go_on(self, ranges: str | None) -> None:
        """Begins with as many as paid the last time, as far as that is known."""
        if ranges and ranges.isdecimal() and 0 < int(ranges) <= _MOST:
            self.ranges, self._began = int(ranges), True

    def record(self, seconds: float, keys: int) -> None:
        """A page of so many keys took so long."""
        if not self._began:
            self._began = True
            most = min(_FIRST_MOST, int(seconds / _FIRST_SECONDS))
            # A page without a key is no work for a store: it tells how far away it is.
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
        """The more ranges, the shorter: the pages of all of them are held until their turn comes."""
        return max(1, PAGES_AHEAD // (2 * self.ranges))


def _useful(seconds: float) -> int:
    """As many as can be read in the time that one takes."""
    return min(_MOST, 2 + int(seconds / _READ_SECONDS))
