"""The commands about any job, whoever runs it. list, show and plan only read; cancel, pause, continue and
limit act. They print tables, lines or JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from itertools import islice
from typing import Any

from syncworker import escape
from syncworker.errors import UsageError
from syncworker.history import filters as job_filters
from syncworker.history.filters import JobFilter
from syncworker.jobs import bandwidth
from syncworker.jobs.ids import ID_PATTERN, NoSuchJob, NoSuchPlan, check_id
from syncworker.jobs.record import Status
from syncworker.jobs.status import recorded_state
from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES, State
from syncworker.settings import Settings
from syncworker.shell import formats
from syncworker.shell.display import Display, Output, print_table
from syncworker.shell.messages import explain, printed
from syncworker.shell.run import EXIT
from syncworker.system import durable_files

LIST_FILTERS = ("state", "source", "dest", "mirror", "since", "until", "q")
POLL_SECONDS = 0.25
PLAN_LINES = 1000  # in one write


def plan(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    """Prints all lines of the plan, in constant memory."""
    status = jobs.observe(arguments.id)
    if not status.get("plan"):
        raise NoSuchPlan(arguments.id)
    output = Output(sys.stdout)
    if not arguments.json:
        output.print(formats.PLAN_HEADER)
    plan_lines = durable_files.lines(jobs.file(arguments.id, "plan.jsonl"))
    texts = (
        line.decode().rstrip() if arguments.json else formats.plan_row(json.loads(line))
        for line in plan_lines
    )
    while output.error is None and (batch := list(islice(texts, PLAN_LINES))):
        output.print("\n".join(batch))
    return printed(output, None if arguments.json else escape.escape_control(formats.plan_sums(status)))


def list_jobs(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    filters = {name: value for name in LIST_FILTERS if (value := getattr(arguments, name))}
    wanted = job_filters.parse(filters)
    whole = arguments.all or bool(filters)
    matches: Iterator[Status] = iter(())
    if os.path.isdir(jobs.path):  # without it, none is created
        matches = _matching(jobs, wanted) if whole else iter(jobs.active())
    found = list(islice(matches, arguments.limit))
    output = Output(sys.stdout)
    if arguments.json:
        answer: dict[str, Any] = {"count": len(found), "jobs": found}
        if whole:
            answer["next"] = found[-1]["id"] if found and any(True for _ in matches) else None
        return printed(output, json.dumps(answer, indent=2))
    if found:
        print_table(output, found)
    else:
        which = "no job is queued or running (--all lists the ended ones)"
        if whole:
            which = f"no job is {arguments.state}" if arguments.state else "no jobs"
            which += " that match" if filters.keys() - {"state"} else ""
        Output(sys.stderr).print(which)
    return printed(output)


def _matching(jobs: Jobs, wanted: JobFilter) -> Iterator[Status]:
    """Yields the jobs that match a filter, newest first, each observed again."""
    jobs.active()  # records the ends that nobody has noticed yet
    for job_id, entry in sorted(jobs.entries().items(), reverse=True):
        if wanted.takes(job_id, entry):
            with suppress(NoSuchJob):  # just removed, or its file is damaged
                status = jobs.observe(job_id)
                if wanted.state in (None, status["state"]):
                    yield status


def _one_id(text: str, jobs: Jobs) -> str:
    """Returns the id of the only job whose id begins with `text`. Raises UsageError."""
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
    """Prints all failures and skips of the report, of all attempts."""
    output = Output(sys.stdout)
    jobs.load(job_id)  # raises NoSuchJob
    with suppress(FileNotFoundError):  # nothing was reported
        for line in durable_files.lines(jobs.file(job_id, "report.jsonl")):
            if b'"error": ' not in line or not line.endswith(b"\n"):
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):  # cut by a full disk, long ago
                continue
            if isinstance(value, dict) and isinstance(value.get("error"), dict):
                output.print(line.decode().rstrip() if as_json else formats.error_line(value))
            if output.error is not None:
                break
    return printed(output)


def show(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
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
    result = printed(output, text)
    if result or not arguments.follow:
        return result
    if not arguments.json:
        explain(status)
    return EXIT[State(status["state"])]


def _follow(jobs: Jobs, status: Status, output: Output | None) -> Status:
    """Follows a job to its end and returns its status. Also ends when the output is closed."""
    with Display(output) if output else nullcontext() as display:
        while recorded_state(status) not in FINAL_STATES and not (output and output.error):
            if display:
                display.show(status)
            time.sleep(POLL_SECONDS)
            status = jobs.observe(status["id"])
    return status


def cancel(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    status = jobs.cancel(arguments.id, now=arguments.now)
    after = "at once" if arguments.now else "after the operations in flight"
    text = f"is {status['state']}" if recorded_state(status) in FINAL_STATES else f"will end {after}"
    return _print_result(status, text, as_json=arguments.json)


def pause(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    text = "is paused: operations in flight finish, and nothing starts until `continue`"
    return _print_result(jobs.pause(arguments.id), text, as_json=arguments.json)


def go_on(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    return _print_result(jobs.go_on(arguments.id), "goes on", as_json=arguments.json)


def limit(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    words = [word for word in (arguments.job, arguments.rate) if word is not None]
    job_id = words[0] if words and ID_PATTERN.fullmatch(words[0]) else None
    rates = words[1:] if job_id else words
    if len(rates) > 1:
        raise UsageError("BadBandwidth", "limit takes an id, a rate, or an id and then a rate")
    limits = bandwidth.change(jobs, job_id, "".join(rates), settings.bandwidth)
    text = json.dumps(limits, indent=2) if arguments.json else formats.limits(limits, with_job=bool(job_id))
    return printed(Output(sys.stdout), text)


def _print_result(status: Status, text: str, *, as_json: bool) -> int:
    text = json.dumps(status, indent=2) if as_json else f"job {status['id']} {text}"
    return printed(Output(sys.stdout), text)
