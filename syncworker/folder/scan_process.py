"""Scans in a process of its own, so that reading a large folder and planning do not share an interpreter.

`scan_apart` yields and raises the same as `scan`. The scan is complete only if its process has said so: if
the process dies, the job fails, and nothing is deleted; if it cannot even begin, the scan runs in this
process. The process reads the same tree (the root is compared), writes only to its pipe, has no key in its
environment, and ends when its reader ends. Measured (docs/design.md): worth it from some ten thousand files
on, `WORTH_FILES`.

A frame of the pipe is its length and a value in `marshal`'s form: a list of items, a mount point (ahead of
the items below it), or how the scan ended.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from syncworker.errors import FatalError, Stopped, SyncError
from syncworker.folder.scan import OnMount, batches, by_item, scan
from syncworker.folder.symlinks import SourceMissing
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry, ScanItem, Skip, Unreadable
from syncworker.paths import PROJECT
from syncworker.system import durable_files

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

WORTH_FILES = 50_000
_LENGTH = struct.Struct("=I")
_BATCH = 1000
_FLUSH_SECONDS = 0.1
_ASK_SECONDS = 0.2
_PIPE_BYTES = 1 << 20
_MOUNT = ("path", "prefix")
_KINDS: dict[int, type] = {len(kind._fields): kind for kind in (FileEntry, Skip, Unreadable)}
_ERRORS: dict[str, type[SyncError]] = {kind.__name__: kind for kind in (FatalError, SourceMissing)}


@by_item
def scan_apart(
    tree: Tree,
    source: str,
    should_stop: Callable[[], bool],
    path_filter: PathFilter | None = None,
    on_mount: OnMount | None = None,
) -> Iterator[Iterable[ScanItem]]:
    """`scan` by another process. Raises FatalError ScanFailed if that process ends too early."""
    lines = ["\n".join(list_of) for list_of in (path_filter.lines if path_filter else ())]
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "syncworker.folder.scan_process", tree.root, source, *lines],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Safe path: modules in the folder that the worker was started in are not imported.
            env={"PYTHONPATH": PROJECT, "PYTHONUTF8": "1", "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # a signal to the job is for the worker alone, which then ends this one
        )
    except OSError:
        yield scan(tree, source, should_stop, path_filter, on_mount)
        return
    new, kinds = tuple.__new__, _KINDS.__getitem__
    try:
        assert child.stdout is not None
        fd = child.stdout.fileno()
        durable_files.widen_pipe(fd, _PIPE_BYTES)
        frames = _frames(fd, should_stop)
        first = next(frames, None)
        if not first:  # the process has not begun: no Python, no memory, no access to the root
            yield scan(tree, source, should_stop, path_filter, on_mount)
            return
        if tuple(first) != tree.identity:
            raise FatalError("SourceVanished", "the uploads folder was replaced after the job began")
        for frame in frames:
            if isinstance(frame, list):
                yield list(map(new, map(kinds, map(len, frame)), frame))
                continue
            if len(frame) == len(_MOUNT):
                if on_mount is not None:
                    on_mount(*frame)
                continue
            name, code, message = frame
            if name:
                raise _ERRORS.get(name, FatalError)(code, message)
            return
        _raise_if_stopped(should_stop)
        raise FatalError(
            "ScanFailed",
            "the process that reads the folder was ended from outside: nothing was deleted; sync again",
        )
    finally:
        child.kill()
        child.communicate()


def _raise_if_stopped(should_stop: Callable[[], bool]) -> None:
    """Raises Stopped if the job is to stop as well: the signal may reach it later than the scan."""
    until = time.monotonic() + _ASK_SECONDS
    while not should_stop() and time.monotonic() < until:
        time.sleep(_ASK_SECONDS / 20)
    if should_stop():
        raise Stopped("told to stop while reading the folder")


def _frames(fd: int, should_stop: Callable[[], bool]) -> Iterator[Any]:
    """Yields the frames of the pipe, until it ends."""
    while header := _exactly(fd, _LENGTH.size, should_stop):
        (size,) = _LENGTH.unpack(header)
        data = _exactly(fd, size, should_stop)
        if not data:
            return
        yield marshal.loads(data)  # noqa: S302 - of a process of our own


def _exactly(fd: int, size: int, should_stop: Callable[[], bool]) -> bytes:
    """Reads exactly `size` bytes; returns none if the pipe ends before."""
    data = bytearray()
    while len(data) < size:
        if should_stop():
            raise Stopped("told to stop while reading the folder")
        if not select.select([fd], [], [], _ASK_SECONDS)[0]:
            continue
        piece = os.read(fd, size - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)


def main(root: str, source: str, lines: list[str], out: BinaryIO) -> None:
    """Scans, in the other process. `lines`: none, or those of a filter, a text for each list."""

    def send(value: Any) -> None:
        data = marshal.dumps(value)
        out.write(_LENGTH.pack(len(data)) + data)
        out.flush()

    batch: list[tuple[Any, ...]] = []
    sent_at = time.monotonic()
    end = ("", "", "")
    path_filter = None
    if lines:
        from syncworker.options.patterns import PathFilter

        path_filter = PathFilter(*(text.split("\n") if text else [] for text in lines))
    try:
        with Tree(root) as tree:
            send(list(tree.identity))
            for items in batches(tree, source, lambda: False, path_filter, lambda *mount: send(mount)):
                batch += map(tuple, items)
                if len(batch) >= _BATCH or time.monotonic() - sent_at > _FLUSH_SECONDS:
                    send(batch)
                    batch, sent_at = [], time.monotonic()
    except SyncError as error:
        end = (type(error).__name__, error.code, error.message)
    send(batch)
    send(end)


if __name__ == "__main__":
    gc.disable()  # millions of records, and no cycle among them
    with suppress(BrokenPipeError):  # the reader has ended
        main(sys.argv[1], sys.argv[2], sys.argv[3:], os.fdopen(1, "wb", closefd=False))
