"""Checks whether the mirror equals the folder (`verify=1` and `verify=deep`). Repairs nothing.

Runs after the last operation of a sync that succeeded. The folder is scanned and the bucket listed again, and
the planner joins and compares them as before. Then

| file | object | verdict |
| --- | --- | --- |
| there | the file's, by index and stat, or by its hash (`1`); of the same bytes (`deep`) | verified |
| there | none, or other content | a difference, unless the file has changed |
| there | archived, and `deep` | counted in `objects_unverified` |
| none | there | a difference, unless the storage retains it, or the file has just gone |

- A listing is a hint: a HEAD request confirms each difference before it is reported. Over plain http a bit
  may flip in transit, so bytes that differ are read twice.
- A file has changed if it does not match the index: by its stat, and in doubt by its hash. Other bytes with
  the same stat are a difference, because no sync would notice them.
- Memory is bounded: `deep` compares ranges, with at most `BYTES_IN_FLIGHT` in memory.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from itertools import islice

from syncworker.checks.recheck import ask
from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.folder.source import Source
from syncworker.folder.uploads_root import VANISHED
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import compare
from syncworker.plan.compare import Candidate, Verdict
from syncworker.plan.planner import Event
from syncworker.plan.spool import Spool
from syncworker.s3 import etag
from syncworker.system.durable_files import closing
from syncworker.system.gather import SIDE_BY_SIDE, side_by_side
from syncworker.transfer.lanes import Budget
from syncworker.transfer.readers import Changed, Outcome, entry_of, read
from syncworker.transfer.upload import Sender

RANGE_BYTES = 4 << 20
BYTES_IN_FLIGHT = 32 << 20
_RANGES_AT_ONCE = 4  # of one object
_EXTRAS = 1000  # checked together
_READ = 1 << 20
_READINGS = 2
_CLOCK_NS = 10_000_000  # a file's times may be behind the clock by this much
_ARCHIVED = "InvalidObjectState"  # Amazon S3 API Reference, GetObject


class Verification:
    """`sender` and `started_ns` (when it began) are those of the sync. `alone`: no sync has run before, so
    files are counted here, and only those that have changed since `started_ns` are no difference."""

    def __init__(
        self, sender: Sender, folder: Source, *, deep: bool, started_ns: int, one_by_one: bool, alone: bool
    ) -> None:
        self.sender, self.folder = sender, folder
        self.bucket, self.index, self.progress = sender.bucket, sender.index, sender.progress
        self.deep = deep
        self.started_ns = started_ns
        self.alone = alone
        self.lanes = 1 if one_by_one else SIDE_BY_SIDE
        self.changed = 0
        self._incomplete = False  # something in the folder cannot be read
        self._differences: Counter[str] = Counter()  # by code
        self._budget = Budget(BYTES_IN_FLIGHT)

    # -- what the planner finds
    async def take(self, events: asyncio.Queue[list[Event] | None]) -> None:
        """Checks all that the planner finds. Differences are counted and reported; `finish` raises."""
        counts = self.progress.counts
        while (batch := await events.get()) is not None:
            found: list[Candidate] = []
            for name, value in batch:
                if name in ("work", "renamed"):
                    found.append(value)
                elif name == "unchanged":
                    self._verified(*value)
                elif name == "found" and self.alone:
                    self.progress.found(*value)
                elif name == "skip" and self.alone:
                    self.progress.found(1, 0)
                    self.progress.skipped(value.key, value.reason)
                elif name == "unreadable":
                    self._incomplete = True
                    self._differs(value.key, FileError(value.code, value.message))
                elif name == "error":
                    raise value
            await side_by_side(self._check, found, self.lanes)
            self.progress.say(f"verified {counts['objects_verified']} of {counts['files_total']} objects")

    async def take_extras(self, extras: Spool) -> None:
        """Checks the objects without a file. Each record begins with the key."""
        if self._incomplete:
            return  # unknown which objects have no file
        keys = (record[0] for record in extras)
        while some := list(islice(keys, _EXTRAS)):
            there = await self.sender.in_pool(self.folder.with_files, some)
            for key in there:
                if await self.sender.in_pool(self.folder.entry, key) is not None:
                    self._has_changed(key)
                else:  # a link that leads outside, a socket: not mirrored, but a sync keeps the object
                    await self._check_extra(key, was_deleted=False)
            await side_by_side(self._check_extra, [key for key in some if key not in there], self.lanes)

    def finish(self) -> str:
        """Returns the result for the job's message. Raises FatalError `VerifyFailed` for differences."""
        counts = self.progress.counts
        verified, unverified = counts["objects_verified"], counts["objects_unverified"]
        how = "read back and found equal" if self.deep else "verified"
        text = f"{verified} object{'' if verified == 1 else 's'} {how}"
        if unverified:
            text += f", {unverified} archived and not read"
        if self.changed:
            text += f", {self.changed} whose files changed during the job"
        if not self._differences:
            return text
        kinds = ", ".join(f"{count} {code}" for code, count in sorted(self._differences.items()))
        raise FatalError(
            "VerifyFailed",
            f"{self._differences.total()} differences between folder and bucket ({kinds}); {text}; nothing"
            " was repaired: see the errors, delete the objects whose bytes differ, then sync again",
        )

    # -- an object with a file
    async def _check(self, work: Candidate) -> None:
        self.sender.check()
        try:
            await self._examine(work)
        except (FileError, RetryError) as error:
            self.sender.check()  # given up because of a stop
            error.clear_traceback()
            if error.code == _ARCHIVED:
                self.progress.unverified_object(work.file.key, work.file.size)
            else:
                self._differs(work.file.key, error)

    async def _examine(self, work: Candidate, *, asked: bool = False) -> None:
        if self.deep and work.object is not None and work.object.size == work.file.size:
            await self._read_back(work)
        else:
            await self._compare(work, asked=asked)

    async def _compare(self, work: Candidate, *, asked: bool) -> None:
        """Compares, by hash if index and stat do not suffice. `asked`: HEAD has returned the object."""
        file = work.file
        if work.object is not None:
            result = await self.sender.in_pool(
                read, self.sender.tree, work, self.sender.etags_are_md5, self.sender.halted_in_thread
            )
            if result.outcome is Outcome.FAILED and not isinstance(result.error, Changed):
                raise result.error or FileError("Unknown", "the file cannot be read")
            if result.outcome in (Outcome.VANISHED, Outcome.FAILED):
                self._has_changed(file.key)
                return
            if result.outcome is Outcome.SAME or (
                result.needs_head and await self.sender.is_known(work, result.file, result.md5)
            ):
                self._verified(1, result.file.size)
                return
        if asked:
            await self._conclude(work)
            return
        obj, row = await self._ask(file.key), self.index.find(file.key)
        decision = compare.compare(file, obj, row)
        if decision.verdict is Verdict.UNCHANGED and not self.deep:
            self._verified(1, file.size)
        else:
            await self._examine(work._replace(object=obj, row=row, decision=decision), asked=True)

    async def _ask(self, key: str) -> ObjectEntry | None:
        self.sender.check()
        head = await ask(self.bucket, key)
        return None if head is None else ObjectEntry(key, head.size, head.etag, "")

    async def _conclude(self, work: Candidate) -> None:
        """Decides why object and file differ: the file has changed, or there is a difference to report."""
        key, obj = work.file.key, work.object
        now = await self.sender.in_pool(self.folder.entry, key)
        if now is None or await self.sender.in_pool(self._is_another, now, self.index.find(key)):
            self._has_changed(key, obj)
        elif obj is None:
            self._differs(key, FileError("ObjectMissing", "the storage has no object for this file"))
        else:
            other = f"the object has another size: {obj.size} bytes" if obj.size != now.size else None
            self._differs(key, FileError("ObjectDiffers", other or "the object has different content"), obj)

    def _is_another(self, file: FileEntry, row: IndexRow | None) -> bool:
        """Whether a file is not the one that was compared. Reads it if its stat leaves a doubt."""
        if self.alone:
            return file.ctime_ns >= self.started_ns - _CLOCK_NS
        if row is None:  # a whole index has a row for each file that was there
            return self.index.is_whole or file.ctime_ns >= self.started_ns - _CLOCK_NS
        if compare.is_trusted(row, file):
            return False
        if row.size != file.size:
            return True
        try:
            fd, _ = self.sender.tree.open_file(file.path)
            with closing(fd):
                hashes = etag.hash_file(fd, file.size, [row.part_size], self.sender.halted_in_thread)
        except (OSError, EOFError):
            return True
        return hashes[row.part_size] != (row.digest or row.etag)

    # -- deep
    async def _read_back(self, work: Candidate) -> None:
        file = work.file
        assert work.object is not None
        try:
            fd, info = await self.sender.in_pool(self.sender.tree.open_file, file.path)
        except FileError as error:
            if getattr(error.__cause__, "errno", None) not in VANISHED:
                raise
            self._has_changed(file.key, work.object)
            return
        with closing(fd):
            now = entry_of(info, file)
            is_same = now.size == work.object.size and await self._has_bytes(fd, now)
        if is_same:
            self._verified(1, now.size)
        else:
            await self._conclude(work)

    async def _has_bytes(self, fd: int, file: FileEntry) -> bool:
        """Whether the object has the bytes of the open file."""
        operation = self.progress.begin("verify", file.key, file.size)
        differing: list[int] = []

        async def compare_range(offset: int) -> None:
            size = min(RANGE_BYTES, file.size - offset)
            for _ in range(_READINGS):
                self.sender.check()
                if differing:
                    return
                await self._budget.acquire(size)
                try:
                    body = await self.bucket.read_range(file.key, offset, size)
                    if await self.sender.in_pool(_is_at, fd, offset, body):
                        operation.sent += size
                        return
                finally:
                    self._budget.release(size)
            differing.append(offset)

        try:
            await side_by_side(compare_range, range(0, file.size, RANGE_BYTES), _RANGES_AT_ONCE)
        finally:
            self.progress.end(operation)
        return not differing

    # -- an object without a file
    async def _check_extra(self, key: str, *, was_deleted: bool = True) -> None:
        """Checks an object without a file. `was_deleted`: a sync would have deleted it. So if the index has
        the object, its file existed a moment ago."""
        try:
            obj = await self._ask(key)
            if obj is None:
                return  # the listing lags behind
            row = self.index.find(key)
            is_folder = key.endswith("/") and await self.sender.in_pool(self.folder.has_folder, key[:-1])
            if was_deleted and not self.alone and row is not None and compare.same_object(row, obj):
                self._has_changed(key, obj)
            elif is_folder or await self.bucket.retained(key):
                self.progress.seen(key, obj.size, obj.etag, "retained")
            else:
                self._differs(key, FileError("ObjectExtra", "there is no file for this object"), obj)
        except (FileError, RetryError) as error:
            self.sender.check()
            self._differs(key, error)

    # -- reporting
    def _verified(self, count: int, size: int) -> None:
        self.progress.verified_objects(count, size)
        if self.alone:
            self.progress.unchanged(count, size)

    def _has_changed(self, key: str, obj: ObjectEntry | None = None) -> None:
        self.changed += 1
        self.progress.seen(key, obj and obj.size, obj and obj.etag, "changed")

    def _differs(self, key: str, error: SyncError, obj: ObjectEntry | None = None) -> None:
        self._differences[error.code] += 1
        self.progress.error("verify", key, error, obj and obj.size)


def _is_at(fd: int, offset: int, body: bytes) -> bool:
    """Whether the file has these bytes there."""
    return all(
        os.pread(fd, min(_READ, len(body) - at), offset + at) == body[at : at + _READ]
        for at in range(0, len(body), _READ)
    )
