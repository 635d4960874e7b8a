"""Checks the bucket at the end of a sync: what was written and deleted; with `verify`, all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from syncworker.checks.recheck import Recheck
from syncworker.ending import Ending
from syncworker.folder.source import Source
from syncworker.index.records import Brief, IndexRow
from syncworker.index.rows import Rows
from syncworker.model import FileEntry, ObjectEntry, Phase, ScanItem
from syncworker.options.effective import DEEP
from syncworker.plan.compare import Candidate, compare
from syncworker.plan.differences import Difference, Listable, collect
from syncworker.plan.spool import Spool
from syncworker.s3.xml_messages import PAGE_KEYS
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.delete_objects import Remover
from syncworker.transfer.readers import Outcome, ReadResult
from syncworker.transfer.upload import Vanished
from syncworker.worker.accounts import Accounts, same_row
from syncworker.worker.planning import Planning
from syncworker.worker.plans import Plans
from syncworker.worker.sending import Sending


async def send_counted(sending: Sending, accounts: Accounts, result: ReadResult) -> IndexRow | None:
    """Sends a file that is already counted, and writes its index row. Returns None if the file is gone."""
    operation = sending.progress.begin("upload", result.file.key, result.file.size)
    try:
        return accounts.remember_sent(result, await sending.upload(result, operation))
    except Vanished:
        return None
    finally:
        sending.progress.end(operation)


def _without_files(rows: Rows[Brief], items: Iterable[ScanItem]) -> Iterator[str]:
    """Yields the keys of the rows that the scan does not find."""
    for item in items:
        if isinstance(item, FileEntry):
            while (key := rows.next_key()) is not None and key <= item.key:
                rows.next_row()
                if key < item.key:
                    yield key
    while (row := rows.next_row()) is not None:
        yield row.key


class SecondLook:
    """Lists the bucket at the end. `recheck` and `verify` return the ending with their findings."""

    def __init__(
        self,
        attempt: Attempt,
        sending: Sending,
        accounts: Accounts,
        plans: Plans,
        folder: Source,
        remover: Remover,
    ) -> None:
        self.attempt, self.sending, self.accounts = attempt, sending, accounts
        self.pages, self.plans = plans.pages, plans
        self.in_thread = attempt.in_thread
        self.folder, self.remover = folder, remover
        self.index, self.progress, self.stop = attempt.index, attempt.progress, attempt.stop

    async def recheck(self, ending: Ending, cuts: list[str]) -> Ending:
        """Checks that all writes and deletions took effect. Without changes, the first listing suffices,
        unless it was in doubt; then an object without a file is an error."""
        changes = self.attempt.changes
        if not changes.count and changes.doubt is None:
            return ending
        self.progress.phase(Phase.VERIFYING, "checking the bucket again")
        self.index.flush()
        recheck = Recheck(
            self,
            self.index,
            self.folder,
            self.remover,
            changes,
            self.attempt.order.spool_dir,
        )
        files = int(self.progress.counts["files_total"])
        bucket = Listable(self.pages.fetch, self.pages.fetch_range, cuts, files, self.pages.breadth)
        spool, check = lambda: Spool(self.attempt.order.spool_dir), self.stop.raise_if_requested
        concerns = self._concerns()
        if changes.doubt is not None:
            await self._forget_without_files(concerns)
        await recheck.run(lambda found: collect(found, self.index, changes, bucket, spool, check, concerns))
        if changes.doubt is not None and recheck.left:
            raise changes.doubt
        return ending._replace(came=recheck.left)

    async def _forget_without_files(self, concerns: Callable[[Difference], bool]) -> None:
        """Forgets the rows of the mirror that have no file any more, so that an object that the first listing
        did not name, or named otherwise, is found although it is as remembered."""
        rows = self.index.brief_rows()
        try:
            items = await self.in_thread(self.folder.scan_again)
            gone = (Difference(None, ObjectEntry(key, 0, "", "")) for key in _without_files(rows, items))
            chosen = filter(concerns, gone)
            while chunk := await self.in_thread(list, islice(chosen, PAGE_KEYS)):
                self.stop.raise_if_requested()
                there = await self.in_thread(self.folder.with_files, [found.key for found in chunk])
                self.index.forget(found.key for found in chunk if found.key not in there)
        finally:
            rows.close()
        self.index.flush()

    def _concerns(self) -> Callable[[Difference], bool]:
        """Returns a test for differences that concern the mirror: its files, and objects to be deleted."""
        options = self.attempt.options
        path_filter, may_delete = options.path_filter(), options.delete and self.plans.question is None

        def concerns(found: Difference) -> bool:
            if found.row is None and not may_delete:
                return False
            return path_filter is None or not path_filter.skips(found.key)

        return concerns

    def may_go(self, obj: ObjectEntry) -> bool:
        return self.plans.plan is None or self.plans.plan.names(obj)

    async def send_again(self, file: FileEntry, found: Difference) -> IndexRow | None:
        """Sends the present version of a file that is already counted, unless the bucket has it. Returns None
        if the file is gone."""
        decision = compare(file, found.listed, found.row)
        for result in await self.sending.read([Candidate(file, found.listed, found.row, decision)]):
            if result.error is not None:
                raise result.error
            if result.outcome is Outcome.SAME:  # a store that answers with another ETag than it lists
                row = same_row(result)
                self.index.remember(row)
                return row
            if result.outcome is not Outcome.VANISHED:
                return await self._give_again(result, found)
        self.stop.raise_if_requested()
        return None

    async def _give_again(self, result: ReadResult, found: Difference) -> IndexRow | None:
        await self.attempt.wait_interval()
        started = time.monotonic()
        row = await send_counted(self.sending, self.accounts, result)
        if row is not None:
            what = "missing" if found.listed is None else "other"
            self.progress.seen(row.key, row.size, row.etag, what, time.monotonic() - started)
        return row

    async def verify(self, ending: Ending) -> Ending:
        """With `verify`: checks that the mirror equals the folder."""
        if not self.attempt.options.verify:
            return ending
        from syncworker.checks.verification import Verification  # importing it slows each start

        deep = self.attempt.options.verify == DEEP
        self.progress.phase(Phase.VERIFYING, "verifying")
        self.progress.say("verifying: reading back each object" if deep else "verifying")
        self.progress.reads_back = deep
        self.index.flush()
        verification = Verification(
            self.sending.sender,
            self.folder,
            deep=deep,
            started_ns=self.attempt.started_ns,
            one_by_one=self.attempt.order.wait_seconds > 0,
            alone=bool(self.attempt.options.plan),
        )
        planning = Planning(self.attempt, self.pages)
        self.pages.take_first_page()
        planner = planning.planner(every=deep, verifying=True)
        try:
            items = await self.attempt.in_thread(self.folder.scan_again)
            await planning.run(planner, items, lambda: verification.take(planning.events))
            self.stop.raise_if_requested()
            await verification.take_extras(planner.deletes)
        finally:
            planner.deletes.close()
        return ending._replace(verified=verification.finish())
