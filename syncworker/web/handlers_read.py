"""The routes that read jobs: their statuses, their history, reports, plans and logs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from syncworker.errors import UsageError
from syncworker.history import filters, pages
from syncworker.jobs.ids import ID_PATTERN, NoSuchPlan
from syncworker.jobs.record import Status
from syncworker.options import table
from syncworker.web import parameters, rendered
from syncworker.web.conditional import etag_of
from syncworker.web.context import JSON, Answer, Parameters, Service
from syncworker.web.operations import REPORTED

JOBS_MAX = 500  # of one answer of /jobs
AFTER_MAX = 9_999_999_999  # lines of a report


def runnings(service: Service, _given: Parameters) -> Answer:
    return 200, rendered.listed(service.statuses.active()), JSON


def get(service: Service, given: Parameters) -> Answer:
    return 200, service.statuses.one(parameters.job_id(given)).body, JSON


def _page(service: Service, given: Parameters) -> tuple[list[str], str | None]:
    """Returns the ids of a page of the history, newest first, and the `before` of the next page."""
    limit = parameters.number("limit", given.get("limit"), 50, 1, JOBS_MAX)
    before = given.get("before") or ""
    if before and not ID_PATTERN.fullmatch(before):
        raise UsageError("BadId", "before must be the id of a job: `next` of the page before", param="before")
    asked = replace(filters.parse(given), before=before)
    service.statuses.active()  # records the ends that nobody has noticed yet
    entries = service.jobs.entries()
    fitting = (job_id for job_id in sorted(entries, reverse=True) if asked.takes(job_id, entries[job_id]))
    found = list(islice(fitting, limit + 1))
    return found[:limit], found[limit - 1] if len(found) > limit else None


def history(service: Service, given: Parameters) -> Answer:
    wanted, following = _page(service, given)
    following_text = f',\n  "next": {json.dumps(following)}'
    return 200, rendered.listed(service.statuses.page(wanted), following_text), JSON


def history_tag(service: Service, given: Parameters) -> str:
    """Makes the ETag from the files' stamps, so that an unchanged page is not read again."""
    wanted, following = _page(service, given)
    entries = service.jobs.entries()
    page = [(job_id, entries[job_id].stamp, entries[job_id].told) for job_id in wanted if job_id in entries]
    return etag_of(repr((page, following)).encode())


def report(service: Service, given: Parameters) -> Answer:
    """Answers with a page of the report; `Link` has the next one."""
    job_id = _job(service, given)["id"]
    asked = _lines_asked(given)
    return _lines(service, "report", job_id, asked)


def _lines_asked(given: Parameters) -> dict[str, Any]:
    """Parses which lines of a report or a plan are wanted."""
    op = given.get("op") or ""
    if op and op not in REPORTED:
        raise UsageError("BadOperation", f"op must be one of {', '.join(REPORTED)}", param="op")
    return {
        "op": op,
        "q": given.get("q") or "",
        "below": given.get("below") or "",
        "errors": table.zero_or_one("errors", given.get("errors") or "0"),
        "after": parameters.number("after", given.get("after"), 0, 0, AFTER_MAX),
        "limit": parameters.number("limit", given.get("limit"), pages.LINES_DEFAULT, 1, pages.LINES_MAX),
    }


def _lines(service: Service, route: str, job_id: str, asked: dict[str, Any]) -> Answer:
    """Answers with a page of lines of a job's report or plan; `Link` has the next one."""
    page = service.reports.page(service.jobs.file(job_id, f"{route}.jsonl"), **asked)
    headers = {"Content-Type": "application/x-ndjson"}
    if page.following is not None:
        query = {"id": job_id, **asked, "after": page.following}
        text = urlencode({name: value for name, value in query.items() if value})
        headers["Link"] = f'<{service.settings.api_base_path}{route}?{text}>; rel="next"'
    return 200, page.lines, headers


def plan(service: Service, given: Parameters) -> Answer:
    """Answers with a page of the plan; `Link` has the next one."""
    status = _job(service, given)
    asked = _lines_asked(given)
    job_id, about = status["id"], status.get("plan")
    if not about or not os.path.isfile(service.jobs.file(job_id, "plan.jsonl")):
        raise NoSuchPlan(job_id)
    try:
        code, lines, headers = _lines(service, "plan", job_id, asked)
    except ValueError:  # damaged
        raise NoSuchPlan(job_id) from None
    return code, lines, {"ETag": f'"{about["etag"]}"', **headers}


def planned(service: Service, given: Parameters) -> Answer:
    """Returns a plan by folder. Reads the status's `plan` first: it is set only when the file is complete."""
    status = _job(service, given)
    job_id = status["id"]
    if not status.get("plan"):
        raise NoSuchPlan(job_id)
    try:
        return 200, service.plans.look(service.jobs.file(job_id, "plan.jsonl"), given.get("below") or ""), {}
    except (FileNotFoundError, ValueError):
        raise NoSuchPlan(job_id) from None


def log_of_job(service: Service, given: Parameters) -> Answer:
    text = pages.log_tail(service.jobs.file(_job(service, given)["id"], "log"))
    return 200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"}


def _job(service: Service, given: Parameters) -> Status:
    """Returns the recorded status of the job. Raises NoSuchJob."""
    return service.jobs.load(parameters.job_id(given))
