"""Removes files from the job directory: those of old jobs, and those left behind by a `kill -9`.

`clear` removes files that belong to no living job, above all keys: the files of a job that was never
published or is half removed, the keys of a job that has ended, temporary files of keys. A process that will
create jobs calls it: a starting server, a shell's `start`. It holds the creation lock, so it never touches a
job that is being created. It leaves files whose name is not a job's, and jobs that have a status of any
content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from syncworker.jobs.ids import ID_PATTERN
from syncworker.jobs.store import SUFFIXES, Jobs
from syncworker.model import FINAL_STATES, State
from syncworker.system import durable_files

_TEMPORARY_KEYS = "secret.tmp"


def clear(jobs: Jobs) -> None:
    with jobs.creation_lock() as guard:
        if not guard.acquire(timeout_seconds=1.0):
            return  # another process creates a job: the next start clears
        names = set(os.listdir(jobs.path))
        for name in sorted(names):
            # A file that cannot be removed (a folder of that name, a failing disk) must not stop the start.
            with contextlib.suppress(OSError):
                _clear(jobs, name, names)


def _clear(jobs: Jobs, name: str, names: set[str]) -> None:
    job_id, _, suffix = name.partition(".")
    if name.startswith(durable_files.SELF_TEST):
        pid = name.removeprefix(durable_files.SELF_TEST).partition(".")[0]
        if not os.path.exists(f"/proc/{pid}"):  # else another server is testing the directory
            durable_files.remove(os.path.join(jobs.path, name))
    elif not ID_PATTERN.fullmatch(job_id) or suffix not in (*SUFFIXES, _TEMPORARY_KEYS):
        return
    elif suffix == _TEMPORARY_KEYS or f"{job_id}.json" not in names:
        durable_files.remove(jobs.file(job_id, suffix))
    elif suffix == "secret":
        jobs.drop_keys_of_ended(job_id)


def drop_old_keys(jobs: Jobs) -> None:
    """Removes the keys of all jobs that no longer need them."""
    for name in os.listdir(jobs.path):
        job_id, _, suffix = name.partition(".")
        if suffix == "secret" and ID_PATTERN.fullmatch(job_id):
            jobs.drop_keys_of_ended(job_id)


def prune(
    jobs: Jobs,
    keep: int,
    at_most: int = 1_000_000,
    on_prune: Callable[[list[str]], None] = lambda _: None,
    *,
    besides: str | None = None,
) -> int:
    """Removes the files of finished jobs, the oldest first, and returns the number of jobs. Keeps the newest
    `keep`, the job `besides`, and jobs that wait for approval. First calls `on_prune` with the ids."""
    states = FINAL_STATES - {State.WAITING}
    finished = sorted(job_id for job_id, entry in jobs.entries().items() if entry.state in states)
    old = finished[: max(0, len(finished) - keep)]
    leaving = [job_id for job_id in old if job_id != besides][:at_most]
    if leaving:
        on_prune(leaving)
    return sum(jobs.delete(job_id, only_ended=True) for job_id in leaving)
