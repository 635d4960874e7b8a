"""What is remembered of each mirror, in `jobs/.mirrors.json`, so that removing old jobs causes no false
alarm.

Only the server's keeper writes the file, as a whole, by temporary file and rename. A damaged file counts as
none: mirrors are then seen for the first time, and earlier ends of jobs are not reported again. The file
holds no addresses: `notify.digest` stands for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from syncworker.jobs.record import Status
from syncworker.jobs.status import error_code, timestamp
from syncworker.system import durable_files

NAME = ".mirrors.json"
RUNS = 30
KEPT = timedelta(days=90)


@dataclass(slots=True)
class Memory:
    """What is remembered of one mirror. `told`: the problems that were reported since the last success.
    `outbox`: unsent messages, each with the digests of the addresses that have not received it. The type of a
    field decides how it is read (`_READ`)."""

    first_seen: datetime
    schedule: str = ""
    last_due: datetime | None = None
    last_success: datetime | None = None
    last_whole: datetime | None = None  # when the last job for the whole folder was started
    retry_at: datetime | None = None
    retries: int = 0
    skipped: int = 0
    missed: int = 0  # times of the schedule at which no server ran
    last_missed: datetime | None = None  # the newest of them
    scheduled: str = ""  # the id of the last job that was started by schedule or as a retry
    runs: list[dict[str, Any]] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    outbox: list[dict[str, Any]] = field(default_factory=list)

    def run(self, job_id: str) -> dict[str, Any] | None:
        return next((run for run in reversed(self.runs) if run.get("id") == job_id), None)

    def remember(self, run: dict[str, Any]) -> None:
        """Adds a run, or replaces it; keeps the newest RUNS."""
        others = [known for known in self.runs if known.get("id") != run["id"]]
        self.runs = sorted([*others, run], key=lambda each: str(each.get("id")))[-RUNS:]

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: timestamp(v) if isinstance(v, datetime) else v for name, v in values.items()}


_OF_STATUS = ("id", "state", "attempt", "started_at", "finished_at")
_OF_PROGRESS = ("files_total", "bytes_total", "files_uploaded", "bytes_uploaded", "objects_deleted")


def run_of(status: Status) -> dict[str, Any]:
    """What is remembered of a run that has ended."""
    run = {name: status.get(name) for name in _OF_STATUS}
    run |= {name: status["progress"].get(name) for name in _OF_PROGRESS}
    return run | {"scoped": status.get("scope") is not None, "error": error_code(status)}


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value).astimezone(UTC) if value else None


_READ: dict[str, Callable[[Any], Any]] = {  # by the type of a field, from JSON or None
    "datetime": _time,
    "datetime | None": _time,
    "str": lambda value: str(value or ""),
    "int": lambda value: int(value or 0),
    "dict[str, Any]": lambda value: value if isinstance(value, dict) else {},
    "list[dict[str, Any]]": lambda value: [each for each in value or [] if isinstance(each, dict)],
}


def _of_json(value: Any) -> Memory | None:
    try:
        memory = Memory(**{each.name: _READ[str(each.type)](value.get(each.name)) for each in fields(Memory)})
    except (AttributeError, ValueError, TypeError, OverflowError):
        return None
    return memory if memory.first_seen else None


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
        """Forgets mirrors that have been missing from the file for long. Not at once: while an editor saves
        the file, it may be empty or missing for an instant."""
        for name in set(self._of) - names:
            memory = self._of[name]
            moments = (memory.first_seen, memory.last_due, memory.last_success, memory.last_whole)
            if now - max(moment for moment in moments if moment is not None) > KEPT:
                del self._of[name]

    def _rendered(self) -> bytes:
        mirrors = {name: memory.as_json() for name, memory in sorted(self._of.items())}
        return durable_files.render_json({"version": 1, "mirrors": mirrors})

    def save(self) -> None:
        """Raises OSError (a full disk); the next call tries again."""
        rendered = self._rendered()
        if rendered != self._written:
            durable_files.replace_bytes(self._path, rendered, durable=True)
            self._written = rendered
