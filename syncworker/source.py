"""The folder as a whole: whether it is there, whether it is empty, what it has under a key at this moment.

An empty folder deletes a bucket, so "empty" is believed only when everything could be looked at: an
unmounted disk, an unreadable directory or dangling links are errors instead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from syncworker import links
from syncworker.errors import FatalError
from syncworker.index import Index
from syncworker.model import FileEntry, ScanItem, Skip, Unreadable
from syncworker.scan import SourceMissing, scan
from syncworker.tree import VANISHED, Identity, Tree, identity

if TYPE_CHECKING:
    from syncworker.patterns import PathFilter

_LINKS = frozenset({"symlink_outside", "symlink_dangling", "symlink_loop"})


class Look(NamedTuple):
    """The beginning of a scan: what came before the first file, that file (None: there is none), whether the
    folder exists, and the scan, which goes on from there."""

    before: list[ScanItem]
    first: FileEntry | None
    exists: bool
    rest: Iterator[ScanItem]


class Source:
    """One folder below the uploads root. Every method blocks on the disk."""

    def __init__(
        self,
        tree: Tree,
        uploads_dir: str,
        source: str,
        should_stop: Callable[[], bool],
        scan: Callable[..., Iterator[ScanItem]] = scan,
        path_filter: PathFilter | None = None,
    ) -> None:
        self.tree = tree
        self.uploads_dir = uploads_dir
        self.source = source
        self.should_stop = should_stop
        self.scan = scan
        self.path_filter = path_filter
        self._identity: Identity | None = None
        self._is_missing = False

    def guard_root(self, index: Index) -> None:
        """An empty root on another device than at the last sync is a disk that is not mounted."""
        device = str(os.stat(self.uploads_dir).st_dev)
        before = index.fact("root_device")
        with os.scandir(self.uploads_dir) as entries:
            empty = next(entries, None) is None
        if not empty:
            index.set_fact("root_device", device)
        elif before is not None and before != device:
            raise FatalError(
                "UploadsRootEmpty",
                "the uploads folder is empty and on another device than at the last sync: is its disk"
                " mounted? Nothing was deleted",
            )

    def note_disk(self, index: Index) -> None:
        """Remembers, of a folder with files, whether a disk of its own is mounted there."""
        own = self._identity is not None and self._identity[0] != os.stat(self.uploads_dir).st_dev
        if own or index.fact(self._disk_fact) is not None:
            index.set_fact(self._disk_fact, str(int(own)))

    def guard_disk(self, index: Index) -> None:
        """An empty or missing folder that had a disk of its own, and has none now: it is not mounted. (Device
        numbers are not compared with those of before: many change when a machine starts.)"""
        if index.fact(self._disk_fact) != "1":
            return
        try:
            mounted = self._where()[0] != os.stat(self.uploads_dir).st_dev
        except FatalError:
            mounted = False
        if not mounted:
            raise FatalError(
                "SourceNotMounted",
                "the folder holds no file, and the disk that was mounted there at the last sync is not:"
                " nothing was deleted; mount it, or put a file into the folder and sync once",
            )

    @property
    def _disk_fact(self) -> str:
        return f"own_disk {self.source}"

    def look(self) -> Look:
        before: list[ScanItem] = []
        rest = self.scan(self.tree, self.source, self.should_stop, self.path_filter)
        try:
            for item in rest:
                if isinstance(item, FileEntry):
                    self._identity = self._where()
                    return Look(before, item, True, rest)
                before.append(item)
        except SourceMissing:
            return Look(before, None, False, iter(()))
        self._identity = self._where()
        return Look(before, None, True, iter(()))

    def _where(self) -> Identity:
        try:
            _, info = links.resolve(self.tree, self.source)
        except OSError as error:
            raise vanished() from error
        if not stat.S_ISDIR(info.st_mode):
            raise vanished()
        return identity(info)

    def believe_missing(self) -> None:
        """The folder was looked for twice and is not there: `check_there` expects no more."""
        self._is_missing = True

    def check_there(self) -> None:
        """Raises unless the folder is still the one that the scan began with."""
        if self._is_missing:
            return
        if self._where() != self._identity:
            raise vanished()

    def has_file(self, key: str) -> bool:
        """Whether the folder has anything but a directory under this key now; when in doubt, it has."""
        mode = self._mode(key)
        return mode is None or (mode != 0 and not stat.S_ISDIR(mode))

    def has_folder(self, key: str) -> bool:
        """Whether it has a directory under this key; when in doubt, it has."""
        mode = self._mode(key)
        return mode is None or stat.S_ISDIR(mode)

    def _mode(self, key: str) -> int | None:
        """The mode of what is under a key, symlinks followed: 0 for nothing, None when it cannot be told."""
        # Not so for a `/` at the end: a store that is a file system takes `x/` for `x`, which we just sent.
        if _impossible(key.removesuffix("/")):
            return 0
        try:
            return links.resolve(self.tree, f"{self.source}/{key}" if self.source else key)[1].st_mode
        except OSError as error:
            return 0 if error.errno in VANISHED else None


def refuse_unknown(items: list[ScanItem]) -> None:
    """No file was found; raises unless it is certain that there is none."""
    for item in items:
        if isinstance(item, Unreadable):
            raise FatalError(
                item.code, f"the folder is not known to be empty, so nothing was deleted: {item.message}"
            )
    if any(isinstance(item, Skip) and item.reason in _LINKS for item in items):
        raise FatalError(
            "OnlyUnusableLinks",
            "the folder holds nothing but symbolic links that lead nowhere or out of the uploads folder: it"
            " is not known to be empty, so nothing was deleted",
        )


def vanished() -> FatalError:
    return FatalError(
        "SourceVanished", "the folder vanished after the job began: nothing was deleted; is its disk mounted?"
    )


def _impossible(key: str) -> bool:
    """A key that no file can have, though a path might lead somewhere: empty names, dots, too long a name."""
    return "\0" in key or any(
        part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in key.split("/")
    )
