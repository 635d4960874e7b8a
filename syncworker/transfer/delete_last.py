"""The last stage of a mirror: deletes the objects whose files are gone.

It begins only if everything else succeeded. Right before each deletion the folder is read again: an object
whose file exists again stays. Over plain http, the bucket is also asked again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import islice

from syncworker.errors import FatalError, FileError, RetryError
from syncworker.folder.source import Source
from syncworker.model import ObjectEntry, Phase
from syncworker.plan.planner import Kept
from syncworker.plan.spool import Spool
from syncworker.system.gather import side_by_side
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.delete_objects import Entry, Remover

_FOLDERS_ASKED = 5
_ASKED_AT_ONCE = 1000


class Sweep:
    """`deletes`: the planner's spool of objects, which must be complete. `kept`: which objects without a file
    stay."""

    def __init__(
        self, attempt: Attempt, folder: Source, deletes: Spool, remover: Remover, kept: Kept
    ) -> None:
        self.folder, self.deletes, self.remover, self.kept = folder, deletes, remover, kept
        self.index, self.progress, self.bucket = attempt.index, attempt.progress, attempt.bucket
        self.changes, self.in_thread, self.control = attempt.changes, attempt.in_thread, attempt.stop.control
        self.held_folders: set[str] = set()  # objects below these stay: they may be of files with odd names
        self._there: set[str] = set()  # had a file when the deletions were counted: they stay
        self._removed: set[str] = set()  # deleted early, because they blocked an upload

    async def clear_the_way(self, objects: list[tuple[str, int]]) -> int:
        """Deletes these objects now, and returns how many were deleted. Each has its own request, because a
        store that is a file system then removes the folders that become empty."""
        await self.in_thread(self.folder.check_there)
        before = len(self._removed)
        for key, size in objects:
            if key in self._there or await self.in_thread(self.folder.has_file, key):
                continue
            self.changes.ordered(key)
            failures = await self.remover.single(key, size)
            for _, error in failures:
                self.progress.error("delete", key, error)
            if not failures:
                self._removed.add(key)
        return len(self._removed) - before

    async def delete_all(self) -> int:
        """Deletes the rest and returns how many deletions failed. Raises if the source folder is missing."""
        await self.in_thread(self.folder.check_there)
        self.progress.phase(Phase.DELETING, "deleting objects without a file")
        failures = 0
        batch: list[Entry] = []
        for key, size, *_ in self.deletes:
            if key in self._removed:
                continue
            if self._is_held(key):
                self.progress.kept()
                continue
            batch.append((key, size))
            if len(batch) >= self.remover.at_once():
                failures += await self._delete(batch)
                batch = []
        failures += await self._delete(batch)
        if not failures:
            failures += await self._delete_markers()
        return failures

    async def going(self) -> AsyncIterator[list[ObjectEntry]]:
        """Yields the objects that would be deleted now, in lists of up to a thousand: without those in held
        folders, and without those whose files exist again."""
        records = (ObjectEntry._make(record) for record in self.deletes)
        wanted = (obj for obj in records if obj.key not in self._removed and not self._is_held(obj.key))
        while chunk := await self.in_thread(list, islice(wanted, _ASKED_AT_ONCE)):
            there = await self.in_thread(self.folder.with_files, [obj.key for obj in chunk])
            self._there.update(there)
            yield [obj for obj in chunk if obj.key not in there]

    def _is_held(self, key: str) -> bool:
        held = self.held_folders
        return bool(held) and ("" in held or any(key[: i + 1] in held for i, c in enumerate(key) if c == "/"))

    async def _delete(self, batch: list[Entry]) -> int:
        self.control.check()
        there = await self.in_thread(self.folder.with_files, [key for key, _ in batch])
        gone = []
        for key, size in batch:
            if key in there or key in self._there:
                self.progress.came_back(key, size)
            else:
                gone.append((key, size))
        missing = await self._missing(gone)
        gone = [(key, size) for key, size in gone if key not in missing]
        if not gone:
            return 0
        for key, _ in gone:
            self.changes.ordered(key)
        failed = dict(await self.remover.objects(gone))
        for key, error in failed.items():
            self.progress.error("delete", key, error)
        return len(failed)

    async def _missing(self, entries: list[Entry]) -> set[str]:
        """Returns the keys of those that the storage does not have. Over plain http nothing protects a
        listing: if a bit was flipped in a key, that object does not exist, and the right one would stay. A
        listing may also be outdated. So the whole bucket is listed again at the end (`doubt`). Raises
        FatalError BrokenListing if a new listing names such a key again."""
        absent: set[str] = set()

        async def ask(key: str) -> None:
            self.control.check()
            try:
                if await self.bucket.lacks(key):
                    absent.add(key)
            except (FileError, RetryError):
                self.control.check()  # else the deletion reports the error

        # A store that is a file system may not answer HEAD of a folder: markers are not checked.
        keys = (key for key, size in entries if size or not key.endswith("/"))
        if not self.bucket.uses_tls:
            await side_by_side(ask, [key for key in keys if self.index.find(key) is None])
        if not absent:
            return absent
        try:
            named = await self.bucket.listed_anew(list(absent))
        except (FileError, RetryError):
            self.control.check()
            named = min(absent)  # nothing speaks for the listing
        self.changes.doubt = FatalError(
            "BrokenListing",
            f"the storage's listing names {named or min(absent)!a}, which does not exist: the answer may"
            " have been corrupted in transit: use https, and resume the job",
        )
        if named is not None:
            raise self.changes.doubt
        return absent

    async def _delete_markers(self) -> int:
        """Deletes folders that a store, because it is a file system, still lists as objects after their
        objects were deleted (juicefs gateway after DeleteObjects). Tests once for each destination whether
        the store does so. Returns how many folders could not be listed or deleted."""
        failures = 0
        if self.index.fact("folder_markers") == "0":
            return failures
        last, asked = "", 0
        for key, *_ in self.deletes:
            folder = key[: key.rfind("/") + 1]
            if not folder or folder in (last, key) or key in self._removed or self._is_held(key):
                continue
            last = folder
            if self.kept.keeps(folder):
                continue
            known = self.index.fact("folder_markers") == "1"
            try:
                if not known or await self.in_thread(self.folder.has_folder, folder[:-1]):
                    # Without the slash, because juicefs does not list a marker that is the prefix itself.
                    keys = await self.bucket.list_exact(folder[:-1], 1000)
                    if not known and any(k.startswith(folder) and k.endswith("/") for k in keys):
                        self.index.set_fact("folder_markers", "1")
                    elif not known and (asked := asked + 1) >= _FOLDERS_ASKED:
                        self.index.set_fact("folder_markers", "0")
                        return failures
                    if folder not in keys:
                        continue
                self.control.check()
                self.changes.ordered(folder)
                await self.bucket.delete(folder)
            except FileError as error:
                self.progress.error("delete", folder, error)
                failures += 1
        return failures
