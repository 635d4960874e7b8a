"""Finds where the bucket differs from the index: lists the bucket, and compares it with the index's rows.

`collect` lists the whole bucket, or only the pages around the keys that a run has changed, if these are few.
A difference is a hint: a listing may lag, and over plain http a bit may flip. Nothing is changed here;
checks/recheck.py asks the store about each difference and repairs it.

- If the index is broken, or cannot hold every row, the run's own record of what it sent is used as well; all
  other objects then count as not remembered.
- A listing that is not in byte order is joined by key (join.py). If the store does not list ranges correctly,
  the whole bucket is listed.
- Memory grows neither with the bucket nor with the differences, which are stored on disk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from operator import itemgetter
from typing import Any, NamedTuple

from syncworker.errors import FatalError
from syncworker.index.database import Index
from syncworker.index.records import Brief, IndexRow, is_text
from syncworker.index.rows import Rows
from syncworker.model import FileEntry, ObjectEntries, ObjectEntry
from syncworker.plan import compare, join
from syncworker.plan.breadth import Breadth
from syncworker.plan.listing import FetchRange, Listing, Pages, PendingPage, PendingRange
from syncworker.plan.spool import Spool, Table
from syncworker.s3.xml_messages import PAGE_KEYS

CHUNK = 10_000  # differences in memory
_RANGE_ROWS = 900  # around a changed key: a page, and room for a few unknown keys
_RANGES_AHEAD = 12
_RANGE_PAGES = 20  # in a range; more means that the bucket has grown there
_KEYS = 10_000  # changed keys in memory; after more changes the whole bucket is listed
_BATCH = 1000
_ROWS_UNCHECKED = 4096

Range = tuple[str | None, str]  # the key before the first one, and the last key

_sent = itemgetter(*(IndexRow._fields.index(name) for name in Brief._fields))


class Difference(NamedTuple):
    """A key whose listed object differs from its index row. At least one of the two is set."""

    row: IndexRow | None
    listed: ObjectEntry | None

    @property
    def key(self) -> str:
        known = self.row or self.listed
        assert known is not None
        return known.key


class Changes:
    """Records, in order, what a run has sent and the keys whose deletion it has requested.

    `doubt`: why the listing that the run acted on may have been wrong; None if nothing speaks against it.
    """

    def __init__(self, spool_dir: str) -> None:
        self.count = 0
        self.doubt: FatalError | None = None
        self._spool = Spool(spool_dir)
        self._batch: list[tuple[Any, ...]] = []
        self._keys: list[str] = []  # of the changes before the batch

    def sent(self, row: IndexRow) -> None:
        self._add(row.key, row.size, row.etag)

    def ordered(self, key: str) -> None:
        """Records that the deletion of this key was requested."""
        self._add(key, 0, None)

    def _add(self, *change: Any) -> None:
        self.count += 1
        self._batch.append(change)
        if len(self._batch) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._batch:  # writing many in one record takes a third of the time
            if len(self._keys) <= _KEYS:
                self._keys += [record[0] for record in self._batch]
            self._spool.append(tuple(self._batch))
            self._batch = []

    @property
    def keys(self) -> list[str] | None:
        """All keys, sorted; None if there are too many, or if others may have changed too."""
        self._flush()
        return sorted(set(self._keys)) if len(self._keys) <= _KEYS and self.doubt is None else None

    def __iter__(self) -> Iterator[tuple[str, int, str | None]]:
        """Yields (key, size, ETag); the ETag is None for a deletion."""
        self._flush()
        for batch in self._spool:
            yield from batch

    def deleted(self, keys: set[str]) -> set[str]:
        """Returns those of the keys whose deletion was requested."""
        return {key for key, _, tag in self if tag is None and key in keys}

    def close(self) -> None:
        self._spool.close()


class Found:
    """Stores differences on disk."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._spool = Spool(directory)

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def append(self, found: Difference) -> None:
        self._spool.append(tuple(part and tuple(part) for part in found))

    def become(self, found: Iterable[Difference]) -> None:
        """Replaces the differences by these."""
        self._spool.close()
        self._spool = Spool(self._directory)
        for difference in found:
            self.append(difference)

    def chunks(self, *, known: bool | None = None) -> Iterator[list[Difference]]:
        """Yields lists of differences: all, only those with a row (`known`), or only those without."""
        chosen = (d for d in map(_unpack, self._spool) if known is None or known is (d.row is not None))
        while chunk := list(islice(chosen, CHUNK)):
            yield chunk


def _unpack(record: tuple[Any, ...]) -> Difference:
    row, listed = record
    return Difference(row and IndexRow._make(row), listed and ObjectEntry._make(listed))


class NotInRanges(Exception):
    """The store does not list ranges correctly, so the whole bucket has to be listed."""


class Listable(NamedTuple):
    """How a bucket is listed. `cuts`: keys at which the listing may be cut (listing.py); `breadth`: how many
    ranges are listed concurrently; `files`: the approximate number of objects."""

    fetch: Callable[[str | None], PendingPage]
    fetch_range: FetchRange
    cuts: list[str]
    files: int
    breadth: Breadth | None = None


def collect(
    found: Found,
    index: Index,
    changes: Changes,
    bucket: Listable,
    spool: Callable[[], Spool],
    check: Callable[[], None],
    concerns: Callable[[Difference], bool] = lambda _: True,
) -> None:
    """Fills `found` with the differences that concern the mirror (`concerns`). `check` raises when the job is
    to stop. Errors of fetching are passed on. If the ranges of a listing contradict each other, the bucket is
    listed by tokens: a store whose listing lags may list a new folder in one range and not in another."""
    try:
        if index.is_whole:
            small = _ranges_of(index, changes, bucket)
            for ranges in (small, None) if small else (None,):
                ascending = Ascending(index, check, ranges)
                try:
                    watch = _Watch(index, ascending, in_ranges=ranges is not None)
                    differ = differences(ascending, _listing(bucket, ranges), spool, watch)
                    found.become(filter(concerns, differ))
                except NotInRanges:
                    continue
                finally:
                    ascending.close()
                if index.is_whole and not ascending.failed:
                    return
        with closing(Table()) as table:
            _fill(table, index, changes, check)
            rest = (IndexRow(e.key, e.size, 0, 0, 0, e.etag, "", 0, e.modified, 0) for e in table.rest())
            found.become(filter(concerns, differences(rest, _listing(bucket, None), spool, _Watch(index))))
    except FatalError as error:
        if error.code != "BrokenListing" or not bucket.cuts:
            raise
        collect(found, index, changes, bucket._replace(cuts=[]), spool, check, concerns)


def _listing(bucket: Listable, ranges: list[Range] | None) -> Pages:
    if ranges is not None:
        return Ranges(ranges, bucket.fetch_range)
    return Listing(bucket.fetch, bucket.fetch_range, bucket.cuts, bucket.breadth)


class _Watch(join.Watcher):
    """Skips pages that match the rows, and handles keys that do not ascend."""

    def __init__(self, index: Index, rows: Ascending | None = None, *, in_ranges: bool = False) -> None:
        self._index, self._rows, self._in_ranges = index, rows, in_ranges

    def on_unordered(self) -> None:
        if self._in_ranges:
            raise NotInRanges
        self._index.set_fact("cuts", "[]")

    def skip_page_if_unchanged(self, page: Sequence[ObjectEntry]) -> bool:
        return self._rows is not None and self._rows.skip_page_if_unchanged(page)


def _fill(table: Table, index: Index, changes: Changes, check: Callable[[], None]) -> None:
    """Adds what this run has sent, and, if the index can be read, what earlier runs have sent."""
    for key, size, tag in changes:
        if tag is not None:
            table.add(ObjectEntry(key, size, tag, ""))
    if index.broken is None:
        with closing(Ascending(index, check)) as rows:
            for row in rows:
                table.add(ObjectEntry(row.key, row.size, row.etag, row.modified))


# -- what differs
def fits(row: IndexRow, obj: ObjectEntry) -> bool:
    """Whether the listed object may be the one that the row describes."""
    if row.size != obj.size:
        return False
    if obj.etag:
        return obj.etag in (row.etag, row.digest)
    return compare.same_object(row, obj) or (
        not row.modified and compare.fits_upload_time(obj.modified, row.read_ns)
    )


def differences(
    rows: Iterable[IndexRow], listing: Pages, spool: Callable[[], Spool], watcher: join.Watcher | None = None
) -> Iterator[Difference]:
    """Compares the rows, in order of key, with a listing in any order."""
    here = ((FileEntry(*row[:5], ""), row) for row in rows)
    for local, obj in join.join(here, listing, spool, watcher):
        row = local[1] if local is not None else None
        if row is None or obj is None or not fits(row, obj):
            yield Difference(row, obj)


class Ascending:
    """Yields the rows of an index. Skips all rows of a page that matches them at once, in C.

    Reads only the columns that a listing has until it yields a row; from then on, it reads whole rows.
    """

    def __init__(self, index: Index, check: Callable[[], None], ranges: list[Range] | None = None) -> None:
        self._index = index
        self._check = check
        self._failed = False
        self._rows: Rows[IndexRow] | Rows[Brief] = index.rows(ranges) if ranges else index.brief_rows()
        self._whole: Rows[IndexRow] | None = self._rows if ranges else None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[IndexRow]:
        count = 0
        while (start := self._rows.next_key()) is not None:
            if not count % _ROWS_UNCHECKED:
                self._check()
            count += 1
            row = (self._whole or self._widen(start)).next_row()
            if row is None:
                return
            yield row

    def _widen(self, start: str) -> Rows[IndexRow]:
        self.close()
        self._rows = self._whole = self._index.rows(start=start)
        return self._whole

    def skip_page_if_unchanged(self, page: Sequence[ObjectEntry]) -> bool:
        rows = self._rows
        if rows.next_key() != page[0].key:
            return False
        known = rows.next_rows(page[0].key, len(page))
        listed = ObjectEntries.of(page)
        told = known if self._whole is None else list(map(_sent, known))
        if told == list(zip(listed.keys, listed.sizes, listed.etags, strict=True)) and all(listed.etags):
            return True
        rows.unread(known)  # type: ignore[arg-type]
        return False

    @property
    def failed(self) -> bool:
        """Whether some rows could not be read."""
        return self._failed or self._rows.failed

    def close(self) -> None:
        self._failed = self.failed
        self._rows.close()


# -- only what changed
def _ranges_of(index: Index, changes: Changes, bucket: Listable) -> list[Range]:
    """Returns the ranges around the changed keys; none if listing the whole bucket costs no more, or if the
    store does not list ranges."""
    keys = changes.keys
    pages = bucket.files // PAGE_KEYS
    if keys is None or pages < 2 or not bucket.cuts or not all(map(is_text, keys)):
        return []
    found: list[Range] = []
    high = ""
    for at, key in enumerate(keys):
        if found and key <= high:
            continue
        if 2 * len(found) >= pages:  # some stores begin each range from the start of the bucket
            return []
        end = index.key_after(key, _RANGE_ROWS)
        high = max(k for k in chain((key,), islice(keys, at, at + _RANGE_ROWS)) if end is None or k <= end)
        found.append((index.key_before(key), high))
    return found


class Ranges:
    """Lists some ranges of the bucket: the keys after `low`, up to `high`. Raises NotInRanges."""

    def __init__(self, ranges: list[Range], fetch_range: FetchRange) -> None:
        self._ranges = ranges
        self._fetch_range = fetch_range
        self.complete = False

    def pages(self) -> Iterator[Sequence[ObjectEntry]]:
        waiting, ahead = deque(self._ranges), deque[tuple[Range, PendingRange]]()
        while waiting or ahead:
            while waiting and len(ahead) < _RANGES_AHEAD:
                ahead.append((waiting[0], self._fetch_range(*waiting.popleft())))
            (low, high), pending = ahead.popleft()
            pages = list(islice(pending, _RANGE_PAGES))
            entries = ObjectEntries.of(chain.from_iterable(page.entries for page in pages))
            keys = entries.keys
            if list(keys) != sorted(keys) or (keys and low is not None and keys[0] <= low):
                raise NotInRanges
            if pages[-1].truncated and not (keys and keys[-1] > high):
                raise NotInRanges
            yield entries[: bisect_right(keys, high)]
        self.complete = True
