"""Does a status tell the truth? Asked of every job of every test that uses the bench: when the test has
ended, of each status that it left (`check_truth`), and while it goes on, of each living worker's (`Watch`).

A status whose counters do not add up is a lie even where everything else went well: people stop a job, or
wait for it, by what they read there.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
FINAL = ("done", "failed", "cancelled", "interrupted", "waiting")
JOB_FILE = re.compile(
    r"(\d{8}T\d{6}-[0-9a-f]{8})\."
    r"(json|lock|cancel|pause|bandwidth|report\.jsonl|plan\.jsonl(\.tmp)?|log|secret)"
)
OTHER_FILE = re.compile(
    r"\.(server|create)\.lock|\.?bandwidth|\.dest/[\w.-]+\.(lock|json|json\.tmp)|\.index/[\w.-]+\.sqlite(-wal|-shm)?|\.totals\.json|\.mirrors\.json"
)
PARTS = ("files_unchanged", "files_uploaded", "files_updated", "files_failed", "files_skipped")
FRESH_SECONDS = 2.0  # the contract's
# What a test machine may add of its own: a worker that gets no processor for that long is no liar. Besides,
# the watch takes off by how much it was itself late.
PATIENCE_SECONDS = 8.0


def lies(status: dict[str, Any], report: list[dict[str, Any]]) -> list[str]:
    """What a status says that cannot be true. `report` are the job's lines, of all attempts."""
    progress, state = status["progress"], status["state"]
    done = sum(progress[name] for name in PARTS)
    ended = state in FINAL
    rules = {
        "files_done is the sum of its parts": progress["files_done"] == done,
        "no more files are done than there are": progress["files_done"] <= progress["files_total"],
        "no more bytes are done than there are": progress["bytes_done"] <= progress["bytes_total"],
        "no time is foretold before the scan is complete": progress["scan_complete"]
        or progress["eta_seconds"] is None,
        "no time is foretold of what has ended": not ended or progress["eta_seconds"] is None,
        "nothing is in flight of what has ended": not ended or status["current"] == [],
        "an end has its time": ended == (status["finished_at"] is not None),
    }
    if state == "done":
        rules |= {
            "the scan of what is done is complete": progress["scan_complete"],
            "all files of what is done are done": progress["files_done"] == progress["files_total"],
            "all bytes of what is done are done": progress["bytes_done"] == progress["bytes_total"],
            "no file of what is done has failed": progress["files_failed"] == 0 and not status["errors"],
        }
    if state == "failed" and status["error"]["code"] == "FilesFailed":
        rules["each file has an outcome"] = progress["files_done"] == progress["files_total"]
    # A killed worker may have written neither its last lines nor its last counters; killed when it was to
    # stop, its job is `cancelled`, and looks like one that stopped by itself.
    told = (status["error"] or {}).get("code")
    complete = state != "cancelled" and told not in ("WorkerDied", "LocalError", "InternalError")
    if status["attempt"] == 1 and ended and complete and "the report lacks" not in status["message"]:
        lines = Counter((line["op"], "error" in line) for line in report)
        rules |= {
            "each upload has its line": lines["upload", False] == progress["files_uploaded"],
            "each deletion has its line": lines["delete", False] == progress["objects_deleted"],
            "each failure has its line": lines["upload", True] >= progress["files_failed"],
        }
    return [rule for rule, kept in rules.items() if not kept]


def statuses(jobs: Path) -> Iterator[dict[str, Any]]:
    """The statuses in a jobs directory; what is none, or cannot be read (a test made it so), is left out."""
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        paths = sorted(jobs.glob("*.json"))
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            status = json.loads(path.read_bytes())
            if ID.fullmatch(path.stem) and isinstance(status, dict) and status.get("id") == path.stem:
                yield status


def check_truth(jobs: Path) -> None:
    """Every status that lies in a jobs directory tells the truth."""
    for status in statuses(jobs):
        path = jobs / f"{status['id']}.report.jsonl"
        text = path.read_bytes() if path.exists() else b""
        report = [json.loads(line) for line in text.split(b"\n")[:-1]]
        found = lies(status, report)
        assert not found, f"{found}: {json.dumps(status)}"


def check_left(jobs: Path, secret: str) -> None:
    """When no worker lives: only files that the contract names, no key but where a job may still need it, no
    job that has not ended."""
    for path in sorted(p for p in jobs.rglob("*") if not p.is_dir()):
        name = path.relative_to(jobs).as_posix()
        of_job = JOB_FILE.fullmatch(name)
        assert of_job or OTHER_FILE.fullmatch(name), f"{name} is left"
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # the server removes old jobs
            continue
        if not name.endswith(".secret"):
            assert secret.encode() not in data, f"{name} holds a secret"
        if not of_job:
            continue
        try:
            state = json.loads((jobs / f"{of_job[1]}.json").read_bytes())["state"]
        except FileNotFoundError:  # an old job's lock goes last
            assert of_job[2] == "lock" or not path.exists(), f"{name} is left, and has no job"
            continue
        allowed = ("interrupted", "failed", "waiting") if of_job[2] == "secret" else FINAL
        assert state in allowed, f"{name} is left, and its job is {state}"


class Watch:
    """A thread that looks at the statuses of living workers all the time: none may be too old."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.stale: list[str] = []
        self.looks = 0
        self._patience = patience_seconds
        self._folders: set[Path] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def add(self, jobs: Path) -> None:
        with self._lock:
            self._folders.add(jobs)

    def remove(self, jobs: Path) -> None:
        with self._lock:
            self._folders.discard(jobs)

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)

    def _run(self) -> None:
        before = time.monotonic()
        while not self._end.wait(0.5):
            late = time.monotonic() - before - 0.5
            before = time.monotonic()
            with self._lock:
                folders = list(self._folders)
            for folder in folders:
                for status in statuses(folder):
                    self._look(folder, status, late)

    def _look(self, folder: Path, status: dict[str, Any], late: float) -> None:
        if status["state"] != "running" or not _works(status["pid"], status["pid_started_at"]):
            return
        self.looks += 1
        age = (datetime.now(UTC) - datetime.fromisoformat(status["updated_at"])).total_seconds()
        if age > FRESH_SECONDS + self._patience + 3 * late:
            # Another look: it may just have ended, or been stopped.
            again = next((s for s in statuses(folder) if s["id"] == status["id"]), None)
            if again == status and _works(status["pid"], status["pid_started_at"]):
                self.stale.append(f"the status of {status['id']} was {age:.1f} s old, and its worker lived")


def _works(pid: int, started_at: float) -> bool:
    """Whether this very process lives and has not been stopped (SIGSTOP, a tracer)."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started_at) > 1:
            return False
        return process.status() not in (
            psutil.STATUS_STOPPED,
            psutil.STATUS_TRACING_STOP,
            psutil.STATUS_ZOMBIE,
        )
    except psutil.Error:
        return False
