"""Durable files and kernel locks: the only module that touches `fcntl`, `os.replace` and `fsync`.

Promises
- `replace_json`: a reader sees the old object or the new one, whole, at every instant, after `kill -9` and
  after a power cut (the file is synced before its rename: XFS would leave it empty otherwise). With `durable`
  the new one survives a power cut once the call has returned (the directory is synced too). A failed write
  leaves the old file as it was.
- `Lock`: held by at most one process (`flock` on the open file); the kernel frees it when the process ends,
  however it ends. The file may be removed by its holder: who acquires a name that has been removed or made
  anew meanwhile tries again, so there are never two holders of one name.

Not promised: anything on NFS, SMB or a virtual machine's shared folder (`self_test` tries and says so).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from syncworker.errors import FatalError

SELF_TEST = ".self-test-"
_RETRY_SECONDS = 0.01
_LINE_BYTES = 64 << 10
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable. File systems that cannot do so answer EINVAL: no error."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def sync_file(fd: int) -> None:
    """Makes what was written to a file durable."""
    os.fsync(fd)


def move_aside(path: str, other: str) -> None:
    """Gives a file another name, over what had it before."""
    os.replace(path, other)


def write_all(fd: int, data: bytes) -> None:
    """`os.write` may write less than it was given (a full disk, a signal): go on until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_bytes(path: str, data: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Publishes `data` under `path`. One writer a path at a time: the temporary name is fixed, so that a
    killed writer's left-over is overwritten by the next and never piles up."""
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def write_new(path: str, pieces: Iterable[bytes]) -> None:
    """Makes a file of mode 0600 anew, of any size, durably; it is removed when that fails."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", buffering=1 << 16) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(fd)
    except BaseException:
        remove(path)
        raise


def lines(path: str) -> Iterator[bytes]:
    """The lines of a regular file with their ends; one that is longer than any of ours comes in pieces."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        while line := file.readline(_LINE_BYTES):
            yield line


def replace_json(path: str, value: Mapping[str, Any], *, durable: bool) -> None:
    """`replace_bytes` of indented JSON, mode 0600. ASCII only: a name with odd characters stays valid."""
    replace_bytes(path, render_json(value), durable=durable)


def render_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: str) -> dict[str, Any] | None:
    """The object in `path`; None when there is no file or no JSON object in it (an empty file after a power
    cut, say): the reader treats both as "not known"."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES):
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(4 << 20)
    finally:
        os.close(fd)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_start(path: str, size: int) -> bytes | None:
    """The first bytes of a regular file; None when there is none, or it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(fd, size) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def is_other_than_file(path: str) -> bool:
    """Whether the name is taken by a link, a directory or a device."""
    try:
        return not stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def remove(path: str) -> bool:
    """Removes a file; False when it was not there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def widen_pipe(fd: int, size: int) -> None:
    """Has a pipe hold so many bytes; it stays smaller where its user may have no more."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


class Reserve:
    """Space of a disk that is set aside, in a file without a name, so that a last small file can still be
    written when the disk is full: `release`, then write. Where nothing can be set aside there is none."""

    def __init__(self, directory: str, size: int) -> None:
        self._fd = -1
        try:
            self._fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(self._fd, 0, size)
        except OSError:  # full already, or a file system without such files
            self.release()

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def locked_file(path: str) -> Iterator[int | None]:
    """A small file that is read and changed in place, made when it is not there, held under a kernel lock
    meanwhile. None: another process holds it just now, or has removed it."""
    fd = os.open(path, _LOCK_FLAGS, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_ours = False
    else:
        is_ours = _is_named(fd, path)
    try:
        yield fd if is_ours else None
    finally:
        os.close(fd)


def touch(path: str, content: bytes = b"") -> None:
    """Makes an empty file, durably; nothing happens when it is there. With `content` it holds that."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if content:
            write_all(fd, content)
            os.ftruncate(fd, len(content))
            os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(os.path.dirname(path) or ".")


class Lock:
    """A kernel lock on a file, exclusive unless `shared`, held from `acquire` until `release` or the end of
    the process.

    The descriptor is not inherited over exec, so a child process does not keep the lock.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._fd = -1

    def acquire(self, timeout_seconds: float = 0.0) -> bool:
        """True when the lock is held. Probes take it shared for an instant, so a starter waits a little."""
        deadline = time.monotonic() + timeout_seconds
        while not self._try():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_RETRY_SECONDS)
        return True

    def _try(self) -> bool:
        fd = os.open(self.path, _LOCK_FLAGS, 0o600)
        try:
            fcntl.flock(fd, self._kind | fcntl.LOCK_NB)
            if _is_named(fd, self.path):
                self._fd = fd
                return True
        except BlockingIOError:
            pass
        finally:
            if self._fd != fd:
                os.close(fd)
        return False

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class LockChain:
    """Several locks as one: all are held, or none is."""

    def __init__(self, locks: Sequence[Lock]) -> None:
        self._locks = locks

    def acquire(self, timeout_seconds: float = 0.0) -> bool:
        deadline = time.monotonic() + timeout_seconds
        for lock in self._locks:
            if not lock.acquire(max(0.0, deadline - time.monotonic())):
                self.release()
                return False
        return True

    def release(self) -> None:
        for lock in self._locks:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _is_named(fd: int, path: str) -> bool:
    mine = os.fstat(fd)
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock now. Asked with a shared lock: probes never block each other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def make_private_directory(path: str) -> None:
    """Makes a directory only its owner, this process's user, may enter; one that others may write to is
    refused, because what lies in it is believed. A fresh checkout under umask 002, which the group may
    write to and which holds `.gitkeep` alone, is closed instead: nobody has put anything there."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise FatalError(
                "JobsDirectoryNotPrivate",
                f"{path} belongs to another user: run `chown {os.geteuid()} {path}` (job files are trusted)",
            )
        others = found.st_mode & 0o022
        if found.st_mode & 0o077 and not others & 0o002:
            os.fchmod(fd, 0o700)  # first, so that nothing comes in after the look
        if others and (others & 0o002 or os.listdir(fd) != [".gitkeep"]):
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            raise FatalError(
                "JobsDirectoryNotPrivate",
                f"{path} may be written to by other users: look what is in it, then run `chmod 700 {path}`"
                " (job files are trusted)",
            )
    finally:
        os.close(fd)


def self_test(directory: str) -> None:
    """Tries what the job protocol stands on: two locks of one file, and a rename over a file.

    Raises FatalError when the file system of `directory` does not keep them.
    """
    path = os.path.join(directory, f"{SELF_TEST}{os.getpid()}")
    try:
        with Lock(path) as first, Lock(path) as second:
            if not first.acquire() or second.acquire():
                raise FatalError(
                    "LocksDoNotWork",
                    f"{directory} is on a file system without working locks: set JOBS_DIR to a local disk",
                )
        replace_json(path, {"version": 1}, durable=True)
        replace_json(path, {"version": 2}, durable=True)
        if (read_json(path) or {}).get("version") != 2:
            raise FatalError("RenameDoesNotWork", f"{directory}: a renamed file did not keep its content")
    except OSError as error:
        raise FatalError(
            "JobsDirectoryUnusable", f"{directory} cannot be used: {error.strerror}: set JOBS_DIR elsewhere"
        ) from error
    finally:
        remove(path)
