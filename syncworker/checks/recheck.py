"""Checks what a run has done: lists the bucket once more, and compares it with the index.

Runs if all else succeeded and something was written or deleted. Each difference that `differences.collect`
finds is checked by HEAD, and repaired once:

| remembered | listed | asked by HEAD | then |
| --- | --- | --- | --- |
| yes | another, or none | as remembered | nothing: the listing lags |
| yes | none, but an unknown object of its size and ETag | as remembered | the store renames keys: an error |
| yes | another, or none | another, or none | the file, if it is there and has other content, is sent again |
| no, and deleted by this job | yes | there | deleted again |
| no, and it has no file | yes | | reported, and left for the next sync |

Then each is checked once more; if one still differs, the job fails (`Differs`). A file that has changed since
it was sent is no difference: the index records what was sent, and the next sync sends the new content.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.folder.source import Source
from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan.differences import CHUNK, Changes, Difference, Found
from syncworker.s3 import etag
from syncworker.s3.bucket import Bucket, Head
from syncworker.system.gather import side_by_side
from syncworker.transfer.delete_objects import Remover
from syncworker.transfer.upload import key_changed

_SENT_AT_ONCE = 4  # each may hold a small file in memory


class Repairer(Protocol):
    """Repairs a difference."""

    async def send_again(self, file: FileEntry, found: Difference) -> IndexRow | None:
        """Sends the file's present content unless the bucket has it. Returns its row; None if it is gone."""
        ...

    def may_go(self, obj: ObjectEntry) -> bool:
        """Whether an object whose deletion was requested may be deleted again."""
        ...

    async def in_thread(self, function: Any, *values: Any) -> Any: ...


class Recheck:
    """Checks and repairs the objects of a run. After any error, resuming the job repairs the rest."""

    def __init__(
        self,
        repairer: Repairer,
        index: Index,
        folder: Source,
        remover: Remover,
        changes: Changes,
        spool_dir: str,
    ) -> None:
        self.repairer, self.in_thread = repairer, repairer.in_thread
        self.index = index
        self.folder = folder
        self.remover = remover
        self.bucket, self.progress, self.control = remover.bucket, remover.progress, remover.control
        self.changes = changes
        self.spool_dir = spool_dir
        self.left = 0  # objects without a file, for the next sync
        self._strangers: set[tuple[int, str]] = set()  # size and ETag of objects that we did not send
        self._failed = 0

    async def run(self, collect: Callable[[Found], None]) -> None:
        """Checks and repairs all differences. Raises FatalError `Differs` if some remain."""
        with Found(self.spool_dir) as found, Found(self.spool_dir) as wrong, Found(self.spool_dir) as fixed:
            try:
                await self.in_thread(collect, found)
            except FatalError as error:
                said = error.message.removesuffix(": nothing was deleted")
                raise FatalError(
                    error.code, f"everything was sent, but the bucket could not be checked: {said}"
                ) from error
            for chunk in found.chunks(known=False):
                await self._check_extra(chunk, wrong)
            for chunk in found.chunks(known=True):
                await side_by_side(lambda found: self._check(found, wrong), chunk)
            lanes = 1 if self.remover.one_by_one else _SENT_AT_ONCE
            for chunk in wrong.chunks():
                await side_by_side(lambda found: self._repair(found, fixed), chunk, lanes)
            for chunk in fixed.chunks():
                await side_by_side(self._check_again, chunk)
        if self._failed:
            raise FatalError(
                "Differs",
                f"{self._failed} objects are still wrong after they were sent or deleted again: see the"
                " errors, stop whatever else writes to the bucket, and resume the job",
            )

    # -- what is listed, and should not be
    async def _check_extra(self, chunk: list[Difference], wrong: Found) -> None:
        ordered = await self.in_thread(self.changes.deleted, {found.key for found in chunk})
        there = await self.in_thread(self.folder.with_files, [d.key for d in chunk])
        without = [d for d in chunk if d.key not in there]

        async def check(found: Difference) -> None:
            obj = found.listed
            assert obj is not None
            if found.key in ordered and self.repairer.may_go(obj):
                if await self._ask(found.key) is not None:
                    self._report(found, "not_deleted")
                    wrong.append(found)
            # Over plain http a bit may flip in a listed key.
            elif self.bucket.uses_tls or await self._ask(found.key) is not None:
                self.left += 1
                if len(self._strangers) < CHUNK:
                    self._strangers.add((obj.size, obj.etag))
                self._report(found, "extra")

        await side_by_side(check, without)

    async def _ask(self, key: str) -> Head | None:
        self.control.check()
        return await ask(self.bucket, key)

    # -- what should be listed
    async def _check(self, found: Difference, wrong: Found) -> None:
        row = found.row
        assert row is not None
        if not await self.in_thread(self.folder.has_file, row.key):
            if found.listed is None:
                self.index.forget([row.key])  # neither file nor object
            return
        head = await self._ask(row.key)
        if head is None or not _is_head_of(head, row):
            wrong.append(Difference(row, head and ObjectEntry(row.key, head.size, head.etag, "")))
        elif found.listed is None and (row.size, row.etag) in self._strangers:
            self._fail("upload", row.key, key_changed())

    # -- once more
    async def _repair(self, found: Difference, fixed: Found) -> None:
        self.control.check()
        try:
            again = await (self._delete(found) if found.row is None else self._send(found))
        except (FileError, RetryError) as error:
            self.control.check()
            error.clear_traceback()
            self._fail("delete" if found.row is None else "upload", found.key, error)
            return
        if again is not None:
            fixed.append(again)

    async def _delete(self, found: Difference) -> Difference | None:
        """Deletes an object again. Returns None if its file exists again, so that the object stays."""
        await self.remover.turn()
        if await self.in_thread(self.folder.has_file, found.key):
            return None
        await self.bucket.delete(found.key)
        return found

    async def _send(self, found: Difference) -> Difference | None:
        """Sends a file again. Returns None if it is gone; the next sync deletes the object."""
        file = await self.in_thread(self.folder.entry, found.key)
        row = await self.repairer.send_again(file, found) if file is not None else None
        return None if row is None else Difference(row, None)

    async def _check_again(self, found: Difference) -> None:
        if found.row is not None:
            head = await self._ask(found.key)
            if head is None or not _is_head_of(head, found.row):
                lost = "after two uploads the storage still has a different object, or none"
                self._fail("verify", found.key, FileError("Differs", lost))
        elif not found.key.endswith("/") and await self._ask(found.key) is not None:
            # (A store that is a file system lists its folders as objects, and may not delete them.)
            kept = "the storage still has it after two deletions"
            self._fail("verify", found.key, FileError("Differs", kept))

    # -- reporting
    def _report(self, found: Difference, what: str) -> None:
        obj = found.listed
        self.progress.seen(found.key, obj and obj.size, obj and obj.etag, what)

    def _fail(self, op: str, key: str, error: SyncError) -> None:
        self._failed += 1
        self.progress.error(op, key, error)


async def ask(bucket: Bucket, key: str) -> Head | None:
    """Returns the object under this key, or None. Lists it if HEAD is not allowed."""
    try:
        return await bucket.head(key)
    except FileError:
        listed = await bucket.list_under(key)
        return next((Head(e.size, e.etag, {}) for e in listed if e.key == key), None)


def _is_head_of(head: Head, row: IndexRow) -> bool:
    if head.size != row.size:
        return False
    if head.etag and row.etag:
        return head.etag == row.etag
    plain = next((tag for tag in (row.digest, row.etag) if etag.parts_of(tag) == 0), "")
    return not plain or not head.metadata.get("md5chksum") or head.carries(bytes.fromhex(plain))
