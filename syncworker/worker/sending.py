"""Reads one file, compares it with the bucket's object, and sends it.

`Sending` writes no counters and no index: it passes the result of each file to its `Accounts`. Those of a job
are in accounts.py; those of a cluster's member send it to the job's process. So all processes treat a file
alike.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.index.records import IndexRow
from syncworker.jobs.progress import Operation, UploadResult
from syncworker.model import FileEntry, Phase
from syncworker.options.object_headers import ObjectHeaders
from syncworker.plan.compare import AGAIN, Candidate, Verdict
from syncworker.s3 import etag
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lane_count import LEAST, Turns
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.readers import Outcome, ReadResult, read_cached
from syncworker.transfer.update import Updater
from syncworker.transfer.upload import Sender, Vanished
from syncworker.transfer.upload_parts import PartSender
from syncworker.worker.accounts import largest, same_row

if TYPE_CHECKING:
    from syncworker.worker.disk_reads import DiskReads


class Accounts(Protocol):
    """Records the result of each file. `is_plan`: operations are only planned, not carried out."""

    is_plan: bool

    def plan_upload(self, work: Candidate, file: FileEntry) -> None: ...

    def plan_update(self, work: Candidate) -> None: ...

    def is_outdated(self, result: ReadResult) -> bool:
        """Returns whether an object with the file's content needs other headers."""
        ...

    def same(self, result: ReadResult) -> None:
        """Records that the bucket has the content."""
        ...

    def vanished(self, work: Candidate, file: FileEntry) -> None: ...

    def failed(self, file: FileEntry, error: SyncError) -> None: ...

    def refused(self, work: Candidate, error: SyncError) -> None:
        """Records a failed upload. If the store refused it, another object may block it."""
        ...

    def sent(self, result: ReadResult, sent: UploadResult, started: float) -> None:
        """Records an upload that began at `started` by the monotonic clock."""
        ...

    def updated(self, row: IndexRow, work: Candidate, counted: int, started: float) -> None: ...


class Sending:
    """Reads and sends files. Each lane handles one file after another."""

    def __init__(self, attempt: Attempt, accounts: Accounts, headers: ObjectHeaders) -> None:
        self.attempt, self.accounts = attempt, accounts
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.stop, self.pause = attempt.stop, attempt.pause
        self.wait_seconds = attempt.order.wait_seconds
        self.sender = Sender(attempt, headers)
        self.part_sender = PartSender(self.sender)
        self.updater = Updater(self.sender, self.part_sender)
        self.lanes: Lanes | None = None
        self.turns = Turns()

    def open_lanes(self, begin: int = LEAST) -> Lanes:
        self.lanes = Lanes(self, self.stop, one=self.wait_seconds > 0, begin=begin)
        return self.lanes

    def is_throttled(self) -> bool:
        throttle = self.bucket.client.throttle
        return throttle.limit < throttle.max_in_flight

    async def send_large(self, result: ReadResult) -> None:
        """Sends a large file, from a lane of its own. A cluster's member leaves it to the job's process."""
        await self.send(result)

    async def read(self, group: list[Candidate]) -> list[ReadResult]:
        """Reads the files and returns the results; fewer after a halt."""
        # Read in the event loop only if no call can wait for a server: the status must stay up to date.
        is_local, md5 = self.attempt.tree.is_local, self.sender.etags_are_md5
        results, slow = [], []
        await self.pause.wait()
        if self.stop.requested():
            return []
        for work in group:
            if work.decision.verdict is Verdict.UPLOAD and not etag.is_single(work.file.size):
                results.append(ReadResult(work, Outcome.LARGE, work.file))
            elif work.decision.verdict is Verdict.UPDATE:
                results.append(ReadResult(work, Outcome.UPDATE, work.file))
            elif is_local and (result := read_cached(self.attempt.tree, work, md5)) is not None:
                results.append(result)
            else:
                slow.append(work)
        if slow:
            results += await self.disk_reads.read(slow)
        return results

    @cached_property
    def disk_reads(self) -> DiskReads:
        from syncworker.worker.disk_reads import DiskReads  # a small job has its files in memory

        return DiskReads(self.attempt, self.sender)

    def handle_read(self, result: ReadResult, *, again: bool = False) -> Awaitable[None]:
        """Acts on the result of reading. Raises only errors that end the job. `again`: the file was read
        again after a pause. Not a coroutine, because a further one costs time for every file."""
        was, size = result.work.file.size, result.file.size
        if size > was:
            self.progress.grown(was, size)
        goes_now = again or not (self.wait_seconds or self.pause.outdates(result.read_ns))
        if result.outcome is Outcome.BODY and goes_now and not result.needs_head:
            return self.send(result)
        return self._handle_other(result, goes_now)

    async def _handle_other(self, result: ReadResult, goes_now: bool) -> None:
        work, file = result.work, result.file
        if result.outcome is Outcome.SAME:
            if self.accounts.is_outdated(result):
                await self._update(work._replace(file=file, row=same_row(result)), work.file.size)
            else:
                self.accounts.same(result)
        elif result.outcome is Outcome.UPDATE:
            await self._update(work, file.size)
        elif result.outcome is Outcome.VANISHED:
            self.accounts.vanished(work, file)
        elif result.outcome is Outcome.FAILED:
            error = result.error or FileError("Unknown", "the file cannot be read")
            if isinstance(error, FatalError):
                raise error
            self.accounts.failed(work.file, error)
        elif result.needs_head and await self._known_by_metadata(result):
            self.accounts.same(result._replace(digest=result.md5.hex(), part_size=0))
        elif result.outcome is Outcome.LARGE:
            if self.wait_seconds:
                await self.send(result)
            else:
                assert self.lanes is not None
                await self.lanes.put_large(result)
        elif not goes_now:
            # The wait comes before each operation, and the file may change in that time: read it again.
            await self.attempt.wait_interval()
            for now in await self.read([largest(work, file)]):
                await self.handle_read(now, again=True)
        else:
            await self.send(result)

    async def _known_by_metadata(self, result: ReadResult) -> bool:
        try:
            return await self.sender.is_known(result.work, result.file, result.md5)
        except (FileError, RetryError):
            self.stop.raise_stopped()
            return False  # HEAD is forbidden or keeps failing: the upload reports the error

    async def send(self, result: ReadResult) -> None:
        """Sends one file and records the result. Raises only errors that end the job."""
        work, file = result.work, result.file
        if self.accounts.is_plan:
            self.accounts.plan_upload(work, file)
            return
        if self.wait_seconds:
            await self.attempt.wait_interval()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("upload", file.key, file.size)
        try:
            sent = await self.upload(result, operation)
        except Vanished:
            self.accounts.vanished(work, file)
            return
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):  # a stop may have prevented a retry
                self.stop.raise_stopped()
            error.clear_traceback()
            self.accounts.refused(largest(work, file), error)
            return
        finally:
            self.progress.end(operation)
        if result.outcome is Outcome.BODY:
            self.turns.record(operation.started, time.monotonic())
        self.accounts.sent(result, sent, operation.started)

    async def _update(self, work: Candidate, counted: int) -> None:
        """Asks the store to change an object's headers. If it cannot, sends the file again. `counted`: the
        file's bytes in the total."""
        if self.accounts.is_plan:
            self.accounts.plan_update(work)
            return
        await self.attempt.wait_interval()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("update", work.file.key, work.file.size)
        try:
            row = await self.updater.update(work)
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):
                self.stop.raise_stopped()
            error.clear_traceback()
            self.accounts.failed(work.file, error)
            return
        finally:
            self.progress.end(operation)
        if row is None:
            await self.do_now(work._replace(decision=AGAIN))
            return
        self.accounts.updated(row, work, counted, operation.started)

    def upload(self, result: ReadResult, operation: Operation) -> Awaitable[UploadResult]:
        """Returns the upload to await. Not a coroutine, because a further one costs time for every file."""
        if result.outcome is Outcome.BODY:
            return self.sender.small(result, operation)
        return self.part_sender.large(result.file, result.md5, operation)

    async def do_now(self, work: Candidate) -> None:
        for result in await self.read([work]):
            if result.outcome is Outcome.LARGE:
                await self.send(result)
            else:
                await self.handle_read(result)
