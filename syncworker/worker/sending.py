"""Files on their way: read, compared with what the bucket holds, sent, and remembered in the index."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable

from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.index import Row
from syncworker.jobs.progress import Operation, Sent
from syncworker.model import UNKNOWN, FileEntry, Phase
from syncworker.plan.compare import AGAIN, Verdict, same_object
from syncworker.plan.events import Work
from syncworker.s3 import etag
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.readers import Outcome, Read, read, read_cached
from syncworker.transfer.update import Updater
from syncworker.transfer.upload import Sender, Vanished, row_of
from syncworker.worker.attempt import Attempt
from syncworker.worker.plans import Plans

READERS = 4  # threads that read files
_REFUSED = 10_000
# What fails on the way to the store, or here: nothing stands in such an upload's way.
_NOT_REFUSED = frozenset(
    {"ConnectionLost", "Timeout", "ConnectTimeout", "ConnectFailed", "DnsError", "TlsError"}
    | {"ChangedWhileReading", "EntityTooLarge", "StoredWrongBytes", "OSError", *errno.errorcode.values()}
)


def _largest(work: Work, file: FileEntry) -> Work:
    """The work with the size by which its file is counted: that of the scan, or more if it has grown."""
    return work._replace(file=file) if file.size > work.file.size else work


def same_row(result: Read) -> Row:
    """What the index is to remember of a file whose content the bucket has."""
    obj, file = result.work.object, result.file
    assert obj is not None
    digest = "" if result.digest == obj.etag else result.digest
    return Row(
        file.key, file.size, file.mtime_ns, file.ctime_ns, file.inode,
        obj.etag, digest, result.part_size, obj.modified, 0 if result.changes else result.checked_ns,
    )  # fmt: skip


class Sending:
    """What one file needs. `refused`: uploads that failed, perhaps because another object is in the way."""

    def __init__(self, attempt: Attempt, plans: Plans) -> None:
        self.attempt, self.plans = attempt, plans
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.stop, self.pause = attempt.stop, attempt.pause
        self.halted = attempt.stop.requested
        self.halted_in_thread = self.pause.blocking(self.halted)
        self.wait_seconds = attempt.order.wait_seconds
        self.headers = attempt.options.object_headers()
        self.sender = Sender(
            self.bucket,
            self.index,
            attempt.tree,
            self.progress,
            attempt.pool,
            check=self.stop.raise_stopped,
            halted=self.halted,
            is_blocked=attempt.obstacles.may_block,
            headers=self.headers,
        )
        self.updater = Updater(self.sender)
        self.lanes: Lanes | None = None
        self.refused: list[tuple[Work, SyncError]] = []

    def open_lanes(self) -> Lanes:
        gate, counts = self.bucket.client.gate, self.progress.counts
        self.lanes = Lanes(
            one=self.wait_seconds > 0,
            do_read=self.read,
            do_one=self.handle_read,
            do_large=lambda result: self.send(result.work, result.file, result),
            halt=self.stop.fail,
            halted=self.halted,
            sent=lambda: int(counts["files_uploaded"]),
            is_throttled=lambda: gate.limit < gate.most,
        )
        return self.lanes

    async def read(self, group: list[Work]) -> list[Read]:
        """What reading the files has shown; fewer after a halt."""
        # In the loop only where no call can wait for a server: the status has to stay fresh.
        is_local, md5 = self.attempt.tree.is_local, self.sender.etags_are_md5
        results, slow = [], []
        await self.pause.wait()
        for work in group:
            if self.halted():
                return []
            if work.decision.verdict is Verdict.UPLOAD and not etag.is_single(work.file.size):
                results.append(Read(work, Outcome.LARGE, work.file))
            elif work.decision.verdict is Verdict.UPDATE:
                results.append(Read(work, Outcome.UPDATE, work.file))
            elif is_local and (result := read_cached(self.attempt.tree, work, md5)) is not None:
                results.append(result)
            else:
                slow.append(work)
        if slow:
            shares = [slow[i::READERS] for i in range(min(READERS, len(slow)))]
            for more in await asyncio.gather(*(self.attempt.in_thread(self._read_group, s) for s in shares)):
                results += more
        return results

    def _read_group(self, group: list[Work]) -> list[Read]:
        md5 = self.sender.etags_are_md5
        results = []
        for work in group:
            if self.halted_in_thread():
                break
            try:
                results.append(read(self.attempt.tree, work, md5, self.halted_in_thread))
            except InterruptedError:
                break
        return results

    async def handle_read(self, result: Read, *, again: bool = False) -> None:
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
            self.fail(work.file, error)
        elif result.needs_head and await self._known_by_metadata(result):
            self._same(result._replace(digest=result.md5.hex(), part_size=0))
        elif result.outcome is Outcome.LARGE:
            if self.wait_seconds:
                await self.send(work, file, result)
            else:
                assert self.lanes is not None
                await self.lanes.put_large(result)
        elif not again and (self.wait_seconds or self.pause.outdates(result.checked_ns)):
            # The wait comes before each operation: what is sent after it is what the file is by then.
            await self.attempt.wait_interval()
            for now in await self.read([_largest(work, file)]):
                await self.handle_read(now, again=True)
        else:
            await self.send(work, file, result)

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
            self.stop.raise_stopped()
            return False  # it is not allowed, or the answer is an error for ever: the upload tells

    async def send(self, work: Work, file: FileEntry, result: Read) -> None:
        """One upload, counted and remembered. Raises what ends the job."""
        if self.plans.draft is not None:
            self.plans.plan_upload(result.work, file)
            return
        if self.wait_seconds:
            await self.attempt.wait_interval()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("upload", file.key, file.size)
        try:
            sent = await self.upload(result, operation)
            self.remember_upload(result, sent)
        except Vanished:
            self.progress.skipped(file.key, "vanished", max(file.size, work.file.size))
            return
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):  # perhaps not tried again because of a stop
                self.stop.raise_stopped()
            error.let_go()
            self.refuse(_largest(work, file), error)
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
        if self.plans.draft is not None:
            self.plans.plan_update(work)
            return
        await self.attempt.wait_interval()
        self.progress.phase(Phase.TRANSFERRING, "transferring")
        operation = self.progress.begin("update", work.file.key, work.file.size)
        try:
            row = await self.updater.update(work)
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):
                self.stop.raise_stopped()
            error.let_go()
            self.fail(work.file, error)
            return
        finally:
            self.progress.end(operation)
        if row is None:
            await self.do_now(work._replace(decision=AGAIN))
            return
        self._remember_sent(row, self.headers.given_after(row.key, self.index.given(row.key)))
        seconds = time.monotonic() - operation.started
        self.progress.updated(work.file, row.etag, max(counted, row.size), seconds)

    def upload(self, result: Read, operation: Operation) -> Awaitable[Sent]:
        """Sends. No coroutine of its own: each costs every file."""
        if result.outcome is Outcome.BODY:
            return self.sender.small(result, operation)
        return self.sender.large(result.file, result.md5, operation)

    def remember_upload(self, result: Read, sent: Sent) -> Row:
        """Counts an upload, and remembers what the store has now."""
        if result.outcome is Outcome.BODY:  # parts are counted one by one
            self.progress.sent(sent.file.size)
        row = row_of(sent)
        self._remember_sent(row, self.headers.given(row.key) if self.headers.any else "")
        return row

    def _remember_sent(self, row: Row, given: str) -> None:
        self.index.remember(row)
        if given or self.index.knows_given:
            self.index.give(row.key, given)
        self.attempt.changes.sent(row)

    def refuse(self, work: Work, error: SyncError) -> None:
        """An upload failed. If the store refused it, something may stand in its way that is to be deleted."""
        blocked = self.attempt.obstacles.may_block(work.file.key) and error.code not in _NOT_REFUSED
        if blocked and len(self.refused) < _REFUSED:
            self.refused.append((work, error))
        else:
            self.fail(work.file, error)

    def fail(self, file: FileEntry, error: SyncError) -> None:
        self.progress.failed("upload", file.key, error, file.size)

    async def do_now(self, work: Work) -> None:
        for result in await self.read([work]):
            if result.outcome is Outcome.LARGE:
                await self.send(result.work, result.file, result)
            else:
                await self.handle_read(result)
