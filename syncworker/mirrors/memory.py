"""What is remembered of each mirror, in `jobs/.mirrors.json`: so that removing old jobs makes no false alarm.

The file is written by the server's keeper alone, whole, by temporary file and rename. One that is damaged is
as good as none: mirrors are then seen for the first time, and what ended before that is not reported again.
No address is in it: `notify.digest` stands for one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from syncworker.jobs.record import Status
from syncworker.jobs.status import error_code, timestamp
from syncworker.mirrors.schedule import Past
from syncworker.system import durable_files

NAME = ".mirrors.json"
RUNS = 30
KEPT = timedelta(days=90)
_TIMES = ("first_seen", "last_due", "last_success", "retry_at", "last_whole", "last_missed")


@dataclass(slots=True)
class Memory:
    """What is remembered of one mirror. `told`: the problems that were reported since the last success.
    `outbox`: unsent messages, each with the digests of the addresses that have not received it."""

    first_seen: datetime
    schedule: str = ""
    last_due: datetime | None = None
    last_success: datetime | None = None
    last_whole: datetime | None = None  # when the last job that looks at all of the folder was started
    retry_at: datetime | None = None
    retries: int = 0
    skipped: int = 0
    missed: int = 0  # times of the schedule at which no server ran
    last_missed: datetime | None = None  # the newest of them
    scheduled: str = ""  # the id of the last job that was started by schedule or as a retry
    runs: list[dict[str, Any]] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    outbox: list[dict[str, Any]] = field(default_factory=list)

    @property
    def past(self) -> Past:
        return Past(self.first_seen, self.last_due, self.retry_at)

    def run(self, job_id: str) -> dict[str, Any] | None:
        return next((run for run in reversed(self.runs) if run.get("id") == job_id), None)

    def remember(self, run: dict[str, Any]) -> None:
        """Adds a run, or replaces what was known of it; the newest RUNS are kept."""
        others = [known for known in self.runs if known.get("id") != run["id"]]
        self.runs = sorted([*others, run], key=lambda each: str(each.get("id")))[-RUNS:]

    def as_json(self) -> dict[str, Any]:
        value = {name: getattr(self, name) for name in self.__slots__}
        for name in _TIMES:
            value[name] = timestamp(value[name]) if value[name] else None
        return value


def run_of(status: Status) -> dict[str, Any]:
    """What is remembered of a run that has ended."""
    progress = status["progress"]
    return {
        "id": status["id"],
        "state": status["state"],
        "attempt": status.get("attempt"),
        "scoped": status.get("scope") is not None,
        "started_at": status.get("started_at"),
        "finished_at": status.get("finished_at"),
        "files_total": progress.get("files_total"),
        "bytes_total": progress.get("bytes_total"),
        "files_uploaded": progress.get("files_uploaded"),
        "bytes_uploaded": progress.get("bytes_uploaded"),
        "objects_deleted": progress.get("objects_deleted"),
        "error": error_code(status),
    }


def _of_json(value: Any) -> Memory | None:
    if not isinstance(value, dict):
        return None
    try:
        times = {
            name: datetime.fromisoformat(value[name]).astimezone(UTC) if value.get(name) else None
            for name in _TIMES
        }
        first_seen = times.pop("first_seen")
        if first_seen is None:
            return None
        lists: dict[str, Any] = {
            name: [each for each in value.get(name, []) if isinstance(each, dict)]
            for name in ("runs", "outbox")
        }
        counts: dict[str, Any] = {
            name: int(value.get(name) or 0) for name in ("retries", "skipped", "missed")
        }
        texts: dict[str, Any] = {name: str(value.get(name) or "") for name in ("schedule", "scheduled")}
        told = value.get("told")
        return Memory(
            first_seen,
            **times,  # type: ignore[arg-type]
            **lists,
            **counts,
            **texts,
            told=told if isinstance(told, dict) else {},
        )
    except (ValueError, TypeError, OverflowError):
        return None


class Memories:
    """The file, and what is in it. `save` writes only what has changed."""

    def __init__(self, jobs_dir: str) -> None:
        self._path = os.path.join(jobs_dir, NAME)
        kept = (durable_files.read_json(self._path) or {}).get("mirrors")
        found = {name: _of_json(value) for name, value in kept.items()} if isinstance(kept, dict) else {}
        self._of: dict[str, Memory] = {name: memory for name, memory in found.items() if memory is not None}
        self._written = self._rendered()

    def of(self, name: str, now: datetime) -> Memory:
        return self._of.setdefault(name, Memory(now))

    def forget_old(self, names: set[str], now: datetime) -> None:
        """Forgets mirrors that have not been in the file for long. Not at once: while an editor writes the
        file it may be empty, or not there, for an instant."""
        for name in set(self._of) - names:
            memory = self._of[name]
            moments = (memory.first_seen, memory.last_due, memory.last_success, memory.last_whole)
            if now - max(moment for moment in moments if moment is not None) > KEPT:
                del self._of[name]

    def _rendered(self) -> bytes:
        mirrors = {name: memory.as_json() for name, memory in sorted(self._of.items())}
        return durable_files.render_json({"version": 1, "mirrors": mirrors})

    def save(self) -> None:
        """OSError: a full disk; the next call tries again."""
        rendered = self._rendered()
        if rendered != self._written:
            durable_files.replace_bytes(self._path, rendered, durable=True)
            self._written = rendered
