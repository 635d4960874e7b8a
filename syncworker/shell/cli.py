"""The shell commands: start, run, resume, approve, plan, cancel, pause, continue, limit and the rest.

Exit status: of start, run, resume, approve and `show --follow` the end of the job (EXIT); 2 for all that is
refused before a job runs, whatever the reason; 130 for Ctrl-C where no job is ours to stop. A job's id and
what is shown of it go to stdout, messages to stderr; with --json stdout has one JSON object and nothing else
(`plan`: one a line).

`run` is what the server spawns, for every job: it imports nothing of the display, and no S3. Access keys are
never taken from the command line, where every user of the machine can read them.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from syncworker import escape
from syncworker import settings as settings_table
from syncworker.errors import SyncError, UsageError
from syncworker.jobs.record import Status
from syncworker.jobs.status import recorded_state
from syncworker.jobs.status_cache import ID_PATTERN
from syncworker.jobs.store import Jobs, NoSuchJob, NoSuchPlan, check_id
from syncworker.model import FINAL_STATES, State
from syncworker.settings import Settings
from syncworker.system.tls import import_asyncio

if TYPE_CHECKING:
    import argparse

    from syncworker.jobs.history import Wanted
    from syncworker.request import RequestKeys
    from syncworker.shell.display import Output
    from syncworker.worker.worker import OpenElsewhere

EXIT = {State.DONE: 0, State.FAILED: 1, State.CANCELLED: 3, State.INTERRUPTED: 4, State.WAITING: 5}
LIST_FILTERS = ("state", "source", "dest", "mirror", "since", "until", "q")
REFUSED = 2
CTRL_C = 130
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended
POLL_SECONDS = 0.25
PLAN_LINES = 1000  # printed at a time


def main(argv: list[str]) -> int:
    arguments = _parsed(argv)
    if arguments.command is None:
        return REFUSED
    try:
        if hasattr(arguments, "id") and arguments.command != "show":
            check_id(arguments.id)
        settings = settings_table.load()
        status = _COMMANDS[arguments.command](arguments, settings, Jobs(settings.jobs_dir))
    except SyncError as error:
        _complain(error.message)
        return REFUSED
    except OSError as error:
        if arguments.command == "run":
            raise  # the job's log takes the whole of it
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return REFUSED
    except KeyboardInterrupt:
        return CTRL_C
    return status


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Without a command the help is printed. What the server spawns is known at a glance: the parser would
    take a twentieth of a small job."""
    if len(argv) == 2 and argv[0] == "run" and not argv[1].startswith("-"):
        return cast("argparse.Namespace", SimpleNamespace(command="run", id=argv[1]))
    from syncworker.shell import arguments as usage

    parser = usage.parser(argv[0] if argv and argv[0] in _COMMANDS else None)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
    return arguments


def _complain(message: str) -> None:
    """A message for people on stderr; nobody there to read it is no error."""
    from syncworker.escape import escape_control
    from syncworker.shell.display import Output

    Output(sys.stderr).print(f"syncworker: {escape_control(message)}")


def _elsewhere(settings: Settings) -> OpenElsewhere | None:
    """What sends files beside the worker. Without CLUSTER nothing of it is imported."""
    if not settings.cluster:
        return None
    from syncworker.cluster.opening import elsewhere

    return elsewhere


def _cluster(arguments: argparse.Namespace, settings: Settings, _: Jobs) -> int:
    from syncworker.cluster import commands

    values = list(arguments.values)
    wanted = {"scheduler": (0, 0), "status": (0, 0), "worker": (1, 1), "keys": (1, 1000)}[arguments.verb]
    if not wanted[0] <= len(values) <= wanted[1]:
        raise UsageError("BadParameter", f"cluster {arguments.verb}: see `cluster --help`")
    if arguments.verb == "keys":
        return commands.make_keys(values[0], values[1:])
    if arguments.verb == "status":
        return commands.status(settings, as_json=arguments.json)
    if arguments.verb == "scheduler":
        return commands.scheduler(settings, arguments.bind or "127.0.0.1", arguments.port or commands.PORT)
    return commands.worker(settings, values[0], arguments.bind, until_eof=arguments.until_eof)


def _run(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    from syncworker.jobs.store import Conflict

    queued = jobs.read(arguments.id)
    import_asyncio(queued["storage_url"] if queued else "https:", with_tls=bool(settings.cluster))
    from syncworker.worker.worker import run_job

    jobs.prepare()
    try:
        return EXIT[run_job(settings, jobs, arguments.id, elsewhere=_elsewhere(settings))]
    except Conflict:
        status = jobs.observe(arguments.id)
        if recorded_state(status) is State.CANCELLED and status["started_at"] is None:
            return EXIT[State.CANCELLED]  # while this worker started: as it was asked, so nothing is said
        raise


def _warn_of_misspelt() -> None:
    for sentence in settings_table.misspelt(os.environ):
        _complain(f"warning: {sentence}")


def _start(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    from syncworker import request as spec
    from syncworker.jobs import cleanup
    from syncworker.options import table
    from syncworker.wire import resolver

    _warn_of_misspelt()
    if arguments.mirror is not None:
        return _start_mirror(arguments, settings, jobs)
    access_key, secret_key, session_token = _keys(arguments)
    request = spec.parse(
        settings,
        source=arguments.source,
        dest=arguments.dest,
        storage_url=arguments.storage_url,
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        asked=table.of_flags(vars(arguments)),
    )
    resolver.check_storage_url(request.storage_url)
    for text in spec.warn_of_empty(arguments.source, arguments.dest):
        _complain(text)
    jobs.prepare()
    cleanup.clear(jobs)
    import_asyncio(request.storage_url, with_tls=bool(settings.cluster))
    return _foreground(settings, jobs, lambda: jobs.create(request, from_shell=True), arguments)


def _start_mirror(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    """A run of a named mirror, with or without a server."""
    from syncworker.jobs import cleanup
    from syncworker.mirrors import file
    from syncworker.options import table

    asked = ("source", "dest", "storage_url", "keys_from_stdin", *table.NAMES)
    if beside := [name for name in asked if getattr(arguments, name)]:
        flag = f"--{beside[0].replace('_', '-')}"
        raise UsageError(
            "BadParameter", f"{flag} cannot stand beside --mirror: mirrors.toml says it", param=beside[0]
        )
    found = file.read(settings.mirrors_file, settings, settings_table.variables())
    for mistake in found.mistakes:
        _complain(f"{settings.mirrors_file}, {mistake}")
    mirror = found.mirrors.get(arguments.mirror)
    if mirror is None:
        why = "it has a mistake" if found.mistakes else "there is no mirror of this name"
        raise UsageError("NoSuchMirror", f"{settings.mirrors_file}: {why}", param="mirror")
    request = mirror.request(settings)
    jobs.prepare()
    cleanup.clear(jobs)
    import_asyncio(request.storage_url, with_tls=bool(settings.cluster))
    return _foreground(settings, jobs, lambda: jobs.create(request, from_shell=True), arguments)


def _resume(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    def make(keys: RequestKeys | None) -> Status:
        return jobs.prepare_resume(arguments.id, keys, shell=True)  # noqa: S604 - no shell is started

    return _go_on(arguments, settings, jobs, make)


def _approve(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    def make(keys: RequestKeys | None) -> Status:
        etag = arguments.etag or ""
        return jobs.prepare_approved(arguments.id, keys, etag=etag, shell=True)  # noqa: S604 - as above

    return _go_on(arguments, settings, jobs, make)


def _go_on(
    arguments: argparse.Namespace,
    settings: Settings,
    jobs: Jobs,
    make: Callable[[RequestKeys | None], Status],
) -> int:
    """An ended job, made queued again by `make`, in the foreground."""
    from syncworker import request as spec
    from syncworker.jobs import cleanup

    _warn_of_misspelt()
    keys = spec.parse_keys(*_keys(arguments))
    status = jobs.observe(arguments.id)
    if keys is None and not settings.is_own(status["storage_url"]) and not jobs.has_keys(arguments.id):
        raise UsageError(
            "MissingParameter",
            f"job {arguments.id} goes to {status['storage_url']}, which is not the configured storage: give"
            " its keys in SYNC_ACCESS_KEY and SYNC_SECRET_KEY or with --keys-from-stdin",
            param="access_key",
        )
    jobs.prepare()
    cleanup.clear(jobs)
    import_asyncio(status["storage_url"], with_tls=bool(settings.cluster))
    return _foreground(settings, jobs, lambda: make(keys), arguments)


def _keys(arguments: argparse.Namespace) -> tuple[str | None, str | None, str | None]:
    """The request's own access key, secret key and session token, None where there are none."""
    if not arguments.keys_from_stdin:
        return (
            os.environ.get("SYNC_ACCESS_KEY"),
            os.environ.get("SYNC_SECRET_KEY"),
            os.environ.get("SYNC_SESSION_TOKEN"),
        )
    if sys.stdin is not None and sys.stdin.isatty():
        from getpass import getpass

        asked = getpass("access key: "), getpass("secret key: ")
        return *asked, getpass("session token (none: press Enter): ") or None
    lines = sys.stdin.read(16384).splitlines() if sys.stdin is not None else []
    if len(lines) not in (2, 3) or not all(lines):
        raise UsageError(
            "MissingParameter",
            "--keys-from-stdin: give two lines, the access key and the secret key, and a third where there is"
            " a session token",
        )
    return lines[0], lines[1], lines[2] if len(lines) == 3 else None


def _foreground(
    settings: Settings, jobs: Jobs, make: Callable[[], Status], arguments: argparse.Namespace
) -> int:
    """Makes a queued job and runs it here, on the screen. The imports come first: what fails there must not
    leave a queued job behind, which nobody would run and which would keep its destination busy."""
    from syncworker.shell import formats
    from syncworker.shell.display import Display, Output
    from syncworker.worker.worker import run_job

    job_id = make()["id"]
    output, quiet, as_json = Output(sys.stdout), arguments.quiet, arguments.json
    if not quiet:
        (Output(sys.stderr) if as_json else output).print(job_id)
    try:
        with nullcontext() if as_json or quiet else Display(output) as display:
            show = display.show if display else None
            state = run_job(settings, jobs, job_id, show, _elsewhere(settings))
    except KeyboardInterrupt:  # before the worker had set its handlers: nobody would run the queued job
        state = State(jobs.cancel(job_id)["state"])
    status = jobs.observe(job_id)
    if as_json:
        output.print(json.dumps(status, indent=2))
    else:
        if not quiet:
            output.print(formats.summary(status))
        _explain(status)
    _prune(settings, jobs, job_id)
    return EXIT.get(state, CTRL_C)


def _prune(settings: Settings, jobs: Jobs, job_id: str) -> None:
    """Removes the files of old jobs, as a server does. Where one runs, it does so itself, and has the
    counters of removed jobs in memory; one that starts now waits for the creation lock before it reads them
    (`leftovers.clear`)."""
    from syncworker.jobs.ledger import Ledger
    from syncworker.service.supervisor import PRUNE_AT_MOST, is_served

    try:
        with jobs.creation_lock() as guard:
            if guard.acquire(timeout_seconds=1.0) and not is_served(jobs):
                jobs.prune(
                    settings.keep_jobs,
                    PRUNE_AT_MOST,
                    lambda leaving: Ledger(jobs).retire(leaving),
                    besides=job_id,
                )
    except OSError as error:  # the job is done all the same, and the next one tries again
        _complain(f"files of old jobs could not be removed: {error.strerror or error}")


def _explain(status: Status) -> None:
    """Why a job has not ended well, on stderr, and what to do next."""
    from syncworker.shell import formats
    from syncworker.shell.display import Output

    if recorded_state(status) is State.DONE:
        return
    messages = Output(sys.stderr)
    for text in formats.error_lines(status):
        messages.print(text)
    if text := formats.error_text(status):
        messages.print(f"syncworker: {text}")
    if recorded_state(status) is State.WAITING:
        if not status.get("error"):
            messages.print(f"syncworker: {escape.escape_control(status['message'])}")
        messages.print(f"syncworker: to see its plan: python -m syncworker plan {status['id']}")
        messages.print(f"syncworker: to carry it out: python -m syncworker approve {status['id']}")
        return
    messages.print(f"syncworker: to go on: python -m syncworker resume {status['id']}")


def _cancel(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    from syncworker.shell.display import Output

    status = jobs.cancel(arguments.id, now=arguments.now)
    if arguments.json:
        return _printed(Output(sys.stdout), json.dumps(status, indent=2))
    if recorded_state(status) in FINAL_STATES:
        text = f"job {arguments.id} is {status['state']}"
    else:
        after = "at once" if arguments.now else "after the operations in flight"
        text = f"job {arguments.id} will end {after}"
    return _printed(Output(sys.stdout), text)


def _pause(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    text = "is paused: what is in flight ends, and nothing begins until `continue`"
    return _told_of(jobs.pause(arguments.id), text, as_json=arguments.json)


def _continue(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    return _told_of(jobs.go_on(arguments.id), "goes on", as_json=arguments.json)


def _limit(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    from syncworker.jobs.status_cache import ID_PATTERN
    from syncworker.options import table
    from syncworker.shell import formats
    from syncworker.shell.display import Output

    words = [word for word in (arguments.job, arguments.rate) if word is not None]
    job_id = words[0] if words and ID_PATTERN.fullmatch(words[0]) else None
    rates = words[1:] if job_id else words
    if len(rates) > 1:
        raise UsageError("BadBandwidth", "limit takes an id, a rate, or an id and then a rate")
    asked = table.parse({"bandwidth": "".join(rates)})
    status = jobs.refuse_ended(job_id) if job_id else None
    if asked:
        jobs.prepare()
        jobs.set_bandwidth(job_id, asked["bandwidth"])
    limits = jobs.limits(status, settings.bandwidth)
    text = json.dumps(limits, indent=2) if arguments.json else formats.limits(limits, with_job=bool(job_id))
    return _printed(Output(sys.stdout), text)


def _told_of(status: Status, text: str, *, as_json: bool) -> int:
    from syncworker.shell.display import Output

    return _printed(
        Output(sys.stdout), json.dumps(status, indent=2) if as_json else f"job {status['id']} {text}"
    )


def _plan(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    """The plan's lines, as many as there are; memory does not grow with them."""
    from syncworker.shell import formats
    from syncworker.shell.display import Output
    from syncworker.system import durable_files

    status = jobs.observe(arguments.id)
    if not status.get("plan"):
        raise NoSuchPlan(arguments.id)
    output = Output(sys.stdout)
    if not arguments.json:
        output.print(formats.PLAN_HEADER)
    batch: list[str] = []
    for line in durable_files.lines(jobs.file(arguments.id, "plan.jsonl")):
        batch.append(line.decode().rstrip() if arguments.json else formats.plan_row(json.loads(line)))
        if len(batch) >= PLAN_LINES:
            output.print("\n".join(batch))
            batch.clear()
        if output.error is not None:
            break
    if batch:
        output.print("\n".join(batch))
    return _printed(output, None if arguments.json else escape.escape_control(formats.plan_sums(status)))


def _list(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    from syncworker.jobs import history
    from syncworker.shell.display import Output, print_table

    filters = {name: value for name in LIST_FILTERS if (value := getattr(arguments, name))}
    wanted = history.parse(filters)
    whole = arguments.all or bool(filters)
    found: list[Status] = []
    following: str | None = None
    if os.path.isdir(jobs.path):  # looking makes no directory
        if whole:
            matches = _matching(jobs, wanted)
            found = list(islice(matches, arguments.limit))
            following = found[-1]["id"] if found and any(True for _ in matches) else None
        else:
            found = jobs.active()[: arguments.limit]
    output = Output(sys.stdout)
    if arguments.json:
        answer: dict[str, Any] = {"count": len(found), "jobs": found}
        if whole:
            answer["next"] = following
        return _printed(output, json.dumps(answer, indent=2))
    if found:
        print_table(output, found)
    else:
        which = "no job is queued or running (--all lists the ended ones)"
        if whole:
            which = f"no job is {arguments.state}" if arguments.state else "no jobs"
            which += " that match" if filters.keys() - {"state"} else ""
        Output(sys.stderr).print(which)
    return _printed(output)


def _matching(jobs: Jobs, wanted: Wanted) -> Iterator[Status]:
    """The jobs that a filter takes, newest first, each as it truly is."""
    jobs.active()  # has the ends written down that nobody has noticed yet
    for job_id, entry in sorted(jobs.entries().items(), reverse=True):
        if wanted.takes(job_id, entry):
            try:
                status = jobs.observe(job_id)
            except NoSuchJob:  # removed meanwhile, or no status of ours
                continue
            if wanted.state in (None, status["state"]):
                yield status


def _one_id(text: str, jobs: Jobs) -> str:
    """The id of the only job whose id begins so."""
    if ID_PATTERN.fullmatch(text):
        return text
    if not re.fullmatch(r"[0-9]{1,8}|[0-9]{8}T[0-9]{0,6}|[0-9]{8}T[0-9]{6}-[0-9a-f]{0,8}", text):
        return check_id(text)
    entries = jobs.entries() if os.path.isdir(jobs.path) else {}
    found = sorted(job_id for job_id in entries if job_id.startswith(text))
    if not found:
        raise UsageError("NoSuchJob", f"there is no job whose id begins with {text}", param="id")
    if len(found) > 1:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UsageError(
            "BadId", f"{len(found)} jobs begin with {text}: {', '.join(found[-3:])}{more}", param="id"
        )
    return found[0]


def _show_errors(job_id: str, jobs: Jobs, as_json: bool) -> int:
    """All that the report says did not go well, in all attempts: what failed, and what was skipped."""
    from syncworker.shell.display import Output
    from syncworker.shell.formats import error_line

    output = Output(sys.stdout)
    if jobs.read(job_id) is None:
        raise NoSuchJob(job_id)
    try:
        file = open(jobs.file(job_id, "report.jsonl"), "rb")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return 0
    with file:
        for line in file:
            if b'"error": ' not in line or not line.endswith(b"\n"):
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # cut by a full disk, long ago
                continue
            if isinstance(value, dict) and isinstance(value.get("error"), dict):
                output.print(line.decode().rstrip() if as_json else error_line(value))
            if output.error is not None:
                break
    return _printed(output)


def _show(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    from syncworker.shell import formats
    from syncworker.shell.display import Output

    job_id = _one_id(arguments.id, jobs)
    if arguments.errors:
        return _show_errors(job_id, jobs, arguments.json)
    status = jobs.observe(job_id)
    output = Output(sys.stdout)
    if arguments.follow:
        status = _follow(jobs, status, None if arguments.json else output)
    if arguments.json:
        text = json.dumps(status, indent=2)
    elif arguments.follow:
        text = formats.summary(status)
    else:
        text = "\n".join(f"{label:8}  {value}" for label, value in formats.details(status))
    result = _printed(output, text)
    if result or not arguments.follow:
        return result
    if not arguments.json:
        _explain(status)
    return EXIT[State(status["state"])]


def _follow(jobs: Jobs, status: Status, output: Output | None) -> Status:
    """Watches a job to its end; its status then. Ends as well when nobody looks any more."""
    from syncworker.shell.display import Display

    with Display(output) if output else nullcontext() as display:
        while recorded_state(status) not in FINAL_STATES and not (output and output.error):
            if display:
                display.show(status)
            time.sleep(POLL_SECONDS)
            status = jobs.observe(status["id"])
    return status


def _completion(_arguments: argparse.Namespace, settings: Settings, _jobs: Jobs) -> int:
    from syncworker.shell.completion import bash
    from syncworker.shell.display import Output

    return _printed(Output(sys.stdout), bash(settings, sys.executable).rstrip())


def _printed(output: Output, text: str | None = None) -> int:
    """Prints, and says as an exit status whether all that was printed has gone out."""
    if text is not None:
        output.print(text)
    if output.error is None:
        return 0
    if isinstance(output.error, BrokenPipeError):
        return BROKEN_PIPE
    _complain(f"cannot write to the standard output: {output.error.strerror}")
    return 1


_COMMANDS: dict[str, Callable[[argparse.Namespace, Settings, Jobs], int]] = {
    "start": _start,
    "run": _run,
    "resume": _resume,
    "approve": _approve,
    "plan": _plan,
    "cancel": _cancel,
    "pause": _pause,
    "continue": _continue,
    "limit": _limit,
    "list": _list,
    "show": _show,
    "cluster": _cluster,
    "completion": _completion,
}
