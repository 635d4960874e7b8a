"""The routes as a WSGI application: parse, call the handler, render its answer or error. `middleware` has
checked before who may call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import bottle

from syncworker.errors import SyncError, UsageError
from syncworker.jobs.ids import Conflict, NoSuchJob, NoSuchPlan
from syncworker.service.supervisor import QueueFull
from syncworker.web import conditional, dashboard, parameters
from syncworker.web import handlers_act as act
from syncworker.web import handlers_read as read
from syncworker.web import handlers_site as site
from syncworker.web.context import JSON, Answer, NotFound, Parameters, Service, Unwell
from syncworker.web.operations import OPERATIONS, Operation
from syncworker.web.problem_details import problem, to_json

log = logging.getLogger("server")

PACKED_FROM_BYTES = 4096  # longer answers are compressed for clients that accept gzip
KEY_IN_ADDRESS = "{} was sent in the address, which browsers and proxies remember: use POST"
NOTHING_HERE = "there is nothing at this path: /openapi.json lists the routes"
# A handler gets the parameters of its request, whose names were checked, and returns (status, JSON value or
# bytes, headers).
HANDLERS: dict[str, Callable[[Service, Parameters], Answer]] = {
    "/sync": act.sync,
    "/runnings": read.runnings,
    "/get": read.get,
    "/cancel": act.cancel,
    "/pause": act.pause,
    "/continue": act.go_on,
    "/limit": act.limit,
    "/resume": act.resume,
    "/approve": act.approve,
    "/plan": read.plan,
    "/plan/sums": read.planned,
    "/jobs": read.history,
    "/report": read.report,
    "/log": read.log_of_job,
    "/mirrors": site.mirrors,
    "/healthz": site.healthz,
    "/folders": site.folders,
    "/metrics": site.exposition,
    "/openapi.json": site.description,
    **{path: site.asset(page) for path, page in dashboard.PAGES.items()},
}
# Computes the ETag before the answer, where that is cheaper. It reads its data before the answer does, so an
# ETag may be older than its answer, but never newer.
TAGS: dict[str, Callable[[Service, Parameters], str]] = {"/jobs": read.history_tag}


def _call(service: Service, path: str, operation: Operation) -> bottle.HTTPResponse:
    environ = bottle.request.environ
    method = environ["REQUEST_METHOD"]
    if environ["bottle.raw_path"] != path:  # Bottle drops what is not UTF-8, and takes /%ff for /
        return error_response(404, "NotFound", NOTHING_HERE)
    if method not in operation.methods:
        allow = ", ".join(operation.methods)
        detail = f"{method[:20]} is not allowed on {path}: use {allow}"
        return error_response(405, "MethodNotAllowed", detail, {"Allow": allow})
    try:
        return _answer(service, path, operation, environ)
    except SyncError as error:
        status, more, headers = problem_of(error)
        if status == 500:
            log.error("%s: %s", path, error, exc_info=True)
        return error_response(status, error.code, error.message, headers, **more)
    except OSError as error:
        log.error("%s: %s", path, error, exc_info=True)
        why = error.strerror or "input or output failed"
        return error_response(500, "JobsDirectoryFailed", f"the folder of job files cannot be used: {why}")


def _answer(
    service: Service, path: str, operation: Operation, environ: dict[str, Any]
) -> bottle.HTTPResponse:
    given = parameters.of_request(environ, operation.parameters)
    known = environ.get("HTTP_IF_NONE_MATCH") if environ["REQUEST_METHOD"] != "POST" else None
    etag = TAGS[path](service, given) if path in TAGS else None
    if etag and conditional.is_known(etag, known):
        return conditional.not_modified({"ETag": etag})
    status, value, headers = HANDLERS[path](service, given)
    if not isinstance(value, bytes):
        value, headers = to_json(_with_warning(value, environ)), JSON | headers
    if operation.conditional:
        headers = {"ETag": etag or conditional.etag_of(value)} | headers
        if conditional.is_known(headers["ETag"], known):
            return conditional.not_modified(headers)
    if len(value) >= PACKED_FROM_BYTES and "Content-Encoding" not in headers:
        headers = {"Vary": "Accept-Encoding"} | headers
        if dashboard.accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            value = service.packed.of(value)
            headers["Content-Encoding"] = "gzip"
    return bottle.HTTPResponse(value, status, headers=headers)


def _with_warning(value: Mapping[str, Any], environ: dict[str, Any]) -> Mapping[str, Any]:
    """Adds a warning to the answer if the address contains a key."""
    query = environ.get("QUERY_STRING", "") if environ["REQUEST_METHOD"] == "GET" else ""
    sent = [name for name in ("secret_key", "session_token") if f"{name}=" in query]
    if not sent:
        return value
    return {**value, **act.warned([*filter(None, [value.get("warning")]), KEY_IN_ADDRESS.format(sent[0])])}


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


def unrouted(error: bottle.HTTPError) -> bottle.HTTPResponse:
    """Answers errors that Bottle raises: an unknown path, a path that is not UTF-8, an exception in a
    handler."""
    code, detail = {
        404: ("NotFound", NOTHING_HERE),
        400: ("BadRequest", "the path is not valid UTF-8"),
        405: ("MethodNotAllowed", "the request cannot be answered"),
        500: ("InternalError", "internal error: see the server's log"),
    }.get(error.status_code, ("InternalError", "the request cannot be answered"))
    return error_response(error.status_code, code, detail)


def application(service: Service) -> bottle.Bottle:
    """Returns the routes as a WSGI application. It checks no caller: wrap it in `middleware.Guard`."""
    app = bottle.Bottle()
    app.default_error_handler = unrouted
    for path, operation in OPERATIONS.items():
        app.route(path, method="ANY", callback=partial(_call, service, path, operation))
    return app
