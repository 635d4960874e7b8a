"""The planner's thread: compares scan, listing and index, and emits the work to do in batches of events.

Events, in the order in which they are found:

| event | value |
| --- | --- |
| found, unchanged | (files, bytes) since the last batch |
| work | a `Candidate`: read, compare or send this file |
| remember | an index row that has learned its object's LastModified |
| skip, unreadable | the scan's item |
| renamed | a `Candidate`: a file that the store may keep under a key that nobody sent |
| complete | the scan and the listing have ended |
| error | the error that ended the plan instead |

Objects without a file go to `deletes`, a spool that is complete once the event `complete` was emitted. The
planner is never more than a few batches ahead of the event loop: `emit` blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from syncworker.errors import FatalError
from syncworker.folder.scan_items import within
from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.index.rows import GivenRows, Rows
from syncworker.model import KEY_MAX_BYTES, FileEntry, ObjectEntries, ObjectEntry, ScanItem, Skip
from syncworker.plan import compare, join, unchanged_pages
from syncworker.plan.breadth import Breadth
from syncworker.plan.compare import NEW, Candidate, Verdict
from syncworker.plan.listing import CUT_KEYS, SPARE_KEYS, Listing, PendingPage, PendingRange
from syncworker.plan.spool import Spool

if TYPE_CHECKING:  # importing them slows each start; most jobs have no filter
    from syncworker.options.object_headers import ObjectHeaders
    from syncworker.options.patterns import PathFilter

BATCH = 2000
_FLUSH_SECONDS = 0.1
_SUSPECTS = 10_000
WAITED = "waited"  # the fact with `_waited_us`

Event = tuple[str, Any]


class PageSource(Protocol):
    """The pages of the bucket. `breadth`: how many ranges are listed side by side."""

    breadth: Breadth

    def fetch(self, token: str | None) -> PendingPage: ...

    def fetch_range(self, low: str | None, high: str | None) -> PendingRange: ...


class EventQueue(Protocol):
    def emit(self, batch: list[Event] | None) -> None:
        """Takes a batch of events, None after the last. Waits while the reader is behind."""


class RemoteOnlyKeys(Protocol):
    """Receives the keys of objects that seem to have no file, before this is certain."""

    def note_remote_only(self, key: str) -> None:
        """The object may be deleted."""

    def note_kept(self, key: str) -> None:
        """The object is kept although it has no file."""


class Outdated:
    """Finds objects that have other headers, tags or class than the options now request. Reads the index by
    its own connection, in the planner's thread; `headers` is not shared with another thread."""

    def __init__(self, rows: GivenRows, headers: ObjectHeaders) -> None:
        self._rows, self._headers = rows, headers
        self.close = rows.close

    @classmethod
    def of(cls, index: Index, headers: ObjectHeaders) -> Outdated | None:
        """Returns None if nothing is requested and no object was given anything, or the index is broken."""
        if index.broken is not None or not (headers.any or index.has_given()):
            return None
        return cls(index.given_rows(), headers)

    def any_of(self, keys: Sequence[str]) -> bool:
        """Whether one of these objects is outdated. All must have rows, and their keys must ascend."""
        given = self._rows.between(keys[0], keys[-1])
        if given is None:
            return False  # the index is damaged: unknown objects are left as they are
        return any(self._headers.differs(key, given.get(key, "")) for key in keys)


class Kept(NamedTuple):
    """Which objects without a file stay: all of them, or those that a filter excludes."""

    deletes: bool = True
    path_filter: PathFilter | None = None

    def keeps(self, key: str) -> bool:
        return not self.deletes or (self.path_filter is not None and self.path_filter.skips(key))


KEEPS_NONE = Kept()


@dataclass(frozen=True, slots=True)
class Scope:
    """What is planned. `every`: unchanged files are work as well. `outdated`: finds those whose objects need
    an update. `whole`: the whole mirror is listed. `first_cuts`: keys at which the first listing of a
    destination may be cut."""

    key_bytes_max: int = KEY_MAX_BYTES
    every: bool = False
    whole: bool = True
    outdated: Outdated | None = None
    kept: Kept = KEEPS_NONE
    first_cuts: Iterable[str] = ()


class Planner(join.Watcher):
    """Joins folder, bucket and index in its own thread, which runs `run` and then ends."""

    def __init__(
        self,
        index: Index,
        pages: PageSource,
        spool_dir: str,
        events: EventQueue,
        scope: Scope,
        remote_only: RemoteOnlyKeys | None = None,
    ) -> None:
        self.index = index
        self.pages, self.breadth = pages, pages.breadth
        self.spool_dir = spool_dir
        self.events = events
        self.scope, self.outdated = scope, scope.outdated
        self.remote_only = remote_only
        self.deletes = Spool(spool_dir)  # ObjectEntry
        self.listed = 0  # objects of the mirror that were compared so far
        self._events: list[Event] = []
        self._found = self._found_bytes = 0
        self._same = self._same_bytes = 0
        self._flushed_at = time.monotonic()
        self._ordered = True
        self._cuts: list[str] = []  # for the next sync
        self._listing: Listing | None = None
        self._seen, self._next_cut = 0, CUT_KEYS  # files
        self._items: Iterator[ScanItem] = iter(())  # of the scan; `_again`: those that were put back
        self._again: Iterator[ScanItem] = iter(())
        self._rows: Rows[IndexRow] | None = None

    def run(self, items: Iterator[ScanItem]) -> None:
        """Emits batches of events, then None, whatever happens."""
        try:
            self._items, self._rows = items, self.index.rows()
            try:
                self._plan(self._rows)
            finally:
                self._rows.close()
                self._items, self._rows = iter(()), None  # frees their memory while files are sent
                if self.outdated is not None:
                    self.outdated.close()
            self._event("complete", None)
        except OSError as error:
            reason = error.strerror or str(error)
            self._event(
                "error", FatalError("LocalError", f"a local file of the job cannot be used: {reason}")
            )
        except Exception as error:  # noqa: BLE001 - whatever ends the thread must be reported
            self._event("error", error)
        finally:
            self._flush()
            self.events.emit(None)

    def _plan(self, rows: Rows[IndexRow]) -> None:
        began = time.monotonic()
        suspects: list[tuple[FileEntry, IndexRow]] = []
        pairs = join.join(self._local(rows), self._open_listing(), lambda: Spool(self.spool_dir), self)
        for here, there in pairs:
            if here is None:
                assert there is not None
                if not self.scope.kept.keeps(there.key):
                    self.deletes.append(tuple(there))
                continue
            file, row = here
            self.listed += there is not None
            if there is None and row is not None and row.size == file.size and len(suspects) < _SUSPECTS:
                suspects.append((file, row))  # we had sent it: was it deleted, or renamed by the store?
            else:
                self._decide(file, there, row)
        self._find_store_renames(suspects, rows)
        if self.scope.whole:
            self.index.set_fact("cuts", json.dumps(self.cuts))
            self.index.set_fact("ranges", str(self.breadth.ranges))
            if not self.scope.every:  # else reading back holds planning up
                self.index.set_fact(WAITED, str(self._waited_us(time.monotonic() - began)))

    def _waited_us(self, took: float) -> int:
        """Returns how many microseconds per file planning waited for the listing, if that was most of the
        seconds that it took; else 0."""
        if self._listing is None or not self._seen or 2 * self._listing.waited < took:
            return 0
        return round(self._listing.waited / self._seen * 1e6)

    @property
    def cuts(self) -> list[str]:
        """Where the next listing may be cut into ranges. Empty if the store does not list in order, or
        refuses `start-after`."""
        refuses = self._listing is not None and self._listing.refuses_ranges
        if refuses or not (self._ordered and self.scope.whole):
            return []
        behind_the_last = self._seen - (self._next_cut - CUT_KEYS)
        return self._cuts if behind_the_last > SPARE_KEYS else self._cuts[:-1]

    def _open_listing(self) -> Listing:
        """Lists by ranges if an earlier sync has found that the store lists in order, and has saved keys to
        cut at. On a first sync the cuts come from the folder, if the store is so distant that ranges help."""
        known = self.index.fact("cuts") if self.scope.whole else "[]"
        cuts: Iterable[str] = json.loads(known or "[]")
        if cuts:
            self.breadth.go_on(self.index.fact("ranges"))
        elif known is None and self.breadth.ranges > 1:
            cuts = self.scope.first_cuts
        self._listing = Listing(self.pages.fetch, self.pages.fetch_range, cuts, self.breadth)
        return self._listing

    def on_unordered(self) -> None:
        self._ordered = False
        self.index.set_fact("cuts", "[]")

    def on_remote_only(self, key: str) -> None:
        if self.remote_only is not None:
            notes = self.remote_only
            (notes.note_kept if self.scope.kept.keeps(key) else notes.note_remote_only)(key)

    def _local(self, rows: Rows[IndexRow]) -> Iterator[join.Local]:
        at, items, key_bytes_max = rows.at, self._items, self.scope.key_bytes_max
        while (item := next(self._again, None) or next(items, None)) is not None:
            if key_bytes_max < KEY_MAX_BYTES and isinstance(item, FileEntry):
                item = within(item, key_bytes_max)  # the scan does not know the prefix
            if isinstance(item, FileEntry):
                self._found += 1
                self._found_bytes += item.size
                self._seen += 1
                if self._seen >= self._next_cut:
                    self._cut(item.key)
                if self._seen % 1024 == 0:
                    self._flush_if_due()
                yield item, at(item.key)
            else:
                self._event("skip" if isinstance(item, Skip) else "unreadable", item)

    def skip_page_if_unchanged(self, page: Sequence[ObjectEntry]) -> bool:
        """If the next files match the page one to one and are all unchanged, counts them and returns True."""
        rows = self._rows
        if self.scope.every or rows is None:
            return False
        count = len(page)
        files = list(islice(chain(self._again, self._items), count))
        known = rows.next_rows(page[0].key, count) if files and files[0].key == page[0].key else []
        size = unchanged_pages.unchanged(files, known, page)
        if size is None or (self.outdated is not None and self.outdated.any_of(ObjectEntries.of(page).keys)):
            self._again = iter([*files, *self._again])
            rows.unread(known)
            return False
        self._found += count
        self._found_bytes += size
        self._same += count
        self._same_bytes += size
        while self._seen + count >= self._next_cut:  # a page may pass several cuts
            self._cut(files[self._next_cut - self._seen - 1].key)
        self._seen += count
        self.listed += count
        self._flush_if_due()
        return True

    def _cut(self, key: str) -> None:
        self._cuts.append(key)
        self._next_cut += CUT_KEYS

    def _decide(self, file: FileEntry, obj: ObjectEntry | None, row: IndexRow | None) -> None:
        decision = compare.compare(file, obj, row)
        verdict = decision.verdict
        if (verdict is Verdict.UNCHANGED or verdict is Verdict.ADOPT) and not self.scope.every:
            if self.outdated is not None and row is not None and self.outdated.any_of([file.key]):
                self._event("work", Candidate(file, obj, row, compare.UPDATE))
                return
            self._same += 1
            self._same_bytes += file.size
            if verdict is Verdict.ADOPT and row is not None and obj is not None:
                self._event("remember", row._replace(modified=obj.modified))
        else:
            self._event("work", Candidate(file, obj, None if obj is None else row, decision))

    def _find_store_renames(self, suspects: list[tuple[FileEntry, IndexRow]], rows: Rows[IndexRow]) -> None:
        """Emits the files that we had sent and that the bucket lacks. If an object that nobody sent has the
        same size and ETag, the store may have renamed the file's object."""
        wanted = {(row.etag, row.size) for _, row in suspects}
        strange: set[tuple[str, int]] = set()
        for key, size, tag, _ in self.deletes if suspects else ():
            if (tag, size) in wanted and not rows.has(key):
                strange.add((tag, size))
        for file, row in suspects:
            renamed = (row.etag, row.size) in strange
            self._event("renamed" if renamed else "work", Candidate(file, None, None, NEW))

    def _event(self, name: str, value: Any) -> None:
        self._events.append((name, value))
        if len(self._events) >= BATCH:
            self._flush()

    def _flush_if_due(self) -> None:
        if time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        events: list[Event] = []
        if self._found:
            events.append(("found", (self._found, self._found_bytes)))
        if self._same:
            events.append(("unchanged", (self._same, self._same_bytes)))
        events += self._events
        self._found = self._found_bytes = self._same = self._same_bytes = 0
        self._events, self._flushed_at = [], time.monotonic()
        if events:
            self.events.emit(events)
