"""Creates and changes the status of a job, and derives a job's true state. Touches no file.

Only this module creates a status or assigns its fields; `Progress` owns the counters in `progress`. A status
from an older version lacks newer fields: read these with `get`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard, cast

from syncworker.errors import UsageError
from syncworker.jobs import totals
from syncworker.jobs.record import (
    Attempted,
    Counters,
    CurrentOperation,
    Fault,
    Plan,
    Resources,
    Speed,
    Status,
    Wait,
)
from syncworker.model import FINAL_STATES, Phase, State
from syncworker.request import Request
from syncworker.storage_url import destination_id
from syncworker.system import processes

KEYLESS = (State.DONE, State.CANCELLED)  # a cancelled job is resumed with new keys
KEYS_KEPT_SECONDS = 7 * 86400.0  # of a failed job; later, a resume must supply them
_SHELL_SECONDS = 10.0
DIED: Fault = {
    "code": "WorkerDied",
    "message": "the worker ended without recording a result: resume the job to continue",
}

# Every counter of record.py, set to 0 or None.
PROGRESS = cast(
    Counters,
    {name: kind() if isinstance(kind, type) else None for name, kind in Counters.__annotations__.items()},
)


def timestamp(now: datetime | None = None) -> str:
    """Returns a time in RFC 3339 format, in UTC, with milliseconds."""
    now = now or datetime.now(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


def effective_state(recorded: State | None, lock_held: bool, sentinel: bool) -> State:
    """Returns a job's true state, from its status, whether its worker lives, and whether cancel was
    requested.

    | recorded | lock | sentinel | state |
    | --- | --- | --- | --- |
    | queued | free | no | queued |
    | queued | free | yes | cancelled |
    | queued | held | any | queued (a worker is starting, and will see the sentinel) |
    | running | held | any | running |
    | running | free | no | interrupted |
    | running | free | yes | cancelled |
    | waiting | free | no | waiting |
    | waiting | free | yes | cancelled |
    | waiting | held | any | waiting (its worker is ending, or somebody approves it) |
    | done, failed, cancelled, interrupted | any | any | as recorded |
    | none (no readable status) | held | any | running |
    | none | free | any | interrupted |
    """
    if recorded in FINAL_STATES and recorded is not State.WAITING:
        return recorded
    if lock_held:
        return recorded or State.RUNNING
    if recorded is None:
        return State.INTERRUPTED
    if sentinel:
        return State.CANCELLED
    return recorded if recorded in (State.QUEUED, State.WAITING) else State.INTERRUPTED


def recorded_state(status: Mapping[str, Any] | None) -> State | None:
    try:
        return State((status or {}).get("state", ""))
    except ValueError:
        return None


def begun_state(status: Status) -> State | None:
    """Returns the recorded state. A job that a shell created and did not begin within ten seconds counts as
    begun: its shell died, and no other process will run it."""
    recorded = recorded_state(status)
    if recorded is State.QUEUED and status.get("auto_resume") is False:
        since = datetime.fromisoformat(status["updated_at"])
        if (datetime.now(UTC) - since).total_seconds() > _SHELL_SECONDS:
            return State.RUNNING
    return recorded


def needs_no_keys(status: Status | None, now: datetime | None = None) -> bool:
    """Returns whether a job's own keys are no longer needed, or were kept too long for a resume. A waiting
    job may be approved at any time, and a job that a server resumes automatically always needs its keys."""
    state = recorded_state(status)
    if status is None or state in KEYLESS:
        return state in KEYLESS
    if state is not State.FAILED and (state is not State.INTERRUPTED or status.get("auto_resume") is True):
        return False
    try:
        ended = datetime.fromisoformat(status["finished_at"] or "")
        return ((now or datetime.now(UTC)) - ended).total_seconds() > KEYS_KEPT_SECONDS
    except (KeyError, TypeError, ValueError):
        return False


def is_status_of(status: dict[str, Any], job_id: str) -> TypeGuard[Status]:
    """Returns whether an object is the status of this job. Checks the fields that control actions: for
    example, file names contain its id and its destination."""
    if status.get("id") != job_id or recorded_state(status) is None:
        return False
    if not isinstance(status.get("progress"), dict) or not isinstance(status.get("plan") or {}, dict):
        return False
    if not all(isinstance(status.get(name), str) for name in ("source", "dest", "storage_url")):
        return False
    try:
        destination_id(status["storage_url"], status["dest"])
        datetime.fromisoformat(status.get("updated_at", "2026-01-01T00:00:00Z"))
    except (UsageError, TypeError, ValueError):
        return False
    return True


def error_code(status: Status | None) -> str | None:
    error = status.get("error") if status else None
    return error.get("code") if error else None


def prefix_of(status: Mapping[str, Any]) -> str:
    return str((status.get("options") or {}).get("prefix", ""))


def aim_of(status: Status) -> tuple[str, Any, dict[str, Any]]:
    """Returns the destination, the folders in scope, and the options that decide the intended content."""
    asked = dict(status.get("options") or {})
    for name in ("plan", "max_delete", "forget_mounts", "verify", "bandwidth"):
        asked.pop(name, None)
    return destination_id(status["storage_url"], status["dest"]), status.get("scope"), asked


def approved_plan(status: Status) -> Plan | None:
    """Returns the approved plan, if any; the job deletes only what this plan names."""
    plan = status.get("plan")
    return plan if plan and plan.get("approved_at") else None


def _forget_done(status: Status) -> None:
    status.update({**status, **_nothing_done()})


def _nothing_done() -> Attempted:
    """Returns the fields of an attempt that has not begun."""
    return {
        "progress": PROGRESS.copy(),
        "skipped": {},
        "current": [],
        "delay": None,
        "limit": None,
        "errors": [],
        "error": None,
        "resources": {"rss_bytes": None, "cpu_seconds": None},
        "timeline": {"phases": [], "speed": {"step_seconds": 1, "bytes": []}},
    }


def new_status(job_id: str, request: Request, now: datetime, *, auto_resume: bool) -> Status:
    return {
        "version": 1,
        "id": job_id,
        "state": State.QUEUED.value,
        "phase": None,
        "source": request.source,
        "dest": request.dest,
        "storage_url": request.storage_url,
        "wait": int(request.wait) if request.wait.is_integer() else request.wait,
        "options": dict(request.options),
        "mirror": request.mirror,
        "scope": None if request.scope is None else list(request.scope),
        "plan": None,
        "cluster": None,
        "pid": None,
        "pid_started_at": None,
        "host": processes.host(),
        "attempt": 1,
        "auto_resume": auto_resume,
        "created_at": timestamp(now),
        "started_at": None,
        "updated_at": timestamp(now),
        "finished_at": None,
        "cancel_requested": False,
        "pause_requested": False,
        **_nothing_done(),
        "metrics": totals.empty(),
        "notified_at": None,
        "message": "waiting for a free worker",
    }


def begin(status: Status) -> None:
    """Changes the status to that of an attempt by this process that is now `starting`."""
    pid, started = processes.me()
    status["state"], status["phase"] = State.RUNNING.value, Phase.STARTING.value
    status["message"] = "starting"
    status["pid"], status["pid_started_at"], status["host"] = pid, started, processes.host()
    status["started_at"], status["finished_at"] = timestamp(), None
    status["cluster"] = None
    _forget_done(status)


def renew(status: Status, *, auto_resume: bool) -> None:
    """Changes the status of a job that has ended, or whose worker has died, to that of its next attempt,
    `queued`. Drops a plan that was not approved."""
    if recorded_state(status) not in FINAL_STATES:
        _count_end(status, State.INTERRUPTED, DIED)
    status["state"], status["phase"], status["message"] = State.QUEUED.value, None, "waiting to be resumed"
    status["plan"], status["attempt"] = approved_plan(status), int(status.get("attempt", 0)) + 1
    status["pid"] = status["pid_started_at"] = status["started_at"] = status["finished_at"] = None
    status["cancel_requested"], status["notified_at"], status["auto_resume"] = False, None, auto_resume
    _forget_done(status)


def approve(status: Status, plan: Plan, *, auto_resume: bool) -> None:
    """Changes the status of a waiting job to that of the attempt that carries out its plan."""
    renew(status, auto_resume=auto_resume)
    status["plan"] = {**plan, "approved_at": timestamp()}
    status["message"] = "approved: waiting for a free worker"


def finish(status: Status, state: State, error: Fault | None, message: str) -> None:
    """Changes the status to that of an attempt that has ended."""
    if recorded_state(status) not in FINAL_STATES:  # else this is the second try, after a full disk
        _count_end(status, state, error)
    status["state"], status["phase"], status["message"] = state.value, None, message
    status["error"], status["finished_at"] = error, timestamp()
    status["current"], status["delay"], status["limit"] = [], None, None
    status["progress"]["eta_seconds"], status["progress"]["bytes_per_second"] = None, 0.0


def _count_end(status: Status, state: State, error: Fault | None) -> None:
    """Adds the end of an attempt, and its error, to the tally."""
    metrics = totals.clean(status.get("metrics"))
    errors: dict[str, float] = {error["code"]: 1} if error is not None else {}
    totals.add(metrics, {"counts": {totals.ENDED + state.value: 1}, "errors": errors})
    status["metrics"] = metrics


# -- single fields, for the modules that know their values
def set_requests(status: Status, *, cancelled: bool, paused: bool) -> None:
    status["cancel_requested"], status["pause_requested"] = cancelled, paused


def set_updated(status: Status) -> None:
    status["updated_at"] = timestamp()


def set_notified(status: Status) -> None:
    status["notified_at"] = timestamp()


def set_auto_resume(status: Status, on: bool) -> None:
    status["auto_resume"] = on


def set_plan(status: Status, plan: Plan | None) -> None:
    status["plan"] = plan


def set_cluster(status: Status, cluster: dict[str, Any] | None) -> None:
    """Sets the members that work for the job (see docs/job-files.md)."""
    status["cluster"] = cluster


def set_phase(status: Status, phase: Phase) -> None:
    status["phase"] = phase.value


def set_message(status: Status, message: str) -> None:
    status["message"] = message


def set_limit(status: Status, own: int, all_jobs: int) -> None:
    """Sets the limits, in bytes per second; 0 for no limit."""
    status["limit"] = {"bandwidth": own or None, "all_jobs": all_jobs or None}


def publish(
    status: Status,
    *,
    current: list[CurrentOperation],
    delay: Wait | None,
    speed: Speed,
    resources: Resources,
    metrics: totals.Tally,
) -> None:
    """Sets the fields that a worker derives before it publishes the status."""
    status["current"], status["delay"] = current, delay
    status["timeline"]["speed"], status["resources"], status["metrics"] = speed, resources, metrics
