"""The shell commands and the modules that have them: `run`, `foreground`, `manage`.

Exit status: start, run, resume, approve and `show --follow` return how the job ended (run.EXIT); 2 means
refused before a job ran; 130 means Ctrl-C without a job of ours. A job's id and progress go to stdout,
messages to stderr; with --json stdout has one JSON object and nothing else (`plan`: one per line).

A command's module is imported when the command is called, because the server starts `run` for every job.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from syncworker import settings as settings_table
from syncworker.errors import SyncError, UsageError
from syncworker.jobs.ids import check_id
from syncworker.jobs.store import Jobs
from syncworker.settings import Settings
from syncworker.shell import run

if TYPE_CHECKING:
    import argparse

REFUSED = 2
COMMANDS = (
    "start", "run", "resume", "approve", "plan", "cancel", "pause", "continue", "limit", "list", "show",
    "cluster", "completion",
)  # fmt: skip


def main(argv: list[str]) -> int:
    arguments = _parsed(argv)
    if arguments.command is None:
        return REFUSED
    try:
        if hasattr(arguments, "id") and arguments.command != "show":
            check_id(arguments.id)
        settings = settings_table.load()
        return _command(arguments.command)(arguments, settings, Jobs(settings.jobs_dir))
    except SyncError as error:
        return _refused(error.message)
    except OSError as error:
        if arguments.command == "run":
            raise  # the job's log takes the whole of it
        return _refused(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        return run.CTRL_C


def _refused(message: str) -> int:
    from syncworker.shell.messages import complain

    complain(message)
    return REFUSED


def _parsed(argv: list[str]) -> argparse.Namespace:
    """Parses the arguments; without a command, prints the help. `run ID` is recognised without the parser,
    which would take a twentieth of a small job."""
    if len(argv) == 2 and argv[0] == "run" and not argv[1].startswith("-"):
        return cast("argparse.Namespace", SimpleNamespace(command="run", id=argv[1]))
    from syncworker.shell import arguments as usage

    parser = usage.parser(argv[0] if argv and argv[0] in COMMANDS else None)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
    return arguments


def _command(name: str) -> Callable[[argparse.Namespace, Settings, Jobs], int]:
    if name == "run":
        return run.run
    if name == "cluster":
        return _cluster
    from syncworker.shell import completion, foreground, manage

    return {
        "start": foreground.start,
        "resume": foreground.resume,
        "approve": foreground.approve,
        "cancel": manage.cancel,
        "pause": manage.pause,
        "continue": manage.go_on,
        "limit": manage.limit,
        "plan": manage.plan,
        "list": manage.list_jobs,
        "show": manage.show,
        "completion": completion.completion,
    }[name]


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
