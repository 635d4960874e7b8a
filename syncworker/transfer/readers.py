"""Reads files for comparing and sending; each result is the file's content at one moment.

Runs in threads, and sends nothing to the store. A file is `stat`ed before and after it is read; if size,
mtime, ctime or inode differ, it is read again, three times in all. A file that is written to constantly, for
example a log, is then read twice up to the size that it had when opened: if the two readings differ, it fails
with `ChangedWhileReading`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeVar

from syncworker.errors import FatalError, FileError, SyncError
from syncworker.folder.uploads_root import VANISHED, Tree
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import compare
from syncworker.plan.compare import Candidate, Decision, Verdict
from syncworker.s3 import etag

T = TypeVar("T")

TRIES = 3
_APART_SECONDS = 0.1  # between the two readings, to detect a change at the start of the file
_LATELY_SECONDS = 0.005  # the path of a directory is walked once for many files
CACHED_MAX = 256 << 10  # hashing more would block the event loop
_DISK_FULL_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Outcome(StrEnum):
    SAME = "same"  # the content is the object's: nothing to send
    BODY = "body"  # small, and to be sent: the body is in `body`
    LARGE = "large"  # to be sent in parts
    UPDATE = "update"  # not read: the store is to update the object
    VANISHED = "vanished"
    FAILED = "failed"


class ReadResult(NamedTuple):
    """The result of reading. `file`: as it was when read; `digest`: in ETag form, with its `part_size`;
    `needs_head`: no hash matches, but the object's metadata may show that the content is the same."""

    work: Candidate
    outcome: Outcome
    file: FileEntry
    read_ns: int = 0
    body: bytes = b""
    md5: bytes = b""
    digest: str = ""
    part_size: int = 0
    needs_head: bool = False
    error: SyncError | None = None
    changes: bool = False  # the content at `read_ns` of a file that is written to constantly


class Changed(FileError):
    """The file was not the same before and after it was read."""

    def __init__(self) -> None:
        super().__init__(
            "ChangedWhileReading", "the file changes while it is read: sync again when it no longer does"
        )


def restat(fd: int, file: FileEntry) -> FileEntry:
    return entry_of(os.fstat(fd), file)


def entry_of(info: os.stat_result, file: FileEntry) -> FileEntry:
    """Returns the file as it is now."""
    _, size, mtime_ns, ctime_ns, inode, _ = file
    if (size, mtime_ns, ctime_ns, inode) == (info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino):
        return file
    return FileEntry(file.key, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, file.path)


def describe(error: OSError) -> SyncError:
    """Returns the error for a file that cannot be read; FatalError if no file could be read."""
    reason = error.strerror or type(error).__name__
    if error.errno in _DISK_FULL_OF_FILES:
        return FatalError("OutOfResources", f"this machine has run out of resources: {reason}")
    code = errno.errorcode.get(error.errno or 0, "OSError")
    if error.errno in (errno.EACCES, errno.EPERM):
        return FileError(
            code, "the file cannot be read: permission denied: allow the user of this service to read it"
        )
    return FileError(code, f"the file cannot be read: {reason}")


def read(tree: Tree, work: Candidate, etags_are_md5: bool, should_stop: Callable[[], bool]) -> ReadResult:
    """Opens and reads a file as its decision requires. Raises InterruptedError if `should_stop` is True."""
    for attempt in range(1, TRIES + 2):
        try:
            read_ns = time.time_ns()
            fd, info = tree.open_file(work.file.path)
            try:
                file = entry_of(info, work.file)
                result = _read_open(
                    fd, work, file, read_ns, etags_are_md5, should_stop, as_opened=attempt > TRIES
                )
            finally:
                os.close(fd)
        except (Changed, EOFError):
            time.sleep(0.01)
            continue
        except InterruptedError:
            raise
        except OSError as error:
            if error.errno in VANISHED:
                return ReadResult(work, Outcome.VANISHED, work.file)
            return ReadResult(work, Outcome.FAILED, work.file, error=describe(error))
        return result
    return ReadResult(work, Outcome.FAILED, work.file, error=Changed())


def read_cached(tree: Tree, work: Candidate, etags_are_md5: bool) -> ReadResult | None:
    """Reads a small file whose bytes are in memory. Never waits for the disk, so the event loop may call it,
    which saves two thread switches. Returns None if the caller must use `read`."""
    if work.file.size > CACHED_MAX:
        return None
    try:
        read_ns = time.time_ns()
        fd, info = tree.open_file(work.file.path, _LATELY_SECONDS)
        try:
            file = entry_of(info, work.file)
            if file.size > CACHED_MAX:
                return None
            if file.size == 0 or info.st_dev in tree.in_memory:  # no need to wait
                body = os.pread(fd, file.size + 1, 0)
            else:
                buffer = bytearray(file.size + 1)
                del buffer[os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) :]
                body = bytes(buffer)
            return _small(fd, body, file, work, etags_are_md5, read_ns)
        finally:
            os.close(fd)
    except (OSError, Changed):
        return None  # not in memory, or it cannot be read: `read` reports why


def _read_open(
    fd: int,
    work: Candidate,
    file: FileEntry,
    read_ns: int,
    etags_are_md5: bool,
    should_stop: Callable[[], bool],
    *,
    as_opened: bool,
) -> ReadResult:
    if etag.is_single(file.size):
        body = _read_whole(fd, file.size)
        return _small(fd, body, file, work, etags_are_md5, read_ns, as_opened=as_opened)
    work, obj = _decided(work, file), work.object
    result = ReadResult(work, Outcome.LARGE, file, read_ns)
    if obj is None or work.decision.verdict is Verdict.UPLOAD:
        return result
    sizes = compare.wanted_hashes(obj, work.row)
    if (work.decision.verdict is Verdict.HEAD or as_opened) and 0 not in sizes:
        sizes.append(0)  # to compare with the metadata
    hashes = etag.hash_file(fd, file.size, sizes, should_stop)
    _confirm(fd, file, hashes, lambda: etag.hash_file(fd, file.size, sizes, should_stop), as_opened)
    result = _compared(result._replace(changes=as_opened), hashes, obj, etags_are_md5)
    if result.needs_head and 0 not in hashes:
        hashes |= etag.hash_file(fd, file.size, [0], should_stop)
        if restat(fd, file) != file:
            raise Changed
    return result._replace(md5=bytes.fromhex(hashes.get(0, "")))


def _decided(work: Candidate, file: FileEntry) -> Candidate:
    """Changes the decision to UPLOAD if the file's size is no longer the object's."""
    if work.object is None or file.size == work.object.size:
        return work
    return work._replace(decision=Decision(Verdict.UPLOAD, compare.Reason.SIZE))


def _compared(
    result: ReadResult, hashes: dict[int, str], obj: ObjectEntry, etags_are_md5: bool
) -> ReadResult:
    """Returns the result for a file with these hashes: it has the object's content, or is to be sent."""
    found = compare.match(hashes, obj, result.work.row)
    if found is not None:
        part, digest = found
        return result._replace(outcome=Outcome.SAME, body=b"", part_size=part, digest=digest)
    work = result.work._replace(decision=Decision(Verdict.UPLOAD, compare.Reason.CONTENT))
    needs_head = compare.after_mismatch(obj, etags_are_md5).verdict is Verdict.HEAD
    return result._replace(work=work, needs_head=needs_head)


def _confirm(fd: int, file: FileEntry, found: T, again: Callable[[], T], as_opened: bool) -> None:
    """Raises Changed unless `found` was the file's content at one moment: its stat is as before, or reading
    it `again` gives the same."""
    if as_opened:
        time.sleep(_APART_SECONDS)
    if not (again() == found if as_opened else restat(fd, file) == file):
        raise Changed


def _small(
    fd: int,
    body: bytes,
    file: FileEntry,
    work: Candidate,
    etags_are_md5: bool,
    read_ns: int,
    *,
    as_opened: bool = False,
) -> ReadResult:
    """Returns the result for a small file that was read whole."""
    if as_opened:
        body = body[: file.size]
    if len(body) != file.size:
        raise Changed
    if as_opened:
        _confirm(fd, file, body, lambda: os.pread(fd, file.size, 0), as_opened)
    elif restat(fd, file) != file:
        raise Changed
    md5 = hashlib.md5(body, usedforsecurity=False)
    work, obj = _decided(work, file), work.object
    result = ReadResult(
        work, Outcome.BODY, file, read_ns, body, md5.digest(), md5.hexdigest(), changes=as_opened
    )
    if obj is None or work.decision.verdict is Verdict.UPLOAD:
        return result
    hashes = {0: result.digest}
    for part in compare.wanted_hashes(obj, work.row):
        if part:
            cuts = [body[i : i + part] for i in range(0, len(body), part)]
            hashes[part] = etag.composite([hashlib.md5(c, usedforsecurity=False).digest() for c in cuts])
    return _compared(result, hashes, obj, etags_are_md5)


def _read_whole(fd: int, size: int) -> bytes:
    """Reads one byte more than expected, to notice a file that grew."""
    body = os.read(fd, size + 1)
    while len(body) < size:
        more = os.read(fd, size + 1 - len(body))
        if not more:
            break
        body += more
    return body
