"""The folders below the uploads root and their sizes, for people who choose one in the dashboard.

Sizes may be some seconds old, or incomplete, and are marked so. A sync does not use them: it reads the folder
again. A walk has a time limit and a thread of its own, and a request waits for it only a moment: a disk that
hangs blocks that thread and no other.

Like a sync, a walk follows links to files and folders inside the root, and ignores links that lead out.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from syncworker.errors import SyncError
from syncworker.escape import escape_surrogates
from syncworker.folder.scan_process import scan_apart
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry

if TYPE_CHECKING:
    from syncworker.options.patterns import PathFilter

LOOK_SECONDS = 0.4
WALK_SECONDS = 10.0
ONE_SECONDS = 2.0  # of one folder in the walk of all
FRESH_SECONDS = 15.0
FOLDERS_MAX = 500
FILTER_SECONDS = 2.0


@dataclass(slots=True)
class Size:
    """The counts of a walk; `complete` if it reached the end and could read everything."""

    files: int = 0
    size: int = 0
    complete: bool = False

    def described(self) -> dict[str, Any]:
        return {"files": self.files, "bytes": self.size, "complete": self.complete}


def measure(path: str, root: str, size: Size, deadline: float) -> None:
    """Counts the regular files below `path` into `size`, until `deadline` (monotonic)."""
    root = os.path.realpath(root)
    ahead, seen, readable = [path], set[tuple[int, int]](), True
    while ahead:
        folder = ahead.pop()
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    _count(entry, root, size, ahead)
                    if time.monotonic() > deadline:
                        return
        except OSError:
            readable = False  # so it may not be empty
    size.complete = readable


def _count(entry: os.DirEntry[str], root: str, size: Size, ahead: list[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        ahead.append(entry.path)
        return
    try:
        if entry.is_symlink() and not os.path.realpath(entry.path).startswith(root.rstrip("/") + "/"):
            return
        found = entry.stat()
    except OSError:
        return  # just deleted, or a dangling link
    if stat.S_ISDIR(found.st_mode):
        ahead.append(entry.path)
    elif stat.S_ISREG(found.st_mode):
        size.files += 1
        size.size += found.st_size


class Folders:
    """The folders right below `root`. Safe to use from any thread."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock, self._filtering = threading.Lock(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._found: dict[str, Size] = {}
        self._walked_at = -FRESH_SECONDS
        self._all_listed = False

    def overview(self) -> dict[str, Any]:
        """Returns what is known now. If that is old, starts a walk and waits for it a moment."""
        with self._lock:
            if self._thread is None and time.monotonic() - self._walked_at > FRESH_SECONDS:
                self._thread = threading.Thread(target=self._walk, name="folders", daemon=True)
                self._thread.start()
            thread = self._thread
        if thread is not None:
            thread.join(LOOK_SECONDS)
        with self._lock:
            found = sorted(self._found.items())
            return {
                "folders": [{"source": name, **size.described()} for name, size in found],
                "complete": self._all_listed and all(size.complete for _, size in found),
                "walking": self._thread is not None,
            }

    def look(self, source: str) -> dict[str, Any]:
        """Measures one folder now. `files` is the count within the time limit; `empty` is null if unknown."""
        size, exists = Size(), threading.Event()

        def walk() -> None:
            path = os.path.join(self._root, source)
            if os.path.isdir(path):
                exists.set()
                measure(path, self._root, size, time.monotonic() + LOOK_SECONDS)
            else:
                size.complete = not os.path.lexists(path) and os.path.isdir(self._root)

        thread = threading.Thread(target=walk, name="look", daemon=True)
        thread.start()
        thread.join(2 * LOOK_SECONDS)
        empty = False if size.files else (True if size.complete and not thread.is_alive() else None)
        return {"source": source, "exists": exists.is_set(), "empty": empty, **size.described()}

    def filtered(self, source: str, path_filter: PathFilter) -> dict[str, Any] | None:
        """Counts what the filter leaves of a folder, as a sync would read it, in a separate process that is
        killed after a time limit (then `complete` is false). None: another such count is running."""
        if not self._filtering.acquire(blocking=False):
            return None
        size = Size()

        def look() -> None:
            deadline = time.monotonic() + FILTER_SECONDS
            try:
                with Tree(self._root) as tree:
                    for item in scan_apart(tree, source, lambda: time.monotonic() > deadline, path_filter):
                        if isinstance(item, FileEntry):
                            size.files += 1
                            size.size += item.size
                size.complete = True
            except (SyncError, OSError):
                pass  # the time is over, or the folder is gone: the counts so far are returned
            finally:
                self._filtering.release()  # not before its process has ended

        thread = threading.Thread(target=look, name="filtered", daemon=True)
        thread.start()
        thread.join(FILTER_SECONDS + LOOK_SECONDS)
        return size.described()

    def _walk(self) -> None:
        deadline = time.monotonic() + WALK_SECONDS
        names = list(islice(self._names(), FOLDERS_MAX))
        with self._lock:
            self._all_listed = len(names) < FOLDERS_MAX
            self._found = {name: self._found.get(name, Size()) for name in names}
        for name in names:
            size = Size()
            until = min(deadline, time.monotonic() + ONE_SECONDS)
            measure(os.path.join(self._root, name), self._root, size, until)
            with self._lock:
                self._found[name] = size
        with self._lock:
            self._walked_at, self._thread = time.monotonic(), None

    def _names(self) -> Iterator[str]:
        """Yields the folders whose names a request can carry."""
        root = os.path.realpath(self._root).rstrip("/") + "/"
        with contextlib.suppress(OSError), os.scandir(root) as entries:  # without a root, no folders
            for entry in entries:
                inside = os.path.realpath(entry.path).startswith(root)
                if inside and entry.is_dir() and escape_surrogates(entry.name) == entry.name:
                    yield entry.name
