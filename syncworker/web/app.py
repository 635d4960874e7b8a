"""The routes as a WSGI application: parse, call, render. `middleware` has checked before who may call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import bottle

from syncworker.errors import SyncError
from syncworker.web import conditional, dashboard, parameters
from syncworker.web.context import JSON, Service
from syncworker.web.errors import NOTHING_HERE, error_response, problem_of, unrouted
from syncworker.web.handlers_act import warned
from syncworker.web.operations import OPERATIONS, Operation
from syncworker.web.problem_details import to_json
from syncworker.web.routes import HANDLERS, TAGS

log = logging.getLogger("server")

PACKED_FROM_BYTES = 4096  # longer answers are compressed for clients that accept gzip
KEY_IN_ADDRESS = "{} was sent in the address, which browsers and proxies remember: use POST"


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
    return {**value, **warned([*filter(None, [value.get("warning")]), KEY_IN_ADDRESS.format(sent[0])])}


def application(service: Service) -> bottle.Bottle:
    """Returns the routes as a WSGI application. It checks no caller: wrap it in `middleware.Guard`."""
    app = bottle.Bottle()
    app.default_error_handler = unrouted
    for path, operation in OPERATIONS.items():
        app.route(path, method="ANY", callback=partial(_call, service, path, operation))
    return app
