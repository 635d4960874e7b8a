"""Turns an error of a handler into an answer: status, members, headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bottle

from syncworker.errors import SyncError, UsageError
from syncworker.jobs.ids import Conflict, NoSuchJob, NoSuchPlan
from syncworker.service.supervisor import QueueFull
from syncworker.web import parameters
from syncworker.web.context import NotFound, Unwell
from syncworker.web.problem_details import problem

NOTHING_HERE = "there is nothing at this path: see /openapi.json for what there is"


def problem_of(error: SyncError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Returns (status, members besides detail and code, headers) for an error."""
    match error:
        case NoSuchJob() | NoSuchPlan() | NotFound():
            return 404, {}, {}
        case Conflict():
            return 409, {"job": error.job}, {}
        case QueueFull() | Unwell():
            return 503, {}, {"Retry-After": "10"}
        case parameters.UnsupportedBody():
            return 415, {}, {}
        case parameters.BodyTooLong():
            return 413, {}, {}
        case UsageError():
            return 400, {"param": error.param}, {}
        case _ if error.code == "Busy":
            return 503, {}, {"Retry-After": "1"}
    return 500, {}, {}


def error_response(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> bottle.HTTPResponse:
    body, line, fields = problem(status, code, detail, **more)
    return bottle.HTTPResponse(body, line, headers={**dict(fields), **(headers or {})})


def unrouted(error: bottle.HTTPError) -> bytes:
    """Answers errors that Bottle raises: an unknown path, a path that is not UTF-8, an exception in a
    handler."""
    code, detail = {
        404: ("NotFound", NOTHING_HERE),
        400: ("BadRequest", "the path is not valid UTF-8"),
        405: ("MethodNotAllowed", "the request cannot be answered"),
        500: ("InternalError", "something went wrong here: the server's log says what"),
    }.get(error.status_code, ("InternalError", "the request cannot be answered"))
    body, _, fields = problem(error.status_code, code, detail)
    for name, value in fields:
        bottle.response.set_header(name, value)
    return body
