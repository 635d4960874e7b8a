"""What every job's status says, kept between looks, so that a look costs one directory listing.

`Catalog.entries` is as true as reading all status files at the time of the call: a file is read again when
its inode, time or size is another than at the last look, and the directory is listed again unless its own
time says that no name in it has been made, renamed or removed since. It says what is *recorded*; whether a
recorded worker lives is `Jobs.observe`'s to tell.

Not kept: the statuses themselves (100 kB each, in the worst case). Nothing here writes.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from syncworker import files
from syncworker.endpoint import destination_id
from syncworker.errors import UsageError
from syncworker.model import FINAL_STATES, State

ID_PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
# Directory times come from the kernel's coarse clock (4 to 10 ms): a change right after a look may leave the
# same time. A time is believed to cover all changes only when it was this old at the look.
_SETTLED_NS = 50_000_000


class Entry(NamedTuple):
    """`state` is None for a file that is no status. `destination` is set only while the job has not ended."""

    stamp: tuple[int, int, int]  # inode, mtime_ns, size
    state: State | None
    auto_resume: bool
    destination: str
    cancelled: bool  # the sentinel is there

    @property
    def ended(self) -> bool:
        return self.state is None or self.state in FINAL_STATES


class Catalog:
    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._listed_ns = -1

    def entries(self) -> Mapping[str, Entry]:
        """Every job by its id, in no order. The mapping given out never changes."""
        with self._lock:
            changed_ns = os.stat(self._path).st_mtime_ns
            if changed_ns != self._listed_ns:
                now_ns = time.time_ns()
                self._entries = self._list()
                self._listed_ns = changed_ns if now_ns - changed_ns > _SETTLED_NS else -1
            return MappingProxyType(self._entries)

    def _list(self) -> dict[str, Entry]:
        names = os.listdir(self._path)
        cancelled = {name[:-7] for name in names if name.endswith(".cancel")}
        entries: dict[str, Entry] = {}
        for name in names:
            if not name.endswith(".json"):
                continue
            job_id = name[:-5]
            known = self._entries.get(job_id)
            if known is None and not ID_PATTERN.fullmatch(job_id):
                continue
            path = f"{self._path}/{name}"
            try:
                found = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since the listing
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if known is None or known.stamp != stamp:
                known = _read(path, stamp)
            if known.cancelled != (job_id in cancelled):
                known = known._replace(cancelled=job_id in cancelled)
            entries[job_id] = known
        return entries


def _read(path: str, stamp: tuple[int, int, int]) -> Entry:
    status = files.read_json(path) or {}
    try:
        state = State(status.get("state", ""))
        ended = state in FINAL_STATES
        destination = "" if ended else destination_id(status["storage_url"], status["dest"])
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return Entry(stamp, None, False, "", False)  # no status of ours
    return Entry(stamp, state, status.get("auto_resume") is True, destination, False)
