"""Empties a bucket and deletes it, for a folder without a file.

Everything in the bucket is to be deleted, so a flipped bit in DeleteObjects can do no harm: each request has
a thousand keys, on every store, even over plain http. The next listing, not the answer, shows what a request
has deleted; objects that are still listed are deleted one by one (stores that are file systems keep folder
markers). New objects are deleted only after they were listed. There are several rounds, until the bucket is
gone.

In a bucket with versions, no object may reappear: first all older versions are deleted, then the latest one,
then the delete markers; the latest version or a marker only if its key has nothing else left. If the store
retains a version (object lock), its key stays as it was, is reported and counted once, and the bucket stays.
Memory holds one page, and the keys that stay; after `_MOST_KEPT` of these the work ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

from syncworker.errors import FatalError, FileError, RetryError, SyncError
from syncworker.model import ObjectEntry
from syncworker.s3 import deletions, multipart, xml_documents, xml_messages
from syncworker.s3.deletions import ObjectVersion
from syncworker.system.control import settling
from syncworker.transfer.delete_objects import Remover

_ROUNDS = 10
_MOST_KEPT = 10_000
_FINAL = frozenset({"Retained", "AccessDenied"})  # another round would get the same answer
_OLDER, _LATEST, _MARKER = range(3)  # the order in which a key's versions are deleted
_Marker = dict[str, str]


class _Item(NamedTuple):
    """An object (`version` None), a version or a delete marker. `shown`: its entry in a listing of objects,
    or None. Items with a lower `rank` are deleted first."""

    key: str
    version: str | None
    size: int | None
    shown: ObjectEntry | None
    rank: int = 0

    @property
    def name(self) -> ObjectVersion:
        return self.key, self.version


_Page = tuple[list[_Item], _Marker | None]


class Unplanned(FatalError):
    """There is a new object that is not in the approved plan."""

    def __init__(self) -> None:
        super().__init__("PlanOutgrown", "an object that is not in the approved plan was added to the bucket")


class BucketRemoval:
    """Empties and deletes one bucket. Calls `may_go` for each listed object before it deletes the object."""

    def __init__(self, remover: Remover, may_go: Callable[[ObjectEntry], bool] = lambda _: True) -> None:
        self.may_go = may_go
        self.remover = remover
        self.bucket, self.progress, self.control = remover.bucket, remover.progress, remover.control
        self.kept: dict[str, SyncError] = {}  # key -> why it still exists

    async def run(self) -> bool:
        """Deletes every upload, version and object, then the bucket; repeats this, `_ROUNDS` times at most,
        while the bucket is not empty. Returns True if the bucket was deleted, or is missing although this
        attempt deleted objects from it; False if it did not exist before. Raises FatalError if it stays."""
        last: SyncError | None = None
        for round_number in range(_ROUNDS):
            self.kept.clear()
            try:
                await self._empty()
                if any(error.code in _FINAL for error in self.kept.values()):
                    break
                await self.remover.turn()
                started = time.monotonic()
                await self.bucket.delete_bucket()
            except (FileError, RetryError) as error:
                self.control.check()
                if error.code not in ("BucketNotEmpty", "OperationAborted", "Http409"):
                    raise FatalError(error.code, f"the bucket cannot be deleted: {error.message}") from error
                last = error
                until = time.monotonic() + min(2.0, 0.1 * 2**round_number)
                while time.monotonic() < until:
                    self.control.check()
                    await asyncio.sleep(0.1)
                continue
            except FatalError as error:
                if error.code == "NoSuchBucket":
                    return bool(self.progress.counts["objects_deleted"])
                raise
            self.progress.report.add(
                "delete_bucket", self.bucket.name, None, None, time.monotonic() - started
            )
            return True
        raise self._told(last)

    def _told(self, last: SyncError | None) -> FatalError:
        """Reports each key that stays, and returns the error that ends the job."""
        for key, error in self.kept.items():
            self.progress.error("delete", key, error)
        self.progress.kept(len(self.kept))
        finals = [error for error in self.kept.values() if error.code in _FINAL]
        last = next(iter([*finals, *self.kept.values()]), last)
        assert last is not None
        if last.code == "Retained":
            return FatalError(
                "Retained",
                f"the storage retains {len(self.kept)} keys (object lock), so neither they nor the bucket"
                " were deleted: the report names them; sync again when their retention has ended",
            )
        return FatalError(
            last.code,
            f"the bucket could not be emptied, so it was not deleted: {last.message} (is something"
            " writing to it, or locking objects?)",
        )

    async def _empty(self) -> None:
        has_versions = await self.bucket.has_versions()
        for upload in await multipart.list_uploads(self.bucket):
            self.control.check()
            await multipart.abort_upload(self.bucket, upload.key, upload.upload_id)
            if "/" in upload.key and not has_versions:
                # rclone's server keeps the folder of an upload without listing it; a delete of the key
                # removes it. The object, if there is one, is deleted now instead of a moment later.
                await self.bucket.delete(upload.key)
        if has_versions:
            await self._every_version(_OLDER)
            await self._every_version(_MARKER)
        if not self.kept:  # a deletion without version id would hide what is retained
            await self._work_off(self._objects)

    async def _objects(self) -> _Page:
        page = await self.bucket.list_page(None)
        # The deepest first, because folder markers lie below one another.
        return [_Item(entry.key, None, entry.size, entry) for entry in reversed(page.entries)], None

    async def _versions(self, marker: _Marker) -> _Page:
        found, following = await self.bucket.list_versions(marker) or ([], None)
        return list(map(_item, found)), following

    async def _every_version(self, most: int) -> None:
        """Deletes all versions and markers up to this rank."""
        marker: _Marker | None = {}
        while marker is not None and len(self.kept) < _MOST_KEPT:
            following = await self._work_off(partial(self._versions, marker), most)
            if following == marker:
                raise FatalError("BrokenListing", "the storage repeated a page of ListObjectVersions")
            marker = following

    async def _work_off(self, fetch: Callable[[], Awaitable[_Page]], most: int = 0) -> _Marker | None:
        """Deletes the items with the lowest rank on a page, if that is at most `most`, and fetches the page
        again, until nothing on it can be deleted."""
        asked: dict[ObjectVersion, _Item] = {}  # by the last batch
        refused: dict[ObjectVersion, SyncError] = {}
        alone: set[ObjectVersion] = set()
        started = 0.0
        while True:
            with settling() if asked else nullcontext():
                page, following = await fetch()
            here = {item.name for item in page}
            for name in asked.keys() - here:
                self._count(asked[name], started)
            if not all(self.may_go(item.shown) for item in page if item.shown):
                raise Unplanned
            self.control.check()
            left = asked.keys() & here
            for name in left:
                if isinstance(error := refused.get(name), FileError):
                    await self._keep(asked[name], error)
            open_items = [item for item in page if item.key not in self.kept]
            rank = min((item.rank for item in open_items), default=0)
            chosen = [i for i in open_items if i.rank == rank <= most and i.name not in alone]
            single = [item for item in chosen if item.name in left or self._goes_alone(item)]
            asked = {i.name: i for i in chosen if i.name not in left and not self._goes_alone(i)}
            started = time.monotonic()
            refused = await self._batch(list(asked)) if asked else {}
            if single:
                await self._one_by_one(single, outlived=left)
                alone.update(item.name for item in single)
            if not asked and not single:
                for key, _version in alone & here:
                    listed = FileError("BucketNotEmpty", "deleted objects are still listed")
                    self.kept.setdefault(key, listed)
                return following

    def _goes_alone(self, item: _Item) -> bool:
        return self.remover.one_by_one or not xml_documents.can_carry(item.key)

    async def _batch(self, names: Sequence[ObjectVersion]) -> dict[ObjectVersion, SyncError]:
        """Returns the refused deletions; {} if there is no answer: the next listing shows what is left."""
        await self.remover.turn()
        operation = self.progress.begin("delete", names[0][0], 0)
        try:
            return await deletions.delete_listed(self.bucket, names)
        except (FileError, RetryError):
            self.control.check()
            return {}
        finally:
            self.progress.end(operation)

    async def _keep(self, item: _Item, error: FileError) -> None:
        """Records an item that the store finally refuses to delete, and asks whether the store retains it."""
        self.control.check()
        if item.version is not None and (until := await self.bucket.retained(item.key, item.version)):
            said = f"Retained {until}: the storage does not delete it before that (object lock)"
            error = FileError("Retained", said)
        if error.code in _FINAL:
            before = self.kept.get(item.key)
            if before is None or (before.code == error.code and before.message < error.message):
                self.kept[item.key] = error

    async def _one_by_one(self, items: Sequence[_Item], outlived: Set[ObjectVersion]) -> None:
        """Deletes each item by its own request. `outlived`: items that a batch did not delete. The store made
        the folder markers among them, so they are not counted."""

        async def delete(item: _Item) -> None:
            error, started = await self.remover.request(item.key, item.version)
            if isinstance(error, FileError):
                await self._keep(item, error)
            if error is not None:
                self.kept.setdefault(item.key, error)
            elif not (item.name in outlived and item.key.endswith("/")):
                self._count(item, started)

        await self.remover.each(delete, items)

    def _count(self, item: _Item, started: float) -> None:
        if item.shown:
            self.progress.deleted(item.key, item.size, time.monotonic() - started)


def _item(version: xml_messages.Version) -> _Item:
    shown, rank = None, _MARKER if version.is_marker else _OLDER
    if version.is_latest and not version.is_marker:
        shown = ObjectEntry(version.key, version.size or 0, version.etag, version.modified)
        rank = _LATEST
    return _Item(version.key, version.version_id, version.size, shown, rank)
