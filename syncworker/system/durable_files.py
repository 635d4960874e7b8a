"""Durable files and kernel locks: the only module that touches `fcntl`, `os.replace` and `fsync`.

Promises
- `replace_json`: a reader sees the old object or the new one, whole, at every instant, after `kill -9` and
  after a power cut (the file is synced before its rename: XFS would leave it empty otherwise). With `durable`
  the new one survives a power cut once the call has returned (the directory is synced too). A failed write
  leaves the old file as it was.
- `Lock`: held by at most one process (`flock` on the open file); the kernel frees it when the process ends,
  however it ends. Its holder may remove the file: `acquire` tries again when the file was removed or replaced
  while it waited, so one name never has two holders.

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
from typing import Any, BinaryIO

from syncworker.errors import FatalError

SELF_TEST = ".self-test-"
_RETRY_SECONDS = 0.01
_LINE_BYTES = 64 << 10
_ALWAYS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a link or a pipe of that name is no trap
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | _ALWAYS


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Closes the descriptor when the block ends."""
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable. File systems that cannot do so answer EINVAL: no error."""
    with closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise


def sync_file(fd: int) -> None:
    """Makes what was written to a file durable."""
    os.fsync(fd)


def move_aside(path: str, other: str) -> None:
    """Renames a file, over one that has that name."""
    os.replace(path, other)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of `data`: `os.write` may write less (a full disk, a signal)."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _making(path: str) -> Iterator[int]:
    """Makes or empties a file of mode 0600 and syncs what the block writes; removes it when that fails."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with closing(fd):
            yield fd
            os.fsync(fd)
    except BaseException:
        remove(path)
        raise


def replace_bytes(path: str, data: bytes, *, durable: bool) -> None:
    """Publishes `data` under `path`, mode 0600. Only one writer a path: the temporary name is fixed, so the
    next writer overwrites what a killed one has left, and nothing piles up."""
    temporary = f"{path}.tmp"
    with _making(temporary) as fd:
        write_all(fd, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
    if durable:
        sync_directory(os.path.dirname(path) or ".")


def write_new(path: str, pieces: Iterable[bytes]) -> None:
    """Makes a file of mode 0600, of any size, and syncs it; removes it when that fails."""
    with _making(path) as fd, os.fdopen(fd, "wb", buffering=1 << 16, closefd=False) as file:
        file.writelines(pieces)


def _open_regular(path: str) -> BinaryIO:
    """Opens a regular file to read it. OSError: there is none, or (ELOOP, EINVAL) it is something else."""
    fd = os.open(path, os.O_RDONLY | _ALWAYS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a file")
    return os.fdopen(fd, "rb")


def lines(path: str) -> Iterator[bytes]:
    """Yields the lines of a regular file with their ends; one that is longer than any of ours in pieces."""
    with _open_regular(path) as file:
        while line := file.readline(_LINE_BYTES):
            yield line


def replace_json(path: str, value: Mapping[str, Any], *, durable: bool) -> None:
    """`replace_bytes` of indented JSON, mode 0600. ASCII only: a name with odd characters stays valid."""
    replace_bytes(path, render_json(value), durable=durable)


def render_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def read_json(path: str) -> dict[str, Any] | None:
    """Returns the object in `path`; None when there is no file or no JSON object in it (after a power cut it
    may be empty, for example): the reader treats both as "not known"."""
    try:
        with _open_regular(path) as file:
            value = json.loads(file.read(4 << 20))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EINVAL):
            return None
        raise
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_start(path: str, size: int) -> bytes | None:
    """Returns the first bytes of a regular file; None when there is none, or it cannot be read."""
    try:
        with _open_regular(path) as file:
            return file.read(size)
    except OSError:
        return None


def is_other_than_file(path: str) -> bool:
    """Returns whether `path` is a link, a directory or a device."""
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
    """Makes a pipe hold `size` bytes; it stays smaller if its user's limit is reached."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, size)


class Reserve:
    """Disk space that a file without a name reserves, so that a last small file can be written to a full
    disk: `release`, then write. If nothing can be reserved, nothing is."""

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


def touch(path: str, content: bytes = b"") -> None:
    """Makes an empty file, durably, if there is none; with `content` the file then holds that."""
    with closing(os.open(path, os.O_WRONLY | os.O_CREAT | _ALWAYS, 0o600)) as fd:
        if content:
            write_all(fd, content)
            os.ftruncate(fd, len(content))
            os.fsync(fd)
    sync_directory(os.path.dirname(path) or ".")


class Lock(contextlib.AbstractContextManager["Lock"]):
    """A kernel lock on a file, exclusive unless `shared`, held from `acquire` until `release` or the end of
    the process.

    The descriptor is not inherited over exec, so a child process does not keep the lock.
    """

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self.fd = -1

    def acquire(self, timeout_seconds: float = 0.0) -> bool:
        """Returns whether the lock is held. Probes hold it shared for an instant: wait a bit."""
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
                self.fd = fd
                return True
        except BlockingIOError:
            pass
        finally:
            if self.fd != fd:
                os.close(fd)
        return False

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __exit__(self, *exc: object) -> None:
        self.release()


class LockChain(contextlib.AbstractContextManager["LockChain"]):
    """Several locks as one: all are held, or none is."""

    def __init__(self, locks: Sequence[Lock]) -> None:
        self._locks = locks

    def acquire(self, timeout_seconds: float = 0.0) -> bool:
        deadline = time.monotonic() + timeout_seconds
        is_held = all(lock.acquire(max(0.0, deadline - time.monotonic())) for lock in self._locks)
        if not is_held:
            self.release()
        return is_held

    def release(self) -> None:
        for lock in self._locks:
            lock.release()

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
    """Returns whether a process holds the lock now. Tries a shared lock: probes never block each other."""
    try:
        fd = os.open(path, os.O_RDONLY | _ALWAYS)
    except FileNotFoundError:
        return False
    with closing(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def make_private_directory(path: str) -> None:
    """Makes a directory that only its owner, this process's user, may enter. Refuses one that others may
    write to, because its files are trusted. A fresh checkout under umask 002, which the group may write to
    and which holds only `.gitkeep`, is closed instead: nobody has put anything there."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    with closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise FatalError(
                "JobsDirectoryNotPrivate",
                f"{path} belongs to another user: run `chown {os.geteuid()} {path}` (job files are trusted)",
            )
        others = found.st_mode & 0o022
        if found.st_mode & 0o077 and not others & 0o002:
            os.fchmod(fd, 0o700)  # first, so that nothing is added after the check
        if others and (others & 0o002 or os.listdir(fd) != [".gitkeep"]):
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            raise FatalError(
                "JobsDirectoryNotPrivate",
                f"{path} can be written to by other users: check what is in it, then run `chmod 700 {path}`"
                " (job files are trusted)",
            )


def self_test(directory: str) -> None:
    """Tries what the job protocol relies on: two locks of one file, and a rename over a file.

    Raises FatalError when they do not work on the file system of `directory`.
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
