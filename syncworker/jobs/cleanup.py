"""What a `kill -9` may leave in the job directory that belongs to no living job, above all keys: the files of
a job that was never published or is half removed, the keys of a job that has ended, temporary files of keys.

`clear` is for a process that is about to make jobs: a starting server, a shell's `start`. It holds the lock
of job creation, under which all these files are made, so that what it finds unfinished stays so.

Not touched: what is no job's file by its name, and what has a status, whatever that says.
"""

from __future__ import annotations

import contextlib
import os

from syncworker.jobs.status_cache import ID_PATTERN
from syncworker.jobs.store import SUFFIXES, Jobs
from syncworker.system import durable_files

_TEMPORARY_KEYS = "secret.tmp"


def clear(jobs: Jobs) -> None:
    with jobs.creation_lock() as guard:
        if not guard.acquire(timeout_seconds=1.0):
            return  # somebody makes jobs: the next start clears
        names = set(os.listdir(jobs.path))
        for name in sorted(names):
            # What cannot be removed (a folder of that name, a disk that fails) is no reason not to start.
            with contextlib.suppress(OSError):
                _clear(jobs, name, names)


def _clear(jobs: Jobs, name: str, names: set[str]) -> None:
    job_id, _, suffix = name.partition(".")
    if name.startswith(durable_files.SELF_TEST):
        pid = name.removeprefix(durable_files.SELF_TEST).partition(".")[0]
        if not os.path.exists(f"/proc/{pid}"):  # else another server tries the directory right now
            durable_files.remove(os.path.join(jobs.path, name))
    elif not ID_PATTERN.fullmatch(job_id) or suffix not in (*SUFFIXES, _TEMPORARY_KEYS):
        return
    elif suffix == _TEMPORARY_KEYS or f"{job_id}.json" not in names:
        durable_files.remove(jobs.file(job_id, suffix))
    elif suffix == "secret":
        jobs.drop_keys_of_ended(job_id)
