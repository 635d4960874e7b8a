"""The folder as a whole: whether it exists, whether it is empty, what it has under a key now.

An empty folder deletes a bucket, so a folder counts as empty only if everything in it could be read: an
unreadable directory or dangling links are errors instead. Disks that are not mounted: worker/mount_check.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from syncworker.errors import FatalError
from syncworker.folder import symlinks
from syncworker.folder.scan import OnMount, SourceMissing, scan
from syncworker.folder.uploads_root import VANISHED, Identity, Tree, identity
from syncworker.model import FileEntry, ScanItem, Skip, Unreadable
from syncworker.system.durable_files import closing

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

_LINKS = frozenset({"symlink_outside", "symlink_dangling", "symlink_loop"})


class ScanStart(NamedTuple):
    """The beginning of a scan: the items before the first file, that file (None: there is none), whether the
    folder exists, and the iterator over the rest."""

    before: list[ScanItem]
    first: FileEntry | None
    exists: bool
    rest: Iterator[ScanItem]


class Source:
    """One folder below the uploads root. Every method blocks on the disk."""

    def __init__(
        self,
        tree: Tree,
        source: str,
        should_stop: Callable[[], bool],
        scan: Callable[..., Iterator[ScanItem]] = scan,
        path_filter: PathFilter | None = None,
        on_mount: OnMount | None = None,
    ) -> None:
        self.tree, self.source, self.should_stop = tree, source, should_stop
        self.scan, self.path_filter, self.on_mount = scan, path_filter, on_mount
        self._identity: Identity | None = None
        self._is_missing = False

    def start_scan(self) -> ScanStart:
        before: list[ScanItem] = []
        rest = self.scan(self.tree, self.source, self.should_stop, self.path_filter, self.on_mount)
        try:
            for item in rest:
                if isinstance(item, FileEntry):
                    self._identity = self._where()
                    return ScanStart(before, item, True, rest)
                before.append(item)
        except SourceMissing:
            return ScanStart(before, None, False, iter(()))
        self._identity = self._where()
        return ScanStart(before, None, True, iter(()))

    def scan_again(self) -> Iterator[ScanItem]:
        """Scans again. Raises FatalError unless it is still the folder of the first scan."""
        self.check_there()
        if self._is_missing:
            return iter(())
        return self.scan(self.tree, self.source, self.should_stop, self.path_filter)

    def _where(self) -> Identity:
        try:
            _, info = symlinks.resolve(self.tree, self.source)
        except OSError as error:
            raise vanished() from error
        if not stat.S_ISDIR(info.st_mode):
            raise vanished()
        return identity(info)

    def believe_missing(self) -> None:
        """Called if the folder was missing twice: `check_there` then expects none."""
        self._is_missing = True

    def check_there(self) -> None:
        """Raises FatalError unless the folder is still the one of the first scan."""
        if not self._is_missing and self._where() != self._identity:
            raise vanished()

    def has_file(self, key: str) -> bool:
        """Whether something other than a directory exists under this key. In doubt: True."""
        return bool(self.with_files([key]))

    def with_files(self, keys: Sequence[str]) -> set[str]:
        """Returns the keys under which something other than a directory exists, including doubtful ones.

        A file system that ignores case (vfat, SMB, ext4 with casefold) or normal forms finds a file under
        other names than its own, so each name must be an entry of its directory. Directories are read after
        the files were looked up, so that a file that appears in between is found in both.
        """
        there = [key for key in keys if self._may_have(key)]
        wanted: dict[str, set[str]] = {}
        for key in there:
            for folder, name in self._steps(key):
                wanted.setdefault(folder, set()).add(name)
        missing = {
            (folder, name) for folder, names in wanted.items() for name in names - self._own(folder, names)
        }
        return {key for key in there if missing.isdisjoint(self._steps(key))}

    def _steps(self, key: str) -> list[tuple[str, str]]:
        """Returns (folder, name) of each name on the path of a key."""
        steps, folder = [], self.source
        for name in key.removesuffix("/").split("/"):
            steps.append((folder, name))
            folder = f"{folder}/{name}" if folder else name
        return steps

    def _own(self, folder: str, names: set[str]) -> set[str]:
        """Returns those of the names that a folder has just so; all of them if it cannot be read."""
        try:
            path, _ = symlinks.resolve(self.tree, folder)
            with closing(self.tree.open_dir(path)) as fd, os.scandir(fd) as entries:
                return {entry.name for entry in entries if entry.name in names}
        except OSError:
            return names

    def _may_have(self, key: str) -> bool:
        mode = self._mode(key)
        return mode is None or (mode != 0 and not stat.S_ISDIR(mode))

    def has_folder(self, key: str) -> bool:
        """Whether a directory exists under this key. In doubt: True."""
        mode = self._mode(key)
        return mode is None or stat.S_ISDIR(mode)

    def entry(self, key: str) -> FileEntry | None:
        """Returns the regular file under this key, None if there is none."""
        try:
            path, info = self._resolve(key)
        except OSError:
            return None
        if not stat.S_ISREG(info.st_mode):
            return None
        return FileEntry(key, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, path)

    def _resolve(self, key: str) -> tuple[str, os.stat_result]:
        return symlinks.resolve(self.tree, f"{self.source}/{key}" if self.source else key)

    def _mode(self, key: str) -> int | None:
        """Returns the mode of what is under a key, symlinks followed: 0 for nothing, None if unknown."""
        # A `/` at the end is allowed: a store that is a file system takes `x/` for `x`, which we just sent.
        if _impossible(key.removesuffix("/")):
            return 0
        try:
            return self._resolve(key)[1].st_mode
        except OSError as error:
            return 0 if error.errno in VANISHED else None


def refuse_unknown(items: list[ScanItem]) -> None:
    """Raises FatalError unless it is certain that the folder has no file."""
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
        "SourceVanished",
        "the folder vanished after the job began, so nothing more was deleted; is its disk mounted?",
    )


def _impossible(key: str) -> bool:
    """Whether no file can have this key, though its path may lead somewhere: empty names, dots, long
    names."""
    return "\0" in key or any(
        part in ("", ".", "..") or len(os.fsencode(part)) > 255 for part in key.split("/")
    )
