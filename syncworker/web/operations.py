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


_TIMES = "a time with its zone, a date (UTC), or the beginning of an id"
REPORTED = ("upload", "update", "delete", "create_bucket", "delete_bucket", "verify", "skip")
PARAMETERS: dict[str, Schema] = {
    "source": text(
        "The folder below the uploads root; by default, or empty, all of it. It need not exist: if it is"
        " missing or has no file, the bucket is deleted. No absolute path, no `..`, no NUL, no link that"
        " leads out.",
        default="",
        pattern=r"^(?!/)(?![\s\S]*(?:^|/)\.\.(?:/|$))[^\u0000]*$",
        maxLength=4000,
        examples=["photos"],
    ),
    "dest": text(
        "The bucket: 3 to 63 lower-case letters, digits, dots and hyphens; created if it is missing. Names"
        " that only old buckets have (capitals, underscores) are accepted, but never created.",
        default=DEST_DEFAULT,
        pattern=r"^(?!.*\.\.)(?![0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$)[A-Za-z0-9._\-]{3,255}$|^$",
        examples=["mybucket"],
    ),
    "storage_url": text(
        "Another S3 endpoint than the configured one; then the keys must be given too. Link-local addresses"
        " are refused, and URLs that ALLOWED_STORAGE_URLS does not allow."
    ),
    "access_key": text("The access key for this job alone", pattern=r"^[!-+\--.0-~]*$", maxLength=1024),
    "secret_key": text(
        "Its secret key. Send it by POST: addresses are remembered", pattern="^[!-~]*$", maxLength=1024
    ),
    "session_token": text(
        "The session token of temporary keys, given with both of them", pattern="^[!-~]*$", maxLength=8192
    ),
    **{option.name: dict(option.schema) for option in table.TABLE},
    "id": text("The id of a job", pattern=ID_PATTERN, examples=["20261122T131242-9f3a61c2"]),
    "etag": text("Only this plan: the `ETag` of `/plan`, or `etag` of the status's `plan`"),
    "now": table.flag_schema("1: writes are aborted, too; a resume checks whether the storage has them"),
    "storage": table.flag_schema("1: also check whether the storage answers"),
    "state": _or_empty(text("Only jobs in this state", enum=[state.value for state in State])),
    "limit": table.either(
        "How many at most; 50 when not given or empty",
        {"type": "integer", "minimum": 1, "maximum": 500},
        "0{0,3}[1-9][0-9]?|0{0,3}[1-4][0-9][0-9]|0{0,3}500",
    ),
    "before": _or_empty(text("Only jobs older than this one: `next` of the page before", pattern=ID_PATTERN)),
    "mirror": text("Only jobs of this named mirror"),
    "since": text(f"Not older than: {_TIMES}", examples=["2026-11-22"]),
    "until": text(f"Not newer than: {_TIMES}; a date means its end", examples=["2026-11-22T13:00:00Z"]),
    "q": text(
        "Only what contains this text, in any case: jobs by id, folder, bucket or error code, lines by key or"
        " error",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "op": _or_empty(text("Only lines of this operation", enum=[*REPORTED])),
    "below": text(
        "Only keys with this prefix, for example `2024/`; `after` counts from the first of them",
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
    ),
    "errors": table.flag_schema("1: only lines of what failed or was found wrong"),
    "after": table.either(
        "How many lines have been read already",
        {"type": "integer", "minimum": 0, "maximum": 9_999_999_999},
        "[0-9]{1,10}",
        default=0,
    ),
}

_LINES = table.either(
    "How many lines at most; 1,000 when not given or empty",
    {"type": "integer", "minimum": 1, "maximum": 10_000},
    "0{0,5}[1-9][0-9]{0,3}|0{0,5}10000",
)
OPERATIONS: dict[str, Operation] = {
    "/sync": Operation(
        "Start a sync",
        "Starts a job that makes the bucket an exact mirror of the folder: new and changed files are"
        " uploaded, objects without a file are deleted, last and only when nothing failed. If the folder is"
        " missing or holds no file, the whole bucket is deleted. Every parameter has a default, which an"
        " empty value selects too; `warning` in the answer says what an empty `source` or `dest` meant, or"
        " that the folder does not exist.",
        {202: ("The job, queued", "Status")},
        ("source", "dest", "storage_url", *KEYS, *table.NAMES, "mirror"),
        acts=True,
        overrides={"mirror": text("A run of this named mirror, now; nothing else may be given beside it")},
        errors={
            409: "A job on this bucket is queued or running; `job` is its id",
            503: "MAX_QUEUED_JOBS jobs are waiting already, or another is just being created: try again",
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
        "No new operation starts. Writes in flight finish, for as long as a request may take; `delay` and"
        " the message say for what and how long. Reads in flight are dropped. May be repeated, with `now`"
        " as well. A queued or waiting job is `cancelled` at once.",
        {202: ("The job; `cancel_requested` is true", "Status")},
        acts=True,
        errors=_NOT_ENDED,
        parameters=("id", "now"),
    ),
    "/pause": Operation(
        "Pause a job",
        "Within a second no operation starts: no request to the storage, no reading of files. Operations in"
        " flight finish, connections close, the phase is `paused`. A queued job stays queued. A paused job"
        " keeps its bucket, but does not count towards MAX_RUNNING_JOBS. It stays paused through a resume"
        " and restarts, until `/continue`. A cancel still ends it. May be repeated.",
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
        "Of one job, or of all running jobs together if no `id` is given. It takes effect within a second,"
        " and stays. Without `bandwidth`, returns the limits in force. The same as writing the value into"
        " `jobs/ID.bandwidth` or `jobs/bandwidth`.",
        {200: ("The limits in force", "Limit")},
        acts=True,
        errors={**_NOT_ENDED, 503: "Another job is just being created: try again"},
        parameters=("id", "bandwidth"),
        overrides={
            "id": _or_empty(text("The id of a job; none: the limit for all jobs", pattern=ID_PATTERN))
        },
    ),
    "/resume": Operation(
        "Resume a job",
        "Queues a `failed`, `cancelled` or `interrupted` job again, under its id. Finished work is not"
        " repeated. Send the keys again if the job had its own and they were removed when it ended.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", *KEYS),
        acts=True,
        errors={
            **_NO_JOB,
            409: "The job is queued, running, waiting or done, or another job has the bucket (`job`)",
            503: _QUEUE,
        },
    ),
    "/approve": Operation(
        "Carry out a plan",
        "Queues a `waiting` job under its id. It uploads what differs at that time. It deletes an object"
        " only if its plan names it, its file is still missing, and it is listed with the same ETag. If"
        " more would have to be deleted, it deletes nothing and is `waiting` again, with a new plan.",
        {202: ("The job, queued, `attempt` one higher", "Status")},
        ("id", "etag", *KEYS),
        acts=True,
        errors={
            **_NO_JOB,
            409: "The job is not waiting, or has another plan now (`PlanChanged`), or another job has the"
            " bucket (`job`)",
            503: _QUEUE,
        },
    ),
    "/plan": Operation(
        "What a job would do",
        "Lines of `jobs/ID.plan.jsonl`, in the order of their keys; `Link` has the address of the next page."
        " A page ends at its limit, at four megabytes, or after two seconds of searching, and may then be"
        " short.",
        {200: ("One JSON object a line", "application/x-ndjson")},
        ("id", "op", "q", "below", "after", "limit"),
        conditional=True,
        errors={404: "No such job, or it has no plan"},
        overrides={"limit": _LINES},
    ),
    "/plan/sums": Operation(
        "A plan by folder",
        "What a plan would do below each folder, and its biggest lines. An answer covers what could be read"
        " in a second: while `complete` is false, ask again.",
        {200: ("The sums", "PlanSums")},
        ("id", "below"),
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
        errors=_NO_JOB,
        overrides={"limit": _LINES},
    ),
    "/log": Operation(
        "The log of a job's worker",
        "The last 64 KiB of `jobs/ID.log`, from a line's start, control characters as escapes.",
        {200: ("The log", "text/plain; charset=utf-8")},
        ("id",),
        errors=_NO_JOB,
    ),
    "/mirrors": Operation(
        "The named mirrors",
        "The mirrors in `mirrors.toml`: when each runs, its last results, whether it is overdue. Keys and"
        " addresses are not shown.",
        {200: ("The mirrors", "Mirrors")},
        conditional=True,
    ),
    "/healthz": Operation(
        "Whether the server answers",
        "Needs no token. With `storage=1`, whether the storage answers as well: one HEAD without keys, two"
        " seconds at most, cached for ten seconds. With `mirror`, whether that mirror had a success within"
        " its `max_age`.",
        {200: ("It answers, and everything that was asked about is well", "Health")},
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
        " bucket had after the last sync; with `exclude` and `include`, what these leave of the folder. No"
        " request goes to a store, and an answer takes three seconds at most.",
        {200: ("The folders", "Folders")},
        ("source", "dest", "storage_url", "exclude", "include"),
        conditional=True,
    ),
    "/metrics": Operation(
        "Metrics for Prometheus",
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
    **{
        path: Operation(
            "A file of the dashboard", "", {200: ("The file", page.headers["Content-Type"])}, conditional=True
        )
        for path, page in dashboard.PAGES.items()
        if path != "/"
    },
}
ACTING_PATHS = frozenset(path for path, operation in OPERATIONS.items() if operation.acts)
