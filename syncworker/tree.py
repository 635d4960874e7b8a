"""Safe opening below the uploads root: whatever is renamed or linked meanwhile, no call leaves the root.

Paths are `str` (surrogateescape), relative to the root, `/`-separated, without `.`, `..` or empty names;
`""` is the root itself. Every path is walked name by name from a descriptor of the root, opened once, and no
name on the way may be a symlink: one that is swapped in fails with ELOOP instead of leading somewhere. Only
`resolve` follows symlinks, and it returns a path without any, to be walked in the same way.

Descriptors of directories are remembered, at most `_REMEMBERED` of them. One is used again only while its
path still names the same directory. It is closed when the last thread that uses it lets go of it, by
Python's own reference count, so forgetting one never closes it under a reader.

All errors are `OSError`; `VANISHED` and `CHANGED` say which of them mean "it is gone" and "it is something
else now". Nothing is written here, and no descriptor is opened for writing.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections import OrderedDict

from syncworker.errors import FatalError

VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR})
CHANGED = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})  # a symlink; a directory; a FIFO or device
OUTSIDE = errno.EXDEV  # what openat2 answers when RESOLVE_BENEATH is violated

READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # needs no read permission
_READ_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMEMBERED = 64
_MAX_LINKS = 40  # the kernel's own limit, path_resolution(7)

Identity = tuple[int, int]  # st_dev, st_ino: never used again while a descriptor of it is open


def identity(info: os.stat_result) -> Identity:
    return info.st_dev, info.st_ino


class _Directory:
    """A descriptor that lives as long as somebody refers to it."""

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.identity = identity(os.fstat(fd))

    def __del__(self) -> None:
        os.close(self.fd)


class Tree:
    """The uploads root. Threads may share one; `close` only after they are done."""

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
                f"The uploads folder {root} is missing or no folder: is its disk mounted?",
            ) from error
        except OSError as error:
            raise FatalError(
                "UploadsRootUnreadable", f"The uploads folder {root} cannot be opened: {error.strerror}."
            ) from error
        self.root = os.path.realpath(root)
        self._remembered: OrderedDict[str, _Directory] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget every descriptor. Calls after this fail."""
        with self._lock:
            self._remembered.clear()
        vars(self).pop("_root", None)

    def open_file(self, path: str) -> int:
        """A descriptor of the regular file, for the caller to close. Never waits for a FIFO's writer."""
        directory, name = self._parent(path)
        fd = os.open(name, _READ_FILE, dir_fd=directory.fd)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            os.close(fd)
            raise _error(errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO, path)
        return fd

    def open_dir(self, path: str) -> int:
        """A descriptor to read the directory's names with, for the caller to close."""
        if not path:
            return os.open(".", READ_DIRECTORY, dir_fd=self._root.fd)
        directory, name = self._parent(path)
        return _open_directory(name, READ_DIRECTORY, directory)

    def lstat(self, path: str) -> os.stat_result | None:
        """None when it does not exist. For `""`: whatever the root's path names now."""
        try:
            if not path:
                return os.stat(self.root)
            directory, name = self._parent(path)
            return os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def resolve(self, path: str, base: str = "") -> tuple[str, os.stat_result]:
        """Follow every symlink in `path`, which starts at the directory `base` (walked as it is).

        Returns a path without symlinks, and what is there. A path may lead out of the root and back in (an
        absolute link does), but must end inside: else EXDEV, whether or not anything is there. A link that
        leads nowhere: ENOENT; links in a circle: ELOOP.
        """
        walked = base.split("/") if base else []
        ahead = path.split("/")[::-1]
        links = 0
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == ".." and walked:
                walked.pop()
                continue
            target = "/.." if name == ".." else self._readlink("/".join(walked), name)
            if target is None:
                walked.append(name)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise _error(errno.ELOOP, path)
            if target.startswith("/"):
                start = self.root if name == ".." else ""
                absolute = "/" + (start + target).lstrip("/")  # "//x" is not "/x" to os.path
                walked, target = [], self._inside("/".join([absolute, *reversed(ahead)]))
                ahead = []
            ahead.extend(target.split("/")[::-1])
        resolved = "/".join(walked)
        info = self.lstat(resolved)
        if info is None:
            raise _error(errno.ENOENT, path)
        return resolved, info

    def _inside(self, absolute: str) -> str:
        """The path below the root that an absolute path leads to. Only a hint: it is walked again."""
        real = os.path.realpath(absolute)
        prefix = self.root.rstrip("/") + "/"
        if not (real + "/").startswith(prefix):
            raise _error(OUTSIDE, absolute)
        return real[len(prefix) :]

    def _readlink(self, base: str, name: str) -> str | None:
        """Where the link leads; None when it is no link."""
        try:
            return os.readlink(name, dir_fd=self._directory(base).fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None

    def _parent(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        if name in ("", ".", "..") or path.startswith("/"):
            raise _error(OUTSIDE, path)
        return self._directory(parent), name

    def _directory(self, path: str) -> _Directory:
        if not path:
            return self._root
        with self._lock:
            known = self._remembered.get(path)
            if known is not None:
                self._remembered.move_to_end(path)
        if known is not None and self._names(path, known):
            return known
        directory = self._root
        for name in path.split("/"):
            if name in ("", ".", ".."):
                raise _error(OUTSIDE, path)
            directory = _Directory(_open_directory(name, _PASS_DIRECTORY, directory))
        with self._lock:
            self._remembered[path] = directory
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return directory

    def _names(self, path: str, directory: _Directory) -> bool:
        """Whether the path still leads to this very directory. One call, cheaper than the walk; it may pass
        symlinks, but what it finds is only compared, never opened."""
        try:
            return identity(os.stat(path, dir_fd=self._root.fd)) == directory.identity
        except OSError:  # gone, unreadable, longer than PATH_MAX: the walk tells, if anything is wrong
            return False


def _open_directory(name: str, flags: int, directory: _Directory) -> int:
    """Linux answers ENOTDIR to O_DIRECTORY|O_NOFOLLOW on a symlink; that would look like a vanished one."""
    try:
        return os.open(name, flags, dir_fd=directory.fd)
    except NotADirectoryError:
        try:
            mode = os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            mode = 0
        if stat.S_ISLNK(mode):
            raise _error(errno.ELOOP, name) from None
        raise


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
