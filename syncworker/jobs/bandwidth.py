"""Bandwidth limits that may change while jobs run: `ID.bandwidth` for one, `bandwidth` for all together."""

from __future__ import annotations

from syncworker.jobs.record import Status
from syncworker.jobs.store import Jobs
from syncworker.system import durable_files
from syncworker.system.rates import Limit, parse_rate


def set_rate(jobs: Jobs, job_id: str | None, rate: int | str) -> None:
    """Limits one job, or all jobs together. Takes effect within a second."""
    with jobs.creating():
        durable_files.replace_bytes(jobs.bandwidth_path(job_id), f"{rate}\n".encode(), durable=True)


def limits(jobs: Jobs, status: Status | None, all_jobs: int) -> dict[str, int | None]:
    """Returns the present limits of a job and of all jobs together, in bytes per second; None for no limit.
    `all_jobs`: the default for all. If a file has no valid rate: the limit that the job's worker applies."""
    held = (status["limit"] if status else None) or {}
    limits = {"all_jobs": Limit(jobs.bandwidth_path(), all_jobs)}
    if status:
        asked = parse_rate(str((status.get("options") or {}).get("bandwidth", 0)))
        limits["bandwidth"] = Limit(jobs.bandwidth_path(status["id"]), asked)
    now: dict[str, int | None] = {"bandwidth": None}
    for name, limit in limits.items():
        is_nonsense = limit.look() is not None
        now[name] = held[name] if is_nonsense and name in held else limit.rate or None
    return now
