"""Runs one sync, from the scan to the last check: compares, sends and deletes, in the order below.

```
thread   scan ─┐
               ├─ join ─ compare ─┐ batches, at most a few ahead (planning.py)
thread   list ─┘                  ▼ dispatch.py; `list` asks the loop for pages (pages.py)
loop                        groups of small files ─ read (pool) ─ PUT      32 to 128 lanes ┐ sending.py
                            large files ─ hash (pool) ─ parts              4 lanes         ┘
loop     retry what the store renamed or refused (second_chance.py)
loop     may objects be deleted? (plans.py) If all of the above succeeded: deletions (delete_last.py)
loop     check again what was written and deleted; with `verify`, the whole bucket (second_look.py)
```
Invariants
- Nothing is deleted unless the listing was complete, the scan was complete, and no file failed. (A file whose
  name is not UTF-8 only protects the objects in its folder.) The bucket is deleted only if the folder is
  known, after two scans, to hold no file.
- After a fatal error or a stop, no operation begins; those in flight finish.
- Memory is bounded: it holds batches and bytes in flight, but never the tree. Spools are on disk.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from syncworker.ending import Ending, failing, reasons
from syncworker.errors import FatalError, Stopped
from syncworker.folder.scan import read_ahead, scan
from syncworker.folder.scan_process import WORTH_FILES, scan_apart
from syncworker.folder.source import ScanStart, Source, refuse_unknown, vanished
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.index.rows import count_objects
from syncworker.jobs.progress import Progress
from syncworker.model import Phase, ScanItem, Skip
from syncworker.plan.differences import Changes
from syncworker.plan.planner import WAITED, Planner
from syncworker.s3.bucket import Bucket
from syncworker.system.stop_token import StopToken
from syncworker.transfer.attempt import Attempt, Order
from syncworker.transfer.delete_last import Sweep
from syncworker.transfer.delete_objects import Remover
from syncworker.transfer.lane_count import DISK_READERS, READERS
from syncworker.worker.accounts import Accounts
from syncworker.worker.dispatch import Dispatch, Elsewhere
from syncworker.worker.mount_check import MountCheck
from syncworker.worker.pages import Pages
from syncworker.worker.planning import Planning
from syncworker.worker.plans import Plans
from syncworker.worker.second_chance import SecondChance
from syncworker.worker.second_look import SecondLook
from syncworker.worker.sending import Sending

# Per file. Scanning in this process costs planning some 4 µs; a fast store near by lets it wait for 1.
_LONG_WAIT_US = 12


async def sync(
    order: Order,
    bucket: Bucket,
    index: Index,
    mounts: MountCheck,
    progress: Progress,
    stop: StopToken,
    elsewhere: Elsewhere | None = None,
) -> Ending:
    """Makes the bucket equal the folder; raises an error if it cannot."""
    changes = Changes(order.spool_dir)
    with (
        Tree(order.uploads_dir) as tree,
        ThreadPoolExecutor(READERS, "reader") as pool,
        ThreadPoolExecutor(DISK_READERS, "disk") as disk,
    ):
        attempt = Attempt(
            order=order,
            bucket=bucket,
            index=index,
            progress=progress,
            stop=stop,
            tree=tree,
            pool=pool,
            disk=disk,
            changes=changes,
        )
        return await Sync(attempt, mounts, elsewhere).run()


def _best_scan(index: Index, tree: Tree) -> Callable[..., Iterator[ScanItem]]:
    """Returns the scan to use: on another core if the folder was large at an earlier sync, and planning did
    not spend its time on waiting for the listing."""
    is_large = count_objects(index.path, WORTH_FILES) == WORTH_FILES
    helps = is_large and tree.is_local and len(os.sched_getaffinity(0)) > 1 and not _has_waited(index)
    return scan_apart if helps else scan


def _has_waited(index: Index) -> bool:
    waited = index.fact(WAITED) or ""
    return waited.isdecimal() and int(waited) >= _LONG_WAIT_US


class Sync:
    """Runs the phases of one attempt in order."""

    def __init__(self, attempt: Attempt, mounts: MountCheck, elsewhere: Elsewhere | None) -> None:
        order, stop = attempt.order, attempt.stop
        self.attempt, self.mounts, self.order, self.options = attempt, mounts, order, order.options
        self.index, self.progress, self.stop = attempt.index, attempt.progress, stop
        self.ending = Ending()
        self.pages = Pages(attempt)
        self.plans = Plans(attempt, self.pages)
        self.planning = Planning(attempt, self.pages)
        self.folder = Source(
            attempt.tree,
            order.source,
            attempt.pause.blocking(stop.requested),
            _best_scan(attempt.index, attempt.tree),
            order.options.path_filter(),
            mounts.note,
        )
        headers = order.options.object_headers()
        self.accounts = Accounts(attempt, self.plans, headers)
        self.sending = Sending(attempt, self.accounts, headers)
        self.dispatch = Dispatch(attempt, self.sending, self.accounts, self.plans, self.planning, elsewhere)
        self.second_chance = SecondChance(
            attempt, self.sending, self.accounts, self.dispatch, self.plans, mounts
        )
        self.remover = Remover(attempt, one_by_one=order.wait_seconds > 0)
        self.second_look = SecondLook(
            attempt, self.sending, self.accounts, self.plans, self.folder, self.remover
        )

    async def run(self) -> Ending:
        """Returns when the bucket equals the folder, and raises otherwise."""
        attempt = self.attempt
        self.progress.phase(Phase.COMPARING, "comparing")
        try:
            await self.plans.open()
            await attempt.in_thread(self.mounts.begin, attempt.tree)
            await self.pages.choose()
            look = await self._begin_scan()
            if look.first is not None:
                rest = look.rest if self.folder.scan is scan_apart else read_ahead(look.rest)
                await self._mirror(chain(look.before, [look.first], rest))
            elif not self._is_whole:
                await self._mirror(iter(look.before), may_create=False)
            else:
                await self._delete_bucket(look)
            self.stop.control.check()  # a stop may have come with the last operation
            return self.ending._replace(planned=await self.plans.write())
        except Stopped:
            self.stop.raise_if_requested()  # a request was given up because of a fatal error: raise that
            raise
        finally:
            attempt.changes.close()
            self.plans.close()

    async def _begin_scan(self) -> ScanStart:
        """Begins the scan. Scans a folder without a file twice, and may refuse it."""
        look: ScanStart = await self.attempt.in_thread(self.folder.start_scan)
        if look.first is None:
            refuse_unknown(look.before)
            existed = look.exists
            look = await self.attempt.in_thread(self.folder.start_scan)
            if look.first is None:
                refuse_unknown(look.before)
                if look.exists != existed or not (existed or self.options.scope is None):
                    raise vanished()  # a job started by changes does not act on a missing folder
                await self.attempt.in_thread(self.mounts.guard_bucket)
                await self._allow_empty(look)
        return look

    @property
    def _is_whole(self) -> bool:
        """Whether the bucket is deleted if the folder holds no file."""
        return not (self.options.is_partial or self.options.only_verifies)

    async def _allow_empty(self, look: ScanStart) -> None:
        """Raises if a folder without a file may not be mirrored."""
        if not self.order.may_delete_bucket and self.options.delete and await self._is_all_empty():
            if self._is_whole:
                raise FatalError(
                    "BucketDeleteRefused",
                    "the folder holds no file, and BUCKET_DELETE=refuse forbids deleting the bucket",
                )
            raise FatalError(
                "BucketDeleteRefused",
                "the folder holds no file of this mirror, and BUCKET_DELETE=refuse forbids emptying it",
            )
        skipped = failing(Counter(item.reason for item in look.before if isinstance(item, Skip)))
        if skipped and not self.order.may_skip:
            raise FatalError(
                "FilesSkipped",
                f"every file in the folder is skipped ({reasons(skipped)}): nothing was deleted,"
                " because FAIL_ON_SKIPPED=1",
            )
        self.ending = Ending(source_exists=look.exists, emptied=self._is_whole)
        if not self._is_whole and not look.exists:
            self.folder.believe_missing()

    async def _is_all_empty(self) -> bool:
        """Returns whether the whole mirror has no file, even if this job covers only some of its folders."""
        whole, attempt = self.options.without_scope(), self.attempt
        if whole is self.options:
            return True
        may_not_go_on = attempt.pause.blocking(self.stop.requested)
        source = Source(attempt.tree, self.order.source, may_not_go_on, path_filter=whole.path_filter())
        look: ScanStart = await attempt.in_thread(source.start_scan)
        return look.first is None

    async def _delete_bucket(self, look: ScanStart) -> None:
        from syncworker.transfer.delete_bucket import BucketRemoval, Unplanned  # an import slows each start

        for item in look.before:
            self.progress.found(1, 0)
            self.progress.skipped(item.key, item.reason if isinstance(item, Skip) else "skipped")
        self.progress.counts["scan_complete"] = True
        if not await self.plans.may_delete_bucket():
            return
        self.progress.phase(Phase.DELETING_BUCKET, "the folder holds no file: deleting the bucket")
        self.stop.control.check()
        plan = self.plans.plan
        removal = BucketRemoval(self.remover, plan.names) if plan else BucketRemoval(self.remover)
        try:
            deleted = await removal.run()
        except Unplanned:
            self.plans.undecide()
            if await self.plans.may_delete_bucket():
                raise
            return
        self.ending = self.ending._replace(bucket_deleted=deleted)
        self.index.clear()

    async def _mirror(self, items: Iterator[ScanItem], *, may_create: bool = True) -> None:
        if self.options.only_verifies:
            await self._only_verify()
            return
        if not await self.pages.open(may_create=may_create, is_plan=self.plans.draft is not None):
            self.progress.counts["scan_complete"] = True
            return
        attempt = self.attempt
        planner = self.planning.planner(attempt.obstacles)
        try:
            await self.planning.run(planner, items, self.dispatch.run)
            self.stop.raise_if_requested()
            await self.second_chance.resolve_renames()
            sweep = Sweep(attempt, self.folder, planner.deletes, self.remover, self.planning.kept())
            sweep.held_folders = self.dispatch.held_folders
            await self.second_chance.clear_blocking_keys(sweep, planner)
            self.stop.raise_if_requested()
            await self._finish(sweep, planner)
            self.ending = await self.second_look.recheck(self.ending, planner.cuts)
            if self.plans.question is None:
                self.ending = await self.second_look.verify(self.ending)
                await attempt.in_thread(self.mounts.forget_harmless)
        finally:
            planner.deletes.close()

    async def _finish(self, sweep: Sweep, planner: Planner) -> None:
        """Deletes the objects without a file, if nothing failed."""
        counts, badly_named = self.progress.counts, self.dispatch.badly_named
        if counts["files_failed"] > badly_named or self.dispatch.incomplete:
            raise FatalError(
                "FilesFailed",
                f"{counts['files_failed']} of {counts['files_total']} files failed; nothing was deleted: fix"
                " the causes that the errors name, and resume the job",
            )
        await self.attempt.in_thread(self.folder.check_there)
        await self.attempt.in_thread(self.mounts.guard, sweep.deletes)
        may_delete = await self.plans.may_delete(sweep.going, planner)
        failures = await sweep.delete_all() if sweep.deletes.count and may_delete else 0
        self.ending = self.ending._replace(kept=int(counts["objects_kept"]))
        if may_delete:
            await self.sending.part_sender.uploads.abandon_all()
        if failures:
            raise FatalError("FilesFailed", f"{failures} objects could not be deleted: resume the job")
        if badly_named:
            raise FatalError(
                "FilesFailed",
                f"{badly_named} of {counts['files_total']} files failed, as their names are not UTF-8;"
                f" {counts['objects_kept']} objects in their folders were kept: rename them, and sync again",
            )

    async def _only_verify(self) -> None:
        """Only verifies (`plan` with `verify`)."""
        if not await self.pages.open(may_create=False, is_plan=self.plans.draft is not None):
            raise FatalError("VerifyFailed", f"there is no bucket {self.attempt.bucket.name} to verify")
        self.progress.counts["scan_complete"] = True
        self.ending = await self.second_look.verify(self.ending)
