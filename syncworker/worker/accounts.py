"""Records the result of each file in the counters, the report and the index; no other module does."""

from __future__ import annotations

import errno
import time

from syncworker.errors import SyncError
from syncworker.index.records import IndexRow
from syncworker.jobs.progress import UploadResult
from syncworker.model import UNKNOWN, FileEntry
from syncworker.options.object_headers import ObjectHeaders
from syncworker.plan.compare import Candidate, same_object
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.readers import Outcome, ReadResult
from syncworker.transfer.upload import row_of
from syncworker.worker.plans import Plans

_REFUSED = 10_000
# Network and local errors: no other object causes them, so no deletion would help.
_NOT_REFUSED = frozenset(
    {"ConnectionLost", "Timeout", "ConnectTimeout", "ConnectFailed", "DnsError", "TlsError"}
    | {"ChangedWhileReading", "EntityTooLarge", "StoredWrongBytes", "OSError", *errno.errorcode.values()}
)


def largest(work: Candidate, file: FileEntry) -> Candidate:
    """Returns the candidate with its counted size: the scan's, or the present one if the file has grown."""
    return work._replace(file=file) if file.size > work.file.size else work


def same_row(result: ReadResult) -> IndexRow:
    """Returns the index row of a file whose content the bucket already has."""
    obj, file = result.work.object, result.file
    assert obj is not None
    read_ns = 0 if result.changes else result.read_ns
    return IndexRow.of(file, obj.etag, result.digest, result.part_size, obj.modified, read_ns)


class Accounts:
    """Records the results of an attempt. `refusals`: failed uploads that another object may have blocked."""

    def __init__(self, attempt: Attempt, plans: Plans, headers: ObjectHeaders) -> None:
        self.index, self.progress = attempt.index, attempt.progress
        self.changes, self.obstacles, self.headers = attempt.changes, attempt.obstacles, headers
        self.is_plan, self.plan_upload, self.plan_update = plans.is_plan, plans.plan_upload, plans.plan_update
        self.refusals: list[tuple[Candidate, SyncError]] = []

    def is_outdated(self, result: ReadResult) -> bool:
        """Returns whether the file was only touched, and the object that we sent needs other headers."""
        obj, row = result.work.object, result.work.row
        if row is None or obj is None or result.changes or not same_object(row, obj):
            return False
        return self.headers.differs(row.key, self.index.given(row.key))

    def same(self, result: ReadResult) -> None:
        self.progress.unchanged(1, max(result.file.size, result.work.file.size))
        self.index.remember(same_row(result))
        obj, row = result.work.object, result.work.row
        if row is None or obj is None or not same_object(row, obj):
            self.index.give(result.file.key, UNKNOWN)

    def vanished(self, work: Candidate, file: FileEntry) -> None:
        self.progress.skipped(file.key, "vanished", max(file.size, work.file.size))

    def failed(self, file: FileEntry, error: SyncError) -> None:
        self.progress.failed("upload", file.key, error, file.size)

    def refused(self, work: Candidate, error: SyncError) -> None:
        """Records an upload that the store refused; an object that is to be deleted may block it."""
        blocked = self.obstacles.may_be_blocked(work.file.key) and error.code not in _NOT_REFUSED
        if blocked and len(self.refusals) < _REFUSED:
            self.refusals.append((work, error))
        else:
            self.failed(work.file, error)

    def sent(self, result: ReadResult, sent: UploadResult, started: float) -> None:
        self.remember_sent(result, sent)
        # A file that has shrunk since the scan keeps the size that was counted then.
        counted = largest(result.work, result.file).file.size
        if sent.file.size > counted:
            self.progress.grown(counted, sent.file.size)
            counted = sent.file.size
        self.progress.uploaded(sent, counted, time.monotonic() - started)

    def remember_sent(self, result: ReadResult, sent: UploadResult) -> IndexRow:
        """Counts the bytes of an upload, and writes its row to the index."""
        if result.outcome is Outcome.BODY:  # parts are counted one by one
            self.progress.sent(sent.file.size)
        row = row_of(sent)
        self.index.remember(row)
        given = self.headers.given(row.key) if self.headers.any else ""
        if given or self.index.knows_given:
            self.index.give(row.key, given)
        self.changes.sent(row)
        return row

    def updated(self, row: IndexRow, work: Candidate, counted: int, started: float) -> None:
        """`counted`: the file's bytes in the total."""
        self.index.remember(row)
        self.index.give(row.key, self.headers.given_after(row.key, self.index.given(row.key)))
        self.changes.sent(row)
        self.progress.updated(work.file, row.etag, max(counted, row.size), time.monotonic() - started)
