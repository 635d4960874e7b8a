"""What `/mirrors` shows of a mirror: its schedule, its times, its last runs, its problems."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from syncworker.jobs.status import timestamp
from syncworker.jobs.status_cache import Entry
from syncworker.mirrors.memory import Memory
from syncworker.mirrors.mirror import Mirror
from syncworker.mirrors.watch import Watched
from syncworker.model import State
from syncworker.options import table


def view(
    mirror: Mirror, url: str, memory: Memory, jobs: Mapping[str, Entry], watched: Watched | None
) -> dict[str, Any]:
    """Returns the parts that do not depend on the time. `jobs`: the mirror's jobs whose files exist."""
    waiting = max((job_id for job_id, entry in jobs.items() if entry.state is State.WAITING), default=None)
    trouble = waiting and f"job {waiting} waits: the schedule stops until it is approved or cancelled"
    last = max(jobs, default="")
    if memory.runs and str(memory.runs[-1]["id"]) > last:
        last, state = memory.runs[-1]["id"], memory.runs[-1]["state"]
    else:
        state = jobs[last].state if last else None
    return {
        "name": mirror.name,
        "source": mirror.source,
        "dest": mirror.dest,
        "storage_url": url,
        "options": table.parse(mirror.asked),
        "schedule": for_people(mirror),
        "last_job": last or None,
        "last_state": state,
        "waiting_job": waiting,
        "last_success_at": time_text(memory.last_success),
        "watching": bool(watched and watched.watcher.watching),
        "runs_skipped": memory.skipped,
        "runs_missed": memory.missed,
        "last_missed_at": time_text(memory.last_missed),
        "runs": [{"files_total": None, "bytes_total": None} | run for run in memory.runs],
        "error": trouble or (watched.watcher.error if watched is not None else None),
    }


def time_text(moment: datetime | None) -> str | None:
    return timestamp(moment) if moment else None


def in_words(mirror: Mirror) -> str:
    """The text that is remembered: a different text is a different schedule."""
    if mirror.schedule.cron:
        return f"cron {mirror.schedule.cron}"
    if mirror.schedule.every is not None:
        return f"every {mirror.schedule.every.total_seconds():.0f} s"
    return "by hand"


def for_people(mirror: Mirror) -> str:
    if mirror.schedule.cron or mirror.schedule.every is None:
        return in_words(mirror)
    seconds = int(mirror.schedule.every.total_seconds())
    units = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))
    length, unit = next((length, unit) for length, unit in units if seconds % length == 0)
    return f"every {seconds // length} {unit}" if (seconds, unit) != (86400, "days") else "every day"
