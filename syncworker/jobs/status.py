"""The status of a job: its fields, what its state means, and how a job's life changes it. Touches no file.

Nobody else makes a status or assigns a field of one, but for the counters in `progress`, which are those of
`Progress`. A status that an older version wrote lacks the fields that have come since: `get` reads these.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard

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
KEYS_KEPT_SECONDS = 7 * 86400.0  # of a job that has failed; a resume asks for them then
_SHELL_SECONDS = 10.0
DIED: Fault = {"code": "WorkerDied", "message": "the worker ended without a word: resume the job to go on"}

PROGRESS: Counters = {
    "scan_complete": False,
    "files_total": 0,
    "files_done": 0,
    "bytes_total": 0,
    "bytes_done": 0,
    "files_unchanged": 0,
    "files_uploaded": 0,
    "objects_deleted": 0,
    "files_failed": 0,
    "files_skipped": 0,
    "bytes_uploaded": 0,
    "bytes_resumed": 0,
    "files_updated": 0,
    "objects_kept": 0,
    "files_changing": 0,
    "files_to_upload": 0,
    "bytes_to_upload": 0,
    "files_to_update": 0,
    "objects_to_delete": 0,
    "objects_verified": 0,
    "bytes_verified": 0,
    "objects_unverified": 0,
    "throttled_seconds": 0.0,
    "bytes_per_second": 0.0,
    "eta_seconds": None,
    "elapsed_seconds": 0.0,
}


def timestamp(now: datetime | None = None) -> str:
    """RFC 3339, UTC, milliseconds."""
    now = now or datetime.now(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.") + f"{now.microsecond // 1000:03d}Z"


def effective_state(recorded: State | None, lock_held: bool, sentinel: bool) -> State:
    """What a job is, from what its status says, whether its worker lives, and whether cancel was asked for.

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
    """The recorded state; but a job that a shell made and did not begin within ten seconds counts as begun:
    its shell died, and nobody else will run it."""
    recorded = recorded_state(status)
    if recorded is State.QUEUED and status.get("auto_resume") is False:
        since = datetime.fromisoformat(status["updated_at"])
        if (datetime.now(UTC) - since).total_seconds() > _SHELL_SECONDS:
            return State.RUNNING
    return recorded


def needs_no_keys(status: Status | None, now: datetime | None = None) -> bool:
    """Whether a job's own keys are of no use any more, or have waited for a resume for too long. A waiting
    job may be approved at any time, and what a server resumes by itself needs them whenever it starts."""
    state = recorded_state(status)
    if status is None or state in KEYLESS:
        return state in KEYLESS
    if state is not State.FAILED and not (
        state is State.INTERRUPTED and status.get("auto_resume") is not True
    ):
        return False
    try:
        ended = datetime.fromisoformat(status["finished_at"] or "")
        return ((now or datetime.now(UTC)) - ended).total_seconds() > KEYS_KEPT_SECONDS
    except (KeyError, TypeError, ValueError):
        return False


def is_status_of(status: dict[str, Any], job_id: str) -> TypeGuard[Status]:
    """Whether an object is the status of this job, as far as anything is done by what it says: its id names
    files, its destination too."""
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
    """The destination, the folders that are looked at, and the options that decide what it is to hold."""
    asked = dict(status.get("options") or {})
    for name in ("plan", "max_delete", "forget_mounts", "verify", "bandwidth"):
        asked.pop(name, None)
    return destination_id(status["storage_url"], status["dest"]), status.get("scope"), asked


def approved_plan(status: Status) -> Plan | None:
    """The plan that somebody has approved: the job deletes nothing else."""
    plan = status.get("plan")
    return plan if plan and plan.get("approved_at") else None


def _forget_done(status: Status) -> None:
    status.update({**status, **_nothing_done()})


def _nothing_done() -> Attempted:
    """Of an attempt that has not begun."""
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
    """Turns the status into that of a worker's life: this process, now, `starting`."""
    pid, started = processes.me()
    status["state"], status["phase"] = State.RUNNING.value, Phase.STARTING.value
    status["message"] = "starting"
    status["pid"], status["pid_started_at"], status["host"] = pid, started, processes.host()
    status["started_at"], status["finished_at"] = timestamp(), None
    status["cluster"] = None
    _forget_done(status)


def renew(status: Status, *, auto_resume: bool) -> None:
    """Turns the status of an ended job, or of one whose worker has died, into that of its next attempt,
    `queued`. Drops a plan that was not approved."""
    if recorded_state(status) not in FINAL_STATES:
        _count_end(status, State.INTERRUPTED, DIED)
    status["state"], status["phase"], status["message"] = State.QUEUED.value, None, "waiting to be resumed"
    status["plan"], status["attempt"] = approved_plan(status), int(status.get("attempt", 0)) + 1
    status["pid"] = status["pid_started_at"] = status["started_at"] = status["finished_at"] = None
    status["cancel_requested"], status["notified_at"], status["auto_resume"] = False, None, auto_resume
    _forget_done(status)


def approve(status: Status, plan: Plan, *, auto_resume: bool) -> None:
    """Turns the status of a job that waits into that of the attempt that carries out its plan."""
    renew(status, auto_resume=auto_resume)
    status["plan"] = {**plan, "approved_at": timestamp()}
    status["message"] = "approved: waiting for a free worker"


def finish(status: Status, state: State, error: Fault | None, message: str) -> None:
    """Turns the status into that of an attempt that has ended."""
    if recorded_state(status) not in FINAL_STATES:  # else it is written again, on a disk that was full
        _count_end(status, state, error)
    status["state"], status["phase"], status["message"] = state.value, None, message
    status["error"], status["finished_at"] = error, timestamp()
    status["current"], status["delay"], status["limit"] = [], None, None
    status["progress"]["eta_seconds"], status["progress"]["bytes_per_second"] = None, 0.0


def _count_end(status: Status, state: State, error: Fault | None) -> None:
    """Adds to the tally how an attempt ended, and with which error."""
    metrics = totals.clean(status.get("metrics"))
    errors: dict[str, float] = {error["code"]: 1} if error is not None else {}
    totals.add(metrics, {"counts": {totals.ENDED + state.value: 1}, "errors": errors})
    status["metrics"] = metrics


# -- single fields, which the modules that know them set here
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
    """The members that work for the job, as docs/job-files.md has them."""
    status["cluster"] = cluster


def set_phase(status: Status, phase: Phase) -> None:
    status["phase"] = phase.value


def set_message(status: Status, message: str) -> None:
    status["message"] = message


def set_limit(status: Status, own: int, all_jobs: int) -> None:
    """In bytes a second, 0 for no limit."""
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
    """Sets what a worker derives from its counters before it publishes the status."""
    status["current"], status["delay"] = current, delay
    status["timeline"]["speed"], status["resources"], status["metrics"] = speed, resources, metrics
