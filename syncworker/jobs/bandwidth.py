"""Bandwidth limits that may change while jobs run: `ID.bandwidth` for one, `bandwidth` for all together."""

from __future__ import annotations

from syncworker.jobs.store import Jobs
from syncworker.options import table
from syncworker.system import durable_files
from syncworker.system.rates import Limit, parse_rate


def change(jobs: Jobs, job_id: str | None, text: str | None, all_jobs: int) -> dict[str, int | None]:
    """Limits one job, or all jobs together, if the text has a rate, which takes effect within a second.
    Returns the present limits of the job and of all jobs together, in bytes per second; None for no limit.
    `all_jobs`: the default for all. If a file has no valid rate: the limit that the job's worker applies."""
    status = jobs.refuse_ended(job_id) if job_id else None
    if asked := table.parse({"bandwidth": text}):
        jobs.prepare()
        with jobs.creating():
            rate = f"{asked['bandwidth']}\n".encode()
            durable_files.replace_bytes(jobs.bandwidth_path(job_id), rate, durable=True)
    held = (status["limit"] if status else None) or {}
    limits = {"all_jobs": Limit(jobs.bandwidth_path(), all_jobs)}
    if status:
        own = parse_rate(str((status.get("options") or {}).get("bandwidth", 0)))
        limits["bandwidth"] = Limit(jobs.bandwidth_path(status["id"]), own)
    now: dict[str, int | None] = {"bandwidth": None}
    for name, limit in limits.items():
        is_nonsense = limit.look() is not None
        now[name] = held[name] if is_nonsense and name in held else limit.rate or None
    return now
