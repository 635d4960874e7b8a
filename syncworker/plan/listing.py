"""Lists a whole bucket page by page, and checks that the listing is consistent.

A listing is broken, and the job must fail without deleting anything, if it is truncated and has no token, or
repeats a token, a page or a key. Keys out of byte order are no error (SeaweedFS, S3 Express and others list
this way), but they are joined differently (join.py).

By tokens, each page costs one more round trip. If keys to cut at are known (`cuts`), the ranges between them
are listed concurrently with `start-after`; breadth.py decides their number and length. At each border the two
ranges must agree: the entries that one range lists after the border must be the first of the next range. So
each range continues where the previous one ended, in any listing order, and no key is lost or repeated. If
they do not agree (another order, a `start-after` that is ignored or refused, a change in between), or if one
ends the bucket and a later one lists more, the ranges are dropped, and the listing continues from its
position by tokens alone.

A job for only some folders lists their prefixes one after the other, as one listing (`page_of_folders`). The
rest of the bucket is never listed, and so never deleted.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol

from syncworker.errors import FatalError, FileError
from syncworker.model import ObjectEntries, ObjectEntry
from syncworker.plan.breadth import PAGES_AHEAD, Breadth
from syncworker.s3.xml_messages import PAGE_KEYS, Page, StartAfter

SPARE_KEYS = 20  # of a page, after the cut: they show whether the next range agrees
CUT_KEYS = PAGE_KEYS - SPARE_KEYS  # between two cuts
_MOST_CUTS = 32  # in one range; it passes many if few keys are left between them
_EMPTY_PAGES = 1000  # in a row: some stores send a few where much was deleted


class PendingPage(Protocol):
    """A requested page (a `concurrent.futures.Future`)."""

    def result(self) -> Page: ...


class PendingRange(Protocol):
    """The requested pages of a range, up to the page that passes its end, or the bucket's last. Iterating
    waits for each. `is_fetching`: a request is in flight."""

    @property
    def is_fetching(self) -> bool: ...

    def __iter__(self) -> Iterator[Page]: ...


# Lists the keys after the first key, up to the second.
FetchRange = Callable[[str | None, str | None], PendingRange]


@dataclass(slots=True, eq=False, repr=False)
class _Range:
    """`pages`: the expected number; `cuts`: the number of stretches between two cuts that it has."""

    high: str | None
    pages: int
    cuts: int
    pending: PendingRange
    rest: Iterator[Page]
    first: Page | None = None

    def peek(self) -> Page:
        if self.first is None:
            self.first = next(self.rest)
        return self.first

    def __iter__(self) -> Iterator[Page]:
        yield self.peek()
        yield from self.rest


class Pages(Protocol):
    """A listing that can be joined with a folder. `complete`: the last page has been received."""

    complete: bool

    def pages(self) -> Iterator[Sequence[ObjectEntry]]: ...


class Listing:
    """Iterates over the pages of a bucket, and fetches the next page while one is used.

    `complete` is True once the last page has been received: every remaining key is in memory.
    `refuses_ranges`: the store answered `start-after` with an error. `waited`: the seconds that the reader of
    the pages has waited for them.
    """

    def __init__(
        self,
        fetch: Callable[[str | None], PendingPage],
        fetch_range: FetchRange | None = None,
        cuts: Iterable[str] | None = None,
        breadth: Breadth | None = None,
    ) -> None:
        self._fetch = fetch
        self._fetch_range = fetch_range
        self._cuts = _ascending(cuts or ())  # those not used yet
        self._left = len(cuts) if isinstance(cuts, Sized) else None  # their number, if it is known
        self._breadth = breadth or Breadth()
        self._ahead: deque[_Range] = deque()
        self._behind: str | None = None  # where the next range begins
        self._begun_all = False
        self._cut_keys = CUT_KEYS  # between two cuts, as measured
        self._tokens: set[int] = set()
        self._last_ends: tuple[str, str] | None = None
        self._used: Sequence[ObjectEntry] = ()  # the last page with keys that was handed out
        self._empty = 0
        self.complete = self.refuses_ranges = False
        self.waited = 0.0

    def pages(self) -> Iterator[Sequence[ObjectEntry]]:
        """Raises FatalError BrokenListing, or what fetching raises."""
        pages = self._pages()
        while True:
            asked = time.monotonic()
            entries = next(pages, None)
            self.waited += time.monotonic() - asked
            if entries is None:
                return
            yield entries

    def _pages(self) -> Iterator[Sequence[ObjectEntry]]:
        if self._fetch_range is not None and (cut := next(self._cuts, None)) is not None:
            self._cuts = chain((cut,), self._cuts)
            for entries in self._side_by_side(self._fetch_range):
                self._used = entries or self._used
                yield entries
        else:
            yield from self._by_tokens(self._checked(self._fetch(None)))

    def _by_tokens(self, page: Page) -> Iterator[Sequence[ObjectEntry]]:
        """Lists this page and all that follow it."""
        while page.truncated:
            pending = self._fetch(page.token)
            yield page.entries
            page = self._checked(pending)
        self.complete = True
        yield page.entries

    def _checked(self, pending: PendingPage) -> Page:
        page = pending.result()
        self._check(page)
        return page

    def _check(self, page: Page) -> None:
        if page.truncated:
            if page.token is None:
                raise _broken("is truncated but does not say where it continues")
            if hash(page.token) in self._tokens:
                raise _broken("returned to an earlier page")
            self._tokens.add(hash(page.token))
        self._empty = 0 if page.entries else self._empty + 1
        if self._empty > _EMPTY_PAGES:
            raise _broken("continued for many pages without a key")
        if page.entries:
            ends = (page.entries[0].key, page.entries[-1].key)
            if ends == self._last_ends:
                raise _broken("returned the same page twice")
            self._last_ends = ends

    def _side_by_side(self, fetch_range: FetchRange) -> Iterator[Sequence[ObjectEntry]]:
        while True:
            self._begin_ranges(fetch_range)
            current = self._ahead.popleft()
            self._tokens.clear()  # of the range before, whose last page may be this one's first
            self._last_ends = None
            keys = 0
            for page in current:
                self._check(page)
                passed = _first_beyond(page.entries, current.high)
                if passed is None:
                    self.complete = not page.truncated and current.high is None
                    keys += len(page.entries)
                    yield page.entries
                    self._begin_ranges(fetch_range, current)
                    continue
                if not page.truncated:  # the bucket ends before its last cut
                    yield from self._end(page.entries, self._ahead, max(_keys(page.entries)))
                    return
                self._begin_ranges(fetch_range)
                if self._agrees(page.entries, passed, current.high):
                    if passed:
                        yield page.entries[:passed]
                    self._cut_keys = max(1, (keys + passed) // current.cuts)
                    break
                yield from self._by_tokens(page)  # they do not agree
                return
            else:
                if current.high is None:
                    self.complete = True
                    return
                rest = () if self._begun_all else (fetch_range(self._behind, None),)
                yield from self._end((), (*self._ahead, *rest), current.high)
                return

    def _begin_ranges(self, fetch_range: FetchRange, current: _Range | None = None) -> None:
        """Requests as many ranges as make the listing faster; at least one if there is no current range."""
        fetching = sum(range_.pending.is_fetching for range_ in self._ahead)
        fetching += current is not None and current.pending.is_fetching
        expected = sum(range_.pages for range_ in self._ahead)
        while not self._begun_all and (
            (fetching < self._breadth.ranges and expected < PAGES_AHEAD) or not (self._ahead or current)
        ):
            count = min(_MOST_CUTS, max(1, self._pages_each() * CUT_KEYS // self._cut_keys))
            pages = max(1, count * self._cut_keys // CUT_KEYS)
            high = self._pass_cuts(count)
            pending = fetch_range(self._behind, high)
            self._ahead.append(_Range(high, pages, count, pending, iter(pending)))
            self._behind = high
            fetching, expected = fetching + 1, expected + pages

    def _pages_each(self) -> int:
        """Returns how many pages a range should have, so that enough is left for those beside it."""
        if self._left is None:
            return self._breadth.pages_each
        left = (self._left + 1) * self._cut_keys
        return min(self._breadth.pages_each, max(1, math.ceil(left / (self._breadth.ranges * CUT_KEYS))))

    def _pass_cuts(self, count: int) -> str | None:
        """Passes this many cuts and returns the last one passed; None after the last cut of all. So the last
        range is short, and shows an answer before it that ends the bucket too early."""
        high = None
        for high in islice(self._cuts, count):  # noqa: B007
            pass
        if self._left is not None:
            self._left -= count
        self._begun_all = high is None
        return high

    def _agrees(self, entries: Sequence[ObjectEntry], passed: int, end: str | None) -> bool:
        """Whether the entries that this range lists after its end are the first of the next range."""
        if end is None or not self._ahead or min(_keys(entries[passed:]), default=end) <= end:
            return False
        try:
            first = self._ahead[0].peek().entries
        except (FatalError, FileError):
            self.refuses_ranges = True
            return False
        behind = entries[passed:]
        return first[: len(behind)] == behind[: len(first)] and bool(first)

    def _end(
        self, entries: Sequence[ObjectEntry], ranges: Iterable[Iterable[Page]], end: str
    ) -> Iterator[Sequence[ObjectEntry]]:
        """Ends the listing with these entries if no later range lists a key after `end`. Otherwise objects
        have been created since this range was listed, or its page was outdated: goes on by tokens."""
        goes_on = self._lists_after(ranges, end)
        self.complete = not goes_on
        if entries:
            yield entries
        if goes_on:
            yield from self._go_on_by_tokens(end)

    def _lists_after(self, ranges: Iterable[Iterable[Page]], end: str) -> bool:
        """Whether a later range lists a key after `end`."""
        for pages in ranges:
            try:
                first = next((page.entries for page in pages if page.entries), [])
            except (FatalError, FileError):  # the next listing, by tokens, gets the same error or all keys
                self.refuses_ranges = True
                continue
            if any(entry.key > end for entry in first):
                return True
        return False

    def _go_on_by_tokens(self, end: str) -> Iterator[Sequence[ObjectEntry]]:
        """Continues after the last key that was handed out. The store must now list a key after `end`."""
        last = max(_keys(self._used), default=None)
        has_more = False
        for entries in self._by_tokens(self._checked(self._fetch(last and StartAfter(last)))):
            if last is not None and entries and min(_keys(entries)) <= last:
                raise _broken("does not continue where it was asked to")
            has_more = has_more or max(_keys(entries), default="") > end
            if self.complete and not has_more:
                self.complete = False
                raise _broken("ended before keys that another request listed")
            yield entries


class FolderToken(str):
    """A token of a listing of several folders: the folder's number, and its own token."""

    __slots__ = ("number", "token")
    number: int
    token: str | None

    @classmethod
    def make(cls, number: int, token: str | None) -> FolderToken:
        made = cls(f"{number} {token}")
        made.number, made.token = number, token
        return made


def prefixes_of(folders: Sequence[str]) -> tuple[str, ...]:
    """Returns the prefixes of the keys below these folders, in the order in which a store lists them."""
    return tuple(sorted(f"{folder}/" for folder in folders))


async def page_of_folders(
    list_below: Callable[[str | None, str], Awaitable[Page]], prefixes: Sequence[str], behind: str | None
) -> Page:
    """Lists a page of the keys that begin with one of `prefixes`. After the last page of one prefix, the
    next prefix follows."""
    number, token = (behind.number, behind.token) if isinstance(behind, FolderToken) else (0, None)
    page = await list_below(token, prefixes[number])
    if page.truncated:
        return page if page.token is None else page._replace(token=FolderToken.make(number, page.token))
    if number + 1 < len(prefixes):
        return page._replace(token=FolderToken.make(number + 1, None), truncated=True)
    return page


def _ascending(keys: Iterable[str]) -> Iterator[str]:
    last = ""
    for key in keys:
        if key > last:
            yield key
            last = key


def _first_beyond(entries: Sequence[ObjectEntry], end: str | None) -> int | None:
    """Returns the position of the first key after the end of a range."""
    if end is None or not entries:
        return None
    keys = _keys(entries)
    if max(keys) <= end:
        return None
    return next(place for place, key in enumerate(keys) if key > end)


def _keys(entries: Sequence[ObjectEntry]) -> tuple[str, ...]:
    return ObjectEntries.of(entries).keys


def _broken(how: str) -> FatalError:
    return FatalError("BrokenListing", f"the storage's listing {how}: nothing was deleted")


def duplicate(key: str) -> FatalError:
    return _broken(f"names {key!a} twice")
