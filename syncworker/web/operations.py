"""The table of routes: purpose, parameters, answers. The server's routes, the OpenAPI document and
`docs/api.md` are made from it. `app` has the handlers."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncworker.model import State
from syncworker.options import table
from syncworker.request import DEST_DEFAULT, RequestKeys
from syncworker.web import dashboard
from syncworker.web.schema_types import ID_PATTERN, Schema, text

KEYS = RequestKeys._fields
_NO_JOB = {404: "No such job"}
_NOT_ENDED = {**_NO_JOB, 409: "The job has ended"}
_QUEUE = "The queue is full, or another job is just being created: try again"


@dataclass(frozen=True, slots=True)
class Operation:
    """`answers`: status -> (description, schema name or content type). `acts`: HEAD is refused, because
    browsers and link checkers send it unasked. `overrides`: parameters that mean something else here."""

    summary: str
    description: str
    answers: dict[int, tuple[str, str]]
    parameters: tuple[str, ...] = ()
    acts: bool = False
    conditional: bool = False  # answers have an ETag, and If-None-Match is obeyed
    errors: dict[int, str] = field(default_factory=dict)
    overrides: dict[str, Schema] = field(default_factory=dict)

    @property
    def required(self) -> tuple[str, ...]:
        """A route that has an id needs it, unless it means something else there."""
        return ("id",) if "id" in self.parameters and "id" not in self.overrides else ()

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "POST") if self.acts else ("GET", "HEAD", "POST")

    def schema(self, name: str) -> Schema:
        return self.overrides.get(name) or PARAMETERS[name]


def _or_empty(schema: Schema) -> Schema:
    """A value, or the empty text, which counts as not given."""
    bare = {name: item for name, item in schema.items() if name != "description"}
    return {"description": schema["description"], "anyOf": [bare, {"const": ""}]}


_TIMES = "a time with its time zone, a date (UTC), or the beginning of an id"
REPORTED = ("upload", "update", "delete", "create_bucket", "delete_bucket", "verify", "skip")
PARAMETERS: dict[str, Schema] = {
    "source": text(
        "The folder below the uploads root; if empty or not given, the whole uploads root. It"
        " need not exist: if it is missing or has no file, the bucket is deleted. Not allowed"
        " are an absolute path, `..`, NUL, and a symlink that leads out of the uploads root.",
        default="",
        pattern=r"^(?!/)(?![\s\S]*(?:^|/)\.\.(?:/|$))[^\u0000]*$",
        maxLength=4000,
        examples=["photos"],
    ),
    "dest": text(
        "The bucket: 3 to 63 lower-case letters, digits, dots and hyphens. It is created if it"
        " is missing. Names that only old buckets have (with capitals or underscores) are"
        " accepted, but such a bucket is never created.",
        default=DEST_DEFAULT,
        pattern=r"^(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[A-Za-z0-9._\-]{3,255}$|^$",
        examples=["mybucket"],
    ),
    "storage_url": text(
        "An S3 endpoint other than the configured one; the keys must then be given too."
        " Link-local addresses are refused, and so are URLs that ALLOWED_STORAGE_URLS does not"
        " allow."
    ),
    "access_key": text("An access key, used only for this job", pattern=r"^[!-+\--.0-~]*$", maxLength=1024),
    "secret_key": text(
        "The secret key of `access_key`. Send it by POST, because browsers and proxies store URLs",
        pattern="^[!-~]*$",
        maxLength=1024,
    ),
    "session_token": text(
        "The session token of temporary keys; both keys must be given with it",
        pattern="^[!-~]*$",
        maxLength=8192,
    ),
    **{option.name: dict(option.schema) for option in table.TABLE},
    "id": text("The id of a job", pattern=ID_PATTERN, examples=["20261122T131242-9f3a61c2"]),
    "etag": text(
        "Approve the plan only if it has this ETag: the `ETag` of `/plan`, or `etag` in the status's `plan`"
    ),
    "now": table.flag_schema(
        "1: writes in flight are aborted too; a resume checks whether the storage has them"
    ),
    "storage": table.flag_schema("1: also check whether the storage answers"),
    "state": _or_empty(text("Only jobs in this state", enum=[state.value for state in State])),
    "limit": table.either(
        "The maximum number of jobs; 50 if not given or empty",
        {"type": "integer", "minimum": 1, "maximum": 500},
        "0{0,3}[1-9][0-9]?|0{0,3}[1-4][0-9][0-9]|0{0,3}500",
    ),
    "before": _or_empty(
        text("Only jobs older than the one with this id: `next` of the page before", pattern=ID_PATTERN)
    ),
    "mirror": text("Only jobs of this named mirror"),
    "since": text(f"Only jobs that were requested then or later: {_TIMES}", examples=["2026-11-22"]),
    "until": text(
        f"Only jobs that were requested then or earlier: {_TIMES}; a date means the end of that day",
        examples=["2026-11-22T13:00:00Z"],
    ),
    "q": text(
        "Only jobs or lines that contain this text; capital and small letters count as equal."
        " Jobs are searched by id, folder, bucket and error code, lines by key and error",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "op": _or_empty(text("Only lines of this operation", enum=[*REPORTED])),
    "below": text(
        "Only keys that begin with this text, for example `2024/`; `after` then counts from the"
        " first such line",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "errors": table.flag_schema(
        "1: only lines of operations that failed, and of objects that were found wrong"
    ),
    "after": table.either(
        "How many lines to leave out, because they have been read already",
        {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
        "[0-9]{1,10}",
        default=0,
    ),
}

_LINES = table.either(
    "The maximum number of lines; 1,000 if not given or empty",
    {"type": "integer", "minimum": 1, "maximum": 10_000},
    "0{0,5}[1-9][0-9]{0,3}|0{0,5}10000",
)
OPERATIONS: dict[str, Operation] = {
    "/sync": Operation(
        "Start a sync",
        "Starts a job that makes the bucket an exact mirror of the folder: it uploads new and"
        " changed files, and then, only if nothing failed, deletes the objects that have no"
        " file. If the folder is missing or has no file, the whole bucket is deleted. Every"
        " parameter has a default, which also applies if the value is empty. `warning` in the"
        " answer explains what an empty `source` or `dest` means, or reports that the folder does"
        " not exist.",
        {202: ("The job, queued", "Status")},
        ("source", "dest", "storage_url", *KEYS, *table.NAMES, "mirror"),
        acts=True,
        overrides={
            "mirror": text("Start a run of this named mirror now; no other parameter may be given with it")
        },
        errors={
            409: "A job on this bucket is queued or running; `job` is its id",
            503: "MAX_QUEUED_JOBS jobs are already waiting, or another job is just being created: try again",
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
        errors=_NO_JOB,
        parameters=("id",),
    ),
    "/cancel": Operation(
        "Cancel a job",
        "The job starts no new operation. It waits for writes in flight, as long as their time"
        " limits allow; `delay` and `message` show which ones and how long. Reads in flight are"
        " aborted. The request may be repeated, also with `now`. A queued or waiting job is"
        " `cancelled` at once.",
        {202: ("The job; `cancel_requested` is true", "Status")},
        acts=True,
        errors=_NOT_ENDED,
        parameters=("id", "now"),
    ),
    "/pause": Operation(
        "Pause a job",
        "Within a second, the job stops starting operations: it sends no request to the storage"
        " and reads no file. Operations in flight finish, connections are closed, and the phase"
        " becomes `paused`. A queued job stays queued. No other job may use the bucket of a"
        " paused job, but the job does not count towards MAX_RUNNING_JOBS. It stays paused"
        " after a resume and after restarts, until `/continue`. A cancel still ends it. The"
        " request may be repeated.",
        {202: ("The job; `pause_requested` is true", "Status")},
        acts=True,
        errors=_NOT_ENDED,
        parameters=("id",),
    ),
    "/continue": Operation(
        "Continue a paused job",
        "The job continues within a second. A job that was not paused is not changed.",
        {202: ("The job", "Status")},
        acts=True,
        errors=_NOT_ENDED,
        parameters=("id",),
    ),
    "/limit": Operation(
        "Limit the bandwidth",
        "Sets the limit of one job, or, if no `id` is given, the limit for all running jobs"
        " together. It takes effect within a second and stays in force. Without `bandwidth`,"
        " nothing is changed, and the answer shows the present limits. Writing the value into"
        " `jobs/ID.bandwidth` or `jobs/bandwidth` has the same effect.",
        {200: ("The limits in force", "Limit")},
        acts=True,
        errors={**_NOT_ENDED, 503: "Another job is just being created: try again"},
        parameters=("id", "bandwidth"),
        overrides={
            "id": _or_empty(
                text(
                    "The id of a job; if empty or not given, the limit for all jobs is meant",
                    pattern=ID_PATTERN,
                )
            ),
            "bandwidth": {
                **PARAMETERS["bandwidth"],
                "description": "The new limit, in bytes per second: `500000`, `512K`, `1.5M`, `1G` (K is"
                " 1,024); 0: no limit. It counts the bodies that are sent and, with `verify=deep`, read",
            },
        },
    ),
    "/resume": Operation(
        "Resume a job",
        "Queues a `failed`, `cancelled` or `interrupted` job again, under the same id. Finished"
        " work is not repeated. If the job had keys of its own, and these were removed after it"
        " ended, give them again.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", *KEYS),
        acts=True,
        errors={
            **_NO_JOB,
            409: "The job is queued, running, waiting or done, or another job uses the bucket (`job`"
            " is its id)",
            503: _QUEUE,
        },
    ),
    "/approve": Operation(
        "Carry out a plan",
        "Queues a `waiting` job again, under the same id. The job uploads everything that"
        " differs when it runs. It deletes an object only if the plan names it, its file is"
        " still missing, and it is still listed with the same ETag. If other objects would have"
        " to be deleted too, or one of these has changed, it deletes nothing and is `waiting`"
        " again, with a new plan.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", "etag", *KEYS),
        acts=True,
        errors={
            **_NO_JOB,
            409: "The job is not waiting, or it now has another plan (`PlanChanged`), or another job"
            " uses the bucket (`job` is its id)",
            503: _QUEUE,
        },
    ),
    "/plan": Operation(
        "What a job would do",
        "The lines of `jobs/ID.plan.jsonl`, in the order of their keys; the `Link` header has"
        " the URL of the next page. A page ends after `limit` lines, after four megabytes, or"
        " after two seconds of searching, so it may have fewer lines than `limit`.",
        {200: ("One JSON object a line", "application/x-ndjson")},
        ("id", "op", "q", "below", "after", "limit"),
        conditional=True,
        errors={404: "No such job, or it has no plan"},
        overrides={"limit": _LINES},
    ),
    "/plan/sums": Operation(
        "A plan by folder",
        "What a plan would do below each folder, and its operations on the biggest objects."
        " Each request reads the plan for a second at most: while `complete` is false, repeat"
        " it.",
        {200: ("The sums", "PlanSums")},
        ("id", "below"),
        overrides={
            "below": {
                **PARAMETERS["below"],
                "description": "Only keys that begin with this text, for example `2024/`",
            }
        },
        errors={404: "No such job, or it has no plan"},
    ),
    "/jobs": Operation(
        "The history",
        "All jobs, newest first, in pages. The newest KEEP_JOBS finished jobs are kept, and all"
        " jobs that wait for approval.",
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
        "The lines of `jobs/ID.report.jsonl`, oldest first; the `Link` header has the URL of"
        " the next page. A page ends after `limit` lines, after four megabytes, or after two"
        " seconds of searching, so it may have fewer lines than `limit`.",
        {200: ("One JSON object a line", "application/x-ndjson")},
        ("id", "op", "q", "errors", "after", "limit"),
        errors=_NO_JOB,
        overrides={"limit": _LINES},
    ),
    "/log": Operation(
        "The log of a job's worker",
        "The last 64 KiB of `jobs/ID.log`, beginning with a whole line. Control characters are"
        " shown as escapes.",
        {200: ("The log", "text/plain; charset=utf-8")},
        ("id",),
        errors=_NO_JOB,
    ),
    "/mirrors": Operation(
        "The named mirrors",
        "The mirrors in `mirrors.toml`: when each runs, its last results, and whether it is"
        " overdue. Keys and the addresses for notifications are not shown.",
        {200: ("The mirrors", "Mirrors")},
        conditional=True,
    ),
    "/healthz": Operation(
        "Whether the server answers",
        "Needs no token. With `storage=1`, the server also checks whether the storage answers:"
        " it sends one HEAD without keys, and waits two seconds at most; the result is used for"
        " ten seconds. With `mirror`, it checks whether that mirror had a success within its"
        " `max_age`.",
        {200: ("The server answers, and everything that was asked about works", "Health")},
        ("storage", "mirror"),
        errors={
            404: "No such mirror",
            503: "The storage does not answer or answers with a server error, or the mirror is overdue",
        },
        overrides={"mirror": text("The name of a mirror", pattern="^[a-z0-9-]{0,40}$")},
    ),
    "/folders": Operation(
        "The folders that can be synced",
        "The folders below the uploads root, with their sizes. With `source`, the answer also"
        " shows whether that folder is empty; with `dest`, how many objects the bucket had"
        " after the last sync; with `exclude` and `include`, how many files these leave of the"
        " folder. No request is sent to a storage, and an answer takes four seconds at most.",
        {200: ("The folders", "Folders")},
        ("source", "dest", "storage_url", "exclude", "include"),
        conditional=True,
    ),
    "/metrics": Operation(
        "Metrics for Prometheus",
        "In the text format of Prometheus. The counters include ended workers and removed jobs,"
        " and survive a restart of the server.",
        {200: ("The numbers", "text/plain; version=0.0.4; charset=utf-8")},
    ),
    "/openapi.json": Operation(
        "This document", "OpenAPI 3.1.", {200: ("The document", "object")}, conditional=True
    ),
    "/": Operation(
        "The dashboard",
        "A page for people: it shows jobs while they run, and has a form that starts them. If a"
        " token is needed, the page asks for it.",
        {200: ("The page", "text/html; charset=utf-8")},
        conditional=True,
    ),
    **{
        path: Operation(
            "A file of the dashboard", "", {200: ("The file", page.headers["Content-Type"])}, conditional=True
        )
        for path, page in dashboard.PAGES.items()
        if path != "/"
    },
}
ACTING_PATHS = frozenset(path for path, operation in OPERATIONS.items() if operation.acts)
