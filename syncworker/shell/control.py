"""The commands that act on any job, whoever runs it: cancel, pause, continue and limit."""

from __future__ import annotations

import argparse
import json
import sys

from syncworker.errors import UsageError
from syncworker.jobs import bandwidth
from syncworker.jobs.ids import ID_PATTERN
from syncworker.jobs.record import Status
from syncworker.jobs.status import recorded_state
from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES
from syncworker.options import table
from syncworker.settings import Settings
from syncworker.shell import formats
from syncworker.shell.display import Output
from syncworker.shell.messages import printed


def cancel(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    status = jobs.cancel(arguments.id, now=arguments.now)
    after = "at once" if arguments.now else "after the operations in flight"
    text = f"is {status['state']}" if recorded_state(status) in FINAL_STATES else f"will end {after}"
    return _print_result(status, text, as_json=arguments.json)


def pause(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    text = "is paused: what is in flight ends, and nothing begins until `continue`"
    return _print_result(jobs.pause(arguments.id), text, as_json=arguments.json)


def go_on(arguments: argparse.Namespace, _settings: Settings, jobs: Jobs) -> int:
    return _print_result(jobs.go_on(arguments.id), "goes on", as_json=arguments.json)


def limit(arguments: argparse.Namespace, settings: Settings, jobs: Jobs) -> int:
    words = [word for word in (arguments.job, arguments.rate) if word is not None]
    job_id = words[0] if words and ID_PATTERN.fullmatch(words[0]) else None
    rates = words[1:] if job_id else words
    if len(rates) > 1:
        raise UsageError("BadBandwidth", "limit takes an id, a rate, or an id and then a rate")
    asked = table.parse({"bandwidth": "".join(rates)})
    status = jobs.refuse_ended(job_id) if job_id else None
    if asked:
        jobs.prepare()
        bandwidth.set_rate(jobs, job_id, asked["bandwidth"])
    limits = bandwidth.limits(jobs, status, settings.bandwidth)
    text = json.dumps(limits, indent=2) if arguments.json else formats.limits(limits, with_job=bool(job_id))
    return printed(Output(sys.stdout), text)


def _print_result(status: Status, text: str, *, as_json: bool) -> int:
    text = json.dumps(status, indent=2) if as_json else f"job {status['id']} {text}"
    return printed(Output(sys.stdout), text)
