"""Joins the folder and the bucket: two streams in, pairs out. Pure, except for the spools it is given.

`join` yields `(local, object)` for a key in both, `(local, None)` for a key only in the folder, and
`(None, object)` for a key only in the bucket. `local` is the caller's tuple of file and index row, in order
of the files' keys. `join` guarantees:

- `(local, None)` is yielded only when the bucket certainly lacks the key: when the listing is complete and
  was in order up to there. Until then such files wait in a spool, so that a listing that is out of order
  never makes us send a file that the store has.
- A file `x` also waits if the bucket has objects below `x/`, so that these are known first.
- `(None, object)` is yielded last, after the end of both streams.
- After the first key out of order, the rest of the listing is stored in a table and joined by key. This gives
  the same pairs in another order; pairs that were yielded before remain correct.
- Memory does not grow with either stream.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter, lt

from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntries, ObjectEntry
from syncworker.plan.listing import Pages, duplicate
from syncworker.plan.spool import Spool, Table

Local = tuple[FileEntry, IndexRow | None]
Pair = tuple[Local | None, ObjectEntry | None]

_key = itemgetter(0)


class Watcher:
    """Is called during the join. This base class skips nothing."""

    def on_unordered(self) -> None:
        """Called at the first key out of order."""

    def on_remote_only(self, key: str) -> None:
        """Called with each key that seems to be only in the bucket, before this is certain."""

    def skip_page_if_unchanged(self, page: Sequence[ObjectEntry]) -> bool:
        """Called with each new page. Returns True if the next files match the page one to one and are
        unchanged; `join` then skips both."""
        return False


class _OutOfOrder(Exception):
    def __init__(self, entry: ObjectEntry) -> None:
        super().__init__(entry.key)
        self.entry = entry


class _Ordered:
    """Returns the objects of a listing one by one while their keys ascend. `certain`: the whole listing has
    arrived, and ascends to its end."""

    def __init__(self, listing: Pages) -> None:
        self._listing = listing
        self._pages = listing.pages()
        self._page: Sequence[ObjectEntry] = ()
        self._at = 0
        self._last: str | None = None  # key
        self.certain = False

    def next(self, watcher: Watcher | None = None) -> ObjectEntry | None:
        while self._at >= len(self._page):
            page = next(self._pages, None)
            if page is None:
                self.certain = True
                return None
            self._page, self._at = page, 0
            self.certain = self._listing.complete and self._ascends(page)
            ascends = page and (self._last is None or page[0].key > self._last)
            if ascends and watcher is not None and watcher.skip_page_if_unchanged(page):
                self._at, self._last = len(page), page[-1].key
        entry = self._page[self._at]
        if self._last is not None and entry.key <= self._last:
            if entry.key == self._last:
                raise duplicate(entry.key)
            raise _OutOfOrder(entry)
        self._at += 1
        self._last = entry.key
        return entry

    def _ascends(self, page: Sequence[ObjectEntry]) -> bool:
        keys = ObjectEntries.of(page).keys
        if keys and self._last is not None and keys[0] <= self._last:
            return False
        return all(map(lt, keys, islice(keys, 1, None)))

    def has_below(self, key: str) -> bool:
        """Whether the rest of the listing, which is the current page, has a key below the folder `key`. This
        includes the entry that was returned last, because `key` is compared with it."""
        below = f"{key}/"
        at = bisect_left(self._page, below, lo=max(0, self._at - 1), key=_key)
        return at < len(self._page) and self._page[at].key.startswith(below)

    def rest(self) -> Iterator[ObjectEntry]:
        """Yields the entries that were not returned yet, in any order."""
        yield from self._page[self._at :]
        for page in self._pages:
            yield from page


def join(
    local: Iterable[Local],
    listing: Pages,
    spool: Callable[[], Spool],
    watcher: Watcher | None = None,
) -> Iterator[Pair]:
    """Yields the pairs as described above, except those of pages that the watcher skips. Always closes its
    spools."""
    watcher = watcher or Watcher()
    held, extra = spool(), spool()
    table: Table | None = None
    try:
        files = iter(local)
        objects = _Ordered(listing)
        here: Local | None = None
        try:
            there = objects.next(watcher)
            here = next(files, None)
            while here is not None or there is not None:
                if there is None or (here is not None and here[0].key < there.key):
                    assert here is not None
                    if objects.certain and not objects.has_below(here[0].key):
                        yield here, None
                    else:
                        held.append(_pack(here))
                    here = next(files, None)
                elif here is None or there.key < here[0].key:
                    extra.append(tuple(there))
                    watcher.on_remote_only(there.key)
                    there = objects.next()
                else:
                    yield here, there
                    here = None  # done with, also when the next line raises
                    there = objects.next(watcher)
                    here = next(files, None)
        except _OutOfOrder:
            watcher.on_unordered()
            table = Table()
            _fill(table, extra, objects)
        if table is None:
            for record in held:
                yield _unpack(record), None
            for record in extra:
                yield None, ObjectEntry._make(record)
            return
        yield from _join_by_key(table, held, chain(() if here is None else (here,), files))
    finally:
        held.close()
        extra.close()
        if table is not None:
            table.close()


def _fill(table: Table, extra: Spool, objects: _Ordered) -> None:
    """Adds the objects that were only in the bucket so far, and the rest of the listing."""
    for record in extra:
        table.add(ObjectEntry._make(record))
    for entry in objects.rest():
        if not table.add(entry):
            raise duplicate(entry.key)


def _join_by_key(table: Table, held: Spool, files: Iterator[Local]) -> Iterator[Pair]:
    for record in held:
        waiting = _unpack(record)
        yield waiting, table.pop(waiting[0].key)
    for here in files:
        yield here, table.pop(here[0].key)
    for entry in table.rest():
        yield None, entry


def _pack(local: Local) -> tuple:  # type: ignore[type-arg]
    file, row = local
    return tuple(file), None if row is None else tuple(row)


def _unpack(record: tuple) -> Local:  # type: ignore[type-arg]
    file, row = record
    return FileEntry._make(file), None if row is None else IndexRow._make(row)
