"""The API as an OpenAPI 3.1 document: the answer of `/openapi.json`, and the source of `docs/api.md`.

`operations.OPERATIONS` describes each route; `document` adds what all routes share: HEAD, forms and JSON
bodies, the errors of the layers below the routes. `tests/docs/test_openapi.py` checks that the document and
the server agree, in both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from syncworker import __version__
from syncworker.web import schemas
from syncworker.web.http_server import BODY_MAX_BYTES
from syncworker.web.operations import OPERATIONS, Operation
from syncworker.web.schema_types import Schema, nullable, ref

INTRODUCTION = """\
This service keeps an S3 bucket an exact mirror of a local folder. Each call of `/sync` makes one job, and
each job runs in its own process.

`GET` and `POST` work on every route, `HEAD` only on routes that change nothing; other methods are answered
405, and an unknown path 404. Parameters are given in the query, in a form or in a JSON object. A parameter
that the route does not know is refused, and so is one that is given twice, except `exclude`, `include` and
`header`. An empty value, or null in JSON, counts as not given. Answers are indented JSON in UTF-8. Errors
are `application/problem+json` (RFC 9457).

There is no long polling: eight threads answer all requests, and a few clients that wait would block all
others. Poll with `If-None-Match` instead: while nothing has changed, the answer is an empty 304.

On every path, the answer is 403 if the `Host` header has neither a loopback name, nor the address on which
the server listens, nor one of `ALLOWED_HOSTS`; also if a page of another site sends the request. If
`API_TOKEN` is set, all paths except `/healthz` and `/login` need the header `Authorization: Bearer TOKEN`,
or the cookie that `/login` sets in exchange for the token."""

LOGIN = (
    "The server prints the link `/login?token=TOKEN` when it starts; a POST of a form with"
    " `token` has the same effect. The answer is 303 to `/` with the cookie, or 401 if the"
    " token is wrong."
)

SHARED_ERRORS = {
    400: "A parameter is missing, unknown, given twice or has an invalid value (`param` names it),"
    " or the request is not valid HTTP",
    403: "`Host` does not name this server, or the request comes from a page of another site, a"
    " prefetch or a link preview",
    413: f"The body is longer than {BODY_MAX_BYTES} bytes",
    415: "The body is neither a form nor JSON, or it is not UTF-8",
    431: "The headers, including the URL, are longer than 16384 bytes",
    500: "The folder of job files cannot be used, or the server has a bug: see the server's log",
}
_BODY_ERRORS = (413, 415)
_PAGE = {"text/html; charset=utf-8": {"schema": {"type": "string"}}}
_STARTS = ("/sync", "/resume")  # `Location` is where the job's status is


def _header(description: str, **schema: str) -> Schema:
    return {"description": description, "required": True, "schema": {"type": "string", **schema}}


_HEADERS = {
    "ETag": _header("Give it as `If-None-Match`"),
    "Location": _header("Where the job's status is", pattern=r"^/get\?id="),
    "Retry-After": _header("Seconds to wait"),
    "WWW-Authenticate": _header("How to log in"),
}


def document(*, token_needed: bool = False, base_path: str = "/") -> dict[str, Any]:
    """Returns the document. `token_needed`: whether this server needs a token; `base_path`: API_BASE_PATH."""
    paths: dict[str, dict[str, Any]] = {
        path: {m.lower(): _method(path, m.lower(), operation, token_needed) for m in operation.methods}
        for path, operation in OPERATIONS.items()
    }
    if token_needed:
        paths["/login"] = {"get": _login("get"), "post": _login("post")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "s3-sync-api", "version": __version__, "description": INTRODUCTION},
        "servers": [{"url": base_path.rstrip("/") or "/"}],
        "security": [{"bearer": []}, {"cookie": []}] if token_needed else [],
        "paths": paths,
        "components": {
            "schemas": schemas.ALL,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The value of API_TOKEN"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "syncworker_5000",
                    "description": "Set by /login; its name ends in the server's port",
                },
            },
        },
    }


def _method(path: str, method: str, operation: Operation, token_needed: bool) -> dict[str, Any]:
    name = path.strip("/").replace(".", "_").replace("/", "_") or "dashboard"
    answers: dict[str, Any] = {
        str(status): _answer(path, *described, operation.conditional, method)
        for status, described in operation.answers.items()
    }
    if operation.conditional:
        answers["304"] = {
            "description": "Nothing has changed since the answer with this ETag",
            "headers": {"ETag": _HEADERS["ETag"]},
        }
    errors = {s: d for s, d in SHARED_ERRORS.items() if method == "post" or s not in _BODY_ERRORS}
    if token_needed and path != "/healthz":
        errors[401] = "The token is missing or wrong"
    for status, description in sorted((errors | operation.errors).items()):
        answers[str(status)] = _error(status, description, method)
    if path == "/" and method == "get" and token_needed:
        answers["401"]["content"] |= _PAGE
    found: dict[str, Any] = {
        "operationId": name if method == "get" else f"{name}_{method}",
        "summary": operation.summary,
        "description": operation.description,
        "responses": answers,
    }
    if path == "/healthz":
        found["security"] = []
    if method == "post":
        if operation.parameters:
            found["requestBody"] = _body(operation)
    elif operation.parameters:
        found["parameters"] = [_query(operation, name) for name in operation.parameters]
    if operation.conditional:
        found.setdefault("parameters", []).append(_IF_NONE_MATCH)
    return found


_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier answer: the answer is 304 if nothing has changed since then",
    "schema": {"type": "string"},
}


def _query(operation: Operation, name: str) -> dict[str, Any]:
    schema = dict(operation.schema(name))
    found: dict[str, Any] = {"name": name, "in": "query", "required": name in operation.required}
    return found | {"description": schema.pop("description"), "schema": schema}


def _body(operation: Operation) -> dict[str, Any]:
    required = list(operation.required)
    form = {name: operation.schema(name) for name in operation.parameters}
    json = {name: item if name in required else _or_null(item) for name, item in form.items()}
    more = {"required": required, "additionalProperties": False}
    return {
        "required": bool(required),
        "description": "The parameters; each may be given in the query instead, but not in both.",
        "content": {
            "application/json": {"schema": {"type": "object", "properties": json, **more}},
            "application/x-www-form-urlencoded": {"schema": {"type": "object", "properties": form, **more}},
        },
    }


def _or_null(schema: Schema) -> Schema:
    """In JSON null means not given."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return nullable(schema)


def _response(
    method: str, description: str, content: str, schema: Schema, headers: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"description": description}
    if headers:
        found["headers"] = {name: _HEADERS[name] for name in headers}
    if method != "head":
        found["content"] = {content: {"schema": schema}}
    return found


def _answer(path: str, description: str, content: str, has_etag: bool, method: str) -> dict[str, Any]:
    schema = ref(content) if content in schemas.ALL else {"type": "string" if "/" in content else content}
    headers = ["ETag"] if has_etag else ["Location"] if path in _STARTS else []
    kind = content if "/" in content else "application/json"
    answer = _response(method, description, kind, schema, headers)
    if path in _STARTS:
        links = {"get": "Its status", "cancel": "Cancel it", "resume": "Resume it after it has ended"}
        answer["links"] = {
            name: {"operationId": name, "parameters": {"id": "$response.body#/id"}, "description": why}
            for name, why in links.items()
        }
    return answer


def _error(status: int, description: str, method: str) -> dict[str, Any]:
    headers = {503: ["Retry-After"], 401: ["WWW-Authenticate"]}.get(status, [])
    return _response(method, description, "application/problem+json", ref("Problem"), headers)


def _login(method: str) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "303": {
            "description": "To the dashboard, with the cookie",
            "headers": {"Location": {"required": True, "schema": {"type": "string", "const": "/"}}},
        }
    }
    errors = SHARED_ERRORS | {401: "This is not the server's token"}
    for status in (401, 403, 413, 431) if method == "post" else (401, 403, 431):
        answers[str(status)] = _error(status, errors[status], "get")
    answers["401"]["content"] |= _PAGE
    token = {"type": "string", "description": "The value of API_TOKEN"}
    form = {"type": "object", "properties": {"token": token}, "required": ["token"]}
    content = {"application/x-www-form-urlencoded": {"schema": form}}
    given: dict[str, dict[str, Any]] = {
        "get": {"parameters": [{"name": "token", "in": "query", "required": True, "schema": token}]},
        "post": {"requestBody": {"required": True, "content": content}},
    }
    return {
        "operationId": "login" if method == "get" else "login_post",
        "summary": "Exchange the token for the dashboard's cookie",
        "description": LOGIN,
        "security": [],
        "responses": answers,
        **given[method],
    }
