"""The API as an OpenAPI 3.1 document: what `/openapi.json` answers with, and what `docs/api.md` is made of.

`OPERATIONS` says what each route is for, takes and answers; what all routes share (HEAD, forms and JSON
bodies, the errors of the layers below the routes) is added by `document`. That it is true of the server, in
both directions, is `tests/docs/test_openapi.py`'s to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from syncworker import __version__
from syncworker.model import State
from syncworker.options import table
from syncworker.request import DEST_DEFAULT
from syncworker.web import dashboard, schemas
from syncworker.web.http_server import BODY_MAX_BYTES
from syncworker.web.schemas import Schema, ref, text

INTRODUCTION = """\
Keeps an S3 bucket an exact mirror of a local folder. One call of `/sync` makes one job; one job is one
process.

`GET` and `POST` both work on every route; `HEAD` on those that change nothing. Parameters come in the query,
in a form or in a JSON object; a name that the route does not know, or one that is given twice, is refused. An
empty value, or null in JSON, is as good as none.
Other methods are answered 405, an unknown path 404. Answers are JSON, indented, UTF-8. Errors are
`application/problem+json` (RFC 9457).

There is no long poll: eight threads answer all requests, and a handful of waiting clients would stop the
rest. Ask again instead, with `If-None-Match`: while nothing has changed the answer is an empty 304.

Requests whose `Host` is not one of `ALLOWED_HOSTS`, or that a page of another site makes, are answered 403 on
every path. With `API_TOKEN` set, all but `/healthz` needs `Authorization: Bearer TOKEN`, or the cookie that
`/login` trades the token for."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers`: status -> (description, schema name or content type). `required`: names of parameters."""

    summary: str
    description: str
    answers: dict[int, tuple[str, str]]
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    acts: bool = False
    conditional: bool = False  # has an ETag, knows If-None-Match
    errors: dict[int, str] = field(default_factory=dict)
    overrides: dict[str, Schema] = field(default_factory=dict)  # parameters that mean something else here

    def schema(self, name: str) -> Schema:
        return self.overrides.get(name) or PARAMETERS[name]


def _or_empty(schema: Schema) -> Schema:
    """A value, or the empty text, which counts as not given."""
    described = {"description": schema["description"]}
    bare = {name: item for name, item in schema.items() if name != "description"}
    return {**described, "anyOf": [bare, {"const": ""}]}


_TIMES = "a time with its zone, a date (UTC), or the beginning of an id"
REPORTED = ("upload", "update", "delete", "create_bucket", "delete_bucket", "verify", "skip")
PARAMETERS: dict[str, Schema] = {
    "source": text(
        "The folder below the uploads root; by default, or empty, all of it. It need not exist: a missing"
        " folder, or one without any file, has the bucket deleted. No absolute path, no `..`, no NUL, no link"
        " out.",
        default="",
        pattern=r"^(?!/)(?![\s\S]*(?:^|/)\.\.(?:/|$))[^\u0000]*$",
        maxLength=4000,
        examples=["photos"],
    ),
    "dest": text(
        "The bucket: 3 to 63 lower-case letters, digits, dots and hyphens; made when it is missing. Other"
        " names that old buckets have (capitals, underscores) are used where there is one, never made.",
        default=DEST_DEFAULT,
        pattern=r"^(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[A-Za-z0-9._\-]{3,255}$|^$",
        examples=["mybucket"],
    ),
    "storage_url": text(
        "Another S3 endpoint than the configured one; then the keys must be given too. Link-local addresses"
        " are refused, and what ALLOWED_STORAGE_URLS leaves out."
    ),
    "access_key": text("The access key for this job alone", pattern=r"^[!-+\--.0-~]*$", maxLength=1024),
    "secret_key": text(
        "Its secret key. Send it by POST: addresses are remembered", pattern="^[!-~]*$", maxLength=1024
    ),
    "session_token": text(
        "The session token of temporary keys, given with both of them", pattern="^[!-~]*$", maxLength=8192
    ),
    **{option.name: dict(option.schema) for option in table.TABLE},
    "id": text("The id of a job", pattern=schemas.ID_PATTERN, examples=["20261122T131242-9f3a61c2"]),
    "etag": text("Only this plan: the `ETag` of `/plan`, or `etag` of the status's `plan`"),
    "now": table.flag_schema(
        "1: what writes is dropped, too; whether the storage has it, the resume finds out", 0
    ),
    "storage": table.flag_schema("1: whether the storage answers, too", 0),
    "state": _or_empty(text("Only jobs in this state", enum=[state.value for state in State])),
    "limit": {
        "description": "How many at most; 50 when not given or empty",
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 500},
            {"type": "string", "pattern": "^(0{0,3}[1-9][0-9]?|0{0,3}[1-4][0-9][0-9]|0{0,3}500|)$"},
        ],
    },
    "before": _or_empty(
        text("Only jobs older than this one: `next` of the page before", pattern=schemas.ID_PATTERN)
    ),
    "mirror": text("Only jobs of this named mirror"),
    "since": text(f"Not older than: {_TIMES}", examples=["2026-11-22"]),
    "until": text(f"Not newer than: {_TIMES}; a date means its end", examples=["2026-11-22T13:00:00Z"]),
    "q": text(
        "Only what holds this text, in any case: of jobs id, folder, bucket or error code, of a report key or"
        " error",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "op": _or_empty(text("Only lines of this operation", enum=[*REPORTED])),
    "below": text(
        "Only keys that begin so, `2024/` for example; `after` counts from the first of them",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "errors": table.flag_schema("1: only lines of what failed or was found wrong", 0),
    "after": {
        "description": "How many lines have been read already",
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
            {"type": "string", "pattern": "^[0-9]{0,10}$"},
        ],
        "default": 0,
    },
}

_LINES: Schema = {
    "description": "How many lines at most; 1,000 when not given or empty",
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 10_000},
        {"type": "string", "pattern": "^(0{0,5}[1-9][0-9]{0,3}|0{0,5}10000|)$"},
    ],
}
OPERATIONS: dict[str, Operation] = {
    "/sync": Operation(
        "Start a sync",
        "Makes a job that makes the bucket an exact mirror of the folder: new and changed files are uploaded,"
        " objects without a file are deleted, last and only when nothing failed. A folder that is missing or"
        " holds no file has the whole bucket deleted. Every parameter has a default, and an empty one has it"
        " too; `warning` in the answer says what an empty `source` or `dest` meant, and that a folder does"
        " not exist.",
        {202: ("The job, queued", "Status")},
        (
            "source",
            "dest",
            "storage_url",
            "access_key",
            "secret_key",
            "session_token",
            *table.NAMES,
            "mirror",
        ),
        acts=True,
        overrides={"mirror": text("A run of this named mirror, now; nothing else may be given beside it")},
        errors={
            409: "A job on this bucket is queued or running; `job` is its id",
            503: "As many jobs wait as MAX_QUEUED_JOBS allows, or another is just being made: try again",
        },
    ),
    "/runnings": Operation(
        "Jobs that are queued or running", "Oldest first.", {200: ("The jobs", "JobList")}, conditional=True
    ),
    "/get": Operation(
        "One job",
        "Its status.",
        {200: ("The job", "Status")},
        conditional=True,
        errors={404: "No such job"},
        parameters=("id",),
        required=("id",),
    ),
    "/cancel": Operation(
        "Cancel a job",
        "No new operation starts, those in flight finish: what writes is waited for as long as a request may"
        " take, `delay` and the message say for what and how long; what only reads is dropped. May be"
        " repeated, with `now` as well. A queued or waiting job is `cancelled` at once.",
        {202: ("The job; `cancel_requested` is true", "Status")},
        acts=True,
        errors={404: "No such job", 409: "The job has ended"},
        parameters=("id", "now"),
        required=("id",),
    ),
    "/pause": Operation(
        "Pause a job",
        "Within a second nothing new begins: no request to the storage, no reading of files. What is in"
        " flight ends, connections close, the phase is `paused`. A queued job stays queued. It keeps its"
        " bucket, but no longer counts towards MAX_RUNNING_JOBS. It stays paused through a resume and"
        " restarts, until `/continue`. A cancel ends it all the same. May be repeated.",
        {202: ("The job; `pause_requested` is true", "Status")},
        acts=True,
        errors={404: "No such job", 409: "The job has ended"},
        parameters=("id",),
        required=("id",),
    ),
    "/continue": Operation(
        "Continue a paused job",
        "It goes on within a second. One that was not paused just goes on.",
        {202: ("The job", "Status")},
        acts=True,
        errors={404: "No such job", 409: "The job has ended"},
        parameters=("id",),
        required=("id",),
    ),
    "/limit": Operation(
        "Limit the bandwidth",
        "Of one job, or of all running jobs together where no `id` is given, from now on: it holds within a"
        " second, and stays. Without `bandwidth`, tells what holds. The same as writing the value into"
        " `jobs/ID.bandwidth` or `jobs/bandwidth`.",
        {200: ("What holds from now on", "Limit")},
        acts=True,
        errors={
            404: "No such job",
            409: "The job has ended",
            503: "Another job is just being made: try again",
        },
        parameters=("id", "bandwidth"),
        overrides={
            "id": _or_empty(text("The id of a job; none: the limit for all jobs", pattern=schemas.ID_PATTERN))
        },
    ),
    "/resume": Operation(
        "Resume a job",
        "Queues a `failed`, `cancelled` or `interrupted` job again, under its id. What is done stays done."
        " Keys are needed again when the job had its own and they were removed at its end.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", "access_key", "secret_key", "session_token"),
        ("id",),
        acts=True,
        errors={
            404: "No such job",
            409: "The job is queued, running, waiting or done, or another job has the bucket (`job`)",
            503: "The queue is full, or another job is just being made: try again",
        },
    ),
    "/approve": Operation(
        "Carry out a plan",
        "Queues a `waiting` job under its id. It uploads what differs then, and deletes what its plan names"
        " and is gone still, and listed with the same ETag. If more would have to go, it deletes nothing and"
        " is `waiting` again, with a new plan.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", "etag", "access_key", "secret_key", "session_token"),
        ("id",),
        acts=True,
        errors={
            404: "No such job",
            409: "The job does not wait, or for another plan (`PlanChanged`), or another job has the bucket"
            " (`job`)",
            503: "The queue is full, or another job is just being made: try again",
        },
    ),
    "/plan": Operation(
        "What a job would do",
        "Lines of `jobs/ID.plan.jsonl`, in the order of their keys; `Link` has the address of the next page."
        " A page ends at its limit, at four megabytes, or after two seconds of searching, and may then be"
        " short.",
        {200: ("One JSON object a line", "application/x-ndjson")},
        ("id", "op", "q", "below", "after", "limit"),
        ("id",),
        conditional=True,
        errors={404: "No such job, or it has no plan"},
        overrides={"limit": _LINES},
    ),
    "/plan/sums": Operation(
        "A plan by folder",
        "What a plan would do below each folder, and its biggest lines. Of a large plan one answer has what"
        " was read in a second: while `complete` is false, ask again.",
        {200: ("The sums", "PlanSums")},
        ("id", "below"),
        ("id",),
        errors={404: "No such job, or it has no plan"},
    ),
    "/jobs": Operation(
        "The history",
        "All jobs, newest first, in pages. KEEP_JOBS finished ones are kept, and those that wait to be"
        " approved.",
        {200: ("A page", "JobPage")},
        ("state", "limit", "before", "dest", "source", "mirror", "since", "until", "q"),
        conditional=True,
        overrides={
            "dest": text("Only jobs into this bucket"),
            "source": text("Only jobs of this folder; empty: all folders"),
        },
    ),
    "/report": Operation(
        "What a job has done",
        "Lines of `jobs/ID.report.jsonl`, oldest first; `Link` has the address of the next page. A page ends"
        " at its limit, at four megabytes, or after two seconds of searching, and may then be short.",
        {200: ("One JSON object a line", "application/x-ndjson")},
        ("id", "op", "q", "errors", "after", "limit"),
        ("id",),
        errors={404: "No such job"},
        overrides={"limit": _LINES},
    ),
    "/log": Operation(
        "What a job's worker had to say",
        "The last 64 KiB of `jobs/ID.log`, from a line's start, control characters as escapes.",
        {200: ("The log", "text/plain; charset=utf-8")},
        ("id",),
        ("id",),
        errors={404: "No such job"},
    ),
    "/mirrors": Operation(
        "The named mirrors",
        "What `mirrors.toml` names: when each runs, how it went, whether it is overdue. Keys and addresses"
        " are not shown.",
        {200: ("The mirrors", "Mirrors")},
        conditional=True,
    ),
    "/healthz": Operation(
        "Whether the server answers",
        "Needs no token. With `storage=1` whether the storage does as well: one HEAD without keys, two"
        " seconds at most; what it found holds for ten seconds. With `mirror` whether that mirror has been"
        " successful within its `max_age`.",
        {200: ("It does, and all is well that was asked about", "Health")},
        ("storage", "mirror"),
        errors={
            404: "No such mirror",
            503: "The storage does not answer, or with a server error; the mirror is overdue",
        },
        overrides={"mirror": text("The name of a mirror", pattern="^[a-z0-9-]{0,40}$")},
    ),
    "/folders": Operation(
        "The folders that can be synced",
        "With their sizes. With `source`, whether that folder is empty; with `dest`, how many objects the"
        " bucket is remembered to hold; with `exclude` and `include`, what these leave of it. No store is"
        " asked, and nothing takes longer than three seconds.",
        {200: ("The folders", "Folders")},
        ("source", "dest", "storage_url", "exclude", "include"),
        conditional=True,
    ),
    "/metrics": Operation(
        "Numbers for Prometheus",
        "The text format. Counters outlive workers, removed jobs and restarts of the server.",
        {200: ("The numbers", "text/plain; version=0.0.4; charset=utf-8")},
    ),
    "/openapi.json": Operation(
        "This document", "OpenAPI 3.1.", {200: ("The document", "object")}, conditional=True
    ),
    "/": Operation(
        "The dashboard",
        "A page for people: jobs as they run, and a form that starts them. Without the token, a browser is"
        " asked for it here.",
        {200: ("The page", "text/html; charset=utf-8")},
        conditional=True,
    ),
}

LOGIN = (
    "`/login?token=TOKEN`, the link that the server prints when it starts, or a POST of a form with `token`:"
    " 303 to `/` with the cookie; 401 when it is not the token."
)

OPERATIONS |= {
    path: Operation(
        "A file of the dashboard", "", {200: ("The file", page.headers["Content-Type"])}, conditional=True
    )
    for path, page in dashboard.PAGES.items()
    if path != "/"
}

SHARED_ERRORS = {
    400: "A parameter is missing, unknown, given twice or has a bad value (`param` names it), or the request"
    " is no valid HTTP",
    403: "`Host` is not one of ours, or a page of another site asks",
    413: f"The body is longer than {BODY_MAX_BYTES} bytes",
    415: "The body is neither a form nor JSON, or not UTF-8",
    431: "The headers, the address included, are longer than 16384 bytes",
    500: "The folder of job files cannot be used, or a bug: the server's log says what",
}
_BODY_ERRORS = (413, 415)
_STARTS = ("/sync", "/resume")  # `Location` is where the job's status is
_HEADERS: dict[str, Schema] = {
    "ETag": {"description": "Give it as `If-None-Match`", "required": True, "schema": {"type": "string"}},
    "Location": {
        "description": "Where the job's status is",
        "required": True,
        "schema": {"type": "string", "pattern": r"^/get\?id="},
    },
    "Retry-After": {"description": "Seconds to wait", "required": True, "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to log in", "required": True, "schema": {"type": "string"}},
}


def document(*, token_needed: bool = False, base_path: str = "/") -> dict[str, Any]:
    """The whole document. `token_needed`: whether this server asks for one; `base_path`: API_BASE_PATH."""
    paths = {path: _path_item(path, operation, token_needed) for path, operation in OPERATIONS.items()}
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


def _path_item(path: str, operation: Operation, token_needed: bool) -> dict[str, Any]:
    methods = ("get", "post") if operation.acts else ("get", "head", "post")
    return {method: _method(path, method, operation, token_needed) for method in methods}


def _method(path: str, method: str, operation: Operation, token_needed: bool) -> dict[str, Any]:
    name = path.strip("/").replace(".", "_").replace("/", "_") or "dashboard"
    answers: dict[str, Any] = {}
    for status, (description, content) in operation.answers.items():
        answers[str(status)] = _answer(path, status, description, content, operation, method)
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
        answers["401"]["content"]["text/html; charset=utf-8"] = {"schema": {"type": "string"}}
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
        found["parameters"] = [
            _query(name, operation.schema(name), name in operation.required) for name in operation.parameters
        ]
    if operation.conditional:
        found.setdefault("parameters", []).append(_IF_NONE_MATCH)
    return found


_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier answer: 304 when it still holds",
    "schema": {"type": "string"},
}


def _query(name: str, described: Schema, required: bool) -> dict[str, Any]:
    schema = {key: item for key, item in described.items() if key != "description"}
    found: dict[str, Any] = {"name": name, "in": "query", "required": required}
    return found | {"description": described["description"], "schema": schema}


def _body(operation: Operation) -> dict[str, Any]:
    def schema(optional: Callable[[Schema], Schema]) -> Schema:
        return {
            "type": "object",
            "properties": {
                name: operation.schema(name)
                if name in operation.required
                else optional(operation.schema(name))
                for name in operation.parameters
            },
            "required": list(operation.required),
            "additionalProperties": False,
        }

    return {
        "required": bool(operation.required),
        "description": "The parameters; they may come in the query instead, each once.",
        "content": {
            "application/json": {"schema": schema(_or_null)},
            "application/x-www-form-urlencoded": {"schema": schema(lambda optional: optional)},
        },
    }


def _or_null(schema: Schema) -> Schema:
    """In JSON null is as good as not given."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schemas.nullable(schema)


def _answer(
    path: str, status: int, description: str, content: str, operation: Operation, method: str
) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    headers = ["ETag"] if operation.conditional else []
    if path in _STARTS:
        headers.append("Location")
        links = {"get": "Its status", "cancel": "Cancel it", "resume": "Resume it when it has ended"}
        answer["links"] = {
            name: {"operationId": name, "parameters": {"id": "$response.body#/id"}, "description": why}
            for name, why in links.items()
        }
    if headers:
        answer["headers"] = {name: _HEADERS[name] for name in headers}
    if method != "head":
        if "/" in content:
            answer["content"] = {content: {"schema": {"type": "string"}}}
        else:
            schema = ref(content) if content in schemas.ALL else {"type": content}
            answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _error(status: int, description: str, method: str) -> dict[str, Any]:
    headers = {503: "Retry-After", 401: "WWW-Authenticate"}
    answer: dict[str, Any] = {"description": description}
    if method != "head":
        answer["content"] = {"application/problem+json": {"schema": ref("Problem")}}
    if status in headers:
        answer["headers"] = {headers[status]: _HEADERS[headers[status]]}
    return answer


def _login(method: str) -> dict[str, Any]:
    answers: dict[str, Any] = {
        "303": {
            "description": "To the dashboard, with the cookie",
            "headers": {"Location": {"required": True, "schema": {"type": "string", "const": "/"}}},
        }
    }
    errors = {s: SHARED_ERRORS[s] for s in (403, 413, 431) if method == "post" or s != 413} | {
        401: "This is not the server's token"
    }
    answers |= {str(status): _error(status, why, "get") for status, why in sorted(errors.items())}
    answers["401"]["content"]["text/html; charset=utf-8"] = {"schema": {"type": "string"}}
    token = {"type": "string", "description": "The value of API_TOKEN"}
    found: dict[str, Any] = {
        "operationId": "login" if method == "get" else "login_post",
        "summary": "Trade the token for the dashboard's cookie",
        "description": LOGIN,
        "security": [],
        "responses": answers,
    }
    if method == "get":
        found["parameters"] = [{"name": "token", "in": "query", "required": True, "schema": token}]
        return found
    form = {"type": "object", "properties": {"token": token}, "required": ["token"]}
    found["requestBody"] = {
        "required": True,
        "content": {"application/x-www-form-urlencoded": {"schema": form}},
    }
    return found
