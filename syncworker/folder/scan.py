"""The folder as a stream of entries, in the order of their keys.

`scan` walks the source depth first and yields a `FileEntry` for each file to send, a `Skip` for what is no
file (a socket, a symlink that is broken or leads out of the root), and an `Unreadable` for what exists and
cannot be sent. The order is that of the keys' UTF-8 bytes, because a directory sorts as its name and "/".
What cannot be read is never taken for empty or missing.

Memory grows with the largest single directory and with the depth, not with the tree; at most `_OPEN_LEVELS`
descriptors are open beside those of `Tree`. Only directories are opened. Files may change at any time: the
reader of a file compares its `stat` with the entry. A directory is read once for each symlink to it, too.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, ParamSpec

from syncworker.errors import FatalError, Stopped
from syncworker.escape import escape_non_utf8
from syncworker.folder.scan_items import (
    changed,
    not_utf8,
    special,
    too_long,
    unread_directory,
    unread_file,
    unread_link,
)
from syncworker.folder.stat_ahead import THREADS, StatAhead
from syncworker.folder.symlinks import SourceMissing, find_source, resolve
from syncworker.folder.uploads_root import READ_DIRECTORY, Identity, Tree, identity
from syncworker.model import KEY_MAX_BYTES, FileEntry, ScanItem, Skip, Unreadable
from syncworker.system import mount_table
from syncworker.system.durable_files import closing

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter  # RE2 is for those who ask for it

__all__ = ["SourceMissing", "read_ahead", "scan"]

_SURELY_SHORT = KEY_MAX_BYTES // 4  # characters, of four bytes at most
_BATCH = 1000  # files between two checks whether to stop
_AHEAD_ITEMS, _AHEAD_SECONDS = 20_000, 0.1
_OPEN_LEVELS = 32  # directories kept open; those above are opened again on the way back
_DEEPEST_PREFIX = 4096  # characters; no key below can fit, and each level holds its whole prefix

OnMount = Callable[[str, str], None]  # the path of a mount point, the prefix of the keys below it

P = ParamSpec("P")


class _Level:
    """A directory on the branch that is being walked. `rest`: its names still to be scanned, in order.

    The last character of a name says what it is: "/" a directory, NUL something that `odd` explains, else a
    regular file. (No name holds a NUL, and it sorts before everything, so it moves nothing.) For a symlink to
    a directory of the root, `odd` has the path of that directory.
    """

    __slots__ = ("fd", "identity", "last", "lstat", "odd", "path", "prefix", "rest")

    def __init__(self, fd: int, prefix: str, path: str) -> None:
        self.fd = fd  # -1: closed
        self.identity: Identity = (-1, -1)
        self.prefix = prefix  # of its keys: "" or ends in "/"
        self.path = path  # from the root, without symlinks
        self.odd: dict[str, tuple[ScanItem, ...] | str] = {}
        self.rest: Iterator[str] = iter(())
        self.last = ""  # the name scanned before
        self.lstat: Callable[..., os.stat_result] = os.stat

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_ahead(items: Iterator[ScanItem]) -> Iterator[ScanItem]:
    """Yields the same items, but first reads for a tenth of a second. Each file's `lstat` releases the
    interpreter, which beside a busy thread costs two changes of thread each time."""
    until = time.monotonic() + _AHEAD_SECONDS
    first = []
    for item in items:
        first.append(item)
        if len(first) >= _AHEAD_ITEMS or time.monotonic() > until:
            break
    yield from first
    first.clear()
    yield from items


def batches(
    tree: Tree,
    source: str,
    should_stop: Callable[[], bool],
    path_filter: PathFilter | None = None,
    on_mount: OnMount | None = None,
) -> Iterator[Sequence[ScanItem]]:
    """Yields what the filter lets through of `source` (a path from the root, "" is the root), in batches of
    up to 1,000 items; a batch may be empty. A folder that the filter excludes is not opened. The keys of the
    files ascend strictly.

    Raises SourceMissing; FatalError with SourceNotADirectory, SourceOutsideRoot, SourceDangling (a symlink
    that leads nowhere is no missing folder), or, at the end, SourceVanished: the source was removed or
    replaced during the scan, so the items may be incomplete; Stopped, when `should_stop` says so, which is
    called for each directory, after each 1,000 names that are read, and after each 1,000 files that are
    yielded.

    `on_mount` gets the path of each mount point below the source, and the prefix of its keys, before any of
    its files is yielded. It costs two comparisons a directory.
    """
    walk = _Walk(tree, should_stop, path_filter, on_mount)
    try:
        try:
            path = find_source(tree, source)
            walk.ask()
            first = walk.enter(tree.open_dir(path), "", path)
        except OSError as error:
            first = unread_directory("", error, source)
        if first is not None:
            if isinstance(first, Skip):
                raise _source_vanished(source)
            yield (first,)
            return
        top = walk.levels[0].identity
        while walk.levels:
            items, directory = walk.next_items()
            yield items
            if directory is None:
                item = walk.leave()
            else:
                walk.ask()
                item = walk.descend(directory) if directory else None
            if item is not None:
                yield (item,)
        if not _still_there(tree, path, top):
            raise _source_vanished(source)
    finally:
        walk.close()


def by_item(batches: Callable[P, Iterator[Iterable[ScanItem]]]) -> Callable[P, Iterator[ScanItem]]:
    """Makes a function that yields batches one that yields their items."""

    def items(*given: P.args, **named: P.kwargs) -> Iterator[ScanItem]:
        return chain.from_iterable(batches(*given, **named))

    return items


scan = by_item(batches)


class _Walk:
    """The branch that is being walked, from the source (`levels[0]`) down to the directory that is read."""

    def __init__(
        self,
        tree: Tree,
        should_stop: Callable[[], bool],
        path_filter: PathFilter | None,
        on_mount: OnMount | None,
    ) -> None:
        self.levels: list[_Level] = []
        self._tree = tree
        self._filter = path_filter
        self._should_stop = should_stop
        self._on_mount = on_mount or (lambda _path, _prefix: None)
        self._points = mount_table.points_below(tree.root) if on_mount else frozenset()
        self._told = ("", "")
        self._branch: set[Identity] = set()
        self._pool = None if tree.is_local else ThreadPoolExecutor(THREADS, "lstat")  # starts none by itself

    def ask(self) -> None:
        if self._should_stop():
            raise Stopped("told to stop while reading the folder")

    def close(self) -> None:
        for level in self.levels:
            level.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def enter(self, fd: int, prefix: str, path: str) -> ScanItem | None:
        """Reads the names of an opened directory and appends it to the branch; else returns an item."""
        level = _Level(fd, prefix, path)
        self.levels.append(level)  # from here on `close` closes it
        try:
            level.identity = identity(os.fstat(fd))
            if level.identity in self._branch:
                self.levels.pop().close()
                return Skip(prefix[:-1], "symlink_loop")
            self._branch.add(level.identity)
            if len(self.levels) > 1:
                self._note_mount(level)
            self._read_names(level)
        except OSError as error:
            self.levels.pop().close()
            self._branch.discard(level.identity)
            return unread_directory(prefix, error)
        if len(self.levels) > _OPEN_LEVELS:
            self.levels[-1 - _OPEN_LEVELS].close()
        return None

    def _note_mount(self, level: _Level) -> None:
        above, is_known = self.levels[-2], level.path in self._points
        if not is_known and level.identity[0] == above.identity[0]:
            return  # it has no device of its own, and no mount is known there
        linked = os.path.dirname(level.path) != above.path
        if (is_known or not linked) and mount_table.is_mount_point(level.fd):
            self._on_mount(level.path, level.prefix)

    def _note_mounts_on(self, way: str, prefix: str) -> None:
        """Notes the mounts that the target of a symlink lies on: the walk may never enter their mount
        points."""
        for point in self._points:
            if way.startswith(point + "/") and (point, prefix) != self._told and self._is_mounted(point):
                self._told = point, prefix
                self._on_mount(point, prefix)

    def _is_mounted(self, point: str) -> bool:
        try:
            fd = self._tree.open_name(point)
        except OSError:  # hidden by another mount, or gone since the table was read
            return False
        with closing(fd):
            return mount_table.is_mount_point(fd)

    def next_items(self) -> tuple[list[ScanItem], str | None]:
        """Returns the last level's next items, and a directory to descend into; "": more items, None: end.

        Hot path: one `stat` for each file, and little else. A name that is removed and created again while
        the names are read may be listed twice, even as two kinds; it is yielded once.
        """
        level = self.levels[-1]
        fd, prefix, lstat, last = level.fd, level.prefix, level.lstat, level.last
        new = tuple.__new__
        base = level.path + "/" if level.path else ""
        items: list[ScanItem] = []
        for name in level.rest:
            if name == last:
                continue
            kind = name[-1]
            if kind == "/":
                level.last = name
                return items, name
            if kind == "\0":
                odd, twice = level.odd[name], name[:-1] == last
                level.last = last = name
                if not isinstance(odd, str):
                    items.extend(item for item in odd if not (twice and isinstance(item, FileEntry)))
                elif not twice:
                    return items, name
                continue
            last = name
            key = prefix + name
            if len(key) > _SURELY_SHORT and len(key.encode()) > KEY_MAX_BYTES:
                items.append(too_long(key))
                continue
            try:
                info = lstat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                items.append(unread_file(key, error))
                continue
            if info.st_mode & 0o170000 != stat.S_IFREG:
                items.append(changed(key, info))
                continue
            values = (key, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, base + name)
            items.append(new(FileEntry, values))
            if len(items) >= _BATCH:
                level.last = last
                return items, ""
        return items, None

    def descend(self, name: str) -> ScanItem | None:
        level = self.levels[-1]
        prefix = level.prefix + name.rstrip("\0")
        if len(prefix) > _DEEPEST_PREFIX:
            return Unreadable(prefix, "KeyTooLong", f"The keys below {prefix[:80]}… are too long.", True)
        link = level.odd.get(name)
        try:
            if isinstance(link, str):
                return self.enter(self._tree.open_dir(link), prefix, link)
            fd = os.open(name[:-1], READ_DIRECTORY, dir_fd=level.fd)
        except OSError as error:
            return unread_directory(prefix, error)
        return self.enter(fd, prefix, f"{level.path}/{name[:-1]}" if level.path else name[:-1])

    def leave(self) -> ScanItem | None:
        """Goes one level up. Returns an item if the rest of that level cannot be read."""
        child = self.levels.pop()
        self._branch.discard(child.identity)
        try:
            if self.levels and self.levels[-1].fd < 0:
                self._reopen(self.levels[-1], child)
        except OSError as error:
            self.levels[-1].rest = iter(())
            return unread_directory(self.levels[-1].prefix, error)
        finally:
            child.close()
        return None

    def _reopen(self, level: _Level, child: _Level) -> None:
        """Opens a level again, by ".." from its child; by its path if the child was moved or linked to."""
        if child.fd >= 0:
            level.fd = os.open("..", READ_DIRECTORY, dir_fd=child.fd)
            if identity(os.fstat(level.fd)) == level.identity:
                return
            level.close()
        level.fd = self._tree.open_dir(level.path)
        if identity(os.fstat(level.fd)) != level.identity:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _read_names(self, level: _Level) -> None:
        names: list[str] = []
        skips = self._filter.skips_listed if self._filter else None
        with os.scandir(level.fd) as entries:
            for entry in entries:
                name = entry.name
                if not name.isascii() and escape_non_utf8(name) != name:
                    listed = self._explain(level, name)
                elif entry.is_file(follow_symlinks=False):
                    listed = name
                elif entry.is_dir(follow_symlinks=False):
                    listed = name + "/"
                else:
                    listed = self._explain(level, name)
                if skips is None or not skips(level.prefix + listed.rstrip("\0")):
                    names.append(listed)
                if not len(names) % _BATCH:
                    self.ask()
        names.sort()
        level.rest = iter(names)
        if self._pool is not None:
            level.lstat = StatAhead(self._pool, names)

    def _explain(self, level: _Level, name: str) -> str:
        """Examines a name that is neither a plain file nor a directory, or no UTF-8. Returns how to list
        it."""
        shown = escape_non_utf8(name)
        key = level.prefix + shown
        linked = False
        try:
            path = f"{level.path}/{name}" if level.path else name
            own_path, info = path, os.stat(name, dir_fd=level.fd, follow_symlinks=False)
            linked, inode = stat.S_ISLNK(info.st_mode), info.st_ino
            if linked:
                path, info = resolve(self._tree, name, level.path)
        except OSError as error:
            level.odd[shown + "\0"] = unread_link(key, error) if linked else (unread_file(key, error),)
            return shown + "\0"
        is_directory = stat.S_ISDIR(info.st_mode)
        listed = shown + "/" * is_directory
        if not is_directory and not stat.S_ISREG(info.st_mode):
            found: tuple[ScanItem, ...] | str = (Skip(key, special(info)),)
        elif shown != name:
            found = (not_utf8(key + "/" * is_directory, is_directory, own_path, inode),)
        elif not linked:  # the file system does not list types
            return listed
        elif identity(info) in self._branch:
            listed, found = shown, (Skip(key, "symlink_loop"),)
        elif is_directory:
            found = path
            self._note_mounts_on(path, level.prefix + listed)
        elif len(key.encode()) > KEY_MAX_BYTES:
            found = (too_long(key),)
        else:
            self._note_mounts_on(path, level.prefix)
            found = (FileEntry(key, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, path),)
        level.odd[listed + "\0"] = found
        return listed + "\0"


def _still_there(tree: Tree, path: str, was: Identity) -> bool:
    try:
        now = tree.lstat(path)
    except OSError:  # a symlink or an unreadable directory is on the way now
        return False
    return now is not None and identity(now) == was


def _source_vanished(source: str) -> FatalError:
    return FatalError(
        "SourceVanished",
        f"The source folder {escape_non_utf8(source) or '(all of it)'} was removed or replaced while it was "
        "read: sync again.",
    )
