"""The commands that run a job in the foreground: start, resume and approve.

Access keys are never taken from the command line, which every user of the machine can read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from syncworker import request as spec
from syncworker import settings as settings_table
from syncworker.errors import UsageError
from syncworker.jobs import cleanup
from syncworker.jobs.record import Status
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.options import table
from syncworker.request import Request, RequestKeys
from syncworker.settings import Settings
from syncworker.shell import formats
from syncworker.shell.display import Display, Output
from syncworker.shell.messages import complain, explain, warn_of_misspelt
from syncworker.shell.run import CTRL_C, EXIT, worker_of
from syncworker.system.tls import import_asyncio
from syncworker.wire import resolver


def start(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    warn_of_misspelt()
    request = _request_of_mirror(arguments, settings) if arguments.mirror is not None else None
    if request is None:
        request = spec.parse(
            settings,
            source=arguments.source,
            dest=arguments.dest,
            storage_url=arguments.storage_url,
            keys=_keys(arguments),
            asked=table.of_flags(vars(arguments)),
        )
        resolver.check_storage_url(request.storage_url)
        for text in spec.warn_of_empty(arguments.source, arguments.dest):
            complain(text)
    make = partial(jobs.create, request, from_shell=True)
    return _foreground(settings, jobs, request.storage_url, make, arguments)


def _request_of_mirror(arguments: argparse.Namespace, settings: Settings) -> Request:
    """Returns the request of a named mirror. Raises UsageError."""
    from syncworker.mirrors import file

    asked = ("source", "dest", "storage_url", "keys_from_stdin", *table.NAMES)
    if beside := [name for name in asked if getattr(arguments, name)]:
        flag = f"--{beside[0].replace('_', '-')}"
        raise UsageError(
            "BadParameter", f"{flag} cannot be combined with --mirror: mirrors.toml sets it", param=beside[0]
        )
    found = file.read(settings.mirrors_file, settings, settings_table.variables())
    for mistake in found.mistakes:
        complain(f"{settings.mirrors_file}, {mistake}")
    mirror = found.mirrors.get(arguments.mirror)
    if mirror is None:
        why = "it has a mistake" if found.mistakes else "there is no mirror of this name"
        raise UsageError("NoSuchMirror", f"{settings.mirrors_file}: {why}", param="mirror")
    return mirror.request(settings)


def resume(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    return _go_on(arguments, settings, jobs, jobs.prepare_resume)


def approve(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    return _go_on(arguments, settings, jobs, partial(jobs.prepare_approved, etag=arguments.etag or ""))


def _go_on(
    arguments: argparse.Namespace, settings: Settings, jobs: Jobs, prepare: Callable[..., Status]
) -> int:
    """Runs an ended job again in the foreground; `prepare` queues it."""
    warn_of_misspelt()
    keys = _keys(arguments)
    status = jobs.observe(arguments.id)
    if keys is None and not settings.is_own(status["storage_url"]) and not jobs.secrets.has_any(arguments.id):
        raise UsageError(
            "MissingParameter",
            f"job {arguments.id} goes to {status['storage_url']}, which is not the configured storage: give"
            " its keys in SYNC_ACCESS_KEY and SYNC_SECRET_KEY or with --keys-from-stdin",
            param="access_key",
        )
    make = partial(prepare, arguments.id, keys, shell=True)  # noqa: S604 - no shell is started
    return _foreground(settings, jobs, status["storage_url"], make, arguments)


def _keys(arguments: argparse.Namespace) -> RequestKeys | None:
    """Returns the keys of another storage; None if none are given."""
    if not arguments.keys_from_stdin:
        return spec.parse_keys(
            os.environ.get("SYNC_ACCESS_KEY"),
            os.environ.get("SYNC_SECRET_KEY"),
            os.environ.get("SYNC_SESSION_TOKEN"),
        )
    if sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        asked = ("access key: ", "secret key: ", "session token (none: press Enter): ")
        return spec.parse_keys(*map(getpass, asked))
    lines = sys.stdin.read(16384).splitlines() if sys.stdin is not None else []
    if len(lines) not in (2, 3) or not all(lines):
        raise UsageError(
            "MissingParameter",
            "--keys-from-stdin: give two lines, the access key and the secret key, and a third where there is"
            " a session token",
        )
    return spec.parse_keys(*lines)


def _foreground(
    settings: Settings,
    jobs: Jobs,
    storage_url: str,
    make: Callable[[], Status],
    arguments: argparse.Namespace,
) -> int:
    """Runs the job that `make` queues, with its progress on the screen. Returns the exit status."""
    jobs.prepare()
    cleanup.clear(jobs)
    # The imports come before the job: if one fails, no queued job is left that nobody runs and that keeps its
    # destination busy.
    import_asyncio(storage_url, with_tls=bool(settings.cluster))
    run_job = worker_of(settings)
    job_id = make()["id"]
    output, quiet, as_json = Output(sys.stdout), arguments.quiet, arguments.json
    if not quiet:
        (Output(sys.stderr) if as_json else output).print(job_id)
    try:
        with nullcontext() if as_json or quiet else Display(output) as display:
            state = run_job(jobs, job_id, display.show if display else None)
    except KeyboardInterrupt:  # before the worker has set its handlers: nobody would run the queued job
        state = State(jobs.cancel(job_id)["state"])
    status = jobs.observe(job_id)
    if as_json:
        output.print(json.dumps(status, indent=2))
    else:
        if not quiet:
            output.print(formats.summary(status))
        explain(status)
    _prune(settings, jobs, job_id)
    return EXIT.get(state, CTRL_C)


def _prune(settings: Settings, jobs: Jobs, job_id: str) -> None:
    """Removes the files of old jobs, unless a server runs, which does so itself and has the counters of
    removed jobs in memory. A server that starts now waits for the creation lock before it reads them
    (`cleanup.clear`)."""
    from syncworker.history.ledger import Ledger
    from syncworker.service.supervisor import PRUNE_AT_MOST, is_served

    try:
        with jobs.creation_lock() as guard:
            if guard.acquire(timeout_seconds=1.0) and not is_served(jobs):
                retire = Ledger(jobs).retire
                cleanup.prune(jobs, settings.keep_jobs, PRUNE_AT_MOST, retire, besides=job_id)
    except OSError as error:  # the job is done all the same, and the next one tries again
        complain(f"files of old jobs could not be removed: {error.strerror or error}")
