"""The fields of a job's status file. jobs/status.py creates and changes the status."""

from typing import Any, TypedDict

from syncworker.jobs import totals


class Counters(TypedDict):
    """The finished and remaining work of an attempt."""

    scan_complete: bool
    files_total: int
    files_done: int
    bytes_total: int
    bytes_done: int
    files_unchanged: int
    files_uploaded: int
    objects_deleted: int
    files_failed: int
    files_skipped: int
    bytes_uploaded: int
    bytes_resumed: int
    files_updated: int
    objects_kept: int
    files_changing: int
    files_to_upload: int
    bytes_to_upload: int
    files_to_update: int
    objects_to_delete: int
    objects_verified: int
    bytes_verified: int
    objects_unverified: int
    throttled_seconds: float
    bytes_per_second: float
    eta_seconds: float | None
    elapsed_seconds: float


class Fault(TypedDict):
    code: str
    message: str


class FailedOperation(Fault):
    time: str
    op: str
    key: str


class CurrentOperation(TypedDict):
    op: str
    key: str
    size: int
    bytes_done: int


class Wait(TypedDict):
    reason: str
    since: str | None
    until: str | None


class Plan(TypedDict):
    etag: str
    lines: int
    approved_at: str | None


class Resources(TypedDict):
    rss_bytes: int | None
    cpu_seconds: float | None


class PhaseBegin(TypedDict):
    phase: str
    at: str


class Speed(TypedDict):
    step_seconds: int
    bytes: list[int]


class Timeline(TypedDict):
    phases: list[PhaseBegin]
    speed: Speed


class Attempted(TypedDict):
    """The part of the status that belongs to one attempt."""

    progress: Counters
    skipped: dict[str, int]
    current: list[CurrentOperation]
    delay: Wait | None
    limit: dict[str, int | None] | None
    errors: list[FailedOperation]
    error: Fault | None
    resources: Resources
    timeline: Timeline


class Status(Attempted):
    version: int
    id: str
    state: str
    phase: str | None
    source: str
    dest: str
    storage_url: str
    wait: float
    options: dict[str, Any]
    mirror: str | None
    scope: list[str] | None
    plan: Plan | None
    cluster: Any
    pid: int | None
    pid_started_at: float | None
    host: str
    attempt: int
    auto_resume: bool
    created_at: str
    started_at: str | None
    updated_at: str
    finished_at: str | None
    cancel_requested: bool
    pause_requested: bool
    metrics: totals.Tally
    notified_at: str | None
    message: str
