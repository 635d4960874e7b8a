"""How the last job of each mirror ended, and when one last succeeded: from statuses, for `/metrics`.

A mirror here is a folder and its destination: bucket, prefix, storage. `add` may be called for a job any
number of times and in any order; the result is the same. A job for a part of its mirror (`scope`) is no
success of the whole. Pure functions; the caller knows the jobs and keeps the records.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from syncworker import ending
from syncworker.jobs.status import prefix_of
from syncworker.model import FINAL_STATES, State

RECORDS_MAX = 1000  # mirrors that are reported: those that ended last
FORGOTTEN_SECONDS = 90 * 86400.0  # after its last end, for a mirror whose jobs are all removed


class Mirror(NamedTuple):
    source: str
    dest: str
    prefix: str
    storage_url: str


class LastRun(NamedTuple):
    """Times in seconds since the epoch; `success_at` 0: never. The rest is of the job that ended last.
    `skipped`: files that cannot be mirrored, without those that vanished while it ran."""

    state: str
    ended_at: float
    success_at: float
    seconds: float
    skipped: int
    failed: int


Runs = dict[Mirror, LastRun]


def of_status(status: Mapping[str, Any]) -> tuple[Mirror, LastRun] | None:
    """None: the job has not ended, its status does not say when, or it was superseded."""
    try:
        state = State(status["state"])
        if state not in FINAL_STATES or (status.get("error") or {}).get("code") == "Superseded":
            return None  # the newer job counts
        ended_at = datetime.fromisoformat(status["finished_at"]).timestamp()
        progress = status["progress"]
        run = LastRun(
            state.value,
            ended_at,
            ended_at if state is State.DONE and not status.get("scope") else 0.0,
            float(progress["elapsed_seconds"]),
            sum(ending.failing(status.get("skipped") or {}).values()),
            int(progress["files_failed"]),
        )
        return Mirror(status["source"], status["dest"], prefix_of(status), status["storage_url"]), run
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def add(runs: Runs, mirror: Mirror, run: LastRun) -> None:
    known = runs.get(mirror)
    if known is not None:
        newer = run if run.ended_at >= known.ended_at else known
        run = newer._replace(success_at=max(run.success_at, known.success_at))
    runs[mirror] = run


def newest(runs: Runs, since: float = 0.0) -> Runs:
    """The RECORDS_MAX runs that ended last, none before `since`."""
    found = sorted(runs.items(), key=lambda item: item[1].ended_at, reverse=True)[:RECORDS_MAX]
    return {mirror: run for mirror, run in found if run.ended_at >= since}


def to_json(runs: Runs) -> list[list[Any]]:
    return [[*mirror, *run] for mirror, run in runs.items()]


def of_json(value: Any) -> Runs:
    """Returns the valid records of those that were read from a file."""
    runs: Runs = {}
    for row in value if isinstance(value, list) else []:
        if not isinstance(row, list) or len(row) != len(Mirror._fields) + len(LastRun._fields):
            continue
        *names, state = row[: len(Mirror._fields) + 1]
        numbers = row[len(Mirror._fields) + 1 :]
        if all(isinstance(name, str) for name in (*names, state)) and all(
            isinstance(number, int | float) and 0 <= number < 1e15 for number in numbers
        ):
            add(runs, Mirror(*names), LastRun(state, *numbers))
    return runs
