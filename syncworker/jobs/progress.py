"""Updates the counters, the status and the report of a running job. Only the event loop's thread uses them.

Counters only grow within an attempt; `bytes_done` never shrinks, although a part that is sent again subtracts
its earlier bytes. The status is published at most four times a second, and at least every two seconds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

from syncworker.errors import SyncError
from syncworker.escape import escape_surrogates
from syncworker.jobs import totals
from syncworker.jobs.record import Counters, CurrentOperation, FailedOperation, Fault, Resources, Status, Wait
from syncworker.jobs.report import Report
from syncworker.jobs.speed import Rate, SpeedSteps
from syncworker.jobs.status import publish, set_message, set_phase, timestamp
from syncworker.jobs.store import Jobs
from syncworker.model import Delay, FileEntry, Phase
from syncworker.system import processes

PUBLISH_SECONDS = 0.25
_HEARTBEAT_SECONDS = 1.5
_ERRORS_SHOWN = 100
_CURRENT_SHOWN = 20
_ERRORS_BYTES, _CURRENT_BYTES = 64_000, 16_000  # a key has up to 1,024 bytes, and six times that in JSON
_TEXT_SHOWN = 300
_Counter = Literal[
    "files_unchanged",
    "files_uploaded",
    "files_updated",
    "files_failed",
    "files_skipped",
    "objects_deleted",
    "bytes_uploaded",
    "bytes_resumed",
]
_COUNTED: tuple[_Counter, ...] = get_args(_Counter)
_PLANNED: dict[str, Literal["files_to_upload", "files_to_update", "objects_to_delete"]] = {
    "upload": "files_to_upload",
    "update": "files_to_update",
    "delete": "objects_to_delete",
}
_PHASES_KEPT = 40  # a job may be paused and continued any number of times
_VERBS = {"upload": "uploading", "delete": "deleting", "update": "updating", "verify": "reading back"}

_SEEN = {  # what the second listing of the bucket has found, and what was done
    "missing": "the storage no longer had it: sent again",
    "other": "the storage had another object: sent again",
    "not_deleted": "the storage still had it: deleted again",
    "extra": "it appeared during the job: left for the next sync",
    "changed": "the file has changed since it was compared: left for the next sync",
    "archived": "the storage has archived it: not read back",
    "retained": "there is no file for it, and the storage does not let it be deleted",
}


class UploadResult(NamedTuple):
    """An object that the store now has. `etag` is the store's, `digest` ours, in ETag form with its part
    size; `read_ns` is when the file was opened to be read. `changes`: the file was being written to, and was
    sent as it was then, so its row is never trusted."""

    file: FileEntry
    etag: str
    digest: str
    part_size: int
    read_ns: int
    changes: bool = False


class Operation:
    """One upload or delete in flight. `sent` may shrink when a part is sent again."""

    __slots__ = ("key", "op", "sent", "size", "started")

    def __init__(self, op: str, key: str, size: int) -> None:
        self.op, self.key, self.size = op, key, size
        self.sent = 0
        self.started = time.monotonic()


class StorageView:
    """Supplies the status fields about the storage. This base class serves until the job has connected."""

    def requests(self) -> tuple[Mapping[tuple[str, int], int], int]:
        """Returns the number of requests by operation and HTTP status, and the number of retries."""
        return {}, 0

    def throttled_seconds(self) -> float:
        """Returns the seconds during which the storage asked to slow down."""
        return 0.0

    def paced_bytes(self) -> int | None:
        """Returns the bytes that were sent under a bandwidth limit; None if there is no limit."""
        return None

    def delay(self) -> Delay | None:
        """Returns what the job waits for now; None if it does not wait."""
        return None


class Progress:
    """Keeps counters, operations in flight, errors and report lines; decides when the status is due."""

    def __init__(self, jobs: Jobs, status: Status) -> None:
        self.jobs = jobs
        self.status = status
        self._key_prefix = str((status.get("options") or {}).get("prefix", ""))  # of the keys that users see
        self.counts: Counters = status["progress"]
        self.flight: dict[int, Operation] = {}
        self.failed_before: dict[str, int] = {}  # code -> how many
        self.ended_at: float | None = None  # when the last operation ended
        self.bytes_done_total = 0  # bytes of files that are done
        self.report = Report(jobs.file(status["id"], "report.jsonl"), self._key_prefix)
        self._room_for_errors = _ERRORS_BYTES
        self._started = time.monotonic()
        self._published_at = 0.0
        self._dirty = True
        self._rate = Rate(self._started)
        self._moved = 0  # bytes that were sent, for the rate
        self._busy_seconds = 0.0  # of the operations that have ended
        self._earlier = totals.clean(status.get("metrics"))  # of earlier attempts
        self._speed = SpeedSteps(self._started)
        self._note_phase()
        self._phase_since = self._started
        self._phase_seconds: dict[str, float] = {}
        self._behind: tuple[Phase, str] | None = None  # while paused: phase and message without the pause
        self.reads_back = False  # only the reading back of all objects remains
        self.storage = StorageView()  # set once there is one

    # -- what happened
    def pause(self, on: bool) -> None:
        """Sets the phase to `paused`, or to what it would be without the pause."""
        if on:
            before = Phase(self.status["phase"] or Phase.STARTING), self.status["message"]
            self.phase(Phase.PAUSED, "paused")
            self._behind = before
        elif self._behind is not None:
            behind, self._behind = self._behind, None
            self.phase(*behind)
            self._rate.restart()

    def phase(self, phase: Phase, message: str) -> None:
        if self._behind is not None:
            self._behind = phase, message
            return
        if self.status["phase"] != phase:  # a string: its `value` is a call
            self._end_phase(time.monotonic())
            set_phase(self.status, phase)
            self._note_phase()
            set_message(self.status, message)
            self._dirty = True
            self._published_at = 0.0

    def _note_phase(self) -> None:
        """Adds this phase to the time line. If there are very many, keeps the first and the last ones."""
        phases = self.status["timeline"]["phases"]
        phases.append({"phase": self.status["phase"] or Phase.STARTING.value, "at": timestamp()})
        if len(phases) > _PHASES_KEPT:
            del phases[_PHASES_KEPT // 2]

    def _end_phase(self, now: float) -> None:
        """Adds the time since the last call to the current phase."""
        name = self.status["phase"] or Phase.STARTING.value
        self._phase_seconds[name] = self._phase_seconds.get(name, 0.0) + now - self._phase_since
        self._phase_since = now

    def say(self, message: str) -> None:
        """Sets the message that users read while nothing is in flight."""
        if self._behind is None:
            set_message(self.status, message)
            self._dirty = True

    def found(self, count: int, size: int) -> None:
        self.counts["files_total"] += count
        self.counts["bytes_total"] += size
        self._dirty = True

    def grown(self, was: int, now: int) -> None:
        """Counts the growth of a file that was longer when it was read than when it was listed."""
        if now > was:
            self.counts["bytes_total"] += now - was

    def unchanged(self, count: int, size: int) -> None:
        self._count_done("files_unchanged", count, size)

    def skipped(self, key: str, reason: str, size: int = 0) -> None:
        self._count_done("files_skipped", 1, size)
        skipped = self.status["skipped"]
        skipped[reason] = skipped.get(reason, 0) + 1
        self.report.add("skip", key, None, None, 0.0, {"code": reason, "message": f"not sent: {reason}"})

    def uploaded(self, sent: UploadResult, counted: int, seconds: float) -> None:
        """`counted`: the file's bytes in `bytes_total`."""
        self._count_done("files_uploaded", 1, counted)
        note = None
        if sent.changes:
            self.counts["files_changing"] += 1
            note = f"sent as it was at {timestamp(datetime.fromtimestamp(sent.read_ns / 1e9, UTC))}"
        self.report.add("upload", sent.file.key, sent.file.size, sent.etag, seconds, note)

    def updated(self, file: FileEntry, etag: str, counted: int, seconds: float) -> None:
        """Counts an object whose headers the store has changed; its content is the file's. `counted` as for
        `uploaded`."""
        self._count_done("files_updated", 1, counted)
        self.report.add("update", file.key, file.size, etag, seconds)

    def failed(self, op: str, key: str, error: SyncError, size: int | None = None) -> None:
        """Counts a file as failed, and reports the error."""
        self._count_done("files_failed", 1, 0)
        self.error(op, key, error, size)

    def error(self, op: str, key: str, error: SyncError, size: int | None = None) -> None:
        """Reports an operation that failed, without counting a file."""
        self.failed_before[error.code] = self.failed_before.get(error.code, 0) + 1
        fault = Fault(code=error.code, message=error.message[:_TEXT_SHOWN])
        if len(self.status["errors"]) < _ERRORS_SHOWN and self._room_for_errors > 0:
            name = escape_surrogates(self._key_prefix + key)
            shown: FailedOperation = {"time": timestamp(), "op": op, "key": name, **fault}
            self._room_for_errors -= len(json.dumps(shown))
            self.status["errors"].append(shown)
        self.report.add(op, key, size, None, 0.0, fault)

    def deleted(self, key: str, size: int | None, seconds: float) -> None:
        self.counts["objects_deleted"] += 1
        self._dirty = True
        self.report.add("delete", key, size, None, seconds)

    def verified_objects(self, count: int, size: int) -> None:
        """Counts objects whose content equals their files'."""
        self.counts["objects_verified"] += count
        self.counts["bytes_verified"] += size
        self._dirty = True

    def unverified_object(self, key: str, size: int) -> None:
        self.counts["objects_unverified"] += 1
        self.seen(key, size, None, "archived")

    def seen(self, key: str, size: int | None, etag: str | None, what: str, seconds: float = 0.0) -> None:
        """Reports an object, in its present version, that the second listing of the bucket found wrong."""
        self.report.add("verify", key, size, etag, seconds, {"code": what, "message": _SEEN[what]})

    def planned(self, op: str, size: int = 0) -> None:
        """Counts an operation that the plan names."""
        self.counts[_PLANNED[op]] += 1
        if op == "upload":
            self.counts["bytes_to_upload"] += size
        self._dirty = True

    def kept(self, count: int = 1) -> None:
        """Counts objects that should have been deleted and were kept."""
        self.counts["objects_kept"] += count
        self._dirty = True

    def came_back(self, key: str, size: int | None) -> None:
        """Reports an object that should have been deleted, but whose file exists again."""
        self.kept()
        what = Fault(code="kept", message="not deleted: there is a file of this name again")
        self.report.add("skip", key, size, None, 0.0, what)

    def resumed(self, size: int) -> None:
        self.counts["bytes_resumed"] += size

    def sent(self, size: int) -> None:
        """Counts bytes of whole objects or parts that the store has accepted."""
        self.counts["bytes_uploaded"] += size

    def _count_done(self, counter: _Counter, count: int, size: int) -> None:
        self.counts[counter] += count
        self.counts["files_done"] += count
        self.bytes_done_total += size
        self._dirty = True

    def begin(self, op: str, key: str, size: int) -> Operation:
        operation = Operation(op, self._key_prefix + key, size)
        self.flight[id(operation)] = operation
        self._dirty = True
        return operation

    def end(self, operation: Operation) -> None:
        self.flight.pop(id(operation), None)
        self._moved += operation.sent
        self.ended_at = time.monotonic()
        self._busy_seconds += self.ended_at - operation.started
        self._dirty = True

    # -- the status
    def due(self) -> bool:
        silent = time.monotonic() - self._published_at
        return silent >= _HEARTBEAT_SECONDS or (self._dirty and silent >= PUBLISH_SECONDS)

    def snapshot(self) -> Status:
        """Returns the status to publish now. Also updates the derived counters."""
        now = time.monotonic()
        self._published_at, self._dirty = now, bool(self.flight)
        counts = self.counts
        in_flight = sum(operation.sent for operation in self.flight.values())
        done = max(counts["bytes_done"], self.bytes_done_total + in_flight)
        counts["bytes_done"] = min(done, counts["bytes_total"])
        counts["elapsed_seconds"] = round(now - self._started, 3)
        self._speed.add(now, self._moved + in_flight)
        rate = self._rate.add(now, self._moved + in_flight, self.storage.paced_bytes())
        counts["bytes_per_second"] = round(rate, 1)
        left = counts["bytes_total"] - counts["bytes_verified" if self.reads_back else "bytes_done"]
        known = counts["scan_complete"] and rate > 0 and self._behind is None
        # `wait` asks for a pause after each file, which adds to the time left but does not slow down sending.
        pauses = self.status["wait"] * (counts["files_total"] - counts["files_done"])
        pace = self._moved / self._busy_seconds if pauses and self._moved and self._busy_seconds else rate
        counts["eta_seconds"] = round(max(0, left) / pace + pauses, 1) if known else None
        counts["throttled_seconds"] = round(self.storage.throttled_seconds(), 3)
        self._end_phase(now)
        delay, waits = self.storage.delay(), None
        operations = sorted(self.flight.values(), key=lambda operation: operation.started)
        if delay is not None:
            times = [None if t is None else timestamp(datetime.fromtimestamp(t, UTC)) for t in delay[1:3]]
            waits = Wait(reason=delay.reason, since=times[0], until=times[1])
            set_message(self.status, delay.message)
            self._dirty = self._behind is None or bool(self.flight)  # a pause may last for days
        elif operations:
            verb = _VERBS.get(operations[0].op, operations[0].op)
            set_message(self.status, f"{verb} {escape_surrogates(operations[0].key)}")
        elif self.status.get("delay"):
            set_message(self.status, self.status["phase"] or "")  # until there is more to say
        shown, (resources, metrics) = list(_shown(operations)), self._measured()
        publish(
            self.status,
            current=shown,
            delay=waits,
            speed=self._speed.shown(),
            resources=resources,
            metrics=metrics,
        )
        return self.status

    def _measured(self) -> tuple[Resources, totals.Tally]:
        """Returns the worker's present resources, and its tally including earlier attempts of the job."""
        rss_bytes, cpu_seconds = processes.resources(os.getpid()) or (None, 0.0)
        resources = Resources(rss_bytes=rss_bytes, cpu_seconds=round(cpu_seconds, 2))
        requests, retries = self.storage.requests()
        metrics = totals.clean(self._earlier)
        totals.add(
            metrics,
            {
                "counts": {name: self.counts[name] for name in _COUNTED}
                | {"attempts": 1, "retries": retries, "cpu_seconds": cpu_seconds},
                "errors": self.failed_before,
                "phase_seconds": self._phase_seconds,
                "requests": {f"{operation} {status}": n for (operation, status), n in requests.items()},
            },
        )
        return resources, {
            group: {name: round(number, 3) for name, number in names.items()}
            for group, names in metrics.items()
        }


def _shown(operations: list[Operation]) -> Iterator[CurrentOperation]:
    """Yields the first operations, up to a size limit, because a status is read many times a second."""
    room = _CURRENT_BYTES
    for operation in operations[:_CURRENT_SHOWN]:
        key = escape_surrogates(operation.key)
        room -= len(json.dumps(key))
        if room < 0:
            return
        size, done = operation.size, min(operation.sent, operation.size)
        yield {"op": operation.op, "key": key, "size": size, "bytes_done": done}
