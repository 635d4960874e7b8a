"""The shape of a status and of a report, field by field, as the contract prints it."""

from __future__ import annotations

import json
import re
from typing import Any

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted", "waiting")
FINAL = STATES[2:]
PHASES = ("starting", "comparing", "transferring", "deleting", "deleting_bucket", "verifying", "paused")
COUNTERS = (
    "files_total",
    "files_done",
    "bytes_total",
    "bytes_done",
    "files_unchanged",
    "files_uploaded",
    "objects_deleted",
    "files_failed",
    "files_skipped",
    "bytes_uploaded",
    "bytes_resumed",
    "files_updated",
    "objects_kept",
    "files_changing",
    "files_to_upload",
    "bytes_to_upload",
    "files_to_update",
    "objects_to_delete",
    "objects_verified",
    "bytes_verified",
    "objects_unverified",
)
CLUSTER = {"scheduler", "workers", "lost", "resent"}
GROWING = tuple(c for c in COUNTERS if c not in ("files_total", "bytes_total"))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and TIME.fullmatch(value) is not None


def _is_plan(plan: Any) -> bool:
    if plan is None:
        return True
    return (
        plan.keys() == {"etag", "lines", "approved_at"}
        and bool(re.fullmatch(r"[0-9a-f]{64}", plan["etag"]))
        and _is_count(plan["lines"])
        and (plan["approved_at"] is None or _is_time(plan["approved_at"]))
    )


def _is_scope(scope: Any, mirror: str | None) -> bool:
    if scope is None or mirror is None:
        return scope is None
    return isinstance(scope, list) and all(isinstance(folder, str) for folder in scope)


def check_status(status: dict[str, Any]) -> None:
    """Every field is there, of its type, and they agree with each other. Fields may be added."""
    where = json.dumps(status)
    expect = {
        "version": status["version"] == 1,
        "id": re.fullmatch(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}", status["id"]) is not None,
        "state": status["state"] in STATES,
        "source": isinstance(status["source"], str),
        "dest": isinstance(status["dest"], str),
        "storage_url": status["storage_url"].startswith("http"),
        "wait": _is_number(status["wait"]),
        "options": isinstance(status["options"], dict),
        "skipped": all(_is_count(count) for count in status["skipped"].values()),
        "cluster": status["cluster"] is None or set(status["cluster"]) == CLUSTER,
        "mirror": status["mirror"] is None or isinstance(status["mirror"], str),
        "scope, of mirrors alone": _is_scope(status["scope"], status["mirror"]),
        "plan": _is_plan(status["plan"]),
        "host": status["host"] is None or isinstance(status["host"], str),
        "attempt": _is_count(status["attempt"]),
        "created_at": _is_time(status["created_at"]),
        "updated_at": _is_time(status["updated_at"]),
        "cancel_requested": isinstance(status["cancel_requested"], bool),
        "message": isinstance(status["message"], str),
    }
    assert all(expect.values()), ([name for name, right in expect.items() if not right], where)
    _check_life(status, where)
    _check_progress(status["progress"], where)
    for item in status["current"]:
        assert {"op", "key", "size", "bytes_done"} <= item.keys(), where
        assert _is_count(item["size"]), where
        assert _is_count(item["bytes_done"]), where
    for item in status["errors"]:
        assert {"time", "op", "key", "code", "message"} <= item.keys(), where
        assert _is_time(item["time"]), where
        assert item["code"], where
        assert item["message"], where
    assert len(status["errors"]) <= 100, where
    if status["error"] is not None:
        assert status["error"]["code"], where
        assert status["error"]["message"], where


def _check_life(status: dict[str, Any], where: str) -> None:
    state = status["state"]
    assert (status["finished_at"] is not None) == (state in FINAL), where
    assert status["finished_at"] is None or _is_time(status["finished_at"]), where
    assert status["started_at"] is None or _is_time(status["started_at"]), where
    if state == "running":
        assert status["phase"] in PHASES, where
        assert type(status["pid"]) is int, where
        assert status["pid"] > 1, where
        assert type(status["pid_started_at"]) is float, where
        assert status["host"], where
        assert _is_time(status["started_at"]), where
        assert status["attempt"] >= 1, where
    if state == "failed":
        assert status["error"] is not None, where
    if state == "waiting":
        assert status["plan"] is not None, where
        assert status["plan"]["approved_at"] is None, where
    if state == "done":
        assert status["error"] is None, where
        assert status["errors"] == [], where


def _check_progress(progress: dict[str, Any], where: str) -> None:
    assert isinstance(progress["scan_complete"], bool), where
    for name in COUNTERS:
        assert _is_count(progress[name]), (name, where)
    assert _is_number(progress["throttled_seconds"]), where
    for name in ("bytes_per_second", "eta_seconds"):
        assert progress[name] is None or _is_number(progress[name]), (name, where)
    assert _is_number(progress["elapsed_seconds"]), where


def check_report(lines: list[dict[str, Any]]) -> None:
    """Each line of a report has the fields of the table in CONTRACT §1."""
    for line in lines:
        assert {"time", "op", "key", "size", "etag", "seconds"} <= line.keys(), line
        assert _is_time(line["time"]), line
        assert line["seconds"] is None or _is_number(line["seconds"]), line
        assert line["size"] is None or _is_count(line["size"]), line
