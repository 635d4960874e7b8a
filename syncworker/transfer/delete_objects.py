"""Deletes objects of a mirror. The caller has made sure that everything else went well.

Many at a time in one request, where it shows what that has done: over https, and over plain http on a store
that names what it has deleted (`deletions.delete_many`; found out with two objects, once a destination). Else
one by one, side by side: a key in a path is signed. Whole buckets: delete_bucket.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import compress
from operator import not_

from syncworker.errors import FileError, RetryError, SyncError
from syncworker.index.database import Index
from syncworker.jobs.progress import Progress
from syncworker.s3 import deletions, xml_documents
from syncworker.s3.bucket import Bucket
from syncworker.s3.deletions import DELETE_BATCH, ObjectVersion
from syncworker.system.control import Control
from syncworker.system.gather import SIDE_BY_SIDE, side_by_side

_FIRST = 2  # at least in a batch over plain http, and not more until it is known whether answers name keys
_SINGLES = 8 * SIDE_BY_SIDE
_FACT = "names_deleted"
Turn = Callable[[], Awaitable[None]]


class Remover:
    """Deletes from one bucket. `one_by_one`: single deletes, `turn` awaited before each operation."""

    def __init__(
        self,
        bucket: Bucket,
        index: Index,
        progress: Progress,
        control: Control,
        turn: Turn,
        *,
        one_by_one: bool,
    ) -> None:
        self.bucket = bucket
        self.index = index
        self.progress = progress
        self.control = control
        self.turn = turn
        self.one_by_one = one_by_one

    def at_once(self) -> int:
        """How many `objects` is best given at a time."""
        if self.one_by_one:
            return 1
        if self.bucket.uses_tls:
            return DELETE_BATCH
        if self.bucket.delete_result_lists_keys is None and (known := self.index.fact(_FACT)) is not None:
            self.bucket.delete_result_lists_keys = known == "1"
        if self.bucket.delete_result_lists_keys is None:
            return _FIRST
        return DELETE_BATCH if self.bucket.delete_result_lists_keys else _SINGLES

    async def objects(self, entries: Sequence[tuple[str, int | None]]) -> list[tuple[str, SyncError]]:
        """Deletes up to 1,000 (key, size); returns the failures, the rest is reported as deleted."""
        sizes = dict(entries)
        return await self._delete([(key, None) for key, _ in entries], sizes)

    async def _delete(
        self, objects: Sequence[ObjectVersion], sizes: dict[str, int | None]
    ) -> list[tuple[str, SyncError]]:
        single: list[ObjectVersion] = []
        batch: list[ObjectVersion] = []
        for item in objects:
            # A folder marker outlives DeleteObjects on a store that is a file system (juicefs gateway).
            alone = (
                item[0].endswith("/")
                or not xml_documents.can_carry(item[0])
                or not self._may_go_with_others(item)
            )
            (single if alone else batch).append(item)
        failures: list[tuple[str, SyncError]] = []
        if len(batch) >= (1 if self.bucket.uses_tls else _FIRST):
            failures += await self._batch(batch, sizes)
        else:
            single = batch + single
        return failures + await self._singles(single, sizes)

    def _may_go_with_others(self, item: ObjectVersion) -> bool:
        """Over plain http a key in the body of a request may change on its way: `deletions.delete_many`."""
        if self.one_by_one:
            return False
        return self.bucket.uses_tls or (item[1] is None and self.bucket.delete_result_lists_keys is not False)

    async def _singles(
        self, objects: Sequence[ObjectVersion], sizes: dict[str, int | None]
    ) -> list[tuple[str, SyncError]]:
        """One by one, a few at a time; then the folder markers, in their order: one below the other."""
        failures: list[tuple[str, SyncError]] = []

        async def delete(item: ObjectVersion) -> None:
            failures.extend(await self.single(*item, sizes.get(item[0])))

        is_marker = [item[0].endswith("/") for item in objects]
        lanes = 1 if self.one_by_one else SIDE_BY_SIDE
        await side_by_side(delete, compress(objects, map(not_, is_marker)), lanes)
        await side_by_side(delete, compress(objects, is_marker), 1)
        return failures

    async def _batch(
        self, batch: Sequence[ObjectVersion], sizes: dict[str, int | None]
    ) -> list[tuple[str, SyncError]]:
        await self.turn()
        started = time.monotonic()
        operation = self.progress.begin("delete", batch[0][0], 0)
        try:
            failures = dict(await deletions.delete_many(self.bucket, batch))
        except FileError:
            # The store does not take this request (not implemented, a key it cannot read): one by one tells.
            return await self._singles(batch, sizes)
        finally:
            self.progress.end(operation)
        if not self.bucket.uses_tls and self.bucket.delete_result_lists_keys is not None:
            self.index.set_fact(_FACT, str(int(self.bucket.delete_result_lists_keys)))
        seconds = (time.monotonic() - started) / len(batch)
        gone = [key for key, _ in (item for item in batch if item not in failures)]
        for key in gone:
            self.progress.deleted(key, sizes.get(key), seconds)
        self.index.forget(gone)
        # Only what was asked for: an answer may name any key, or none, which would be the bucket's own path.
        again = [item for item in batch if isinstance(failures.get(item), RetryError)]
        for item in again:
            del failures[item]
        return [(key, error) for (key, _), error in failures.items()] + await self._singles(again, sizes)

    async def single(self, key: str, version: str | None, size: int | None) -> list[tuple[str, SyncError]]:
        """One DeleteObject. Stores that are file systems then remove the folders it leaves empty, which they
        do not for DeleteObjects."""
        self.control.check()
        await self.turn()
        operation = self.progress.begin("delete", key, 0)
        try:
            await self.bucket.delete(key, version)
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):
                self.control.check()  # given up because of a stop: that is no failure of this object
            return [(key, error)]
        finally:
            self.progress.end(operation)
        self.progress.deleted(key, size, time.monotonic() - operation.started)
        self.index.forget([key])
        return []
