"""What every job's status says, kept between looks, so that a look costs one directory listing.

`Catalog.entries` is as true as reading all status files at the time of the call: a file is read again when
its inode, time or size is another than at the last look, and the directory is listed again unless its own
time says that no name in it has been made, renamed or removed since. It says what is *recorded*; whether a
recorded worker lives is `Jobs.observe`'s to tell. `Catalog.glance` saves the `stat` of every ended job: a job
that a shell resumes is seen up to two seconds late by it (half a second in a server, whose supervisor looks
twice a second), all else at once.

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

from syncworker.errors import UsageError
from syncworker.model import FINAL_STATES, State
from syncworker.storage_url import destination_id
from syncworker.system import durable_files

ID_PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
# Directory times come from the kernel's coarse clock (4 to 10 ms): a change right after a look may leave the
# same time. A time is believed to cover all changes only when it was this old at the look.
_SETTLED_NS = 50_000_000
_GLANCE_SECONDS = 2.0


class Entry(NamedTuple):
    """`state` is None for a file that is no status. `destination` (of the bucket) and `prefix` are set only
    while the job has not ended."""

    stamp: tuple[int, int, int]  # inode, mtime_ns, size
    state: State | None
    auto_resume: bool
    destination: str
    cancelled: bool  # the sentinel is there
    paused: bool = False  # that sentinel is there
    prefix: str = ""
    source: str = ""
    dest: str = ""
    error: str = ""  # the code of why it ended so
    mirror: str = ""  # the named mirror that it is a run of
    is_scoped: bool = False  # it looks at changed folders only

    def overlaps(self, destination: str, prefix: str) -> bool:
        """Whether this job's part of a bucket and that one have something in common: two prefixes in one
        bucket do not, unless one begins with the other."""
        if self.destination != destination:
            return False
        return prefix.startswith(self.prefix) or self.prefix.startswith(prefix)

    @property
    def told(self) -> tuple[bool, bool]:
        return self.cancelled, self.paused

    @property
    def ended(self) -> bool:
        return self.state is None or self.state in FINAL_STATES

    @property
    def needs_a_look(self) -> bool:
        """Whether the job may be in another state by now than it says: it lives, or is to wait no longer."""
        return not self.ended or (self.state is State.WAITING and self.cancelled)


class Catalog:
    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._listed_ns = -1  # the directory's time at the last whole look, when that covers all changes
        self._looked_at = self._glanced_at = -_GLANCE_SECONDS  # when the last whole look, and any, began

    def entries(self) -> Mapping[str, Entry]:
        """Every job by its id, in no order. The mapping given out never changes."""
        asked_at = time.monotonic()
        with self._lock:
            if self._looked_at <= asked_at:  # else another caller has looked while this one waited
                self._look(whole=True)
            return MappingProxyType(self._entries)

    def glance(self) -> Mapping[str, Entry]:
        """The same, cheaper: an ended job is taken for ended for two seconds, if not `forget` says else."""
        asked_at = time.monotonic()
        with self._lock:
            if self._glanced_at <= asked_at:
                self._look(whole=asked_at - self._looked_at > _GLANCE_SECONDS)
            return MappingProxyType(self._entries)

    def forget(self) -> None:
        """This process has made an ended job live again: the next look must be a whole one."""
        with self._lock:
            self._looked_at = self._glanced_at = -_GLANCE_SECONDS

    def _look(self, *, whole: bool) -> None:
        began, now_ns = time.monotonic(), time.time_ns()
        changed_ns = os.stat(self._path).st_mtime_ns
        if changed_ns != self._listed_ns:
            self._entries = self._list(whole)
            covers_all = whole and now_ns - changed_ns > _SETTLED_NS
            self._listed_ns = changed_ns if covers_all else -1
            self._glanced_at = began
            if whole:
                self._looked_at = began

    def _list(self, whole: bool) -> dict[str, Entry]:
        names = os.listdir(self._path)
        cancelled = {name[:-7] for name in names if name.endswith(".cancel")}
        paused = {name[:-6] for name in names if name.endswith(".pause")}
        entries: dict[str, Entry] = {}
        for name in names:
            if not name.endswith(".json"):
                continue
            job_id = name[:-5]
            known = self._entries.get(job_id)
            if known is None and not ID_PATTERN.fullmatch(job_id):
                continue
            told = (job_id in cancelled, job_id in paused)
            if known is not None and not whole and known.ended and known.told == told:
                entries[job_id] = known
                continue
            path = f"{self._path}/{name}"
            try:
                found = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed since the listing
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if known is None or known.stamp != stamp:
                known = _read(path, stamp)
            if known.told != told:
                known = known._replace(cancelled=told[0], paused=told[1])
            entries[job_id] = known
        return entries


def _read(path: str, stamp: tuple[int, int, int]) -> Entry:
    status = durable_files.read_json(path) or {}
    try:
        state = State(status.get("state", ""))
        ended = state in FINAL_STATES
        destination = "" if ended else destination_id(status["storage_url"], status["dest"])
        prefix = "" if ended else str((status.get("options") or {}).get("prefix", ""))
        error_code = (status.get("error") or {}).get("code")
        words = (status.get("source"), status.get("dest"), error_code, status.get("mirror"))
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return Entry(stamp, None, False, "", False)  # no status of ours
    source, dest, error, mirror = (word if isinstance(word, str) else "" for word in words)
    return Entry(
        stamp,
        state,
        status.get("auto_resume") is True,
        destination,
        False,
        False,
        prefix,
        source,
        dest,
        error,
        mirror,
        status.get("scope") is not None,
    )
