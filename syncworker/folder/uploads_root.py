"""Opens files safely below the uploads root: no call leaves it, whatever is renamed or linked meanwhile.

Paths are `str` (surrogateescape), relative to the root, `/`-separated, without `.`, `..` or empty names;
`""` is the root itself. Every path is walked name by name from a descriptor of the root, opened once, and no
name on the way may be a symlink: if one is swapped in, the call fails with ELOOP. `symlinks.py` finds where
symlinks lead.

At most `_REMEMBERED` descriptors of directories are kept open. One is used again only if its path still names
the same directory; who opens many files in a row may say how long ago that may have been. Users are counted,
and the last one closes it, so that no thread closes a descriptor that another one uses.

All errors are `OSError`; `VANISHED` and `CHANGED` list those that mean "it is gone" and "it is something else
now". Nothing is written here, and no descriptor is opened for writing.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from syncworker.errors import FatalError
from syncworker.system import mount_table

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR})
CHANGED = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})  # a symlink; a directory; a FIFO or device
OUTSIDE = errno.EXDEV  # what openat2 answers when RESOLVE_BENEATH is violated

READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS_DIRECTORY = mount_table.NAME_DIRECTORY | os.O_NOFOLLOW
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMEMBERED = 64
_NOT_NAMES = ("", ".", "..")
_LOCAL = frozenset(  # file systems of the kernel's own on disks of this machine: no call waits for a network
    {"bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs"}
    | {"reiserfs", "squashfs", "tmpfs", "vfat", "xfs", "zfs"}
)

Identity = tuple[int, int]  # st_dev, st_ino: never used again while a descriptor of it is open


def identity(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino


def os_error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


class _Directory:
    """An open directory and its number of users; being remembered is one use."""

    __slots__ = ("fd", "identity", "seen_at", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 1
        self.seen_at = 0.0  # when its path was last seen to lead there
        try:
            self.identity = identity(os.fstat(fd))
        except OSError:
            os.close(fd)
            raise


class Tree(AbstractContextManager["Tree"]):
    """The uploads root. Threads may share one."""

    def __init__(self, root: str) -> None:
        if sys.getfilesystemencoding() != "utf-8":
            raise FatalError(
                "FilesystemEncoding",
                f"File names are read as {sys.getfilesystemencoding()}, keys are UTF-8: set PYTHONUTF8=1.",
            )
        try:
            # The operator's own path: it may be a symlink, so no O_NOFOLLOW.
            self._root = _Directory(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FatalError(
                "UploadsRootMissing",
                f"The uploads folder {root} is missing or not a folder: is its disk mounted?",
            ) from error
        except OSError as error:
            raise FatalError(
                "UploadsRootUnreadable", f"The uploads folder {root} cannot be opened: {error.strerror}."
            ) from error
        self.root, self.identity = os.path.realpath(root), self._root.identity
        self.is_local = is_local(self.root)
        self.in_memory = devices_in_memory()
        self._remembered: OrderedDict[str, _Directory] = OrderedDict()
        self._lock = threading.Lock()  # of `_remembered`, `_closed` and every count of users
        self._closed = False

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every descriptor that no call is using now. Later calls raise ValueError."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for directory in (self._root, *self._remembered.values()):
                    _let_go(directory)
                self._remembered.clear()

    def open_file(self, path: str, lately: float = 0.0) -> tuple[int, os.stat_result]:
        """Opens a regular file. Returns a descriptor, for the caller to close, and its stat. Never waits for
        a FIFO's writer. `lately`: the file may be that of a path as it was so many seconds ago."""
        parent, name = _split(path)
        directory = self._enter(parent, lately)
        try:
            fd = os.open(name, _READ_FILE, dir_fd=directory.fd)
        finally:
            self._leave(directory)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise os_error(errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.ENXIO, path)
        except OSError:
            os.close(fd)
            raise
        return fd, info

    def open_dir(self, path: str) -> int:
        """Opens a directory to read its names. The caller closes the descriptor."""
        if not path:
            with self._directory("") as root:
                return os.open(".", READ_DIRECTORY, dir_fd=root)
        with self._parent(path) as (directory, name):
            return _open_directory(name, READ_DIRECTORY, directory)

    def lstat(self, path: str) -> os.stat_result | None:
        """Returns None if it does not exist. `""`: whatever the root's path names now."""
        try:
            if not path:
                return os.stat(self.root)
            with self._parent(path) as (directory, name):
                return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def readlink(self, base: str, name: str) -> str | None:
        """Returns the target of the link `name` in the directory `base`; None if it is no link."""
        try:
            with self._directory(base) as directory:
                return os.readlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        parent, name = _split(path)
        with self._directory(parent) as directory:
            yield directory, name

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        directory = self._enter(path)
        try:
            yield directory.fd
        finally:
            self._leave(directory)

    def _enter(self, path: str, lately: float = 0.0) -> _Directory:
        """Returns the open directory, to which its path led at most `lately` seconds ago. The caller must
        pass it to `_leave`."""
        directory = self._recall(path, lately)
        if directory is None:
            now = time.monotonic()  # before the walk, which may take long
            directory = _Directory(self.open_name(path))
            directory.seen_at = now
            self._remember(path, directory)
        return directory

    def _leave(self, directory: _Directory) -> None:
        with self._lock:
            _let_go(directory)

    def _recall(self, path: str, lately: float) -> _Directory | None:
        with self._lock:
            if self._closed:
                raise ValueError("the uploads folder was closed")
            directory = self._remembered.get(path) if path else self._root
            if directory is None:
                return None
            directory.users += 1
            if path:
                self._remembered.move_to_end(path)
        if not path or time.monotonic() - directory.seen_at < lately or self._names(path, directory):
            return directory
        with self._lock:
            _let_go(directory)
        return None

    def _remember(self, path: str, directory: _Directory) -> None:
        with self._lock:
            if self._closed:
                return
            if path in self._remembered:
                _let_go(self._remembered.pop(path))
            elif len(self._remembered) >= _REMEMBERED:
                _let_go(self._remembered.popitem(last=False)[1])
            directory.users += 1
            self._remembered[path] = directory

    def open_name(self, path: str) -> int:
        """Opens a directory below the root with `O_PATH`, by a new walk, so that it shows what is mounted
        there now. The caller closes the descriptor."""
        with self._directory("") as root:
            fd = os.dup(root)
        for name in path.split("/"):
            try:
                if name in _NOT_NAMES:
                    raise os_error(OUTSIDE, path)
                below = _open_directory(name, _PASS_DIRECTORY, fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _names(self, path: str, directory: _Directory) -> bool:
        """Whether the path still leads to this directory. One call, cheaper than the walk; it may follow
        symlinks, but its result is only compared, never opened."""
        now = time.monotonic()
        try:
            names = identity(os.stat(path, dir_fd=self._root.fd)) == directory.identity
        except OSError:  # gone, unreadable or longer than PATH_MAX: the walk raises the error
            names = False
        directory.seen_at = now if names else 0.0
        return names


def is_local(root: str, mounts: str = mount_table.MOUNTINFO) -> bool:
    """Whether `root` (without symlinks) and everything mounted below it is on disks of this machine. On other
    or unknown file systems (NFS, SMB, FUSE) any call may wait as long as a server is away."""
    below = root.rstrip("/") + "/"
    types = {mount.point: mount.type for mount in mount_table.read(mounts)}
    own = max((point for point in types if below.startswith(point.rstrip("/") + "/")), key=len, default="")
    return own in types and all(t in _LOCAL for p, t in types.items() if p == own or p.startswith(below))


def devices_in_memory(mounts: str = mount_table.MOUNTINFO) -> frozenset[int]:
    """Returns the devices whose files are always in memory (tmpfs): a read never waits for a disk, although
    `RWF_NOWAIT` does not work there."""
    return frozenset(mount.device for mount in mount_table.read(mounts) if mount.type == "tmpfs")


def _split(path: str) -> tuple[str, str]:
    """Splits a path into the directory and the name in it."""
    parent, _, name = path.rpartition("/")
    if name in _NOT_NAMES or path.startswith("/"):
        raise os_error(OUTSIDE, path)
    return parent, name


def _let_go(directory: _Directory) -> None:
    """Only with the lock held."""
    directory.users -= 1
    if directory.users == 0:
        os.close(directory.fd)


def _open_directory(name: str, flags: int, directory: int) -> int:
    """Opens a directory. For a symlink Linux answers ENOTDIR to O_DIRECTORY|O_NOFOLLOW, which would look as
    if it had vanished: so raises ELOOP."""
    try:
        return os.open(name, flags, dir_fd=directory)
    except NotADirectoryError:
        with suppress(FileNotFoundError):
            if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise os_error(errno.ELOOP, name) from None
        raise
