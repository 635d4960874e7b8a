"""`run`, which the server starts for every job, and the exit status of all commands that run one.

It imports nothing of the display, because a small job takes only half a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from syncworker.jobs.ids import Conflict
from syncworker.jobs.record import Status
from syncworker.jobs.status import recorded_state
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.settings import Settings
from syncworker.system.tls import import_asyncio

if TYPE_CHECKING:
    import argparse

EXIT = {State.DONE: 0, State.FAILED: 1, State.CANCELLED: 3, State.INTERRUPTED: 4, State.WAITING: 5}
CTRL_C = 130
Show = Callable[[Status], None]


def worker_of(settings: Settings) -> Callable[[Jobs, str, Show | None], State]:
    """Imports the worker and returns the function that runs a job in this process. Without CLUSTER nothing of
    the cluster is imported."""
    from syncworker.worker.worker import run_job

    if not settings.cluster:
        return lambda jobs, job_id, show: run_job(settings, jobs, job_id, show)
    from syncworker.cluster.opening import ByCluster

    return lambda jobs, job_id, show: run_job(settings, jobs, job_id, show, ByCluster)


def run(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    queued = jobs.read(arguments.id)
    import_asyncio(queued["storage_url"] if queued else "https:", with_tls=bool(settings.cluster))
    run_job = worker_of(settings)
    jobs.prepare()
    try:
        return EXIT[run_job(jobs, arguments.id, None)]
    except Conflict:
        status = jobs.observe(arguments.id)
        if recorded_state(status) is State.CANCELLED and status["started_at"] is None:
            return EXIT[State.CANCELLED]  # cancelled while this worker started: nothing to report
        raise
