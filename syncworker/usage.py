"""The command line: its commands and options, and the help that teaches them. What they do is in `cli`."""

from __future__ import annotations

import argparse

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

exit status of start, run, resume and show --follow:
  0 done   1 failed   2 usage or refused   3 cancelled   4 interrupted (resume goes on)

Settings come from the environment and the file .env: STORAGE_URL, UPLOADS_DIR, JOBS_DIR and others.
"""
KEYS = """\
Keys of another storage are never given on the command line, where every user could read them: they are
taken from the environment variables SYNC_ACCESS_KEY and SYNC_SECRET_KEY, or with --keys-from-stdin from two
lines of the standard input, the access key first.
"""
START_EXAMPLES = """\
examples:
  python -m syncworker start --source photos --dest mybucket
  python -m syncworker start --source "" --dest mybucket          # all of UPLOADS_DIR
  python -m syncworker start --source photos --dest mybucket --storage-url https://s3.example.com \\
      --keys-from-stdin < keys.txt

A source that does not exist, or holds no file, deletes the bucket. Ctrl-C finishes the operation in flight
and leaves the job interrupted; `resume` goes on.
"""


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        prog="python -m syncworker",
        description="Keeps an S3 bucket an exact mirror of a local folder, one process per job.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, says: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=says,
            description=f"{says[0].upper()}{says[1:]}.",
            epilog=epilog,
            formatter_class=raw,
            allow_abbrev=False,
        )

    start = command("start", "run a new job in the foreground", f"{KEYS}\n{START_EXAMPLES}")
    start.add_argument("--source", required=True, help='folder below UPLOADS_DIR, "" for all of it')
    start.add_argument("--dest", required=True, help="name of the bucket")
    start.add_argument("--storage-url", help="S3 endpoint, if not the configured one; it needs its own keys")
    start.add_argument("--wait", default="0", help="seconds between two operations, 0 (default) to 3600")
    run = command("run", "run a queued job without a display, as the server does")
    resume = command("resume", "go on with an interrupted, failed or cancelled job, in the foreground", KEYS)
    for keyed in (start, resume):
        keyed.add_argument("--keys-from-stdin", action="store_true", help="read the two keys, a line each")
    cancel = command("cancel", "end a job after the operations in flight (touch JOBS_DIR/ID.cancel)")
    listing = command("list", "the jobs that are queued and running, oldest first")
    listing.add_argument("--all", action="store_true", help="the ended ones too, newest first")
    show = command("show", "one job in full")
    show.add_argument("--follow", action="store_true", help="watch it until its end; exit status as of start")
    for single in (run, resume, cancel, show):
        single.add_argument("id", metavar="ID", help="as start and list print it")
    for machine in (listing, show):
        machine.add_argument("--json", action="store_true", help="for programs: the same JSON as over HTTP")
    return made
