"""A cache of statuses as JSON: each is rendered once after every change of its job.

A cached status is used as long as the job's catalog entry is the same object (each change of the status or of
a sentinel makes a new one) and `Jobs.observe` would change nothing: the lock of a running job is probed each
time. So no answer is older than the job's file, or than the death of its worker. Whatever is uncertain is
observed again, and so is everything on file systems that report no changes. Only what `observe` returns is
cached: no keys, no log, no report.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from syncworker.jobs.ids import NoSuchJob
from syncworker.jobs.status import recorded_state
from syncworker.jobs.status_cache import Entry
from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES, State
from syncworker.web.problem_details import to_json

KEPT_MAX_BYTES = 32 << 20
PACKED_LEVEL = 1
PACKED_MAX, PACKED_MAX_BYTES = 32, 1 << 20  # answers, and of each
_INDENT = b"\n    "


class Rendered(NamedTuple):
    """`body` is a whole answer, `item` the same as an item of a list of jobs."""

    state: State | None
    body: bytes
    item: bytes


class Statuses:
    """Safe to use from any thread."""

    def __init__(self, jobs: Jobs, most_bytes: int = KEPT_MAX_BYTES) -> None:
        self._jobs, self._most = jobs, most_bytes
        self._kept: dict[str, tuple[Entry, Rendered]] = {}  # the latest at the end
        self._bytes = 0
        self._lock = threading.Lock()

    def one(self, job_id: str) -> Rendered:
        """Returns what `Jobs.observe` returns. Raises NoSuchJob."""
        return self._of(job_id, self._entries().get(job_id))

    def active(self) -> list[bytes]:
        """Returns the items of queued and running jobs, oldest first."""
        unsettled = self._jobs.catalog.unsettled()
        found = self._there(sorted(unsettled), unsettled if self._jobs.catalog.is_followed else {})
        return [one.item for one in found if one.state not in FINAL_STATES]

    def page(self, job_ids: Iterable[str]) -> list[bytes]:
        """Returns the items of these jobs, without those that were removed."""
        return [one.item for one in self._there(job_ids, self._entries())]

    def _entries(self) -> Mapping[str, Entry]:
        """Returns the catalog; empty where the cache would cost more than it saves."""
        return self._jobs.entries() if self._jobs.catalog.is_followed else {}

    def _there(self, job_ids: Iterable[str], entries: Mapping[str, Entry]) -> list[Rendered]:
        found = []
        for job_id in job_ids:
            with contextlib.suppress(NoSuchJob):  # just removed
                found.append(self._of(job_id, entries.get(job_id)))
        return found

    def _of(self, job_id: str, entry: Entry | None) -> Rendered:
        """`entry` was read earlier. If the observed status is newer, it is not cached."""
        known = self._kept.get(job_id)
        if known is not None and known[0] is entry and self._holds(job_id, entry):
            return known[1]
        status = self._jobs.observe(job_id)
        body = to_json(status)
        rendered = Rendered(recorded_state(status), body, body.rstrip().replace(b"\n", _INDENT))
        if entry is not None and entry.state is rendered.state:
            self._keep(job_id, entry, rendered)
        return rendered

    def _holds(self, job_id: str, entry: Entry) -> bool:
        """Returns whether `Jobs.observe` would change nothing."""
        if entry.state is State.RUNNING:
            return self._jobs.is_alive(job_id)
        if entry.state is State.QUEUED:  # a shell's job may have lost its shell
            return entry.auto_resume and not entry.cancelled
        if entry.state is State.WAITING:
            return not entry.cancelled
        return entry.state is not None

    def _keep(self, job_id: str, entry: Entry, rendered: Rendered) -> None:
        with self._lock:
            self._forget(job_id)
            self._kept[job_id] = (entry, rendered)
            self._bytes += len(rendered.body) + len(rendered.item)
            while self._bytes > self._most:
                self._forget(next(iter(self._kept)))

    def _forget(self, job_id: str) -> None:
        _, rendered = self._kept.pop(job_id, (None, None))
        if rendered is not None:
            self._bytes -= len(rendered.body) + len(rendered.item)


class Packed:
    """Compresses answers with gzip and caches them by the hash of their bytes, so that an answer many clients
    ask for is compressed once. Safe to use from any thread."""

    def __init__(self, most: int = PACKED_MAX) -> None:
        self._kept: dict[bytes, bytes] = {}
        self._most = most
        self._lock = threading.Lock()

    def of(self, body: bytes) -> bytes:
        name = hashlib.sha256(body).digest()
        known = self._kept.get(name)
        if known is not None:
            return known
        packed = gzip.compress(body, PACKED_LEVEL, mtime=0)
        if len(packed) <= PACKED_MAX_BYTES:
            with self._lock:
                self._kept[name] = packed
                while len(self._kept) > self._most:
                    del self._kept[next(iter(self._kept))]
        return packed


def listed(items: list[bytes], last: str = "") -> bytes:
    """Returns `{"count", "jobs"}` as `to_json` writes it; `last`: further members as JSON."""
    jobs = b"[\n    " + b",\n    ".join(items) + b"\n  ]" if items else b"[]"
    return b'{\n  "count": %d,\n  "jobs": %b%b\n}\n' % (len(items), jobs, last.encode())
