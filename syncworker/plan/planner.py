"""The planner's thread: scan, listing and index go in, what must be done comes out in batches of events.

Events, in the order in which they are found:

| event | value |
| --- | --- |
| found, unchanged | (files, bytes) since the last batch |
| work | a `Work`: read, compare or send this file |
| remember | an index row that has learned its object's LastModified |
| skip, unreadable | the scan's item |
| renamed | a `Work`: a file that the store may keep under a key that nobody sent |
| complete | the scan and the listing have come to their ends |
| error | what ended the plan instead |

Objects without a file go to `deletes`, a spool that is whole once `complete` has come. The planner is never
more than a few batches ahead of who takes them: `emit` blocks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from syncworker.errors import FatalError
from syncworker.folder.scan_items import within
from syncworker.index.database import Index
from syncworker.index.records import Row
from syncworker.index.rows import Rows
from syncworker.model import KEY_MAX_BYTES, FileEntry, ObjectEntry, ScanItem, Skip
from syncworker.plan import compare, join, unchanged_pages
from syncworker.plan.breadth import Breadth
from syncworker.plan.compare import NEW, Verdict
from syncworker.plan.events import Work
from syncworker.plan.given import Outdated
from syncworker.plan.listing import CUT_KEYS, SPARE_KEYS, FetchRange, Listing, PendingPage
from syncworker.plan.spool import Spool

BATCH = 2000
_FLUSH_SECONDS = 0.1
_SUSPECTS = 10_000

Event = tuple[str, Any]


class Planner:
    """`run` is the thread's whole life. `on_stranger` hears early of keys that seem to have no file, and that
    may go; `on_kept` of those of which `keeps` says that they stay all the same. `every`: unchanged files are
    work as well. `outdated`: which of these the store is to update. `whole`: the mirror is looked at as a
    whole. `breadth`: how the store takes ranges side by side. `first_cuts`: where the first
    listing of all may be cut."""

    def __init__(
        self,
        index: Index,
        fetch: Callable[[str | None], PendingPage],
        fetch_range: FetchRange,
        spool_dir: str,
        emit: Callable[[list[Event] | None], None],
        on_stranger: Callable[[str], None],
        keeps: Callable[[str], bool] | None = None,
        key_bytes_max: int = KEY_MAX_BYTES,
        on_kept: Callable[[str], None] = lambda _: None,
        *,
        every: bool = False,
        outdated: Outdated | None = None,
        whole: bool = True,
        breadth: Breadth | None = None,
    ) -> None:
        self.index = index
        self.fetch = fetch
        self.fetch_range = fetch_range
        self.spool_dir = spool_dir
        self.emit = emit
        self.key_bytes_max = key_bytes_max
        self.every = every
        self.outdated = outdated
        self.whole = whole
        self.breadth = breadth or Breadth()
        self.keeps = keeps or (lambda _: False)
        self.on_stranger = lambda key: on_kept(key) if self.keeps(key) else on_stranger(key)
        self.deletes = Spool(spool_dir)  # ObjectEntry
        self.listed = 0  # objects of the mirror, as far as they were compared
        self._events: list[Event] = []
        self._found = self._found_bytes = 0
        self._same = self._same_bytes = 0
        self._flushed_at = time.monotonic()
        self._ordered = True
        self.first_cuts: Iterable[str] = ()
        self._cuts: list[str] = []  # for the next sync
        self._pages: Listing | None = None
        self._seen, self._next_cut = 0, CUT_KEYS  # files
        self._again: Iterator[ScanItem] = iter(())  # taken from the scan, and given back

    def run(self, items: Iterator[ScanItem]) -> None:
        """Emits batches of events, then None, whatever happens."""
        try:
            rows = self.index.rows()
            try:
                self._plan(items, rows)
            finally:
                rows.close()
                if self.outdated is not None:
                    self.outdated.close()
            self._event("complete", None)
        except OSError as error:
            reason = error.strerror or str(error)
            self._event(
                "error", FatalError("LocalError", f"a local file of the job cannot be used: {reason}")
            )
        except Exception as error:  # noqa: BLE001 - a thread's end must be told, whatever it was
            self._event("error", error)
        finally:
            self._flush()
            self.emit(None)

    def _plan(self, items: Iterator[ScanItem], rows: Rows[Row]) -> None:
        suspects: list[tuple[FileEntry, Row]] = []
        for here, there in join.join(
            self._local(items, rows),
            self._listing(),
            lambda: Spool(self.spool_dir),
            self._unordered,
            self.on_stranger,
            lambda page: not self.every and self._settles(page, items, rows),
        ):
            if here is None:
                assert there is not None
                if self.keeps(there.key):
                    continue
                self.deletes.append(tuple(there))
                continue
            file, row = here
            self.listed += there is not None
            if there is None and row is not None and row.size == file.size and len(suspects) < _SUSPECTS:
                suspects.append((file, row))  # we had sent it: was it deleted, or renamed by the store?
            else:
                self._decide(file, there, row)
        self._judge(suspects, rows)
        if self.whole:
            self.index.set_fact("cuts", json.dumps(self.cuts))
            self.index.set_fact("ranges", str(self.breadth.ranges))

    @property
    def cuts(self) -> list[str]:
        """Where the next listing may be cut into ranges; none where the store does not list in order, or
        refuses to begin behind a key."""
        refuses = self._pages is not None and self._pages.refuses_ranges
        if refuses or not (self._ordered and self.whole):
            return []
        behind_the_last = self._seen - (self._next_cut - CUT_KEYS)
        return self._cuts if behind_the_last > SPARE_KEYS else self._cuts[:-1]

    def _listing(self) -> Listing:
        """By ranges, where an earlier sync found the store to list in order and left keys to cut at. On a
        first sync the folder tells where to cut, if the store is so far away that ranges pay."""
        known = self.index.fact("cuts") if self.whole else "[]"
        cuts: Iterable[str] = json.loads(known or "[]")
        if cuts:
            self.breadth.go_on(self.index.fact("ranges"))
        elif known is None and self.breadth.ranges > 1:
            cuts = self.first_cuts
        self._pages = Listing(self.fetch, self.fetch_range, cuts, self.breadth)
        return self._pages

    def _unordered(self) -> None:
        self._ordered = False
        self.index.set_fact("cuts", "[]")

    def _local(self, items: Iterator[ScanItem], rows: Rows[Row]) -> Iterator[join.Local]:
        at = rows.at
        while (item := next(self._again, None) or next(items, None)) is not None:
            if self.key_bytes_max < KEY_MAX_BYTES and isinstance(item, FileEntry):
                item = within(item, self.key_bytes_max)  # what the scan could not know
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

    def _settles(self, page: Sequence[ObjectEntry], items: Iterator[ScanItem], rows: Rows[Row]) -> bool:
        """Counts the next files, as many as the page has objects, if they are these and all unchanged."""
        count = len(page)
        files = list(islice(chain(self._again, items), count))
        known = rows.take(page[0].key, count) if files and files[0].key == page[0].key else []
        size = unchanged_pages.unchanged(files, known, page)
        if size is None or (self.outdated is not None and self.outdated.any_of(page)):
            self._again = iter([*files, *self._again])
            rows.give_back(known)
            return False
        self._found += count
        self._found_bytes += size
        self._same += count
        self._same_bytes += size
        while self._seen + count >= self._next_cut:  # a page may be longer than the way to the next cut
            self._cut(files[self._next_cut - self._seen - 1].key)
        self._seen += count
        self.listed += count
        self._flush_if_due()
        return True

    def _cut(self, key: str) -> None:
        self._cuts.append(key)
        self._next_cut += CUT_KEYS

    def _decide(self, file: FileEntry, obj: ObjectEntry | None, row: Row | None) -> None:
        decision = compare.compare(file, obj, row)
        verdict = decision.verdict
        if (verdict is Verdict.UNCHANGED or verdict is Verdict.ADOPT) and not self.every:
            if self.outdated is not None and row is not None and self.outdated.has(file.key):
                self._event("work", Work(file, obj, row, compare.UPDATE))
                return
            self._same += 1
            self._same_bytes += file.size
            if verdict is Verdict.ADOPT and row is not None and obj is not None:
                self._event("remember", row._replace(modified=obj.modified))
        else:
            self._event("work", Work(file, obj, None if obj is None else row, decision))

    def _judge(self, suspects: list[tuple[FileEntry, Row]], rows: Rows[Row]) -> None:
        """Files that we had sent and that the bucket lacks. Where an object that nobody sent has their size
        and ETag, the store may have renamed them."""
        wanted = {(row.etag, row.size) for _, row in suspects}
        strange: set[tuple[str, int]] = set()
        for key, size, tag, _ in self.deletes if suspects else ():
            if (tag, size) in wanted and not rows.has(key):
                strange.add((tag, size))
        for file, row in suspects:
            renamed = (row.etag, row.size) in strange
            self._event("renamed" if renamed else "work", Work(file, None, None, NEW))

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
            self.emit(events)
