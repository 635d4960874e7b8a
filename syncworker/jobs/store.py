"""The job directory: the only channel between server, worker and shell.

The protocol
- A job is created under a free id: first its lock file (with O_EXCL, which reserves the id), then its secret
  if the request has keys, then its status `queued`, durably. Once it has a status, the job exists.
- The worker takes `ID.lock` (an exclusive kernel lock) for its whole life, and then the destination's lock,
  `.dest/NAME.lock`. It writes `ID.json`. No other process writes it while the lock is held.
- A process that finds the lock free may take it and correct the status: `running` without a worker becomes
  `interrupted`, or `cancelled` if the sentinel exists (`effective_state` in status.py, applied by `observe`).
- `ID.cancel` is desired state, not a message: any process may create it; only resume removes it, holding the
  lock (approval does not: a job that has the file becomes `cancelled`). So no cancel is lost, and a resume
  never undoes the cancel of a worker that is still stopping.
- `ID.pause` is desired state, too: any process may create and remove it. A queued job that has it is not
  started. It remains during resumes and restarts; a job that ends `done` or `cancelled` removes it.
- The worker writes `ID.plan.jsonl` under another name and renames it; its hash and approval are in the
  status.
- Creating, resuming and approving a job each hold `.create.lock`, so that two of them cannot both find a
  destination free.
- A lock file is removed only with its job (`prune`), by the holder of the lock.

Nothing here talks to S3 or starts a process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from syncworker.errors import SyncError
from syncworker.jobs import status as statuses
from syncworker.jobs.destination import Destination
from syncworker.jobs.ids import ID_PATTERN, Conflict, NoSuchJob, check_id, new_id
from syncworker.jobs.record import Fault, Status
from syncworker.jobs.secrets import Secrets
from syncworker.jobs.status_cache import Catalog, Entry
from syncworker.model import FINAL_STATES, RESUMABLE_STATES, State
from syncworker.request import Request, RequestKeys
from syncworker.storage_url import destination_id
from syncworker.system import durable_files
from syncworker.system.control import NOW

SUFFIXES = (
    "secret",
    "report.jsonl",
    "plan.jsonl.tmp",
    "plan.jsonl",
    "log",
    "cancel",
    "pause",
    "bandwidth.tmp",
    "bandwidth",
    "json.tmp",
    "json",
    "lock",
)  # removed in this order
_PLAN = ".plan.jsonl"
_PROBE_SECONDS = 1.0  # a probe of another process may hold a lock for an instant


class Jobs:
    """The job directory at `path`; `prepare` creates and checks it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.watching = False  # in a server, where a worker that dies was killed on purpose
        self.secrets = Secrets(path)
        self.catalog = Catalog(path)

    def prepare(self) -> None:
        durable_files.make_private_directory(self.path)
        for name in (".dest", ".index"):
            durable_files.make_private_directory(os.path.join(self.path, name))

    def file(self, job_id: str, suffix: str) -> str:
        return os.path.join(self.path, f"{job_id}.{suffix}")

    def bandwidth_path(self, job_id: str | None = None) -> str:
        """Returns the path of the file with the limit of one job, or of all jobs together."""
        return self.file(job_id, "bandwidth") if job_id else os.path.join(self.path, "bandwidth")

    def destination(self, status: Mapping[str, Any]) -> Destination:
        return Destination(self.path, status)

    def lock(self, job_id: str) -> durable_files.Lock:
        return durable_files.Lock(self.file(job_id, "lock"))

    def creation_lock(self) -> durable_files.Lock:
        """Held while a job is created or resumed."""
        return durable_files.Lock(os.path.join(self.path, ".create.lock"))

    @contextlib.contextmanager
    def creating(self) -> Iterator[None]:
        """Holds the creation lock. Raises SyncError if it is not free within five seconds."""
        with self.creation_lock() as lock:
            if not lock.acquire(timeout_seconds=5.0):
                raise SyncError("Busy", "another job is being created: try again")
            yield

    def entries(self) -> Mapping[str, Entry]:
        """Returns the recorded fields of every job, by id. Cheap for any number of jobs."""
        return self.catalog.entries()

    def glance(self) -> Mapping[str, Entry]:
        """Like `entries`, but cheaper; shows a job that a shell resumes up to two seconds late."""
        return self.catalog.glance()

    def ids(self) -> list[str]:
        return sorted(self.entries())  # oldest first

    def read(self, job_id: str) -> Status | None:
        """Returns the recorded status, with the requests to cancel and pause; None if there is none."""
        status = durable_files.read_json(self.file(check_id(job_id), "json"))
        if status is None or not statuses.is_status_of(status, job_id):
            return None
        if durable_files.is_other_than_file(self.file(job_id, "lock")):
            return None
        self._note_requests(job_id, status)
        return status

    def load(self, job_id: str) -> Status:
        """Like `read`, but raises NoSuchJob if there is none."""
        status = self.read(job_id)
        if status is None:
            raise NoSuchJob(job_id)
        return status

    def _note_requests(self, job_id: str, status: Status) -> None:
        cancelled = bool(status.get("cancel_requested")) or self.is_cancelled(job_id)
        statuses.set_requests(status, cancelled=cancelled, paused=self.is_paused(job_id))

    def is_cancelled(self, job_id: str) -> bool:
        return os.path.lexists(self.file(job_id, "cancel"))

    def is_paused(self, job_id: str) -> bool:
        return os.path.lexists(self.file(job_id, "pause"))

    def is_alive(self, job_id: str) -> bool:
        return durable_files.is_locked(self.file(job_id, "lock"))

    def write(self, status: Status, *, durable: bool) -> None:
        """Publishes a status. Only the holder of the lock, or the creator, may call it."""
        self.publish(status["id"], self.render(status), durable=durable)

    def render(self, status: Status) -> bytes:
        """Sets the time of the update, and returns the content of the status file."""
        statuses.set_updated(status)
        return durable_files.render_json(status)

    def publish(self, job_id: str, rendered: bytes, *, durable: bool = False) -> None:
        durable_files.replace_bytes(self.file(job_id, "json"), rendered, durable=durable)

    def create(self, request: Request, *, from_shell: bool = False) -> Status:
        """Creates a job, `queued`. Raises Conflict if its destination is busy."""
        with self.creating():
            self._refuse_taken(request.storage_url, request.dest, request.options.get("prefix", ""))
            now = datetime.now(UTC)
            job_id = self._reserve(now)
            status = statuses.new_status(job_id, request, now, auto_resume=not from_shell)
            try:
                self.secrets.keep(job_id, request)
                self.write(status, durable=True)
            except BaseException:  # the caller gets an error, so no job and no key may remain
                with contextlib.suppress(OSError):  # `cleanup.clear` removes what stays
                    self.delete(job_id)
                raise
        return status

    def _reserve(self, now: datetime) -> str:
        while True:
            job_id = new_id(now)
            with contextlib.suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(self.file(job_id, "lock"), flags, 0o600))
                return job_id

    def _refuse_taken(self, storage_url: str, dest: str, prefix: str, besides: str | None = None) -> None:
        wanted = destination_id(storage_url, dest)
        for job_id, entry in sorted(self.entries().items()):
            if not entry.overlaps(wanted, prefix) or job_id == besides or entry.ended:
                continue
            status = self.observe(job_id)
            if statuses.recorded_state(status) not in FINAL_STATES:
                raise Conflict(
                    "DestinationBusy",
                    f"job {job_id} on bucket {dest} is {status['state']}: wait for it or cancel it",
                    job_id,
                )

    def observe(self, job_id: str) -> Status:
        """Returns a job's true status, and corrects its file if that differs. Raises NoSuchJob."""
        status = self.load(job_id)
        recorded = statuses.begun_state(status)
        if recorded is State.WAITING and not self.is_cancelled(job_id):
            return status
        if recorded in FINAL_STATES and recorded is not State.WAITING:
            self.drop_keys_of_ended(job_id)
            return status
        state = statuses.effective_state(recorded, self.is_alive(job_id), self.is_cancelled(job_id))
        if state == statuses.recorded_state(status):
            if recorded is State.QUEUED and status["pause_requested"]:
                statuses.set_message(status, "paused: it starts when it is continued")
            return status
        with self.lock(job_id) as lock:
            if not lock.acquire():
                return status  # a worker has just taken the lock: its last status still holds
            return self._write_effective_state(job_id, status)

    def _write_effective_state(self, job_id: str, status: Status) -> Status:
        """Reads the status again, and writes the effective state if it differs. For the lock's holder."""
        status = self.read(job_id) or status
        state = statuses.effective_state(statuses.begun_state(status), False, self.is_cancelled(job_id))
        if state == statuses.recorded_state(status):
            return status
        error, message = None, "cancelled"
        if state is not State.CANCELLED:
            error, message = statuses.DIED.copy(), "interrupted: the worker died"
            if self.watching:
                statuses.set_auto_resume(status, False)
        try:
            return self.finish(status, state, error, message)
        except OSError:  # a full disk: the state is still true, and is written once there is space
            return status

    def finish(self, status: Status, state: State, error: Fault | None, message: str) -> Status:
        """Writes a final state, durably, and removes keys that are no longer needed. For the holder of the
        lock."""
        if state in statuses.KEYLESS:  # before the state: a resume must not find an old pause
            durable_files.remove(self.file(status["id"], "pause"))
        statuses.finish(status, state, error, message)
        self._note_requests(status["id"], status)
        self.write(status, durable=True)
        if state in statuses.KEYLESS:
            self.secrets.drop(status["id"])
        return status

    def all(self, *, newest_first: bool = False) -> Iterator[Status]:
        """Yields every job as `observe` returns it, oldest first by default."""
        return self.observed(sorted(self.entries(), reverse=newest_first))

    def active(self) -> list[Status]:
        """Returns queued and running jobs, oldest first, as `observe` returns them."""
        found = self.observed(sorted(self.catalog.unsettled()))
        return [status for status in found if statuses.recorded_state(status) not in FINAL_STATES]

    def observed(self, job_ids: Iterable[str]) -> Iterator[Status]:
        """Yields those of the jobs that exist, as `observe` returns them."""
        for job_id in job_ids:
            with contextlib.suppress(NoSuchJob):  # pruned since the listing, or not readable
                yield self.observe(job_id)

    def cancel(self, job_id: str, *, now: bool = False) -> Status:
        """Asks a job to end. A job that is queued or waits for approval ends immediately. `now`: does not
        wait for writes in flight. Raises Conflict if the job has ended."""
        self.refuse_ended(job_id, besides=State.WAITING)
        # Also changes an earlier cancel without `now`; a later one does not change it back.
        durable_files.touch(self.file(job_id, "cancel"), NOW + b"\n" if now else b"")
        return self.observe(job_id)

    def pause(self, job_id: str) -> Status:
        """Asks a job to begin no further operation. Raises Conflict if it has ended."""
        self.refuse_ended(job_id)
        durable_files.touch(self.file(job_id, "pause"))
        return self.observe(job_id)

    def go_on(self, job_id: str) -> Status:
        """Ends a pause. Raises Conflict if the job has ended."""
        self.refuse_ended(job_id)
        if durable_files.remove(self.file(job_id, "pause")):
            durable_files.sync_directory(self.path)
        return self.observe(job_id)

    def refuse_ended(self, job_id: str, besides: State | None = None) -> Status:
        """Returns the job's status. Raises Conflict if it has ended."""
        status = self.observe(job_id)
        state = statuses.recorded_state(status)
        if state in FINAL_STATES and state is not besides:
            raise Conflict("JobFinished", f"job {job_id} has ended: it is {state}", job_id)
        return status

    def prepare_resume(self, job_id: str, keys: RequestKeys | None = None, *, shell: bool = False) -> Status:
        """Makes an ended job `queued` again, removes its sentinel, and increments `attempt`.

        `keys` replace the secret. Raises Conflict unless the job is interrupted, failed or cancelled.
        """
        with self.creating():
            status = self.observe(job_id)
            if statuses.recorded_state(status) not in RESUMABLE_STATES:
                is_waiting = statuses.recorded_state(status) is State.WAITING
                advice = "approve or cancel it" if is_waiting else "nothing to resume"
                raise Conflict("NotResumable", f"job {job_id} is {status['state']}: {advice}", job_id)
            with self._taking(status, keys):
                durable_files.remove(self.file(job_id, "cancel"))
                statuses.renew(status, auto_resume=not shell)
        return status

    def prepare_approved(
        self, job_id: str, keys: RequestKeys | None = None, *, etag: str = "", shell: bool = False
    ) -> Status:
        """Makes a waiting job `queued` again, to carry out its plan, and durably records the approval.

        `etag`: of the plan that the user has read. Raises Conflict unless the job waits for its approval.
        """
        with self.creating():
            status = self.observe(job_id)
            plan = status.get("plan")
            if statuses.recorded_state(status) is not State.WAITING or not plan:
                raise Conflict(
                    "NotWaiting", f"job {job_id} is {status['state']}: there is nothing to approve", job_id
                )
            if etag and etag.removeprefix("W/").strip('"') != plan["etag"]:
                raise Conflict(
                    "PlanChanged",
                    f"the plan of job {job_id} has been replaced by a newer one: read that",
                    job_id,
                )
            with self._taking(status, keys):
                statuses.approve(status, plan, auto_resume=not shell)
        return status

    @contextlib.contextmanager
    def _taking(self, status: Status, keys: RequestKeys | None) -> Iterator[None]:
        """Holds the lock of an ended job whose destination is free, and finally writes the job's changed
        status."""
        job_id = status["id"]
        self._refuse_taken(status["storage_url"], status["dest"], statuses.prefix_of(status), besides=job_id)
        with self.lock(job_id) as lock:
            if not lock.acquire(timeout_seconds=_PROBE_SECONDS):
                raise Conflict("JobRunning", f"the worker of job {job_id} has not ended yet", job_id)
            if keys is not None:
                self.secrets.keep_keys(job_id, keys)
            yield
            self.write(status, durable=True)
            self.catalog.forget()

    def supersede(self, status: Status) -> None:
        """Ends older jobs with the same aim (`aim_of`) that wait for approval: `status`, which will be
        `waiting` or `done` next, makes their plans out of date."""
        names = os.listdir(self.path)
        for job_id in sorted(n.removesuffix(_PLAN) for n in names if n.endswith(_PLAN)):
            if job_id >= status["id"] or not ID_PATTERN.fullmatch(job_id):
                continue
            with self.lock(job_id) as lock:
                older = self.read(job_id) if lock.acquire() else None
                if not older or statuses.recorded_state(older) is not State.WAITING:
                    continue
                if statuses.aim_of(older) == statuses.aim_of(status):
                    message = f"replaced by the newer job {status['id']}"
                    error = Fault(code="Superseded", message=message)
                    self.finish(older, State.CANCELLED, error, message)

    def note_notified(self, job_id: str) -> None:
        """Records that users were notified of the job's end, unless it has been resumed."""
        with self.lock(job_id) as lock:
            status = self.read(job_id) if lock.acquire(timeout_seconds=_PROBE_SECONDS) else None
            if status is not None and statuses.recorded_state(status) in FINAL_STATES:
                statuses.set_notified(status)
                self.write(status, durable=False)

    def drop_keys_of_ended(self, job_id: str) -> None:
        """Removes keys that a job no longer needs, because its worker was killed before it removed them, or
        because the job was not resumed for a week."""
        if not self.secrets.exists(job_id) or not statuses.needs_no_keys(self.read(job_id)):
            return
        with self.lock(job_id) as lock:
            if lock.acquire() and statuses.needs_no_keys(self.read(job_id)):  # else the job is being resumed
                self.secrets.drop(job_id)

    def delete(self, job_id: str, *, only_ended: bool = False) -> bool:
        """Removes a job's files, the lock last. Returns False if its lock is held or, with `only_ended`, if
        the job has been resumed."""
        with self.lock(job_id) as lock:
            if not lock.acquire():
                return False
            if only_ended and statuses.recorded_state(self.read(job_id)) not in {*FINAL_STATES, None}:
                return False
            for suffix in SUFFIXES:
                durable_files.remove(self.file(job_id, suffix))
        return True
