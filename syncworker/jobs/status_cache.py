"""Caches the main fields of every job's status; a refresh costs one directory listing.

`Catalog.entries` is as exact as reading all status files at the time of the call. It reads a file again if
its inode, time or size has changed, and lists the directory again unless the directory's own time shows that
no name was created, renamed or removed. It returns *recorded* states; `Jobs.observe` finds out whether a
recorded worker lives. `Catalog.glance` skips the `stat` of ended jobs, so it shows a job that a shell resumes
up to two seconds late (half a second in a server, whose supervisor refreshes twice a second).

`follow` makes both cheaper and exact: the catalog receives the names that have changed and reads only these.
Every ten seconds it reads all of them again. Each change of a job's files gives the job a new `Entry` object.

The statuses themselves (up to 100 kB each) are not kept. Nothing here writes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from syncworker.errors import UsageError
from syncworker.jobs.ids import ID_PATTERN
from syncworker.model import FINAL_STATES, State
from syncworker.storage_url import destination_id
from syncworker.system import durable_files

# Directory times come from the kernel's coarse clock (4 to 10 ms): a change right after a listing may leave
# the time as it was. A time covers all changes only if it was this old when the directory was listed.
_STABLE_NS = 50_000_000
_GLANCE_SECONDS = 2.0
_FOLLOWED_SECONDS = 10.0
_NEVER = float("-inf")
_SUFFIXES = (".json", ".cancel", ".pause", ".lock")  # of the files that determine an entry
Changed = Callable[[], set[str] | None]


class Entry(NamedTuple):
    """`state` is None for a file that is not a status. `destination` (of the bucket) and `prefix` are only
    set while the job has not ended."""

    stamp: tuple[int, int, int]  # inode, mtime_ns, size
    state: State | None
    auto_resume: bool
    destination: str
    cancelled: bool  # whether the sentinel exists
    paused: bool = False  # whether that sentinel exists
    prefix: str = ""
    source: str = ""
    dest: str = ""
    error: str = ""  # the code of its error
    mirror: str = ""  # the named mirror that the job belongs to
    is_scoped: bool = False  # it syncs changed folders only

    def overlaps(self, destination: str, prefix: str) -> bool:
        """Whether the job's destination is equal to the given one, contains it or lies in it."""
        is_nested = prefix.startswith(self.prefix) or self.prefix.startswith(prefix)
        return self.destination == destination and is_nested

    @property
    def told(self) -> tuple[bool, bool]:
        return self.cancelled, self.paused

    @property
    def ended(self) -> bool:
        return self.state is None or self.state in FINAL_STATES

    @property
    def needs_a_look(self) -> bool:
        """Whether the true state may differ from the recorded one: the job has not ended, or it waits and was
        cancelled."""
        return not self.ended or (self.state is State.WAITING and self.cancelled)


class Catalog:
    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._listed_ns = -1  # the directory's time at the last whole refresh, if that covers all changes
        # When the last whole refresh, and the last of any kind, began.
        self._refreshed_at = self._glanced_at = -_GLANCE_SECONDS
        self._unsettled: frozenset[str] = frozenset()
        self._changed: Changed | None = None
        self._listed_at = _NEVER  # when all files were last read, while changes are followed

    @property
    def is_followed(self) -> bool:
        return self._changed is not None

    def follow(self, changed: Changed) -> None:
        """From now on, calls `changed` for the names that changed since its last call (None: unknown)."""
        with self._lock:
            self._changed, self._listed_at = changed, _NEVER
            self._refreshed_at = self._glanced_at = -_GLANCE_SECONDS

    def entries(self) -> Mapping[str, Entry]:
        """Returns every job by its id, in no order. The returned mapping never changes."""
        asked_at = time.monotonic()
        with self._lock:
            if self._refreshed_at <= asked_at:  # else another caller has refreshed while this one waited
                self._refresh(whole=True)
            return MappingProxyType(self._entries)

    def glance(self) -> Mapping[str, Entry]:
        """Like `entries`, but does not `stat` ended jobs again for two seconds unless `forget` was called."""
        return MappingProxyType(self._glance()[0])

    def unsettled(self) -> dict[str, Entry]:
        """Returns the jobs of `glance` whose true state may differ."""
        entries, unsettled = self._glance()
        return {job_id: entries[job_id] for job_id in unsettled}

    def _glance(self) -> tuple[dict[str, Entry], frozenset[str]]:
        asked_at = time.monotonic()
        with self._lock:
            if self._glanced_at <= asked_at:
                self._refresh(whole=asked_at - self._refreshed_at > _GLANCE_SECONDS)
            return self._entries, self._unsettled

    def forget(self) -> None:
        """Makes the next call read everything: this process has resumed an ended job."""
        with self._lock:
            self._refreshed_at = self._glanced_at = -_GLANCE_SECONDS

    def _refresh(self, *, whole: bool) -> None:
        began, now_ns = time.monotonic(), time.time_ns()
        if self._changed is not None:
            names = self._changed()
            if names is None:  # a live job may have changed: do not trust its stamp alone
                self._entries = {j: e for j, e in self._entries.items() if j not in self._unsettled}
            if names is None or began - self._listed_at > _FOLLOWED_SECONDS:
                self._install(self._list(whole=True))
                self._listed_at = began if names is not None else _NEVER
            self._update(names or set())
            self._refreshed_at = self._glanced_at = began
            return
        changed_ns = os.stat(self._path).st_mtime_ns
        if changed_ns != self._listed_ns:
            self._install(self._list(whole=whole))
            covers_all = whole and now_ns - changed_ns > _STABLE_NS
            self._listed_ns = changed_ns if covers_all else -1
            self._glanced_at = began
            if whole:
                self._refreshed_at = began

    def _update(self, names: set[str]) -> None:
        """Reads only the jobs whose files have these names."""
        touched = {name.partition(".")[0] for name in names if name.endswith(_SUFFIXES)}
        touched = {job_id for job_id in touched if ID_PATTERN.fullmatch(job_id)}
        if not touched:
            return
        entries = dict(self._entries)  # a returned mapping never changes
        for job_id in touched:
            entries.pop(job_id, None)
            path = f"{self._path}/{job_id}"
            with contextlib.suppress(FileNotFoundError):
                told = os.path.lexists(f"{path}.cancel"), os.path.lexists(f"{path}.pause")
                entries[job_id] = _read(f"{path}.json", _stamp(f"{path}.json"), told)
        self._entries = entries
        lively = {job_id for job_id in touched if job_id in entries and entries[job_id].needs_a_look}
        self._unsettled = self._unsettled - touched | lively

    def _install(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._unsettled = frozenset(job_id for job_id, entry in entries.items() if entry.needs_a_look)

    def _list(self, *, whole: bool) -> dict[str, Entry]:
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
                stamp = _stamp(path)
            except FileNotFoundError:
                continue  # removed since the listing
            if known is None or known.stamp != stamp:
                known = _read(path, stamp, told)
            elif known.told != told:
                known = known._replace(cancelled=told[0], paused=told[1])
            entries[job_id] = known
        return entries


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path, follow_symlinks=False)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: str, stamp: tuple[int, int, int], told: tuple[bool, bool]) -> Entry:
    status = durable_files.read_json(path) or {}
    try:
        state = State(status.get("state", ""))
        ended = state in FINAL_STATES
        destination = "" if ended else destination_id(status["storage_url"], status["dest"])
        prefix = "" if ended else str((status.get("options") or {}).get("prefix", ""))
        error_code = (status.get("error") or {}).get("code")
        words = (status.get("source"), status.get("dest"), error_code, status.get("mirror"))
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return Entry(stamp, None, False, "", *told)  # not one of our statuses
    source, dest, error, mirror = (word if isinstance(word, str) else "" for word in words)
    resumes, is_scoped = status.get("auto_resume") is True, status.get("scope") is not None
    return Entry(stamp, state, resumes, destination, *told, prefix, source, dest, error, mirror, is_scoped)
