"""One sync, from the scan to the last deletion: what is compared, sent and deleted, and in which order.

```
thread   scan ─┐
               ├─ join ─ compare ─┐ batches, at most a few ahead (planner.py)
thread   list ─┘                  ▼
loop                        groups of small files ─ read (pool) ─ PUT      32 to 128 lanes (lanes.py)
                            large files ─ hash (pool) ─ parts              4 lanes
loop     deletions, when all of that went well (sweep.py)
loop     what was written and deleted is looked at once more (recheck.py)
loop     with `verify`: is all of the bucket what the folder is? (verification.py)
```
Invariants
- Nothing is deleted unless the listing was complete, the scan was complete, and no file failed. The bucket is
  deleted only when the folder is known to hold no file, looked at twice.
- After a fatal error or a stop no operation begins; those in flight end.
- Memory is bounded: batches, bytes in flight, spools on disk; never the tree.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

from syncworker.ending import Ending, Planned, failing, plan_message, reasons
from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.folder.scan import read_ahead, scan
from syncworker.folder.scan_process import WORTH_FILES, scan_apart
from syncworker.folder.source import Look, Source, refuse_unknown, vanished
from syncworker.folder.uploads_root import Tree
from syncworker.index import Index, Row, count_objects
from syncworker.jobs.progress import Operation, Progress, Sent
from syncworker.model import KEY_MAX_BYTES, UNKNOWN, FileEntry, ObjectEntry, Phase, ScanItem, Skip
from syncworker.options.table import DEEP, DEFAULTS, Options
from syncworker.plan.compare import AGAIN, NEW, Reason, Verdict, compare, same_object
from syncworker.plan.differences import Changes, Difference, Listable, collect
from syncworker.plan.draft import Draft
from syncworker.plan.events import Work
from syncworker.plan.given import Outdated
from syncworker.plan.listing import RANGE_PAGES, Listing, page_of_folders, prefixes_of
from syncworker.plan.may_delete import NO_RULES, Question, Rules
from syncworker.plan.plan_file import ApprovedPlan
from syncworker.plan.planner import Event, Planner
from syncworker.plan.spool import Spool
from syncworker.s3 import etag
from syncworker.s3.bucket import Bucket
from syncworker.s3.xml_messages import PAGE_KEYS, Page
from syncworker.system.control import Control, is_settling
from syncworker.transfer import blocking_keys
from syncworker.transfer.delete_bucket import BucketRemoval, Unplanned
from syncworker.transfer.delete_last import Sweep
from syncworker.transfer.delete_objects import Remover
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.readers import Outcome, Read, read, read_cached
from syncworker.transfer.recheck import Recheck
from syncworker.transfer.update import Updater
from syncworker.transfer.upload import Sender, Vanished, row_of
from syncworker.transfer.verification import Verification
from syncworker.worker.mount_check import MountCheck

Going = Callable[[], AsyncIterator[list[ObjectEntry]]]  # objects without a file, some at a time

GROUP_FILES = 32
GROUP_BYTES = 1 << 20
_READERS = 4
_ALL = 1 << 62
_REFUSED = 10_000
_HELD_FOLDERS = 10_000
# What fails on the way to the store, or here: nothing stands in such an upload's way.
_NOT_REFUSED = frozenset(
    {"ConnectionLost", "Timeout", "ConnectTimeout", "ConnectFailed", "DnsError", "TlsError"}
    | {"ChangedWhileReading", "EntityTooLarge", "StoredWrongBytes", "OSError", *errno.errorcode.values()}
)


def _largest(work: Work, file: FileEntry) -> Work:
    """The work with the size by which its file is counted: that of the scan, or more if it has grown."""
    return work._replace(file=file) if file.size > work.file.size else work


def _reasons(items: list[ScanItem]) -> Counter[str]:
    return Counter(item.reason for item in items if isinstance(item, Skip))


def same_row(result: Read) -> Row:
    """What the index is to remember of a file whose content the bucket has."""
    obj, file = result.work.object, result.file
    assert obj is not None
    digest = "" if result.digest == obj.etag else result.digest
    return Row(
        file.key, file.size, file.mtime_ns, file.ctime_ns, file.inode,
        obj.etag, digest, result.part_size, obj.modified, 0 if result.changes else result.checked_ns,
    )  # fmt: skip


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
        mounts: MountCheck,
        progress: Progress,
        control: Control,
        options: Options = DEFAULTS,
        may_skip: bool = True,
        rules: Rules = NO_RULES,
        plan_path: str = "",
        approved: Mapping[str, Any] | None = None,
    ) -> None:
        self.rules = rules
        self.plan_path = plan_path
        self.approved = approved  # what the status says of the plan
        self.ending = Ending()
        self.may_skip = may_skip
        self.options = options
        self.path_filter = options.path_filter()
        self.headers = options.object_headers()
        self.uploads_dir = uploads_dir
        self.source = source
        self.wait_seconds = wait_seconds
        self.may_delete_bucket = may_delete_bucket
        self.spool_dir = spool_dir
        self.bucket = bucket
        self.index = index
        self.mounts = mounts
        self.progress = progress
        self.control, self.pause = control, bucket.client.pause
        self.halted_in_thread = self.pause.blocking(self.halted)
        self.started_ns = time.time_ns()
        self.fatal: Exception | None = None
        self.incomplete = False  # something in the folder could not be read: nothing may be deleted
        self.badly_named = 0  # files whose names are not UTF-8: nothing in their folders may be deleted
        self.held_folders: set[str] = set()  # these folders: "" or ends in "/"
        self.obstacles = blocking_keys.Obstacles()
        self.refused: list[tuple[Work, SyncError]] = []
        self.renamed: list[Work] = []  # files that the store may keep under another key
        self.changes = Changes(spool_dir)
        self.held_back: list[Work] = []  # files where the bucket has a folder of objects to be deleted
        self._first_page: Page | None = None
        self._folders: tuple[str, ...] = ()  # what is listed, where that is not all
        self.plan: ApprovedPlan | None = None  # that is carried out
        self.draft: Draft | None = None  # of the plan that was asked for, or of deletions that are too many
        self.question: Question | None = None  # why the job is to wait
        self._may: bool | None = None  # not decided yet
        self._makes_bucket = False

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.bucket.client.stopping = self.halted  # a fatal error, too, ends the tries of what is in flight
        with Tree(self.uploads_dir) as tree, ThreadPoolExecutor(_READERS, "reader") as pool:
            self.tree, self.pool = tree, pool
            self.folder = Source(
                tree,
                self.source,
                self.halted_in_thread,
                self._best_scan(),
                self.path_filter,
                self.mounts.note,
            )
            self.sender = Sender(
                self.bucket,
                self.index,
                tree,
                self.progress,
                pool,
                check=self._raise_if_stopped,
                halted=self.halted,
                is_blocked=self.obstacles.may_block,
                headers=self.headers,
            )
            self.updater = Updater(self.sender)
            self.remover = Remover(
                self.bucket,
                self.index,
                self.progress,
                self.control,
                self.turn,
                one_by_one=self.wait_seconds > 0,
            )
            self.progress.phase(Phase.COMPARING, "comparing")
            try:
                await self._run()
                self.control.check()  # it came with the last operation
                await self._write_plan()
            except Stopped:
                self._raise_if_halted()  # a request was given up because of a fatal error: that one is told
                raise
            finally:
                self.changes.close()
                for plan in (self.plan, self.draft):
                    if plan is not None:
                        plan.close()

    def _best_scan(self) -> Callable[..., Iterator[ScanItem]]:
        """Of a large folder, as far as an earlier sync tells: by another process, on another core."""
        is_large = count_objects(self.index.path, WORTH_FILES) == WORTH_FILES
        helps = is_large and self.tree.is_local and len(os.sched_getaffinity(0)) > 1
        return scan_apart if helps else scan

    async def _run(self) -> None:
        if self.approved is not None:
            self.plan = await self._in_thread(
                ApprovedPlan, self.plan_path, self.approved, self.options.prefix
            )
        elif self.rules.is_plan:
            self.draft = Draft(self.options.prefix)
        await self._in_thread(self.mounts.begin, self.tree)
        self._folders = await self._in_thread(self._folders_to_list)
        look: Look = await self._in_thread(self.folder.look)
        if look.first is None:
            refuse_unknown(look.before)
            again: Look = await self._in_thread(self.folder.look)
            if again.first is None:
                refuse_unknown(again.before)
                if again.exists != look.exists or not (again.exists or self.options.scope is None):
                    raise vanished()  # after changes: a folder that is gone itself is no change to carry out
                await self._in_thread(self.mounts.guard_bucket)
                await self._empty_folder(again)
                return
            look = again
        assert look.first is not None
        rest = look.rest if self.folder.scan is scan_apart else read_ahead(look.rest)
        await self._mirror(chain(look.before, [look.first], rest))

    async def _empty_folder(self, look: Look) -> None:
        """The folder is known to hold no file that the mirror is about."""
        if not self.may_delete_bucket and self.options.delete and await self._is_all_empty():
            raise FatalError(
                "BucketDeleteRefused",
                "the folder holds no file, and BUCKET_DELETE=refuse forbids to delete the bucket",
            )
        if not self.may_skip and (skipped := failing(_reasons(look.before))):
            raise FatalError(
                "FilesSkipped",
                f"the folder holds nothing but what is skipped ({reasons(skipped)}): nothing was deleted,"
                " because FAIL_ON_SKIPPED=1",
            )
        is_whole = not (self.options.is_partial or self.options.only_verifies)
        self.ending = Ending(source_exists=look.exists, emptied=is_whole)
        if not is_whole:
            if not look.exists:
                self.folder.believe_missing()
            await self._mirror(iter(look.before), may_create=False)
            return
        for item in look.before:
            self.progress.found(1, 0)
            self.progress.skipped(item.key, item.reason if isinstance(item, Skip) else "skipped")
        self.progress.counts["scan_complete"] = True
        if not await self._may_delete_bucket():
            return
        self.progress.phase(Phase.DELETING_BUCKET, "the folder holds no file: deleting the bucket")
        self.control.check()
        plan = self.plan
        removal = BucketRemoval(self.remover, plan.names) if plan else BucketRemoval(self.remover)
        try:
            deleted = await removal.run()
        except Unplanned:
            self._may = None
            if await self._may_delete_bucket():
                raise
            return
        self.ending = self.ending._replace(bucket_deleted=deleted)
        self.index.clear()

    async def _is_all_empty(self) -> bool:
        """Whether the mirror as a whole has no file, where this job is about some folders of it."""
        whole = self.options.without_scope()
        if whole is self.options:
            return True
        source = Source(self.tree, self.source, self.halted_in_thread, path_filter=whole.path_filter())
        look: Look = await self._in_thread(source.look)
        return look.first is None

    # -- the mirror
    async def _mirror(self, items: Iterator[ScanItem], *, may_create: bool = True) -> None:
        self.events: asyncio.Queue[list[Event] | None] = asyncio.Queue(maxsize=4)
        if self.options.only_verifies:
            await self._only_verify()
            return
        if not await self._open_bucket(may_create=may_create):
            self.progress.counts["scan_complete"] = True
            return
        planner = self._planner(self.obstacles.note, self.obstacles.note_kept)
        try:
            await self._planned(planner, items, self._send_all)
            self._raise_if_halted()
            await self._judge_renamed()
            sweep = Sweep(
                self.folder, planner.deletes, self.remover, self.changes, self._in_thread, self._keeps()
            )
            sweep.held_folders = self.held_folders
            await self._second_chance(sweep, planner)
            self._raise_if_halted()
            await self._finish(sweep, planner)
            await self._look_again(planner.cuts)
            if self.question is None:
                await self._verify()
                await self._in_thread(self.mounts.forget_harmless)
        finally:
            planner.deletes.close()

    def _planner(
        self,
        on_stranger: Callable[[str], None],
        on_kept: Callable[[str], None],
        *,
        every: bool = False,
        verifying: bool = False,
    ) -> Planner:
        return Planner(
            self.index,
            self._fetch,
            self._fetch_range,
            self.spool_dir,
            self._emit,
            on_stranger,
            self._keeps() if self.options.is_partial else None,
            KEY_MAX_BYTES - len(self.options.prefix.encode()),
            on_kept,
            every=every,
            outdated=None if every or verifying else Outdated.of(self.index, self.options.object_headers()),
            whole=self.options.scope is None,
        )

    def _keeps(self) -> Callable[[str], bool]:
        """Of the key of an object that has no file: whether it stays."""
        if not self.options.delete or self.path_filter is None:
            return lambda _: not self.options.delete
        # Of its own: the scan may ask its filter from another thread.
        own = self.options.path_filter()
        assert own is not None
        return own.skips

    async def _planned(
        self, planner: Planner, items: Iterator[ScanItem], take: Callable[[], Awaitable[None]]
    ) -> None:
        """Plans, and has `take` do what comes of it, until both have come to their ends, or a halt has
        emptied the queues."""
        thread = threading.Thread(target=planner.run, args=(items,), name="planner", daemon=True)
        thread.start()
        try:
            await take()
        except Exception as error:
            self._halt(error)
            while thread.is_alive():  # it reads the index, and may wait for a place in the queue
                while not self.events.empty():
                    self.events.get_nowait()
                await asyncio.sleep(0.01)
            raise
        await self._in_thread(thread.join)

    async def _send_all(self) -> None:
        gate, counts = self.bucket.client.gate, self.progress.counts
        self.lanes = Lanes(
            one=self.wait_seconds > 0,
            do_read=self._read,
            do_one=self._settle,
            do_large=lambda result: self._send(result.work, result.file, result),
            halt=self._halt,
            halted=self.halted,
            sent=lambda: int(counts["files_uploaded"]),
            is_throttled=lambda: gate.limit < gate.most,
        )
        await self._dispatch()
        await self.lanes.finish()

    def _emit(self, batch: list[Event] | None) -> None:
        """Called by the planner's thread: waits while the loop is behind."""
        asyncio.run_coroutine_threadsafe(self.events.put(batch), self.loop).result()

    def _fetch(self, token: str | None) -> Future[Page]:
        """Called by the planner's thread: asks for a page; the first is here already."""
        if token is None and (first := self._take_first_page()) is not None:
            ready: Future[Page] = Future()
            ready.set_result(first)
            return ready
        return asyncio.run_coroutine_threadsafe(self._page(token), self.loop)

    def _fetch_range(self, low: str | None, high: str | None) -> Future[list[Page]]:
        """Called by the planner's thread: asks for the pages of a range."""
        first = self._take_first_page() if low is None else None
        pages = self.bucket.list_range(low, high, RANGE_PAGES, first)
        return asyncio.run_coroutine_threadsafe(pages, self.loop)

    def _take_first_page(self) -> Page | None:
        """Once: who lists the bucket later on wants to see it as it is then."""
        page, self._first_page = self._first_page, None
        return page

    async def _page(self, token: str | None) -> Page:
        """Of the listing that this job needs: of a few folders what lies below them, where that is less."""
        if not self._folders:
            return await self.bucket.list_page(token)
        return await page_of_folders(
            lambda own, below: self.bucket.list_page(own, below=below), self._folders, token
        )

    def _folders_to_list(self) -> tuple[str, ...]:
        """The prefixes to list by; none where the whole mirror has no more pages than these."""
        scope = self.options.scope
        if not scope or "" in scope:
            return ()
        most = (len(scope) - 1) * PAGE_KEYS
        known = count_objects(self.index.path, most + 1)
        return () if known and known <= most else prefixes_of(scope)  # none: the index is lost

    async def _open_bucket(self, *, may_create: bool) -> bool:
        """The first page; makes the bucket when it is missing. False: it is missing, and shall stay so."""
        try:
            page = await self._page(None)
            missing = not page.entries and not page.truncated and not await self.bucket.exists()
        except FatalError as error:
            if error.code != "NoSuchBucket":
                raise
            page, missing = Page([], None, False), True
        if missing and not may_create:
            return False
        if missing and self.draft is not None:
            self.index.clear()
            self._first_page, self._makes_bucket = page, True
            return True
        if missing:
            self.control.check()
            started = time.monotonic()
            if not await self.bucket.create():
                page = await self._page(None)  # what said that it is missing lagged behind
            self.index.clear()
            self.progress.report("create_bucket", self.bucket.name, None, None, time.monotonic() - started)
        self._first_page = page
        return True

    def halted(self) -> bool:
        return (self.fatal is not None and not is_settling()) or self.control.stopping()

    def _raise_if_halted(self) -> None:
        self.control.check()
        if self.fatal is not None:
            raise self.fatal

    def _raise_if_stopped(self) -> None:
        """Stopped: told to, or something else has ended the job."""
        self.control.check()
        if self.fatal is not None:
            raise Stopped("the job has failed")

    async def turn(self) -> None:
        """Awaited before each operation: the time that `wait` asks for, then the end of a pause. A stop ends
        both at once."""
        if self.wait_seconds:
            await self._rest()
        if self.pause.on:
            await self.pause.wait()
        if self.halted():
            self._raise_if_halted()

    async def _rest(self) -> None:
        self._raise_if_halted()
        if self.progress.ended_at is not None:
            until = self.progress.ended_at + self.wait_seconds
            self.progress.say(f"waiting {self.wait_seconds:g} s before the next operation")
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, 0.05))
                self._raise_if_halted()

    async def _dispatch(self) -> None:
        """Hands what the planner finds to the lanes, until it ends. After a halt it only listens."""
        group: list[Work] = []
        size = 0
        while (batch := await self.events.get()) is not None:
            for name, value in batch:
                if name == "work":
                    if self.halted():
                        continue
                    if self.draft is not None and value.decision.verdict is Verdict.UPLOAD:
                        self._plan_upload(value, value.file)
                        continue
                    if value.object is None and self.obstacles.below(value.file.key):
                        self.held_back.append(value)
                        continue
                    if not etag.is_single(value.file.size):
                        await self.lanes.put([value])  # by itself: hashing it holds up no other
                        continue
                    group.append(value)
                    size += value.file.size
                    if len(group) >= (1 if self.wait_seconds else GROUP_FILES) or size >= GROUP_BYTES:
                        await self.lanes.put(group)
                        group, size = [], 0
                else:
                    try:
                        self._note(name, value)
                    except OSError as error:
                        self._halt(error)  # of the report's disk; the lanes come to their ends all the same
            if group:
                await self.lanes.put(group)
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
                if value.code == "NameNotUTF8" and len(self.held_folders) < _HELD_FOLDERS:
                    self.badly_named += 1
                    self.held_folders.add(value.key[: value.key.rstrip("/").rfind("/") + 1])
                else:
                    self.incomplete = True
                progress.failed("upload", value.key, FileError(value.code, value.message))
            case "renamed":
                self.renamed.append(value)
            case "complete":
                progress.counts["scan_complete"] = True
            case _:
                self._halt(value)

    async def _read(self, group: list[Work]) -> list[Read]:
        """What reading the files has shown; fewer after a halt."""
        # In the loop only where no call can wait for a server: the status has to stay fresh.
        is_local, md5 = self.tree.is_local, self.sender.etags_are_md5
        results, slow = [], []
        await self.pause.wait()
        for work in group:
            if self.halted():
                return []
            if work.decision.verdict is Verdict.UPLOAD and not etag.is_single(work.file.size):
                results.append(Read(work, Outcome.LARGE, work.file))
            elif work.decision.verdict is Verdict.UPDATE:
                results.append(Read(work, Outcome.UPDATE, work.file))
            elif is_local and (result := read_cached(self.tree, work, md5)) is not None:
                results.append(result)
            else:
                slow.append(work)
        if slow:
            shares = [slow[i::_READERS] for i in range(min(_READERS, len(slow)))]
            for more in await asyncio.gather(*(self._in_thread(self._read_group, s) for s in shares)):
                results += more
        return results

    def _read_group(self, group: list[Work]) -> list[Read]:
        md5 = self.sender.etags_are_md5
        results = []
        for work in group:
            if self.halted_in_thread():
                break
            try:
                results.append(read(self.tree, work, md5, self.halted_in_thread))
            except InterruptedError:
                break
        return results

    def _halt(self, error: Exception) -> None:
        """The job ends with this error, the first of them; a stop has its own flag."""
        if not isinstance(error, Stopped) and not (isinstance(error, RetryError) and self.control.stopping()):
            self.fatal = self.fatal or error

    async def _settle(self, result: Read, *, again: bool = False) -> None:
        """Carries out what reading has shown. Only what ends the job is raised. `again`: the file was read
        once more after a pause."""
        work, file = result.work, result.file
        if file.size > work.file.size:
            self.progress.grown(work.file.size, file.size)
        if result.outcome is Outcome.SAME:
            if self._is_outdated(result):
                await self._update(work._replace(file=file, row=same_row(result)), work.file.size)
            else:
                self._same(result)
        elif result.outcome is Outcome.UPDATE:
            await self._update(work, file.size)
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
                await self.lanes.put_large(result)
        elif not again and (self.wait_seconds or self.pause.outdates(result.checked_ns)):
            # The wait comes before each operation: what is sent after it is what the file is by then.
            await self.turn()
            for now in await self._read([_largest(work, file)]):
                await self._settle(now, again=True)
        else:
            await self._send(work, file, result)

    def _same(self, result: Read) -> None:
        self.progress.unchanged(1, max(result.file.size, result.work.file.size))
        self.index.remember(same_row(result))
        obj, row = result.work.object, result.work.row
        if row is None or obj is None or not same_object(row, obj):
            self.index.give(result.file.key, UNKNOWN)

    def _is_outdated(self, result: Read) -> bool:
        """Whether a file was touched whose object, as we sent it, is to be given other headers."""
        obj, row = result.work.object, result.work.row
        if row is None or obj is None or result.changes or not same_object(row, obj):
            return False
        return self.headers.differs(row.key, self.index.given(row.key))

    async def _known_by_metadata(self, result: Read) -> bool:
        try:
            return await self.sender.is_known(result.work, result.file, result.md5)
        except (FileError, RetryError):
            self._raise_if_stopped()
            return False  # it is not allowed, or the answer is an error for ever: the upload tells

    async def _send(self, work: Work, file: FileEntry, result: Read) -> None:
        """One upload, counted and remembered. Raises what ends the job."""
        if self.draft is not None:
            self._plan_upload(result.work, file)
            return
        if self.wait_seconds:
            await self.turn()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("upload", file.key, file.size)
        try:
            sent = await self._give(result, operation)
            self._given(result, sent)
        except Vanished:
            self.progress.skipped(file.key, "vanished", max(file.size, work.file.size))
            return
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):  # perhaps not tried again because of a stop
                self._raise_if_stopped()
            error.let_go()
            self._refuse(_largest(work, file), error)
            return
        finally:
            self.progress.end(operation)
        # A file that has shrunk since the scan counts as it was counted then.
        counted = _largest(work, file).file.size
        if sent.file.size > counted:
            self.progress.grown(counted, sent.file.size)
            counted = sent.file.size
        self.progress.uploaded(sent, counted, time.monotonic() - operation.started)

    async def _update(self, work: Work, counted: int) -> None:
        """Has the store give an object what is asked now. Where it cannot, the file is sent again. `counted`:
        the file's bytes in the total."""
        if self.draft is not None:
            self.draft.note("update", work.file.key, work.object, Reason.HEADERS.value)
            self.progress.planned("update")
            return
        await self.turn()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("update", work.file.key, work.file.size)
        try:
            row = await self.updater.update(work)
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):
                self._raise_if_stopped()
            error.let_go()
            self._fail(work.file, error)
            return
        finally:
            self.progress.end(operation)
        if row is None:
            await self._do_now(work._replace(decision=AGAIN))
            return
        self._remember_sent(row, self.headers.given_after(row.key, self.index.given(row.key)))
        seconds = time.monotonic() - operation.started
        self.progress.updated(work.file, row.etag, max(counted, row.size), seconds)

    def _remember_sent(self, row: Row, given: str) -> None:
        self.index.remember(row)
        if given or self.index.knows_given:
            self.index.give(row.key, given)
        self.changes.sent(row)

    def _give(self, result: Read, operation: Operation) -> Awaitable[Sent]:
        """To the store; what it then has is for `_given`. No coroutine of its own: each costs every file."""
        if result.outcome is Outcome.BODY:
            return self.sender.small(result, operation)
        return self.sender.large(result.file, result.md5, operation)

    def _given(self, result: Read, sent: Sent) -> Row:
        """What the store has now is remembered."""
        if result.outcome is Outcome.BODY:  # parts are counted one by one
            self.progress.sent(sent.file.size)
        row = row_of(sent)
        self._remember_sent(row, self.headers.given(row.key) if self.headers.any else "")
        return row

    def _refuse(self, work: Work, error: SyncError) -> None:
        """An upload failed. If the store refused it, something may stand in its way that is to be deleted."""
        blocked = self.obstacles.may_block(work.file.key) and error.code not in _NOT_REFUSED
        if blocked and len(self.refused) < _REFUSED:
            self.refused.append((work, error))
        else:
            self._fail(work.file, error)

    def _fail(self, file: FileEntry, error: SyncError) -> None:
        self.progress.failed("upload", file.key, error, file.size)

    # -- a store that renames keys
    async def _judge_renamed(self) -> None:
        """The bucket lists an object that nobody sent with the content of a file that is missing: does the
        store know it under the file's key as well? Then it has renamed it; else somebody moved it."""
        for work in self.renamed:
            self.control.check()
            try:
                head = await self.bucket.head(work.file.key)
            except (FileError, RetryError) as error:
                self._raise_if_stopped()
                self._fail(work.file, error)
                continue
            if head is not None and head.size == work.file.size:
                changed = (
                    "the storage keeps this object under another name than it was given: rename the file"
                )
                self._fail(work.file, FileError("KeyChangedByStore", changed))
            else:
                await self._do_now(work)

    # -- a store that cannot hold x beside x/y
    async def _second_chance(self, sweep: Sweep, planner: Planner) -> None:
        """Deletes what is gone at the source and stands in the way of refused uploads, if they are all that
        has failed; then tries again."""
        for work in self.held_back:
            if await self._hides_kept(work.file.key):
                kept = "the storage has a folder under this name, with objects that are not to be deleted"
                self._fail(work.file, FileError("KeyIsFolder", kept))
            elif await blocking_keys.cleans_paths(self.bucket, self.index, sweep.deletes, work.file.key):
                self._refuse(work, FileError("KeyIsFolder", "the storage has a folder under this name"))
            else:
                await self._do_now(work)
        refused, self.refused = self.refused, []
        removed = 0
        if refused and not self.progress.counts["files_failed"] and not self.incomplete and not self.halted():
            blocked = {work.file.key for work, _ in refused}
            await self._in_thread(self.mounts.guard, sweep.deletes)
            if not await self._may_delete(sweep.going, planner):
                return
            removed = await sweep.clear_the_way(blocking_keys.in_the_way(sweep.deletes, blocked), self.index)
        for work, error in refused:
            if removed:
                await self._do_now(work._replace(object=None, row=None, decision=NEW))
            else:
                self._fail(work.file, error)
        for work, error in self.refused:
            self._fail(work.file, error)

    async def _hides_kept(self, key: str) -> bool:
        """Whether an upload to this key would hide objects that stay: see `obstacles.cleans_paths`."""
        kept = self.obstacles.kept_below(key)
        if kept is None:
            return False
        head = await self.bucket.head(kept)
        below = [(kept, head.size, head.etag, "")] if head is not None else []
        return await blocking_keys.cleans_paths(self.bucket, self.index, below, key)

    async def _do_now(self, work: Work) -> None:
        for result in await self._read([work]):
            if result.outcome is Outcome.LARGE:
                await self._send(result.work, result.file, result)
            else:
                await self._settle(result)

    # -- the end
    async def _finish(self, sweep: Sweep, planner: Planner) -> None:
        counts = self.progress.counts
        if counts["files_failed"] > self.badly_named or self.incomplete:
            raise FatalError(
                "FilesFailed",
                f"{counts['files_failed']} of {counts['files_total']} files failed; nothing was deleted: mend"
                " what the errors say, and resume the job",
            )
        await self._in_thread(self.folder.check_there)
        await self._in_thread(self.mounts.guard, sweep.deletes)
        may_delete = await self._may_delete(sweep.going, planner)
        failures = await sweep.delete_all(self.index) if sweep.deletes.count and may_delete else 0
        self.ending = self.ending._replace(kept=int(counts["objects_kept"]))
        if may_delete:
            await self.sender.abandon_all()
        if failures:
            raise FatalError("FilesFailed", f"{failures} objects could not be deleted: resume the job")
        if self.badly_named:
            raise FatalError(
                "FilesFailed",
                f"{self.badly_named} of {counts['files_total']} files failed, as their names are not UTF-8;"
                f" {counts['objects_kept']} objects in their folders were kept: rename them, and sync again",
            )

    # -- plans
    async def _may_delete(self, going: Going, planner: Planner | None) -> bool:
        """Whether what is `going` may go (may_delete.py), decided once, before the first of it goes. Where it
        may not, the plan names it. `planner`: None when the whole bucket is to go."""
        if not self.rules.ask:
            return True
        if self._may is None:
            count = others = 0
            if self.plan is not None or not self.rules.is_plan:
                async for chunk in going():
                    count += len(chunk)
                    others += await self._in_thread(self.plan.others, chunk) if self.plan else 0
            bucket = planner is None and self.plan is not None and not self.plan.deletes_bucket
            listed = count if planner is None else planner.listed + planner.deletes.count
            if self.options.scope is not None:  # not all of the mirror was listed
                listed = count_objects(self.index.path, _ALL) or 0
            question = self.rules.question(count, listed, others, bucket=bucket, empties=planner is None)
            self._may = question is None
            if question is not None:
                self.question = question
                await self._plan_deletions(going, planner)
        return self._may

    async def _plan_deletions(self, going: Going, planner: Planner | None) -> None:
        self.draft = self.draft or Draft(self.options.prefix)
        async for chunk in going():
            await self._in_thread(self.draft.delete, chunk)
            for _ in chunk:
                self.progress.planned("delete")
        if planner is None:
            self.draft.delete_bucket(self.bucket.name)

    async def _may_delete_bucket(self) -> bool:
        if not self.rules.ask:
            return True
        if not await self._open_bucket(may_create=False):
            return False  # there is none: nothing to delete, and nothing to ask
        return await self._may_delete(self._all_objects, None)

    async def _all_objects(self) -> AsyncIterator[list[ObjectEntry]]:
        """All of the bucket."""
        self._take_first_page()
        pages = Listing(self._fetch).pages()
        while (page := await self._in_thread(next, pages, None)) is not None:
            self.control.check()
            yield page

    def _plan_upload(self, work: Work, file: FileEntry) -> None:
        assert self.draft is not None
        reason = work.decision.reason or Reason.CONTENT
        self.draft.note("upload", file.key, work.object, reason.value)
        self.progress.planned("upload", file.size)

    async def _write_plan(self) -> None:
        """What the job waits with; nothing where there is nothing to do, or nothing to ask."""
        draft, question = self.draft, self.question
        if draft is None or not draft.lines:
            return
        written = await self._in_thread(draft.write, self.plan_path)
        code, message = question or Question()
        if not message:
            message = plan_message(
                self.progress.counts,
                self.bucket.name,
                makes_bucket=self._makes_bucket,
                deletes_bucket=draft.deletes_bucket,
            )
        self.ending = self.ending._replace(planned=Planned(written.etag, written.lines, code, message))

    async def _only_verify(self) -> None:
        """`plan` and `verify`: nothing is planned."""
        if not await self._open_bucket(may_create=False):
            raise FatalError("VerifyFailed", f"there is no bucket {self.bucket.name} to verify")
        self.progress.counts["scan_complete"] = True
        await self._verify()

    async def _look_again(self, cuts: list[str]) -> None:
        """What was written and deleted, is it so? A run that changed nothing has seen it already."""
        if not self.changes.count:
            return
        self.progress.phase(Phase.VERIFYING, "looking at the bucket once more")
        self.index.flush()
        recheck = Recheck(
            self.index,
            self.folder,
            self.remover,
            self.changes,
            self.spool_dir,
            self._send_again,
            self._in_thread,
            self.plan.names if self.plan else lambda _: True,
        )
        files = int(self.progress.counts["files_total"])
        bucket = Listable(self._fetch, self._fetch_range, cuts, files)
        spool, check, concerns = lambda: Spool(self.spool_dir), self._raise_if_halted, self._concerns()
        await recheck.run(
            lambda found: collect(found, self.index, self.changes, bucket, spool, check, concerns)
        )
        self.ending = self.ending._replace(came=recheck.left)

    async def _verify(self) -> None:
        """With `verify`: is the mirror what the folder is?"""
        if not self.options.verify:
            return
        deep = self.options.verify == DEEP
        self.progress.phase(Phase.VERIFYING, "verifying")
        self.progress.say("verifying: reading back each object" if deep else "verifying")
        self.progress.reads_back = deep
        self.index.flush()
        verification = Verification(
            self.sender,
            self.folder,
            deep=deep,
            started_ns=self.started_ns,
            one_by_one=self.wait_seconds > 0,
            alone=bool(self.options.plan),
        )
        self.events, self._first_page = asyncio.Queue(maxsize=4), None
        planner = self._planner(lambda _: None, lambda _: None, every=deep, verifying=True)
        try:
            items = await self._in_thread(self.folder.scan_again)
            await self._planned(planner, items, lambda: verification.take(self.events))
            self._raise_if_halted()
            await verification.take_extras(planner.deletes)
        finally:
            planner.deletes.close()
        self.ending = self.ending._replace(verified=verification.finish())

    def _concerns(self) -> Callable[[Difference], bool]:
        """Whether a difference is one of the mirror: of a file that it is about, or an object that may go."""
        path_filter, may_delete = self.options.path_filter(), self.options.delete and self.question is None

        def concerns(found: Difference) -> bool:
            if found.row is None and not may_delete:
                return False
            return path_filter is None or not path_filter.skips(found.key)

        return concerns

    async def _send_again(self, file: FileEntry, found: Difference) -> Row | None:
        """Sends a file that is counted already as it is now, unless the bucket has that; None: it is gone."""
        decision = compare(file, found.listed, found.row)
        for result in await self._read([Work(file, found.listed, found.row, decision)]):
            if result.error is not None:
                raise result.error
            if result.outcome is Outcome.SAME:  # a store that answers with another ETag than it lists
                row = same_row(result)
                self.index.remember(row)
                return row
            if result.outcome is not Outcome.VANISHED:
                return await self._give_again(result, found)
        self._raise_if_halted()
        return None

    async def _give_again(self, result: Read, found: Difference) -> Row | None:
        await self.turn()
        file = result.file
        operation = self.progress.begin("upload", file.key, file.size)
        try:
            sent = await self._give(result, operation)
            row = self._given(result, sent)
        except Vanished:
            return None
        finally:
            self.progress.end(operation)
        what = "missing" if found.listed is None else "other"
        seconds = time.monotonic() - operation.started
        self.progress.seen(file.key, sent.file.size, sent.etag, what, seconds)
        return row

    async def _in_thread(self, function: Any, *values: Any) -> Any:
        if self.pause.on:
            await self.pause.wait()
        return await self.loop.run_in_executor(self.pool, function, *values)
