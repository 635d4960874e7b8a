"""The command line: its commands, options and help texts. `cli` calls the commands."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from syncworker.model import State
from syncworker.options import table
from syncworker.request import DEST_DEFAULT

EXAMPLES = """\
examples:
  python -m syncworker start --source photos --dest mybucket
        mirror the folder photos of UPLOADS_DIR into the bucket mybucket, in the foreground
  python -m syncworker start --source photos --dest mybucket --wait 1
        one operation at a time, a second between two
  python -m syncworker list --all
  python -m syncworker show 20261122T131242-9f3a61c2 --follow
  python -m syncworker cancel 20261122T131242-9f3a61c2
  python -m syncworker resume 20261122T131242-9f3a61c2
  eval "$(python -m syncworker completion)"
        in bash: Tab completes commands, options, folders and ids; `syncworker` works from any folder

exit status of start, run, resume, approve and show --follow:
  0 done   1 failed   2 usage or refused   3 cancelled   4 interrupted (resume goes on)
  5 waiting for approval

Settings come from the environment and the file .env: STORAGE_URL, UPLOADS_DIR, JOBS_DIR and others.
"""
KEYS = """\
Keys of another storage are never given on the command line, where every user could read them: they are
taken from the environment variables SYNC_ACCESS_KEY and SYNC_SECRET_KEY, or with --keys-from-stdin from two
lines of the standard input, the access key first. Temporary keys have a session token: SYNC_SESSION_TOKEN, or
a third line.
"""
START_EXAMPLES = """\
examples:
  python -m syncworker start --source photos --dest mybucket
  python -m syncworker start                                      # all of UPLOADS_DIR into mybucket
  python -m syncworker start --source photos --dest mybucket --storage-url https://s3.example.com \\
      --keys-from-stdin < keys.txt

A source that does not exist, or holds no file, deletes the bucket. Ctrl-C finishes the operation in flight
and leaves the job interrupted; `resume` goes on.
"""
JSON_LAST = """\
With --json the job's id is the first line on stderr, and stdout has its status at the end, one JSON object.
With --quiet there is no id, no progress and no summary; with both, the JSON object alone.
"""
LIST_EXAMPLES = """\
examples:
  python -m syncworker list
  python -m syncworker list --all --limit 20
  python -m syncworker list --source photos --since 2026-11-22
  python -m syncworker list --state failed --json | jq -r '.jobs[] | "\\(.id) \\(.error.message)"'
"""
SHOW_EXAMPLES = """\
examples:
  python -m syncworker show 20261122T131242-9f3a61c2 --follow
  python -m syncworker show 20261122T131242-9f3a61c2 --json | jq .progress
  python -m syncworker show 20261122T1312 --errors
"""
RESUME_EXAMPLES = """\
examples:
  python -m syncworker resume 20261122T131242-9f3a61c2
  python -m syncworker list --state interrupted             # what can be resumed

What is already in the bucket is not sent again. A job that is done cannot be resumed: start a new one.
"""
APPROVE_EXAMPLES = """\
examples:
  python -m syncworker start --source photos --dest mybucket --plan       # ends `waiting`, exit status 5
  python -m syncworker plan 20261122T131242-9f3a61c2
  python -m syncworker approve 20261122T131242-9f3a61c2

It uploads what differs now. It deletes what the plan names, if its file is still missing. If more would have
to be deleted, it deletes nothing and waits again, with a new plan.
"""
PLAN_EXAMPLES = """\
examples:
  python -m syncworker plan 20261122T131242-9f3a61c2
  python -m syncworker plan 20261122T131242-9f3a61c2 --json | jq -r 'select(.op == "delete").key'

With --json each line is one JSON object, as in JOBS_DIR/ID.plan.jsonl.
"""
CANCEL_EXAMPLES = """\
example:
  python -m syncworker cancel 20261122T131242-9f3a61c2
  python -m syncworker cancel --now 20261122T131242-9f3a61c2

The worker finishes the writes in flight, however long the storage takes, and starts nothing new; with --now
it aborts them. A queued job ends at once. `resume` continues it later. To stop a worker without cancelling
its job, send SIGTERM: `kill PID`; it waits for operations in flight 10 s at most.
"""
PAUSE_EXAMPLES = """\
example:
  python -m syncworker pause 20261122T131242-9f3a61c2

Operations in flight finish, and the connections close. The job keeps its bucket, and stays paused through a
resume and a restart of the machine, until `continue`. `cancel` still ends it.
"""
CONTINUE_EXAMPLES = """\
example:
  python -m syncworker continue 20261122T131242-9f3a61c2

The job continues within a second; a queued job starts when a worker is free.
"""
LIMIT_EXAMPLES = """\
examples:
  python -m syncworker limit 2M                                   # all running jobs together
  python -m syncworker limit 20261122T131242-9f3a61c2 512K        # this job
  python -m syncworker limit                                      # the limits in force

RATE is bytes a second, of 1,024 with K, M or G; 0 removes the limit. It takes effect within a second, and is
kept in JOBS_DIR/bandwidth and JOBS_DIR/ID.bandwidth, which may also be written by hand.
"""
RUN_NOTE = """\
example:
  python -m syncworker run 20261122T131242-9f3a61c2

For the server, or another supervisor that starts a job's worker. Nothing is displayed: the status is in
JOBS_DIR/ID.json, messages go to stderr.
"""
CLUSTER_NOTE = """\
example:
  python -m syncworker cluster worker tls://files.example.org:8786

  cluster keys FOLDER [NAME …]     makes an authority and a certificate with its key for each name, in FOLDER
  cluster scheduler                connects members and jobs; all three need CLUSTER_TLS_CA, _CERT, _KEY
  cluster worker tls://HOST:8786   runs a member, until the scheduler is gone (exit status 1)
  cluster status                   shows the members of the scheduler that CLUSTER names

docs/cluster.md has the set-up."""
COMPLETION_NOTE = """\
example:
  eval "$(python -m syncworker completion)"        # now; for good, put the line into ~/.bashrc

Call it with the Python that runs the project: the script contains its path, JOBS_DIR and UPLOADS_DIR. It
completes `python -m syncworker`, and defines a function `syncworker` that does the same from any folder.
"""


def count(text: str) -> int:
    """Parses a whole number from 1, for --limit and --port."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) > 0):
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 999999")
    return int(text)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Formats help as wide as the terminal. argparse creates a formatter for every option, and its own way to
    get the width imports `shutil` with four compression modules."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    if (told := os.environ.get("COLUMNS", "")).isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns if sys.__stdout__ else 80
    except (OSError, ValueError):  # no terminal
        return 80


class _NotAsked:
    """Stands for a command that was not asked for."""

    def add_argument(self, *_: Any, **__: Any) -> None: ...


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Returns the parser of all commands, or only of the given one: building all takes a twentieth of a
    worker's start-up."""
    made = argparse.ArgumentParser(
        prog="python -m syncworker",
        description="Keeps an S3 bucket an exact mirror of a local folder, one process per job.",
        epilog=EXAMPLES,
        formatter_class=_Help,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, says: str, epilog: str = "") -> argparse.ArgumentParser | _NotAsked:
        if only not in (None, name):
            return _NotAsked()
        return commands.add_parser(
            name,
            help=says,
            description=f"{says[0].upper()}{says[1:]}.",
            epilog=epilog,
            formatter_class=_Help,
            allow_abbrev=False,
        )

    start = command("start", "run a new job in the foreground", f"{KEYS}\n{JSON_LAST}\n{START_EXAMPLES}")
    start.add_argument("--source", help="folder below UPLOADS_DIR; default: all of it")
    start.add_argument("--dest", help=f"name of the bucket; default: {DEST_DEFAULT}")
    start.add_argument("--storage-url", help="S3 endpoint, if not the configured one; it needs its own keys")
    start.add_argument("--mirror", help="run this mirror of mirrors.toml, which has the other options")
    for option in table.TABLE:
        if option.is_list:
            start.add_argument(option.flag, action="append", default=[], help=option.help)
            continue
        nargs = None if option.bare is None else "?"
        start.add_argument(option.flag, default="", help=option.help, nargs=nargs, const=option.bare)
    run = command("run", "run a queued job without a display, as the server does", RUN_NOTE)
    resume = command(
        "resume",
        "resume an interrupted, failed or cancelled job, in the foreground",
        f"{KEYS}\n{JSON_LAST}\n{RESUME_EXAMPLES}",
    )
    approve = command(
        "approve",
        "carry out what a waiting job has planned, in the foreground",
        f"{KEYS}\n{JSON_LAST}\n{APPROVE_EXAMPLES}",
    )
    approve.add_argument("--etag", help="only this plan, as /plan and the status name it")
    plan = command("plan", "show what a waiting job would do, one operation per line", PLAN_EXAMPLES)
    for keyed in (start, resume, approve):
        keyed.add_argument("--keys-from-stdin", action="store_true", help="read the keys, one per line")
        keyed.add_argument(
            "--quiet", action="store_true", help="for cron: print nothing when all is well, errors to stderr"
        )
    cancel = command(
        "cancel", "cancel a job after the operations in flight (touch JOBS_DIR/ID.cancel)", CANCEL_EXAMPLES
    )
    cancel.add_argument(
        "--now",
        action="store_true",
        help="abort operations in flight as well (echo now > JOBS_DIR/ID.cancel)",
    )
    pause = command(
        "pause", "pause a job after the operations in flight (touch JOBS_DIR/ID.pause)", PAUSE_EXAMPLES
    )
    going_on = command("continue", "continue a paused job (rm JOBS_DIR/ID.pause)", CONTINUE_EXAMPLES)
    limit = command("limit", "show or set how fast a job, or all of them together, may send", LIMIT_EXAMPLES)
    limit.add_argument("job", metavar="ID", nargs="?", help="as start and list print it; default: all jobs")
    limit.add_argument("rate", metavar="RATE", nargs="?", help="bytes a second: 500000, 512K, 1.5M, 0")
    listing = command("list", "list the queued and running jobs, oldest first", LIST_EXAMPLES)
    listing.add_argument("--all", action="store_true", help="ended jobs too, newest first")
    listing.add_argument(
        "--state", choices=[state.value for state in State], help="jobs in that state only, newest first"
    )
    listing.add_argument("--source", help="jobs of this folder only")
    listing.add_argument("--dest", help="jobs into this bucket only")
    listing.add_argument("--mirror", help="jobs of this named mirror only")
    listing.add_argument("--since", help="not older: 2026-11-22, 2026-11-22T13:00:00Z, or an id's beginning")
    listing.add_argument("--until", help="not newer; a date means its end")
    listing.add_argument("--q", metavar="TEXT", help="jobs with this in id, folder, bucket or error code")
    listing.add_argument("--limit", type=count, metavar="N", help="no more than N of them")
    show = command("show", "show one job in full", SHOW_EXAMPLES)
    show.add_argument("--follow", action="store_true", help="watch it until its end; exit status as of start")
    show.add_argument("--errors", action="store_true", help="list everything that failed or was skipped")
    for single in (run, resume, approve, plan, cancel, pause, going_on):
        single.add_argument("id", metavar="ID", help="as start and list print it")
    show.add_argument("id", metavar="ID", help="as start and list print it, or its beginning")
    for machine in (start, resume, approve, plan, cancel, pause, going_on, limit, listing, show):
        machine.add_argument("--json", action="store_true", help="for programs: the same JSON as over HTTP")
    cluster = command("cluster", "processes and machines that send files for jobs", CLUSTER_NOTE)
    cluster.add_argument("verb", choices=["scheduler", "worker", "status", "keys"], help="see below")
    cluster.add_argument("values", metavar="VALUE", nargs="*", help="see below")
    cluster.add_argument("--bind", help="address to listen on; default: scheduler 127.0.0.1, worker all")
    cluster.add_argument("--port", type=count, help="port of the scheduler; default 8786")
    cluster.add_argument("--until-eof", action="store_true", help="worker: end when standard input ends")
    cluster.add_argument("--json", action="store_true", help="status: for programs")
    shell = command("completion", "print a script that completes these commands in bash", COMPLETION_NOTE)
    shell.add_argument("shell", nargs="?", choices=["bash"], default="bash", help="bash, the default")
    return made
