"""`lstat` of the next files by several threads, on file systems where a call waits for a server.

On NFS, SMB or FUSE a call takes a round trip to the server. When one is slow, the next names of the directory
are looked up side by side. Where calls are quick (the client has read the attributes with the names), they
are made one by one, because threads would only cost time.

No call is running when the scan goes on, which may close descriptors. Results are used for `_FRESH_SECONDS`,
so that a file after a large folder is not shown as it was before that folder was read.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor

THREADS = 16
_AHEAD_NAMES = 512
_SLOW_SECONDS = 0.0002
_FRESH_SECONDS = 1.0

_Found = os.stat_result | OSError


class StatAhead:
    """The `os.stat` of one directory's sorted names. A name of a file ends neither in "/" nor in NUL."""

    def __init__(self, pool: ThreadPoolExecutor, names: list[str]) -> None:
        self._pool, self._names = pool, names
        self._found: dict[str, _Found] = {}
        self._fresh_until = 0.0

    def __call__(self, name: str, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        now = time.monotonic()
        found = self._found.pop(name, None) if now < self._fresh_until else None
        if found is None:
            found = _lstat(dir_fd, name)
            if time.monotonic() - now > _SLOW_SECONDS:
                self._stat_next(name, dir_fd)
        if isinstance(found, OSError):
            raise found
        return found

    def _stat_next(self, name: str, fd: int) -> None:
        at = bisect_right(self._names, name)
        names = [each for each in self._names[at : at + _AHEAD_NAMES] if each[-1] not in "/\0"]
        parts = [names[start::THREADS] for start in range(min(THREADS, len(names)))]
        self._found = {}
        for found in self._pool.map(lambda part: [(each, _lstat(fd, each)) for each in part], parts):
            self._found.update(found)
        self._fresh_until = time.monotonic() + _FRESH_SECONDS


def _lstat(fd: int, name: str) -> _Found:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        return error
