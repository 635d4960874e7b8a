"""Runs one attempt of one job, from its lock to its final state (`python -m syncworker run ID`).

Crash-only: starting and resuming are the same, because the bucket and the index show what is left to do. The
process holds the lock until it ends, and no other process writes the status until then.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from syncworker import ending
from syncworker.ending import Ending, Planned
from syncworker.errors import FatalError, RetryError, Stopped, SyncError
from syncworker.escape import escape_control
from syncworker.index.database import FrozenIndex, Index
from syncworker.jobs import status as job_status
from syncworker.jobs.ids import Conflict
from syncworker.jobs.progress import Progress
from syncworker.jobs.record import Fault, Status
from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES, State
from syncworker.options.effective import Options
from syncworker.plan.may_delete import Rules
from syncworker.request import parse_storage_url
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Chain, Given, KeySource
from syncworker.s3.request import ADVICE, Conditions, Target
from syncworker.settings import Settings, origin_of_keys
from syncworker.system import processes
from syncworker.system.bandwidth import Bandwidth
from syncworker.system.control import Control
from syncworker.system.durable_files import LockChain, Reserve
from syncworker.system.pause import Pause
from syncworker.system.rates import Limit
from syncworker.system.stop_token import StopToken
from syncworker.system.tls import ca_bundle_of
from syncworker.system.token_bucket import TokenBucket
from syncworker.transfer.attempt import Order
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool, Limits
from syncworker.worker import late_writers
from syncworker.worker.delay import ClientView
from syncworker.worker.dispatch import Elsewhere
from syncworker.worker.mount_check import MountCheck
from syncworker.worker.sync import sync

_LOCK_SECONDS = 1.0  # other processes probe the lock for an instant
_DESTINATION_SECONDS = 3.0
_TICK_SECONDS = 0.1
_SILENT_SECONDS = 1.0  # a request that takes longer may be waiting for disk space
_STATUS_BYTES = 256 << 10  # larger than any status

EMBEDDED_ALONE = "the embedded storage runs only with the server: `make run`, or set STORAGE_URL"

OnStatus = Callable[[Status], None]
OpenElsewhere = Callable[[Settings, Jobs, Status], Elsewhere]
_Outcome = tuple[State, Fault | None, str]  # the str is the message


class _Job(NamedTuple):
    """A job whose lock this process holds. `tell` is called with each published status."""

    settings: Settings
    jobs: Jobs
    status: Status
    control: Control
    tell: OnStatus
    open_elsewhere: OpenElsewhere | None

    @property
    def plan_path(self) -> str:
        return self.jobs.file(self.status["id"], "plan.jsonl")


def run_job(
    settings: Settings,
    jobs: Jobs,
    job_id: str,
    on_status: OnStatus | None = None,
    elsewhere: OpenElsewhere | None = None,
) -> State:
    """Runs a job, writes its final state and returns it. Raises Conflict if another worker has the job or it
    has ended. Calls `on_status` with each published status, in this thread. `elsewhere` opens the cluster
    whose processes send files, too."""
    with jobs.lock(job_id) as lock:
        if not lock.acquire(_LOCK_SECONDS):
            raise Conflict("JobRunning", f"job {job_id} has a worker already", job_id)
        status = jobs.load(job_id)
        recorded = job_status.recorded_state(status)
        if recorded in FINAL_STATES:
            how = "approve" if recorded is State.WAITING else "resume"
            raise Conflict("JobFinished", f"job {job_id} is {recorded}: use {how}", job_id)
        if recorded is State.RUNNING:  # its worker died, and nothing has recorded that yet
            job_status.renew(status, auto_resume=bool(status.get("auto_resume")))
        tell = on_status or (lambda _: None)
        control = Control(jobs.file(job_id, "cancel"))
        processes.on_stop(control.stop)
        processes.tune_gc()
        processes.work_in_batches()
        if control.stopping():
            tell(jobs.finish(status, State.CANCELLED, None, "cancelled before it began"))
            return State.CANCELLED
        with jobs.destination(status).lock() as destination:
            return _attempt(_Job(settings, jobs, status, control, tell, elsewhere), destination)


def _attempt(job: _Job, destination: LockChain) -> State:
    jobs, status = job.jobs, job.status
    job_status.begin(status)
    jobs.write(status, durable=True)
    job.tell(status)
    reserve = Reserve(jobs.path, _STATUS_BYTES)
    progress = Progress(jobs, status)
    try:
        if not (destination.acquire(_DESTINATION_SECONDS) and jobs.destination(status).adopt_files()):
            raise FatalError(
                "DestinationBusy", "another job works on this bucket: try again when it has ended"
            )
        state, error, message = _outcome(job, asyncio.run(_work(job, progress)))
    except Exception as failure:  # noqa: BLE001 - the status must not stay `running` after any error
        state, error, message = _outcome_of_failure(failure, job.control)
    sys.stderr.flush()
    try:
        progress.snapshot()
        progress.report.close()
    except OSError as failure:  # for example a full disk; the job's result is still valid
        message += f" (the report lacks its last lines: {failure.strerror or failure})"
        print(message, file=sys.stderr, flush=True)
    if state in (State.DONE, State.WAITING):
        try:
            jobs.supersede(status)
        except (OSError, SyncError) as failure:  # this job itself has succeeded
            print(f"older jobs that wait could not be ended: {failure}", file=sys.stderr, flush=True)
    try:
        jobs.finish(status, state, error, message)
    except OSError:
        reserve.release()  # the disk is full: use the reserved space
        jobs.finish(status, state, error, message)
    job.tell(status)
    reserve.release()
    return state


def _outcome(job: _Job, ended: Ending) -> _Outcome:
    """Returns the final state of a sync that succeeded or waits. Raises FatalError if FAIL_ON_SKIPPED is set
    and files were skipped."""
    if ended.planned is not None:
        return _waiting(job, ended.planned)
    status, options = job.status, Options.of_status(job.status)
    text = ending.message(
        ended,
        source=status["source"],
        dest=status["dest"],
        objects_deleted=status["progress"]["objects_deleted"],
        skipped=status["skipped"],
        equal=options.equal,
    )
    if options.plan and not ended.verified:
        text = f"nothing to do: {text}"
    if ended.is_remarkable:
        print(f"syncworker: {escape_control(text)}", file=sys.stderr, flush=True)
    if job.settings.fail_on_skipped and ending.failing(status["skipped"]):
        raise FatalError("FilesSkipped", f"{text}: FAIL_ON_SKIPPED=1 makes that a failure")
    return State.DONE, None, text


def _waiting(job: _Job, planned: Planned) -> _Outcome:
    """Publishes the plan. The status has no plan while the file is replaced: if the worker dies then, the
    job plans again."""
    if job.status["plan"] is not None:
        job_status.set_plan(job.status, None)
        job.jobs.write(job.status, durable=True)
    from syncworker.plan import plan_file

    plan_file.publish(job.plan_path)
    job_status.set_plan(job.status, {"etag": planned.etag, "lines": planned.lines, "approved_at": None})
    error = Fault(code=planned.code, message=planned.message) if planned.code else None
    return State.WAITING, error, planned.message


def _outcome_of_failure(failure: Exception, control: Control) -> _Outcome:
    """Returns the final state of an attempt that this error has ended."""
    is_retry = isinstance(failure, RetryError)
    if isinstance(failure, Stopped) or (is_retry and control.stopping()):  # given up because of the stop
        if control.reason == "cancelled":
            return State.CANCELLED, None, "cancelled"
        message = f"stopped by {control.reason}: resume the job to continue"
        return State.INTERRUPTED, Fault(code="Stopped", message=message), message
    if isinstance(failure, SyncError):
        message = failure.message
        if is_retry:
            message += ": all tries failed; resume the job when the storage works again"
        return State.FAILED, Fault(code=failure.code, message=message), message
    traceback.print_exception(failure)
    if isinstance(failure, OSError):
        message = _about_the_disk(failure)
        return State.FAILED, Fault(code="LocalError", message=message), message
    message = "a bug in this program: see the job's log (or the shell's output)"
    return State.FAILED, Fault(code="InternalError", message=message), message


def _about_the_disk(failure: OSError) -> str:
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left for the job's files: free some on the disk of the jobs folder, then resume"
    return f"a local file of the job cannot be used: {failure.strerror or failure}"


def _order_of(job: _Job, options: Options, spool_dir: str) -> Order:
    settings, status = job.settings, job.status
    approved = job_status.approved_plan(status)
    return Order(
        uploads_dir=settings.uploads_dir,
        source=status["source"],
        wait_seconds=0.0 if options.plan else float(status["wait"]),
        may_delete_bucket=settings.bucket_delete == "allow",
        spool_dir=spool_dir,
        options=options,
        may_skip=not settings.fail_on_skipped,
        rules=Rules(
            is_plan=options.plan and not options.only_verifies,
            is_approved=approved is not None,
            limit=settings.max_delete if options.max_delete == "" else options.max_delete,
        ),
        plan_path=job.plan_path,
        approved=approved,
    )


async def _work(job: _Job, progress: Progress) -> Ending:
    settings, jobs, status, control = job.settings, job.jobs, job.status, job.control
    parse_storage_url(status["storage_url"], settings)  # ALLOWED_STORAGE_URLS may have been narrowed since
    keys = _keys(job)
    region = settings.aws_region
    place = Endpoint.of(status["storage_url"], region, settings.storage_addressing)
    ca_bundle = ca_bundle_of() if place.scheme == "https" else None
    destination = jobs.destination(status)
    options = Options.of_status(status)
    pause = Pause(jobs.file(status["id"], "pause"))
    stop = StopToken(control)
    bandwidth = Bandwidth(
        Limit(jobs.bandwidth_path(status["id"]), options.bandwidth),
        Limit(jobs.bandwidth_path(), settings.bandwidth),
        TokenBucket(os.path.join(jobs.path, ".bandwidth")),
    )
    with ThreadPoolExecutor(1, "status") as writer:
        # No proxy stands between us and the embedded store.
        embedded = settings.storage_url is None and settings.is_own(status["storage_url"])
        limits = Limits.of(settings.storage_timeout)
        connections = ConnectionPool(place, ca_bundle, limits, use_proxies=not embedded, bandwidth=bandwidth)
        async with connections as pool:
            conditions = Conditions(
                stop=stop,  # a fatal error also ends the retries of requests in flight
                pause=pause,
                patience_seconds=settings.storage_patience,
                only_reads=options.plan,
                store_dir=settings.storage_dir if embedded else None,
                advice=EMBEDDED_ALONE if embedded else ADVICE,
            )
            client = Client(pool, Target(status["dest"], region, options.prefix), keys, conditions)
            progress.storage = ClientView(control, client)
            index = (FrozenIndex if options.plan else Index)(destination.index_path)
            order = _order_of(job, options, os.path.dirname(index.path))
            mounts = MountCheck(destination.facts_path, index, status["source"], options)
            watcher = asyncio.create_task(_watch(client, progress, stop.requested), name="watch for changes")
            elsewhere = job.open_elsewhere(settings, jobs, status) if job.open_elsewhere else None

            async def begin() -> Ending:
                await late_writers.wait(jobs.path, destination, stop.raise_if_requested)
                return await sync(order, Bucket(client), index, mounts, progress, stop, elsewhere)

            work = asyncio.create_task(begin())
            ticker = asyncio.create_task(_tick(job, progress, client, writer), name="ticker of the status")
            assert pool.watchdog is not None
            beside = {ticker, watcher, pool.watchdog}
            try:
                await asyncio.wait({work, *beside}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    stop.end_with(_end_of(next(task for task in beside if task.done())))
                    pause.look(stopping=True)
                    pool.close()  # nothing else ends the requests in flight
                return await work
            except SyncError:
                if any(task.done() for task in beside):  # a request that failed then is only what followed
                    stop.raise_if_requested()
                raise
            finally:
                if elsewhere is not None:
                    await elsewhere.close()
                for task in (ticker, watcher):
                    task.cancel()
                await asyncio.gather(ticker, watcher, return_exceptions=True)
                index.close()
                if index.broken:
                    print(f"index: continuing without it: {index.broken}", file=sys.stderr)


def _end_of(task: asyncio.Task[None]) -> Exception:
    """Returns the error of a background task that should have run as long as the job."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception):
        return error
    return RuntimeError(f"the {task.get_name()} has ended")


async def _watch(client: Client, progress: Progress, stopping: Callable[[], bool]) -> None:
    """Applies changes that are made while a job runs: a pause, and limits. The ticker does not do this,
    because it may wait for a slow disk."""
    bandwidth, pause = client.pool.bandwidth, client.pause
    while True:  # the first time before the job's task begins
        bandwidth.look(stopping=stopping())
        job_status.set_limit(progress.status, bandwidth.own, bandwidth.all_jobs)
        if pause.look(stopping=stopping()):
            progress.pause(pause.on)
            if not pause.on:
                client.go_on()
        if pause.on:
            client.pool.close_idle()
        await asyncio.sleep(_TICK_SECONDS)


async def _tick(job: _Job, progress: Progress, client: Client, writer: Executor) -> None:
    """Publishes the status, and ends hanging requests once the job is to stop. Raises disk errors: of the
    jobs folder, or of the embedded storage, which does not answer when its disk is full."""
    jobs, control, pool = job.jobs, job.control, client.pool
    cancelled = progress.status["cancel_requested"]
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        if control.stopping():
            pool.give_up(writes=control.drops_writes())
            cancelled = control.reason == "cancelled"
        job_status.set_requests(
            progress.status, cancelled=cancelled, paused=jobs.is_paused(progress.status["id"])
        )
        if client.waits_to_send(_SILENT_SECONDS) and (full := client.full_disk()) is not None:
            raise full
        if progress.due():
            status = progress.snapshot()
            progress.report.flush()
            # Rendered here, written in a thread: a slow disk must not delay the requests in flight.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(writer, jobs.publish, status["id"], jobs.render(status))
            job.tell(status)


def _keys(job: _Job) -> KeySource:
    """Returns the request's own keys, or the server's, which are sent only to the configured storage."""
    settings, secrets, job_id = job.settings, job.jobs.secrets, job.status["id"]
    if (given := secrets.keys(job_id)) is not None:
        return Given(*given, origin="access_key and secret_key of the request")
    if (profile := secrets.profile(job_id)) is not None:
        return Chain(job.control.stopping, profile=profile)
    if not settings.is_own(job.status["storage_url"]):
        raise FatalError(
            "NoCredentials",
            "the keys of this storage were removed: resume the job with access_key and secret_key",
        )
    if settings.minio_access_key and settings.minio_secret_key:
        return Given(settings.minio_access_key, settings.minio_secret_key, origin=origin_of_keys())
    if settings.storage_url is None:  # its keys are created when it first starts
        raise FatalError("NoCredentials", EMBEDDED_ALONE)
    return Chain(job.control.stopping)
