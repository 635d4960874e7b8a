"""Deletes objects, and whole buckets. The caller has made sure that everything else went well.

A bucket is emptied by what the store lists, again and again until it lists nothing: versions and delete
markers, unfinished uploads, objects (stores that are file systems leave folder markers behind), then the
bucket itself, several times if it is not empty yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from syncworker import s3xml
from syncworker.control import Control
from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.progress import Progress
from syncworker.s3 import DELETE_BATCH, Bucket

_ROUNDS = 10
Turn = Callable[[], Awaitable[None]]


class Remover:
    """Deletes from one bucket. `one_by_one`: single deletes, `turn` awaited before each operation."""

    def __init__(
        self, bucket: Bucket, progress: Progress, control: Control, turn: Turn, *, one_by_one: bool
    ) -> None:
        self.bucket = bucket
        self.progress = progress
        self.control = control
        self.turn = turn
        self.one_by_one = one_by_one

    async def objects(self, entries: Sequence[tuple[str, int | None]]) -> list[tuple[str, SyncError]]:
        """Deletes up to 1,000 (key, size); returns the failures, the rest is reported as deleted."""
        sizes = dict(entries)
        return await self._delete([(key, None) for key, _ in entries], sizes)

    async def _delete(
        self, objects: Sequence[tuple[str, str | None]], sizes: dict[str, int | None]
    ) -> list[tuple[str, SyncError]]:
        single: list[tuple[str, str | None]] = []
        batch: list[tuple[str, str | None]] = []
        for item in objects:
            # A folder marker outlives DeleteObjects on a store that is a file system (juicefs gateway).
            alone = self.one_by_one or item[0].endswith("/") or not s3xml.can_carry(item[0])
            (single if alone else batch).append(item)
        failures: list[tuple[str, SyncError]] = []
        if batch:
            failures += await self._batch(batch, sizes)
        for key, version in single:
            failures += await self.single(key, version, sizes.get(key))
        return failures

    async def _batch(
        self, batch: Sequence[tuple[str, str | None]], sizes: dict[str, int | None]
    ) -> list[tuple[str, SyncError]]:
        await self.turn()
        started = time.monotonic()
        operation = self.progress.begin("delete", batch[0][0], 0)
        try:
            failures = await self.bucket.delete_many(batch)
        except FileError:
            # The store does not take this request (not implemented, a key it cannot read): one by one tells.
            return [f for key, version in batch for f in await self.single(key, version, sizes.get(key))]
        finally:
            self.progress.end(operation)
        failed = {key for key, _ in failures}
        seconds = (time.monotonic() - started) / len(batch)
        for key, _ in batch:
            if key not in failed:
                self.progress.deleted(key, sizes.get(key), seconds)
        return failures

    async def single(self, key: str, version: str | None, size: int | None) -> list[tuple[str, SyncError]]:
        """One DeleteObject. Stores that are file systems then remove the folders it leaves empty, which they
        do not for DeleteObjects."""
        self.control.check()
        await self.turn()
        operation = self.progress.begin("delete", key, 0)
        try:
            await self.bucket.delete(key, version)
        except (FileError, RetryError) as error:
            return [(key, error)]
        finally:
            self.progress.end(operation)
        self.progress.deleted(key, size, time.monotonic() - operation.started)
        return []

    async def whole_bucket(self) -> None:
        """Every version, upload and object, then the bucket. A missing bucket is success."""
        last: SyncError | None = None
        for round_number in range(_ROUNDS):
            try:
                last = await self._empty()
                await self.turn()
                started = time.monotonic()
                await self.bucket.delete_bucket()
            except (FileError, RetryError) as error:
                self.control.check()
                if error.code not in ("BucketNotEmpty", "OperationAborted", "Http409"):
                    raise FatalError(error.code, f"the bucket cannot be deleted: {error.message}") from error
                last = last or error
                await asyncio.sleep(min(2.0, 0.1 * 2**round_number))
                continue
            except FatalError as error:
                if error.code == "NoSuchBucket":
                    return
                raise
            self.progress.report("delete_bucket", self.bucket.name, None, None, time.monotonic() - started)
            return
        assert last is not None
        raise FatalError(
            last.code,
            f"the bucket does not get empty, so it was not deleted: {last.message} (is something"
            " writing to it, or locking objects?)",
        )

    async def _empty(self) -> SyncError | None:
        """Deletes all that is listed; an error when something would not go."""
        for upload in await self.bucket.list_uploads():
            self.control.check()
            await self.bucket.abort_upload(upload.key, upload.upload_id)
            if "/" in upload.key:
                # rclone's server keeps the folder of an upload, unlisted; a delete of the key removes it. The
                # object, if there is one, goes now instead of a moment later.
                await self.bucket.delete(upload.key)
        failure = await self._all_versions() if await self.bucket.has_versions() else None
        return await self._all_objects() or failure

    async def _all_versions(self) -> SyncError | None:
        before: list[s3xml.Version] = []
        while True:
            found = await self.bucket.list_versions()
            if not found or found == before:
                return None
            failure = await self._delete_all([(v.key, v.version_id) for v in found], {})
            if failure is not None:
                return failure
            before = found

    async def _all_objects(self) -> SyncError | None:
        before: list[str] = []
        while True:
            page = await self.bucket.list_page(None)
            keys = [entry.key for entry in page.entries]
            if not keys:
                return None
            if keys == before:
                for key in reversed(keys):  # what a batch has left, one by one, the deepest first
                    await self.bucket.delete(key)
                return FileError("BucketNotEmpty", "objects that were deleted are listed still")
            sizes: dict[str, int | None] = {entry.key: entry.size for entry in page.entries}
            failure = await self._delete_all([(key, None) for key in reversed(keys)], sizes)
            if failure is not None:
                return failure
            before = keys

    async def _delete_all(
        self, objects: list[tuple[str, str | None]], sizes: dict[str, int | None]
    ) -> SyncError | None:
        failure: SyncError | None = None
        for start in range(0, len(objects), DELETE_BATCH):
            self.control.check()
            for _key, error in await self._delete(objects[start : start + DELETE_BATCH], sizes):
                failure = failure or error
        return failure
