"""One sync, from the scan to the last deletion: what is compared, sent and deleted, and in which order.

```
thread   scan ─┐
               ├─ join ─ compare ─┐ batches, at most a few ahead
thread   list ─┘                  ▼
loop                        groups of small files ─ read (pool) ─ PUT      32 lanes
                            large files ─ hash (pool) ─ parts              2 lanes
loop     deletions, when all of that went well
```
Invariants
- Nothing is deleted unless the listing was complete, the scan was complete, and no file failed. The bucket is
  deleted only when the folder is known to hold no file, looked at twice.
- After a fatal error or a stop no operation begins; those in flight end.
- Memory is bounded: batches, bytes in flight, spools on disk; never the tree.
"""

from __future__ import annotations

import asyncio
import base64
import os
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

from syncworker import compare, etag, links, plan
from syncworker.compare import Decision, Reason, Verdict
from syncworker.control import Control
from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.index import Index, Row, Rows
from syncworker.listing import Listing
from syncworker.model import FileEntry, ObjectEntry, Phase, ScanItem, Skip, Unreadable
from syncworker.progress import Progress
from syncworker.reader import Outcome, Read, Work, read
from syncworker.remove import Remover
from syncworker.s3 import DELETE_BATCH, Bucket
from syncworker.s3xml import Page
from syncworker.scan import SourceMissing, scan
from syncworker.spool import Spool
from syncworker.transfer import REWRITTEN, Sender, Vanished, row_of
from syncworker.tree import VANISHED, Tree

SMALL_LANES = 32
LARGE_LANES = 2
GROUP_FILES = 8
GROUP_BYTES = 1 << 20
BYTES_IN_FLIGHT = 64 << 20
BATCH = 500
_READERS = 4
_SUSPECTS = 10_000
_STRANGERS = 20_000
_FOLDERS_ASKED = 5
_LINKS = frozenset({"symlink_outside", "symlink_dangling", "symlink_loop"})
_NETWORK = frozenset({"ConnectionLost", "Timeout", "ConnectTimeout", "ConnectFailed", "DnsError", "TlsError"})

Event = tuple[str, Any]


class Budget:
    """At most so many bytes at a time; one that is larger than all passes alone."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._changed = asyncio.Condition()

    async def take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.used == 0 or self.used + size <= self.most)
            self.used += size

    async def give(self, size: int) -> None:
        async with self._changed:
            self.used -= size
            self._changed.notify_all()


class Sync:
    """The work of one attempt. `run` returns when the bucket equals the folder, and raises otherwise."""

    def __init__(
        self,
        *,
        uploads_dir: str,
        source: str,
        wait_seconds: float,
        may_delete_bucket: bool,
        spool_dir: str,
        bucket: Bucket,
        index: Index,
        progress: Progress,
        control: Control,
    ) -> None:
        self.uploads_dir = uploads_dir
        self.source = source
        self.wait_seconds = wait_seconds
        self.may_delete_bucket = may_delete_bucket
        self.spool_dir = spool_dir
        self.bucket = bucket
        self.index = index
        self.progress = progress
        self.control = control
        self.fatal: Exception | None = None
        self.incomplete = False  # something in the folder could not be read: nothing may be deleted
        self.deletes = Spool(spool_dir)
        self.refused: list[tuple[Work, SyncError]] = []
        self.removed: set[str] = set()  # deleted early, because they stood in an upload's way
        self.held_back: list[Work] = []  # files where the bucket has a folder of objects to be deleted
        self.strangers: set[str] = set()  # objects without a file, the first so many
        self.above_strangers: set[str] = set()
        self._ended_at: float | None = None  # the last operation's end, for `wait`

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        try:
            with Tree(self.uploads_dir) as tree, ThreadPoolExecutor(_READERS, "reader") as pool:
                self.tree, self.pool = tree, pool
                self.sender = Sender(
                    self.bucket, self.index, tree, self.progress, self.control, pool, self._is_blocked
                )
                self.remover = Remover(
                    self.bucket, self.progress, self.control, self.turn, one_by_one=self.wait_seconds > 0
                )
                self.progress.phase(Phase.COMPARING, "comparing")
                await self._run()
        finally:
            self.deletes.close()

    async def _run(self) -> None:
        await self._in_thread(self._guard_root)
        items, first, existed = await self._in_thread(self._peek)
        if first is None:
            self._refuse_unknown(items)
            again, file, exists = await self._in_thread(self._peek)
            if file is None:
                self._refuse_unknown(again)
                if exists != existed:
                    raise _source_vanished()
                await self._delete_bucket(items)
                return
            items, first = again, file
        await self._mirror(chain(items, [first], self._scan))

    # -- is there anything to mirror?
    def _guard_root(self) -> None:
        """An empty root on another device than last time is a disk that is not mounted."""
        device = str(os.stat(self.uploads_dir).st_dev)
        before = self.index.fact("root_device")
        with os.scandir(self.uploads_dir) as entries:
            empty = next(entries, None) is None
        if empty:
            if before is not None and before != device:
                raise FatalError(
                    "UploadsRootEmpty",
                    "the uploads folder is empty and on another device than at the last sync: is its disk"
                    " mounted? Nothing was deleted",
                )
        else:
            self.index.set_fact("root_device", device)

    def _peek(self) -> tuple[list[ScanItem], FileEntry | None, bool]:
        """What the scan yields before the first file, that file (None: there is none), and whether the
        source exists. The scan goes on from there."""
        before: list[ScanItem] = []
        self._scan: Iterator[ScanItem] = scan(self.tree, self.source, self.halted)
        try:
            for item in self._scan:
                if isinstance(item, FileEntry):
                    return before, item, True
                before.append(item)
        except SourceMissing:
            return before, None, False
        return before, None, True

    def _refuse_unknown(self, items: list[ScanItem]) -> None:
        """No file was found; raises unless that is certain."""
        bad = [item for item in items if isinstance(item, Unreadable)]
        if bad:
            for item in bad:
                self.progress.found(1, 0)
                self.progress.failed("upload", item.key, FileError(item.code, item.message))
            raise FatalError(
                bad[0].code,
                f"the folder is not known to be empty, so nothing was deleted: {bad[0].message}",
            )
        if any(isinstance(item, Skip) and item.reason in _LINKS for item in items):
            raise FatalError(
                "OnlyUnusableLinks",
                "the folder holds nothing but symbolic links that lead nowhere or out of the uploads folder:"
                " it is not known to be empty, so nothing was deleted",
            )

    async def _delete_bucket(self, items: list[ScanItem]) -> None:
        if not self.may_delete_bucket:
            raise FatalError(
                "BucketDeleteRefused",
                "the folder holds no file, and BUCKET_DELETE=refuse forbids to delete the bucket",
            )
        for item in items:
            self.progress.found(1, 0)
            self.progress.skipped(item.key, item.reason if isinstance(item, Skip) else "skipped")
        self.progress.counts["scan_complete"] = True
        self.progress.phase(Phase.DELETING_BUCKET, "the folder holds no file: deleting the bucket")
        self.control.check()
        await self.remover.whole_bucket()
        self.index.clear()

    # -- the mirror
    async def _mirror(self, items: Iterator[ScanItem]) -> None:
        self.events: asyncio.Queue[list[Event] | None] = asyncio.Queue(maxsize=8)
        self.small: asyncio.Queue[list[Work] | None] = asyncio.Queue(maxsize=2 * SMALL_LANES)
        self.large: asyncio.Queue[Read | None] = asyncio.Queue(maxsize=64)
        self.budget = Budget(BYTES_IN_FLIGHT)
        await self._open_bucket()
        planner = threading.Thread(target=self._plan, args=(items,), name="planner", daemon=True)
        planner.start()
        one = self.wait_seconds > 0
        smalls = [asyncio.create_task(self._small_lane()) for _ in range(1 if one else SMALL_LANES)]
        larges = [asyncio.create_task(self._large_lane()) for _ in range(1 if one else LARGE_LANES)]
        await self._dispatch()
        for _ in smalls:
            await self.small.put(None)
        await asyncio.gather(*smalls)
        for _ in larges:
            await self.large.put(None)
        await asyncio.gather(*larges)
        await self._in_thread(planner.join)
        self._raise_if_halted()
        await self._second_chance()
        self._raise_if_halted()
        await self._finish()

    async def _open_bucket(self) -> None:
        """The first page; makes the bucket when it is missing."""
        try:
            page = await self.bucket.list_page(None)
            missing = not page.entries and not page.truncated and not await self.bucket.exists()
        except FatalError as error:
            if error.code != "NoSuchBucket":
                raise
            page, missing = Page([], None, False), True
        if missing:
            self.control.check()
            started = time.monotonic()
            await self.bucket.create()
            self.index.clear()
            self.progress.report("create_bucket", self.bucket.name, None, None, time.monotonic() - started)
        self._first_page: Page | None = page

    def halted(self) -> bool:
        return self.fatal is not None or self.control.stopping()

    def _raise_if_halted(self) -> None:
        self.control.check()
        if self.fatal is not None:
            raise self.fatal

    async def turn(self) -> None:
        """Awaited before each operation: the pause that `wait` asks for, which a stop ends at once."""
        self.control.check()
        if self.wait_seconds and self._ended_at is not None:
            until = self._ended_at + self.wait_seconds
            self.progress.say(f"waiting {self.wait_seconds:g} s before the next operation")
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, 0.05))
                self.control.check()
        # An operation sets its own end; until then, and if it never does, it ends now.
        self._ended_at = time.monotonic()

    # -- the planner's thread
    def _plan(self, items: Iterator[ScanItem]) -> None:
        rows = self.index.rows()
        batch = _Batch(self)
        try:
            listing = Listing(self._fetch)
            pairs = plan.join(
                self._local(items, rows, batch), listing, self._spool, self._unordered, self._stranger
            )
            suspects: list[tuple[FileEntry, Row]] = []
            for here, there in pairs:
                if here is None:
                    assert there is not None
                    self.deletes.append((there.key, there.size, there.etag))
                    continue
                file, row = here
                if there is None and row is not None and row.size == file.size and len(suspects) < _SUSPECTS:
                    suspects.append((file, row))  # we had sent it: was it deleted, or renamed by the store?
                    continue
                batch.decide(file, there, row)
            for file, row, renamed in self._renamed(suspects, rows):
                if renamed and REWRITTEN.search(file.key):
                    batch.event("renamed", file)
                else:
                    batch.event(
                        "work",
                        Work(file, None, row if renamed else None, Decision(Verdict.UPLOAD, Reason.NEW)),
                    )
            batch.event("complete", None)
        except SyncError as error:
            batch.event("fatal", error)
        except OSError as error:
            reason = error.strerror or str(error)
            batch.event(
                "fatal", FatalError("LocalError", f"a local file of the job cannot be used: {reason}")
            )
        except BaseException as error:  # noqa: BLE001 - a thread's end must be told, whatever it was
            batch.event("crash", error)
        finally:
            rows.close()
            batch.flush(last=True)

    def _fetch(self, token: str | None) -> Future[Page]:
        if token is None and self._first_page is not None:
            ready: Future[Page] = Future()
            ready.set_result(self._first_page)
            self._first_page = None
            return ready
        return asyncio.run_coroutine_threadsafe(self.bucket.list_page(token), self.loop)

    def _spool(self) -> Spool:
        return Spool(self.spool_dir)

    def _unordered(self) -> None:
        self.index.set_fact("unordered", "1")

    def _local(self, items: Iterator[ScanItem], rows: Rows, batch: _Batch) -> Iterator[plan.Local]:
        at, found = rows.at, batch.found
        for item in items:
            if isinstance(item, FileEntry):
                found(item.size)
                yield item, at(item.key)
            elif isinstance(item, Skip):
                batch.event("skip", item)
            else:
                batch.event("unreadable", item)

    def _renamed(
        self, suspects: list[tuple[FileEntry, Row]], rows: Rows
    ) -> Iterator[tuple[FileEntry, Row, bool]]:
        """Which of the files that are missing in the bucket are there under a key that nobody sent."""
        wanted = {(row.etag, row.size) for _, row in suspects}
        strange: set[tuple[str, int]] = set()
        if suspects:
            for key, size, tag in self.deletes:
                if (tag, size) in wanted and not rows.has(key):
                    strange.add((tag, size))
        for file, row in suspects:
            yield file, row, (row.etag, row.size) in strange

    # -- the loop's side of it
    async def _dispatch(self) -> None:
        """Hands what the planner finds to the lanes, until it ends. After a halt it only listens."""
        group: list[Work] = []
        size = 0
        while (batch := await self.events.get()) is not None:
            for name, value in batch:
                if name == "work":
                    if self.halted():
                        continue
                    if value.object is None and value.file.key in self.above_strangers:
                        self.held_back.append(value)
                        continue
                    group.append(value)
                    size += value.file.size
                    if len(group) >= (1 if self.wait_seconds else GROUP_FILES) or size >= GROUP_BYTES:
                        await self.small.put(group)
                        group, size = [], 0
                else:
                    self._note(name, value)
            if group:
                await self.small.put(group)
                group, size = [], 0

    def _note(self, name: str, value: Any) -> None:
        progress = self.progress
        match name:
            case "found":
                progress.found(*value)
            case "unchanged":
                progress.unchanged(*value)
            case "remember":
                self.index.remember(value)
            case "skip":
                progress.found(1, 0)
                progress.skipped(value.key, value.reason)
            case "unreadable":
                progress.found(1, 0)
                self.incomplete = True
                progress.failed("upload", value.key, FileError(value.code, value.message))
            case "renamed":
                self._fail(
                    value, FileError("KeyChangedByStore", "the storage keeps this object under another name")
                )
            case "complete":
                progress.counts["scan_complete"] = True
            case _:
                self._halt(value)

    async def _small_lane(self) -> None:
        while (group := await self.small.get()) is not None:
            if self.halted():
                continue
            size = min(
                sum(work.file.size for work in group if etag.is_single(work.file.size)), BYTES_IN_FLIGHT
            )
            await self.budget.take(size)
            try:
                for result in await self._in_thread(self._read_group, group):
                    await self._settle(result)
            except Exception as error:  # noqa: BLE001 - a lane never ends early: the others would wait for it
                self._halt(error)
            finally:
                await self.budget.give(size)

    def _read_group(self, group: list[Work]) -> list[Read]:
        md5 = self.sender.etags_are_md5
        results = []
        for work in group:
            if self.halted():
                break
            if work.decision.verdict is Verdict.UPLOAD and not etag.is_single(work.file.size):
                results.append(Read(work, Outcome.LARGE, work.file))
                continue
            try:
                results.append(read(self.tree, work, md5, self.halted))
            except InterruptedError:
                break
        return results

    def _halt(self, error: Exception) -> None:
        """The job ends with this error, the first of them; a stop has its own flag."""
        if not isinstance(error, Stopped) and not (isinstance(error, RetryError) and self.control.stopping()):
            self.fatal = self.fatal or error

    async def _settle(self, result: Read) -> None:
        """Carries out what reading has shown. Only what ends the job is raised."""
        work, file = result.work, result.file
        if self.halted():
            return
        self.progress.grown(work.file.size, file.size)
        if result.outcome is Outcome.SAME:
            self._same(result)
        elif result.outcome is Outcome.VANISHED:
            self.progress.skipped(file.key, "vanished", work.file.size)
        elif result.outcome is Outcome.FAILED:
            error = result.error or FileError("Unknown", "the file cannot be read")
            if isinstance(error, FatalError):
                raise error
            self._fail(work.file, error)
        elif result.needs_head and await self._known_by_metadata(result):
            self._same(result._replace(digest=result.md5.hex(), part_size=0))
        elif result.outcome is Outcome.LARGE:
            if self.wait_seconds:
                await self._send(work, file, result)
            else:
                await self.large.put(result)
        else:
            await self._send(work, file, result)

    def _same(self, result: Read) -> None:
        obj, file = result.work.object, result.file
        assert obj is not None
        self.progress.unchanged(1, max(file.size, result.work.file.size))
        digest = "" if result.digest == obj.etag else result.digest
        self.index.remember(
            Row(
                file.key, file.size, file.mtime_ns, file.ctime_ns, file.inode,
                obj.etag, digest, result.part_size, obj.modified, result.checked_ns,
            )
        )  # fmt: skip

    async def _known_by_metadata(self, result: Read) -> bool:
        """One HEAD: does the object's own metadata carry the file's MD5?"""
        try:
            head = await self.bucket.head(result.file.key)
        except FileError:
            return False  # HEAD is not allowed: the upload tells
        if head is None or head.size != result.file.size:
            return False
        return head.metadata.get("md5chksum", "") == base64.b64encode(result.md5).decode()

    async def _large_lane(self) -> None:
        while (result := await self.large.get()) is not None:
            if self.halted():
                continue
            try:
                await self._send(result.work, result.file, result)
            except Exception as error:  # noqa: BLE001 - a lane never ends early: the others would wait for it
                self._halt(error)

    async def _send(self, work: Work, file: FileEntry, result: Read) -> None:
        """One upload, counted and remembered. Raises what ends the job."""
        await self.turn()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("upload", file.key, file.size)
        try:
            if result.outcome is Outcome.BODY:
                sent = await self.sender.small(result, operation)
                self.progress.sent(sent.file.size)
            else:
                sent = await self.sender.large(file, result.md5, operation)
            if work.object is None and work.row is not None:
                await self.sender.check_key(file.key, always=True)
        except Vanished:
            self.progress.skipped(file.key, "vanished", max(file.size, work.file.size))
            return
        except (FileError, RetryError) as error:
            if self.control.stopping():
                raise Stopped(self.control.reason or "") from error
            self._refuse(work, error)
            return
        finally:
            self.progress.end(operation)
            self._ended_at = time.monotonic()
        # A file that has shrunk since the scan counts as it was counted then.
        settled = max(sent.file.size, work.file.size)
        self.progress.uploaded(sent, settled, time.monotonic() - operation.started)
        self.index.remember(row_of(sent))

    def _refuse(self, work: Work, error: SyncError) -> None:
        """An upload failed. If the store refused it, something may stand in its way that is to be deleted."""
        if error.code in _NETWORK or len(self.refused) >= _SUSPECTS:
            self._fail(work.file, error)
        else:
            self.refused.append((work, error))

    def _fail(self, file: FileEntry, error: SyncError) -> None:
        self.progress.failed("upload", file.key, error, file.size)

    # -- a store that cannot hold x beside x/y
    def _stranger(self, key: str) -> None:
        """Notes an object without a file (the planner calls it): it may stand in an upload's way."""
        if len(self.strangers) < _STRANGERS:
            self.strangers.add(key)
            self.above_strangers.update(_ancestors(key))

    def _is_blocked(self, key: str) -> bool:
        """Whether an object that is gone at the source may be why the store refuses this key."""
        return key in self.above_strangers or any(a in self.strangers for a in _ancestors(key))

    async def _cleans_paths(self, key: str) -> bool:
        """Whether the store takes `key/` for `key`: then it is a file system, and an upload of `x` beside
        `x/y` would not just fail but hide `x/y` from us (rclone serve s3). Asked of an object below `key`."""
        if self.index.fact("cleans_paths") is None:
            for stranger, size, _etag in self.deletes:
                if stranger.startswith(f"{key}/") and size:
                    head = await self.bucket.head(f"{stranger}/")
                    self.index.set_fact("cleans_paths", str(int(head is not None and head.size == size)))
                    break
        return self.index.fact("cleans_paths") == "1"

    async def _second_chance(self) -> None:
        """Deletes what is gone at the source and stands in the way of refused uploads; then tries again."""
        for work in self.held_back:
            if await self._cleans_paths(work.file.key):
                self._refuse(work, FileError("KeyIsFolder", "the storage has a folder under this name"))
            else:
                for result in await self._in_thread(self._read_group, [work]):
                    await self._settle_large_here(result)
        refused, self.refused = self.refused, []
        chances = [] if self.incomplete else [work for work, _ in refused if self._is_blocked(work.file.key)]
        keys = {work.file.key for work in chances}
        above = {ancestor for key in keys for ancestor in _ancestors(key)}
        in_the_way: dict[str, int] = {}
        for key, size, _etag in self.deletes if chances else ():
            blocks = key in above or any(ancestor in keys for ancestor in _ancestors(key))
            if blocks and not await self._in_thread(self._is_file, key):
                in_the_way[key] = size
        for key, size in in_the_way.items():
            for _, failure in await self.remover.single(key, None, size):
                self.progress.error("delete", key, failure)
            self.removed.add(key)
            self.index.forget([key])
        for work, error in refused:
            if work.file.key not in keys or not in_the_way:
                self._fail(work.file, error)
                continue
            fresh = work._replace(object=None, row=None, decision=Decision(Verdict.UPLOAD, Reason.NEW))
            for result in await self._in_thread(self._read_group, [fresh]):
                await self._settle_large_here(result)
        for work, error in self.refused:
            self._fail(work.file, error)
        self.refused = []

    async def _settle_large_here(self, result: Read) -> None:
        if result.outcome is Outcome.LARGE:
            await self._send(result.work, result.file, result)
        else:
            await self._settle(result)

    def _is_file(self, key: str) -> bool:
        """Whether the folder has something under this key now; when in doubt, it has."""
        path = f"{self.source}/{key}" if self.source else key
        try:
            resolved, info = links.resolve(self.tree, path)
        except OSError as error:
            return error.errno not in VANISHED and not _impossible(key)
        return not stat.S_ISDIR(info.st_mode) if resolved else True

    def _is_folder(self, key: str) -> bool:
        path = f"{self.source}/{key}" if self.source else key
        try:
            return stat.S_ISDIR(links.resolve(self.tree, path)[1].st_mode)
        except OSError as error:
            return error.errno not in VANISHED and not _impossible(key)

    # -- the end
    async def _finish(self) -> None:
        counts = self.progress.counts
        if counts["files_failed"] or self.incomplete:
            raise FatalError(
                "FilesFailed",
                f"{counts['files_failed']} of {counts['files_total']} files failed; nothing was deleted",
            )
        failures = 0
        if self.deletes.count:
            await self._in_thread(self._check_source)
            self.progress.phase(Phase.DELETING, "deleting what is gone at the source")
            failures = await self._delete_all()
        await self.sender.abandon_all()
        if failures:
            raise FatalError("FilesFailed", f"{failures} objects could not be deleted")

    def _check_source(self) -> None:
        try:
            _, info = links.resolve(self.tree, self.source)
        except OSError as error:
            raise _source_vanished() from error
        if not stat.S_ISDIR(info.st_mode):
            raise _source_vanished()

    async def _delete_all(self) -> int:
        failures = 0
        batch: list[tuple[str, int | None]] = []
        for key, size, _ in self.deletes:
            if key in self.removed:
                continue
            batch.append((key, size))
            if len(batch) >= (1 if self.wait_seconds else DELETE_BATCH):
                failures += await self._delete_batch(batch)
                batch = []
        if batch:
            failures += await self._delete_batch(batch)
        if not failures:
            await self._delete_markers()
        return failures

    async def _delete_markers(self) -> None:
        """A store that is a file system may keep the folders that its objects were in, and list them as
        objects (juicefs gateway after DeleteObjects). Whether it does is found out once a destination."""
        if self.index.fact("folder_markers") == "0":
            return
        last, asked = "", 0
        for key, _size, _etag in self.deletes:
            folder = key[: key.rfind("/") + 1]
            if not folder or folder in (last, key) or key in self.removed:
                continue
            last = folder
            known = self.index.fact("folder_markers") == "1"
            if not known or await self._in_thread(self._is_folder, folder[:-1]):
                # Asked without its slash: juicefs leaves out a marker that is the prefix itself.
                keys = await self.bucket.list_exact(folder[:-1], 1000)
                if not known and any(k.startswith(folder) and k.endswith("/") for k in keys):
                    self.index.set_fact("folder_markers", "1")
                elif not known and (asked := asked + 1) >= _FOLDERS_ASKED:
                    self.index.set_fact("folder_markers", "0")
                    return
                if folder not in keys:
                    continue
            self.control.check()
            await self.bucket.delete(folder)

    async def _delete_batch(self, batch: list[tuple[str, int | None]]) -> int:
        self.control.check()
        gone = await self._in_thread(lambda: [item for item in batch if not self._is_file(item[0])])
        if not gone:
            return 0
        failed = await self.remover.objects(gone)
        for key, error in failed:
            self.progress.error("delete", key, error)
        self._ended_at = time.monotonic()
        kept = {key for key, _ in failed}
        self.index.forget(key for key, _ in gone if key not in kept)
        return len(failed)

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        return await self.loop.run_in_executor(self.pool, function, *values)


class _Batch:
    """What the planner has found and not yet handed over. Lives in the planner's thread."""

    def __init__(self, sync: Sync) -> None:
        self._sync = sync
        self._events: list[Event] = []
        self._found = self._found_bytes = 0
        self._same = self._same_bytes = 0
        self._flushed_at = time.monotonic()
        self._seen = 0

    def found(self, size: int) -> None:
        self._found += 1
        self._found_bytes += size
        self._seen += 1
        if self._seen % 1024 == 0 and time.monotonic() - self._flushed_at > 0.1:
            self.flush()

    def decide(self, file: FileEntry, obj: ObjectEntry | None, row: Row | None) -> None:
        decision = compare.compare(file, obj, row)
        verdict = decision.verdict
        if verdict is Verdict.UNCHANGED:
            self._same += 1
            self._same_bytes += file.size
            return
        if verdict is Verdict.ADOPT:
            assert row is not None
            assert obj is not None
            self._same += 1
            self._same_bytes += file.size
            self.event("remember", row._replace(modified=obj.modified))
            return
        self.event("work", Work(file, obj, None if obj is None else row, decision))

    def event(self, name: str, value: Any) -> None:
        self._events.append((name, value))
        if len(self._events) >= BATCH:
            self.flush()

    def flush(self, *, last: bool = False) -> None:
        """Waits while the loop is behind: the planner is never more than a few batches ahead."""
        events = []
        if self._found:
            events.append(("found", (self._found, self._found_bytes)))
        if self._same:
            events.append(("unchanged", (self._same, self._same_bytes)))
        events += self._events
        self._found = self._found_bytes = self._same = self._same_bytes = 0
        self._events, self._flushed_at = [], time.monotonic()
        sync = self._sync
        if events:
            asyncio.run_coroutine_threadsafe(sync.events.put(events), sync.loop).result()
        if last:
            asyncio.run_coroutine_threadsafe(sync.events.put(None), sync.loop).result()


def _ancestors(key: str) -> Iterator[str]:
    at = key.find("/")
    while at >= 0:
        yield key[:at]
        at = key.find("/", at + 1)


def _impossible(key: str) -> bool:
    """A key that no file can have: empty names, dots, too long a name."""
    return any(part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in key.split("/"))


def _source_vanished() -> FatalError:
    return FatalError(
        "SourceVanished", "the folder vanished after the job began: nothing was deleted; is its disk mounted?"
    )
