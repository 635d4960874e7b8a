"""A job as text: sizes, times, one-line states, the summary at the end. Pure functions.

Invariant: names of files and messages of stores are hostile. Every text from outside passes `escape_control`,
which turns what is not printable (control characters, escape sequences, direction marks, bytes that are not
UTF-8) into backslash escapes, so that it stays on its line and cannot control a terminal.

Nothing here reads, writes or knows about terminals: that is `display`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from syncworker.ending import skipped_text
from syncworker.escape import escape_control
from syncworker.jobs.record import Counters, CurrentOperation, Status
from syncworker.jobs.status import PROGRESS

ERRORS_MAX = 10  # errors that are named; all of them are in the report
_BARS = "▁▂▃▄▅▆▇█"
HEADER = ("ID", "STATE", "SOURCE", "DEST", "FILES", "BYTES", "NOTE")


def size(count: float) -> str:
    """Returns bytes in binary units: `512 B`, `1.5 MiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        count /= 1024
        if count < 1023.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} PiB"


def duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def progress(status: Status) -> Counters:
    """Returns the counters; those that an older version did not write are as in a new job."""
    return {**PROGRESS, **(status.get("progress") or {})}


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def activity(status: Status) -> str:
    """Returns the job's phase while it runs, else its state."""
    word = status.get("phase") if status["state"] == "running" else None
    word = str(word or status["state"]).replace("_", " ")
    if status.get("cancel_requested") and status["state"] in ("queued", "running"):
        word += ", cancelling"
    elif status.get("pause_requested") and status["state"] in ("queued", "running") and word != "paused":
        word += ", paused" if status["state"] == "queued" else ", pausing"
    return escape_control(word)


def error_count(status: Status) -> int:
    """Returns a lower bound: `errors` ends at 100, and `files_failed` counts no failed deletion."""
    return max(len(status.get("errors") or ()), int(progress(status)["files_failed"]))


def _more(status: Status) -> str:
    """Returns the `+` behind a total while the folder is still being listed."""
    return "+" if status["state"] == "running" and not progress(status)["scan_complete"] else ""


def files_text(status: Status) -> str:
    """Returns `310/1200`, or `310/1200+`."""
    p = progress(status)
    return f"{p['files_done']}/{p['files_total']}{_more(status)}"


def bytes_text(status: Status) -> str:
    p = progress(status)
    return f"{size(p['bytes_done'])} of {size(p['bytes_total'])}{_more(status)}"


def rate_text(status: Status) -> str:
    """Returns speed and time left, as far as they are known."""
    p = progress(status)
    parts = [f"{size(p['bytes_per_second'])}/s"] if p["bytes_per_second"] else []
    if p["eta_seconds"] is not None:
        parts.append(f"{duration(p['eta_seconds'])} left")
    return ", ".join(parts)


def limits(values: Mapping[str, int | None], *, with_job: bool = True) -> str:
    """Returns `this job: 512.0 KiB/s, all jobs together: no limit`."""

    def rate(name: str) -> str:
        return f"{size(values[name] or 0)}/s" if values[name] else "no limit"

    own = f"this job: {rate('bandwidth')}, " if with_job else ""
    return f"{own}all jobs together: {rate('all_jobs')}"


def error_line(line: Mapping[str, Any]) -> str:
    """Formats a report line that has an error: `2026-…Z upload a/b.jpg: AccessDenied, …`."""
    error = line["error"]
    what = f"{line.get('time')} {line.get('op')} {escape_control(line.get('key'))}"
    return f"{what}: {escape_control(error.get('code'))}, {escape_control(error.get('message'))}"


def plot(speeds: Sequence[float]) -> str:
    """Returns speeds as a row of bars, the highest full: `▁▂█▅`."""
    top = max(speeds, default=0.0)
    return "".join(_BARS[min(7, int(speed / top * 8))] if top > 0 else _BARS[0] for speed in speeds)


def operation(item: CurrentOperation) -> str:
    """Formats an item of `current`: `upload 2024/a.jpg (1.0 MiB of 5.0 MiB)`."""
    text = f"{escape_control(item.get('op', ''))} {escape_control(item.get('key', ''))}"
    if item.get("size") and item.get("bytes_done") is not None:
        text += f" ({size(item['bytes_done'])} of {size(item['size'])})"
    return text


def delay(status: Status) -> str:
    """Returns what a running job waits for, "" while it makes progress."""
    return escape_control(status["message"]) if status["state"] == "running" and status.get("delay") else ""


def error_lines(status: Status) -> list[str]:
    """Returns the first errors, a line each."""
    errors = status.get("errors") or []
    lines = [
        escape_control(f"{e.get('op', '')} {e.get('key', '')}: {e.get('code', '')}: {e.get('message', '')}")
        for e in errors[:ERRORS_MAX]
    ]
    if (more := error_count(status) - len(lines)) > 0:
        lines.append(f"and {more} more: see {status['id']}.report.jsonl in the folder of the jobs")
    return lines


def line(status: Status) -> str:
    """Returns the state of a job on one plain line."""
    p = progress(status)
    parts = [f"{files_text(status)} files", bytes_text(status), rate_text(status)]
    if p["objects_deleted"]:
        parts.append(f"{p['objects_deleted']} deleted")
    if error_count(status):
        parts.append(counted(error_count(status), "error"))
    current = status.get("current") or []
    if held := delay(status):
        parts.append(held)
    elif current:
        more = f" and {len(current) - 1} more" if len(current) > 1 else ""
        parts.append(operation(current[0]) + more)
    elif status["state"] == "queued":
        parts = [escape_control(status.get("message") or "")]
    return f"{activity(status)}: {', '.join(part for part in parts if part)}"


def summary(status: Status) -> str:
    """Returns what an ended job has done, on one line."""
    p = progress(status)
    parts = [
        f"{files_text(status)} files ({p['files_unchanged']} unchanged, {p['files_uploaded']} uploaded)",
        f"{size(p['bytes_uploaded'])} sent",
    ]
    if p["bytes_resumed"]:
        parts.append(f"{size(p['bytes_resumed'])} kept from before")
    parts.append(f"{p['objects_deleted']} deleted")
    if p["files_failed"]:
        parts.append(f"{p['files_failed']} failed")
    if p["files_skipped"]:
        parts.append(_skipped(status))
    return f"{activity(status)}: {', '.join(parts)}, in {duration(p['elapsed_seconds'])}"


def _skipped(status: Status) -> str:
    """Returns the number of skipped files, with the reasons if the job's version recorded them."""
    return escape_control(
        skipped_text(status.get("skipped") or {}) or f"{progress(status)['files_skipped']} skipped"
    )


def error_text(status: Status) -> str:
    error = status.get("error")
    if not error:
        return ""
    return f"{escape_control(error.get('code', ''))}: {escape_control(error.get('message', ''))}"


def details(status: Status) -> list[tuple[str, str]]:
    """Returns what `show` prints: (label, text); the label is empty where a line continues the one above."""
    p = progress(status)
    state = activity(status)
    if status["state"] == "running":
        state = f"running, {state}, pid {status['pid']} on {escape_control(status['host'])}"
    if status["attempt"] > 1:
        state += f", attempt {status['attempt']}"
    rows = [
        ("job", escape_control(status["id"])),
        ("state", state),
        ("source", escape_control(status["source"] or ".")),
        ("dest", f"{escape_control(status['dest'])} at {escape_control(status['storage_url'])}"),
    ]
    limit = status.get("limit") or {}
    if any(limit.values()):
        rows.append(("limit", limits(limit)))
    if status["wait"]:
        rows.append(("wait", f"{status['wait']} s between two operations"))
    times = {"created": "created_at", "started": "started_at", "finished": "finished_at"}
    rows += [(label, escape_control(text)) for label, name in times.items() if (text := status.get(name))]
    rows += [
        ("files", f"{files_text(status)}: {p['files_unchanged']} unchanged, {p['files_uploaded']} uploaded,"
         f" {p['files_failed']} failed, {_skipped(status)}"),
        ("objects", f"{p['objects_deleted']} deleted"),
        ("bytes", f"{bytes_text(status)}: {size(p['bytes_uploaded'])} sent, {size(p['bytes_resumed'])} kept"),
        ("time", ", ".join(filter(None, (duration(p["elapsed_seconds"]), rate_text(status))))),
    ]  # fmt: skip
    for label, lines in (
        ("current", [operation(item) for item in status.get("current") or []]),
        ("errors", error_lines(status)),
        ("error", list(filter(None, [error_text(status)]))),
    ):
        rows += [(label if n == 0 else "", text) for n, text in enumerate(lines)]
    return [*rows, ("message", escape_control(status.get("message") or ""))]


PLAN_HEADER = f"{'OP':13}  {'REASON':7}  {'OBJECT':>10}  KEY"


def plan_row(line: Mapping[str, Any]) -> str:
    """Formats a line of a plan; the size is that of the existing object."""
    object_size = "-" if line.get("size") is None else size(line["size"])
    op, reason, key = (escape_control(line.get(name)) for name in ("op", "reason", "key"))
    return f"{op:13}  {reason:7}  {object_size:>10}  {key}"


def plan_sums(status: Status) -> str:
    p, plan = progress(status), status["plan"]
    assert plan is not None
    if status["state"] != "waiting":
        return f"{plan['lines']} lines; {'approved' if plan.get('approved_at') else status['state']}"
    uploads = f"{p['files_to_upload']} to upload ({size(p['bytes_to_upload'])})"
    rest = f"{p['files_to_update']} to update, {p['objects_to_delete']} to delete"
    return f"{plan['lines']} lines: {uploads}, {rest}; waiting"


def row(status: Status) -> tuple[str, ...]:
    """Returns a row of `list`; HEADER has the columns."""
    note = error_text(status) or rate_text(status)
    if not note and status["state"] not in ("queued", "running"):
        note = f"in {duration(progress(status)['elapsed_seconds'])}"
    return (
        escape_control(status["id"]),
        activity(status),
        escape_control(status["source"] or "."),
        escape_control(status["dest"]),
        files_text(status),
        bytes_text(status),
        note or "-",
    )
