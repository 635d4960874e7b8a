"""Deletes objects of a mirror. The caller has made sure that everything else succeeded.

A request deletes many objects if its answer proves what was deleted: over https, and over plain http on a
store that names the deleted keys (`deletions.delete_many`; tested with two objects, once for each
destination). Otherwise each object has its own request, whose signature covers the key in the path. Whole
buckets: delete_bucket.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from syncworker.errors import FileError, RetryError, SyncError
from syncworker.s3 import deletions, xml_documents
from syncworker.s3.deletions import DELETE_BATCH
from syncworker.system.gather import SIDE_BY_SIDE, side_by_side
from syncworker.transfer.attempt import Attempt

_FIRST = 2  # minimum of a batch over plain http, and maximum until we know whether answers name keys
_SINGLES = 8 * SIDE_BY_SIDE
_FACT = "names_deleted"
Entry = tuple[str, int | None]  # key and size of an object
T = TypeVar("T", bound=tuple[Any, ...])


class Remover:
    """Deletes from one bucket. `one_by_one`: only single deletes."""

    def __init__(self, attempt: Attempt, *, one_by_one: bool) -> None:
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.control, self.turn = attempt.stop.control, attempt.wait_interval
        self.one_by_one = one_by_one

    def at_once(self) -> int:
        """Returns how many objects to delete in one call of `objects`."""
        if self.one_by_one:
            return 1
        if self.bucket.uses_tls:
            return DELETE_BATCH
        if self.bucket.delete_result_lists_keys is None:
            if (known := self.index.fact(_FACT)) is None:
                return _FIRST
            self.bucket.delete_result_lists_keys = known == "1"
        return DELETE_BATCH if self.bucket.delete_result_lists_keys else _SINGLES

    async def objects(self, entries: Sequence[Entry]) -> list[tuple[str, SyncError]]:
        """Deletes up to 1,000 objects. Reports the deleted ones, and returns the failures."""
        together: list[Entry] = []
        alone: list[Entry] = []
        for entry in entries:
            (together if self._goes_with_others(entry[0]) else alone).append(entry)
        if len(together) < (1 if self.bucket.uses_tls else _FIRST):
            return await self._singles(together + alone)
        return await self._batch(together) + await self._singles(alone)

    def _goes_with_others(self, key: str) -> bool:
        # A folder marker outlives DeleteObjects on a store that is a file system (juicefs gateway).
        if self.one_by_one or key.endswith("/") or not xml_documents.can_carry(key):
            return False
        # Over plain http, a key in the body of a request may change in transit: `deletions.delete_many`.
        return self.bucket.uses_tls or self.bucket.delete_result_lists_keys is not False

    async def _singles(self, entries: Sequence[Entry]) -> list[tuple[str, SyncError]]:
        failures: list[tuple[str, SyncError]] = []

        async def delete(entry: Entry) -> None:
            failures.extend(await self.single(*entry))

        await self.each(delete, entries)
        return failures

    async def each(self, delete: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
        """Deletes items, which begin with their key, a few in parallel; then the folder markers, one after
        the other, because they may lie below one another."""
        files = [item for item in items if not item[0].endswith("/")]
        await side_by_side(delete, files, 1 if self.one_by_one else SIDE_BY_SIDE)
        await side_by_side(delete, [item for item in items if item[0].endswith("/")], 1)

    async def _batch(self, batch: Sequence[Entry]) -> list[tuple[str, SyncError]]:
        sizes = dict(batch)
        await self.turn()
        started = time.monotonic()
        operation = self.progress.begin("delete", batch[0][0], 0)
        try:
            failures = await deletions.delete_many(self.bucket, list(sizes))
        except FileError:
            # The store refuses the whole request (not implemented, a key it cannot read): delete one by one.
            return await self._singles(batch)
        finally:
            self.progress.end(operation)
        if not self.bucket.uses_tls and self.bucket.delete_result_lists_keys is not None:
            self.index.set_fact(_FACT, str(int(self.bucket.delete_result_lists_keys)))
        seconds = (time.monotonic() - started) / len(batch)
        gone = [key for key in sizes if key not in failures]
        for key in gone:
            self.progress.deleted(key, sizes[key], seconds)
        self.index.forget(gone)
        # Only keys of the batch: an answer may name any key, even an empty one (the bucket's own path).
        again = [entry for entry in batch if isinstance(failures.get(entry[0]), RetryError)]
        for key, _ in again:
            del failures[key]
        return list(failures.items()) + await self._singles(again)

    async def single(self, key: str, size: int | None) -> list[tuple[str, SyncError]]:
        """Deletes one object, as `objects` does. Stores that are file systems then also remove folders that
        become empty, unlike for DeleteObjects."""
        error, started = await self.request(key, None)
        if error is not None:
            return [(key, error)]
        self.progress.deleted(key, size, time.monotonic() - started)
        self.index.forget([key])
        return []

    async def request(self, key: str, version: str | None) -> tuple[FileError | RetryError | None, float]:
        """Sends one DeleteObject. Returns its error, if any, and its start by the monotonic clock."""
        self.control.check()
        await self.turn()
        operation = self.progress.begin("delete", key, 0)
        try:
            await self.bucket.delete(key, version)
        except (FileError, RetryError) as error:
            if isinstance(error, RetryError):
                self.control.check()  # given up because of a stop: not a failure of this object
            return error, operation.started
        finally:
            self.progress.end(operation)
        return None, operation.started
