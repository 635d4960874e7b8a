"""The supervisor: one thread that owns the queue and the workers.

Every half second, and at once when a child ends or a job is added, it
1. reaps the children that ended, and observes every running job (probes its lock), adopted ones included;
2. starts queued jobs, oldest first, while fewer than MAX_RUNNING_JOBS run;
3. removes the files of the oldest finished jobs, and the keys of jobs that failed a week ago.

It ignores a job that waits for approval until somebody approves it.

It starts only jobs whose status has `auto_resume`. A server creates its jobs so; a shell does not, because it
starts its job itself. A shell's jobs are shown and keep their destination, nothing more.

If a worker dies while the server lives, somebody killed it on purpose, and its job loses `auto_resume`. If
the worker got SIGTERM, this happens two seconds later, because a machine that shuts down signals all
processes. A job whose worker died together with the server keeps `auto_resume`, and the next server resumes
it. A worker that survived the server is found by its lock, and counted.

Nothing here waits for a worker, and no request waits for this thread: requests write job files and wake it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping

from syncworker.errors import SyncError
from syncworker.jobs import cleanup
from syncworker.jobs.record import Fault, Status
from syncworker.jobs.status import error_code, recorded_state, set_auto_resume
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.request import Request, RequestKeys
from syncworker.settings import Settings
from syncworker.storage_url import canonical_url
from syncworker.system import durable_files, processes

TICK_SECONDS = 0.5
KILLED_SECONDS = 2.0  # if the server still lives so long after the worker, the job was stopped on purpose
START_TRIES = 3
_PROBE_SECONDS = 0.5  # a shell that checks for a server holds the lock for an instant
SUBMIT_SECONDS = 3.0
DROP_KEYS_SECONDS = 600.0
PRUNE_AT_MOST = 200  # jobs removed in one round, so that ended workers are still noticed in time
log = logging.getLogger("syncworker.service.supervisor")


class QueueFull(SyncError):
    """As many jobs wait as MAX_QUEUED_JOBS allows."""


def spawner(jobs: Jobs, environ: Mapping[str, str]) -> Callable[[str], subprocess.Popen[bytes]]:
    """Returns a function that starts a job's worker, in this environment without the server's token. The
    worker's output goes to the job's log."""
    worker_environ = {name: value for name, value in environ.items() if name != "API_TOKEN"}

    def spawn(job_id: str) -> subprocess.Popen[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(jobs.file(job_id, "log"), flags, 0o600), "ab") as output:
            return processes.spawn_worker(job_id, output, worker_environ)

    return spawn


class Supervisor:
    """`submit` and `resume` may be called from any thread; the thread of `start` does everything else."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        spawn: Callable[[str], subprocess.Popen[bytes]],
        *,
        store_is_up: Callable[[], bool] = lambda: True,
        on_prune: Callable[[list[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs = jobs
        self._settings = settings
        self._spawn = spawn
        self._store_is_up = store_is_up
        self._on_prune = on_prune
        self._clock = clock
        self._children: dict[str, tuple[subprocess.Popen[bytes], int]] = {}  # job: (child, its pidfd)
        self._seen_active: set[str] = set()
        self._interrupted: dict[str, float] = {}  # job: when its end was noticed
        self._failed_starts: dict[str, tuple[int, float]] = {}  # job: (how many, when to try again)
        self._pruned_all = False
        self._drop_keys_at = 0.0
        self._submitting = threading.Lock()
        self._stopping = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._wake_fd)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    # -- what requests call -------------------------------------------------------------------------------

    def submit(self, request: Request) -> Status:
        """Creates and queues a job. Raises QueueFull, or Conflict if its destination is busy."""
        with self._submission_slot():
            return self.jobs.create(request)

    def resume(self, job_id: str, keys: RequestKeys | None) -> Status:
        """Queues an ended job again. Raises QueueFull, Conflict, NoSuchJob."""
        with self._submission_slot():
            return self.jobs.prepare_resume(job_id, keys)

    def approve(self, job_id: str, keys: RequestKeys | None, etag: str) -> Status:
        """Queues a waiting job to carry out its plan. Raises QueueFull, Conflict, NoSuchJob."""
        with self._submission_slot():
            return self.jobs.prepare_approved(job_id, keys, etag=etag)

    @contextlib.contextmanager
    def _submission_slot(self) -> Iterator[None]:
        """Admits one submission at a time, so that the queue's limit holds, and then wakes the thread. Waits
        only briefly, because requests wait here."""
        if not self._submitting.acquire(timeout=SUBMIT_SECONDS):
            raise SyncError("Busy", "another job is being created: try again")
        try:
            self._refuse_full()
            yield
        finally:
            self._submitting.release()
        self.wake()

    def _refuse_full(self) -> None:
        """Raises QueueFull. A job whose worker was started no longer counts, even if its status is still
        `queued`."""
        entries = self.jobs.glance().items()
        waiting = {i for i, entry in entries if entry.state is State.QUEUED and i not in self._children}
        if len(waiting) >= self._settings.max_queued_jobs:
            raise QueueFull(
                "QueueFull",
                f"{self._settings.max_queued_jobs} jobs are waiting already (MAX_QUEUED_JOBS):"
                " try again later",
            )

    def remove(self, job_ids: list[str]) -> None:
        """Removes the files of ended jobs, after their counters have been added to the totals."""
        if job_ids:
            self._on_prune(job_ids)
            for job_id in job_ids:
                self.jobs.delete(job_id, only_ended=True)

    def counts(self) -> dict[str, int]:
        states = [entry.state for entry in self.jobs.glance().values()]
        return {state.value: states.count(state) for state in (State.QUEUED, State.RUNNING)}

    def wake(self) -> None:
        """Starts the next round at once."""
        os.eventfd_write(self._wake_fd, 1)

    def wait_until_idle(self, within_seconds: float) -> bool:
        """Waits up to `within_seconds` for all workers to exit; returns whether they did."""
        deadline = time.monotonic() + within_seconds
        while self.has_workers():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def has_workers(self) -> bool:
        """Returns whether any worker lives, including the shell's and a child that has not taken its lock
        yet."""
        return any(child.poll() is None for child, _ in list(self._children.values())) or any(
            self.jobs.is_alive(job_id) for job_id, entry in self.jobs.entries().items() if not entry.ended
        )

    def has_workers_on(self, url: str) -> bool:
        """Returns whether a worker of a job on this storage lives."""
        return any(
            self.jobs.is_alive(status["id"]) and canonical_url(status["storage_url"]) == canonical_url(url)
            for status in self.jobs.active()
        )

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Corrects the states that the last server left, resumes jobs (AUTO_RESUME), starts the thread."""
        self.jobs.watching = False  # workers that ended now died with the last server
        self._seen_active = {status["id"] for status in self.jobs.active()}
        if self._settings.auto_resume:
            self._resume_interrupted()
        self.jobs.watching = True
        self._thread.start()

    def _resume_interrupted(self) -> None:
        for job_id, entry in sorted(self.jobs.entries().items()):
            if entry.state is State.INTERRUPTED and entry.auto_resume:
                try:
                    self.jobs.prepare_resume(job_id)
                    log.info("job %s was interrupted: it is resumed", job_id)
                except (SyncError, OSError) as error:  # it must not keep the server from starting
                    log.warning("job %s is not resumed: %s", job_id, error)

    def stop(self) -> None:
        """Ends the thread. Workers go on, in sessions of their own."""
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self.tick()
            except Exception:  # a full disk, for example: running jobs still need supervision
                log.exception("the supervisor failed; it tries again")
                time.sleep(TICK_SECONDS)
            self._wait()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        for _, pidfd in self._children.values():
            poll.register(pidfd, select.POLLIN)
        poll.poll(TICK_SECONDS * 1000)
        with contextlib.suppress(BlockingIOError):  # nobody woke it
            os.eventfd_read(self._wake_fd)

    # -- one round ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._reap()
        active = self._observe()
        self._notice_ends({job_id for job_id, entry in self.jobs.entries().items() if not entry.ended})
        self._start_queued(active)
        if self._clock() >= self._drop_keys_at:
            self._drop_keys_at = self._clock() + DROP_KEYS_SECONDS
            cleanup.drop_old_keys(self.jobs)
        if not self._pruned_all:
            removed = cleanup.prune(self.jobs, self._settings.keep_jobs, PRUNE_AT_MOST, self._on_prune)
            self._pruned_all = removed < PRUNE_AT_MOST

    def _reap(self) -> None:
        for job_id, (child, pidfd) in list(self._children.items()):
            if child.poll() is None:
                continue
            os.close(pidfd)
            del self._children[job_id]
            if self._state_of(job_id) is State.QUEUED and not self.jobs.is_alive(job_id):
                self._start_failed(job_id, f"its worker ended with status {child.returncode}")
            else:
                self._failed_starts.pop(job_id, None)

    def _observed(self, job_id: str) -> Status | None:
        """Returns the job's status as it is now; None if the job was removed."""
        return next(self.jobs.observed([job_id]), None)

    def _state_of(self, job_id: str) -> State | None:
        return recorded_state(self._observed(job_id))

    def _observe(self) -> list[Status]:
        """Observes running jobs, and queued ones that are to be cancelled or belong to a shell, which may
        have died."""
        found = []
        for job_id, entry in sorted(self.jobs.entries().items()):
            is_waiting = entry.state is State.QUEUED and entry.auto_resume and not entry.cancelled
            if entry.needs_a_look and not is_waiting and (status := self._observed(job_id)):
                found.append(status)
        return [status for status in found if recorded_state(status) in (State.QUEUED, State.RUNNING)]

    def _notice_ends(self, active: set[str]) -> None:
        now = self._clock()
        for job_id in self._seen_active - active:
            self._pruned_all = False
            if self._state_of(job_id) is State.INTERRUPTED:
                # After a SIGTERM the machine may be shutting down: wait a moment. Else the worker was killed
                # alone, because we live.
                told = error_code(self.jobs.read(job_id)) == "Stopped"
                self._interrupted[job_id] = now if told else now - KILLED_SECONDS
        self._seen_active = active
        for job_id, since in list(self._interrupted.items()):
            if now - since >= KILLED_SECONDS and not self._stopping:
                del self._interrupted[job_id]
                self._leave_interrupted(job_id)

    def _leave_interrupted(self, job_id: str) -> None:
        with self.jobs.lock(job_id) as lock:
            status = self.jobs.read(job_id) if lock.acquire() else None  # else the job was just resumed
            if status and recorded_state(status) is State.INTERRUPTED and status.get("auto_resume"):
                set_auto_resume(status, False)
                self.jobs.write(status, durable=True)

    def _start_queued(self, active: list[Status]) -> None:
        running = {s["id"] for s in active if s.get("auto_resume") and recorded_state(s) is State.RUNNING}
        entries = self.jobs.entries()
        paused = {job_id for job_id, entry in entries.items() if entry.paused}
        free = self._settings.max_running_jobs - len((running | set(self._children)) - paused)
        if free <= 0 or self._stopping:
            return
        taken = [e for e in entries.values() if e.state is State.RUNNING]
        taken += [entries[job_id] for job_id in self._children if job_id in entries]
        for job_id, wanted in sorted(entries.items()):
            if free <= 0:
                return
            if wanted.state is not State.QUEUED or not wanted.auto_resume or wanted.paused:
                continue
            if job_id in self._children or any(e.overlaps(wanted.destination, wanted.prefix) for e in taken):
                continue
            if self._failed_starts.get(job_id, (0, 0.0))[1] > self._clock():
                continue
            if self._start_one(job_id):
                taken.append(wanted)
                free -= 1

    def _start_one(self, job_id: str) -> bool:
        """Starts a job's worker. Returns whether the job has a worker now, ours or another process's."""
        status = self._observed(job_id)
        if not status or recorded_state(status) is not State.QUEUED or not status.get("auto_resume"):
            return False
        if self.jobs.is_paused(job_id):
            return False
        if self.jobs.is_alive(job_id):
            return True
        if not self._store_is_up() and self._settings.is_own(status["storage_url"]):
            return False
        try:
            child = self._spawn(job_id)
        except OSError as error:
            self._start_failed(job_id, f"its worker could not be started: {error.strerror}")
            return False
        self._children[job_id] = (child, os.pidfd_open(child.pid))
        self._seen_active.add(job_id)
        return True

    def _start_failed(self, job_id: str, why: str) -> None:
        """Has the start tried again a little later; after START_TRIES failures the job fails."""
        times = self._failed_starts.get(job_id, (0, 0.0))[0] + 1
        log.error("job %s: %s (%d of %d tries)", job_id, why, times, START_TRIES)
        if times < START_TRIES:
            self._failed_starts[job_id] = (times, self._clock() + 2.0 ** (times - 1))
            return
        self._failed_starts.pop(job_id, None)
        with self.jobs.lock(job_id) as lock:
            status = self.jobs.read(job_id) if lock.acquire() else None
            if status is not None and recorded_state(status) is State.QUEUED:
                message = f"{why}: see {os.path.basename(self.jobs.file(job_id, 'log'))} in the jobs folder"
                error = Fault(code="WorkerDidNotStart", message=message)
                self.jobs.finish(status, State.FAILED, error, message)


def acquire_server_lock(jobs: Jobs) -> durable_files.Lock | None:
    """Acquires the lock of a job directory's server; None if another server holds it."""
    lock = durable_files.Lock(_server_lock(jobs))
    return lock if lock.acquire(_PROBE_SECONDS) else None


def is_served(jobs: Jobs) -> bool:
    """Whether a server supervises the job directory now."""
    return durable_files.is_locked(_server_lock(jobs))


def _server_lock(jobs: Jobs) -> str:
    return os.path.join(jobs.path, ".server.lock")
