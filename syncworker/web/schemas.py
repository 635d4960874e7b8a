"""The shapes of the API's answers as JSON Schema (2020-12, as OpenAPI 3.1 uses it): every field, its type,
its unit, and null where a value may be unknown.

Fields are only ever added. The schemas name every field there is and close no object, so that an older
client's copy stays true; that no answer has a field which is missing here is a test's to see.
"""

from __future__ import annotations

from typing import Any

from syncworker.model import Phase, State

Schema = dict[str, Any]

ID_PATTERN = "^[0-9]{8}T[0-9]{6}-[0-9a-f]{8}$"


def text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def integer(description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description, **more}


def number(description: str, **more: Any) -> Schema:
    return {"type": "number", "minimum": 0, "description": description, **more}


def flag(description: str) -> Schema:
    return {"type": "boolean", "description": description}


def nullable(schema: Schema) -> Schema:
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, **values, "type": [schema["type"], "null"]}


def time(description: str) -> Schema:
    return text(f"{description}; UTC, RFC 3339 with milliseconds", format="date-time")


def record(description: str, properties: dict[str, Schema], *optional: str) -> Schema:
    """An object that has all of these, `optional` ones only at times."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "description": description, "properties": properties, "required": required}


def rows(description: str, schema: Schema, **more: Any) -> Schema:
    return {"type": "array", "description": description, "items": schema, **more}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


JOB_ID = text("The job's id; ids sort by time", pattern=ID_PATTERN, examples=["20261122T131242-9f3a61c2"])
STATES = text(
    "`queued`, `running`, then one of the final ones: `done` (the bucket equals the folder), `failed`,"
    " `cancelled`, `interrupted` (the worker ended before its work did), which can be resumed, or `waiting`"
    " (nothing was deleted, and a plan waits to be approved).",
    enum=[state.value for state in State],
)
PHASES = {
    "type": ["string", "null"],
    "description": "What a running job does; null otherwise",
    "enum": [*(phase.value for phase in Phase), None],
}

PROGRESS = record(
    "Counters of the current attempt; they only grow within it.",
    {
        "scan_complete": flag("The folder has been read to its end: the totals are final"),
        "files_total": integer("Files found so far"),
        "files_done": integer("Files finished with, in whichever way"),
        "bytes_total": integer("Bytes of the files found so far"),
        "bytes_done": integer("Bytes finished with, those in flight included"),
        "files_unchanged": integer("Files the bucket had already"),
        "files_uploaded": integer("Files sent"),
        "objects_deleted": integer("Objects deleted, because no file is there for them"),
        "files_failed": integer("Files that could not be sent"),
        "files_skipped": integer("Files that are not to be sent: vanished, sockets, links that lead out"),
        "bytes_uploaded": integer("Bytes sent and taken by the store"),
        "bytes_resumed": integer("Bytes of parts that an earlier attempt had sent"),
        "files_updated": integer("Objects whose headers, tags or class were changed, and not their bytes"),
        "objects_kept": integer(
            "Objects to be deleted that stay: their file came back, or the storage keeps them"
        ),
        "files_changing": integer("Files sent as they were when opened: they are written to all the time"),
        "files_to_upload": integer("Of a plan: files that it would send"),
        "bytes_to_upload": integer("Of a plan: their bytes"),
        "files_to_update": integer("Of a plan: objects whose headers it would change"),
        "objects_to_delete": integer("Of a plan: objects that it would delete"),
        "objects_verified": integer("With `verify`: objects that were found to be their files'"),
        "bytes_verified": integer("With `verify`: the bytes of these"),
        "objects_unverified": integer("With `verify=deep`: archived objects, which were not read back"),
        "throttled_seconds": number("Seconds in which the storage asked to slow down"),
        "bytes_per_second": number("Speed over the last seconds"),
        "eta_seconds": nullable(number("Seconds left at this speed; null while unknown")),
        "elapsed_seconds": number("Seconds since the attempt began"),
    },
)
OPERATION = record(
    "An operation in flight.",
    {
        "op": text("`upload`, `delete`, …"),
        "key": text("The object's key"),
        "size": integer("Bytes of the whole"),
        "bytes_done": integer("Bytes sent so far"),
    },
)
FILE_ERROR = record(
    "What went wrong with one file or object.",
    {
        "time": time("When"),
        "op": text("The operation that failed"),
        "key": text("The object's key"),
        "code": text("A short word for programs: an S3 error code or one of the service's"),
        "message": text("A sentence for people"),
    },
)
ERROR = {
    **record(
        "Why the job is not `done`; null when there is nothing to say.",
        {"code": text("A short word for programs"), "message": text("A sentence for people")},
    ),
    "type": ["object", "null"],
}
DELAY = {
    **record(
        "What a running job waits for while it does not get on; null while it does.",
        {
            "reason": text(
                "`writes_in_flight`: the job is to stop, and what writes is waited for; `storage_down`: no"
                " request succeeds; `storage_silent`: no byte moves; `slow_down`: the storage asks for fewer"
                " requests; `paused`: somebody has paused the job"
            ),
            "since": time("Since when"),
            "until": nullable(time("How long at most; null: as long as a request may take")),
        },
    ),
    "type": ["object", "null"],
}
LIMIT = {
    **record(
        "The limits that hold now.",
        {
            "bandwidth": nullable(integer("Bytes a second of this job; null: no limit of its own")),
            "all_jobs": nullable(integer("Bytes a second of all running jobs together; null: no limit")),
        },
    ),
    "type": ["object", "null"],
}
RESOURCES = record(
    "What the worker of this attempt costs, as it measured at `updated_at`; null before it has.",
    {
        "rss_bytes": nullable(integer("Resident memory")),
        "cpu_seconds": nullable(number("Processor time, user and system")),
    },
)


def _counts(description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": {"type": "number", "minimum": 0},
    }


METRICS = record(
    "What the job has done over all its attempts; these only grow. `/metrics` has their sums over all jobs.",
    {
        "counts": _counts(
            "Files, objects and bytes by what became of them, attempts, retries, `cpu_seconds`"
        ),
        "errors": _counts("Errors by code"),
        "phase_seconds": _counts("Seconds by phase"),
        "requests": _counts("Requests to the store by operation and HTTP status: `PutObject 200`"),
    },
)
TIMELINE = record(
    "How this attempt went on: its phases, and what it sent or read over the whole run.",
    {
        "phases": rows(
            "When each phase began, oldest first; of more than forty the first and the last ones",
            record("A phase.", {"phase": text("Its name"), "at": time("When it began")}),
        ),
        "speed": record(
            "The bytes of each step since the attempt began; sixty steps at most, then they are longer.",
            {
                "step_seconds": integer("How long a step is", minimum=1),
                "bytes": rows("What went over the network", integer("Bytes")),
            },
        ),
    },
)
STATUS = record(
    "A job, as its file `jobs/ID.json` holds it.",
    {
        "version": integer("Version of this shape", const=1),
        "id": JOB_ID,
        "state": STATES,
        "phase": PHASES,
        "source": text("The folder below the uploads root; empty: all of it"),
        "dest": text("The bucket"),
        "storage_url": text("The S3 endpoint"),
        "wait": number("Seconds between two operations; 0: full parallel speed", maximum=3600),
        "skipped": _counts("Files that are not mirrored, by reason"),
        "options": {
            "type": "object",
            "description": "What else was asked for, as it was asked; what was not is left out",
        },
        "mirror": nullable(text("The named mirror that the job belongs to; null for none")),
        "scope": {
            "type": ["array", "null"],
            "description": "The folders that the job looks at; null: all of them",
            "items": {"type": "string"},
        },
        "plan": {
            **record(
                "The plan that waits or was approved (`/plan`); null: none.",
                {
                    "etag": text("SHA-256 of the file"),
                    "lines": integer("How many lines it has"),
                    "approved_at": nullable(time("When somebody approved it")),
                },
            ),
            "type": ["object", "null"],
        },
        "cluster": {
            "type": ["object", "null"],
            "description": "The machines that work on it; null: this one",
        },
        "pid": nullable(integer("The worker's process id")),
        "pid_started_at": nullable(number("When that process started, seconds since the epoch")),
        "host": text("The machine"),
        "attempt": integer("1, and one more for each resume", minimum=1),
        "auto_resume": flag("The server may start it again by itself"),
        "created_at": time("When the job was asked for"),
        "started_at": nullable(time("When this attempt began")),
        "updated_at": time("When this was written"),
        "finished_at": nullable(time("When it ended")),
        "cancel_requested": flag("A cancel has been asked for"),
        "pause_requested": flag("The job is paused, or about to be; a queued one is not started"),
        "progress": ref("Progress"),
        "current": rows("Operations in flight, the first twenty", ref("Operation")),
        "delay": ref("Delay"),
        "limit": ref("Limit"),
        "errors": rows("The first hundred errors; the report file has all", ref("FileError")),
        "error": ref("Error"),
        "resources": ref("Resources"),
        "timeline": ref("Timeline"),
        "metrics": ref("Metrics"),
        "notified_at": nullable(time("When people were told of how this attempt of a mirror's job ended")),
        "message": text("What happens or happened, for people"),
        "warning": text(
            "Only in an answer: the request may not mean what it says, or its address held a secret key"
        ),
    },
    "warning",
    "timeline",
)
JOB_LIST = record("Jobs.", {"count": integer("How many follow"), "jobs": rows("The jobs", ref("Status"))})
JOB_PAGE = record(
    "A page of the history.",
    {
        "count": integer("How many follow"),
        "jobs": rows("The jobs, newest first", ref("Status")),
        "next": nullable(text("Give it as `before` for the next page; null on the last", pattern=ID_PATTERN)),
    },
)
_SUMS = {
    "deletes": integer("Objects to delete"),
    "delete_bytes": integer("Their bytes"),
    "uploads": integer("Files to send"),
    "updates": integer("Objects to be given other headers"),
}
_PLAN_LINES = rows("Lines of the plan", {"type": "object"})
PLAN_SUMS = record(
    "A plan by folder.",
    {
        "complete": flag("All lines below the folder have been read"),
        "lines": integer("How many have been read"),
        "folders_total": integer("How many folders they are in"),
        "folders": rows(
            "The 200 of which most is deleted, then most is sent",
            record("A folder.", {"folder": text("What its keys begin with"), **_SUMS}),
        ),
        "files": nullable(record("What lies in no folder; null: nothing", _SUMS)),
        "biggest": record(
            "The 100 of each operation whose objects are biggest",
            {"delete": _PLAN_LINES, "upload": _PLAN_LINES, "update": _PLAN_LINES},
        ),
    },
)
MIRROR_RUN = record(
    "A run of a mirror that has ended.",
    {
        "id": JOB_ID,
        "state": text("How it ended"),
        "attempt": nullable(integer("Which attempt that was")),
        "scoped": flag("It looked at changed folders only"),
        "started_at": nullable(time("When it began")),
        "finished_at": nullable(time("When it ended")),
        "files_total": nullable(integer("Files it looked at; null: not remembered then")),
        "bytes_total": nullable(integer("Their bytes")),
        "files_uploaded": nullable(integer("Files sent")),
        "bytes_uploaded": nullable(integer("Bytes sent")),
        "objects_deleted": nullable(integer("Objects deleted")),
        "error": nullable(text("The code of why it ended so")),
    },
)
MIRROR = record(
    "A named mirror, as `mirrors.toml` has it, and how it goes.",
    {
        "name": text("Its name"),
        "source": text("The folder below the uploads root"),
        "dest": text("The bucket"),
        "storage_url": text("The S3 endpoint"),
        "options": {"type": "object", "description": "The options of its runs, as they were asked"},
        "schedule": text("When it runs, in words"),
        "next_run_at": nullable(time("When it runs next by itself; null: not by itself, or it waits")),
        "last_job": nullable(text("The id of its newest job", pattern=ID_PATTERN)),
        "last_state": nullable(text("The state of that job")),
        "waiting_job": nullable(text("The id of its job that waits to be approved", pattern=ID_PATTERN)),
        "last_success_at": nullable(time("When its newest whole run ended `done`")),
        "overdue": flag("Longer than `max_age` without a success"),
        "watching": flag("Changes in its folder are seen and sent"),
        "runs_skipped": integer("Runs that were due while the destination was busy"),
        "runs_missed": integer("Times of its schedule at which no server ran; one run makes up for them"),
        "last_missed_at": nullable(time("The newest of these times")),
        "runs": rows("The last 30 runs, oldest first", ref("MirrorRun")),
        "error": nullable(text("What is wrong with it, in words")),
    },
)
MIRRORS = record(
    "The named mirrors.",
    {
        "count": integer("How many follow"),
        "mirrors": rows("The mirrors, as the file has them", ref("Mirror")),
        "error": nullable(text("The first mistake in `mirrors.toml`; the last good file holds")),
        "mistakes": rows(
            "All mistakes in it",
            record(
                "A mistake.",
                {"line": nullable(integer("Its line, from 1")), "message": text("What is wrong with it")},
            ),
        ),
    },
)
HEALTH = record(
    "That the server answers; with `mirror` there is only `status`.",
    {
        "status": text("`ok`", const="ok"),
        "service": text("The service's name"),
        "version": text("Its version"),
        "jobs": record(
            "How many jobs.", {"queued": integer("Jobs that wait"), "running": integer("Jobs that run")}
        ),
        "storage": text("The embedded storage: `up`, `starting` or `down`; `external` when there is none"),
        "storage_space": nullable(
            text("The disk of the embedded storage; null: there is none", enum=["ok", "low", "full"])
        ),
    },
    "service",
    "version",
    "jobs",
    "storage",
    "storage_space",
)
PROBLEM = record(
    "An error, RFC 9457.",
    {
        "type": text("Always `about:blank`: the status says what kind it is"),
        "title": text("The status in words"),
        "status": integer("The HTTP status", minimum=400, maximum=599),
        "detail": text("What is wrong and what to do, for people"),
        "code": text("A short word for programs"),
        "param": text("The parameter at fault, when one is"),
        "job": text("The job in the way (409)", pattern=ID_PATTERN),
    },
    "param",
    "job",
)

_SIZE = {
    "files": integer("Files counted"),
    "bytes": integer("Their bytes"),
    "complete": flag("All was counted; else there may be more"),
}
FOLDER = record(
    "A folder right below the uploads root.",
    {"source": text("Its name: what `/sync` takes as `source`"), **_SIZE},
)
CHOSEN = {
    **record(
        "The folder asked about; null when none was.",
        {
            "source": text("The folder"),
            "exists": flag("It is there, and is a folder"),
            "empty": {
                "type": ["boolean", "null"],
                "description": "No file at any depth: a sync deletes the bucket. Null: unknown",
            },
            **_SIZE,
        },
    ),
    "type": ["object", "null"],
}
FILTERED = {
    **record(
        "What `exclude` and `include` leave of the source; null when none were given, or another such look is"
        " under way.",
        {
            "files": integer("Files that a sync would look at"),
            "bytes": integer("Their sizes"),
            "complete": flag("The folder was read to its end in time"),
        },
    ),
    "type": ["object", "null"],
}
KNOWN_BUCKET = {
    **record(
        "The bucket asked about; null when none was.",
        {
            "dest": text("The bucket"),
            "objects_known": nullable(integer("Objects after the last sync; null when none is remembered")),
            "more": flag("There are more than `objects_known`"),
        },
    ),
    "type": ["object", "null"],
}
FOLDERS = record(
    "The folders below the uploads root. Sizes may be some seconds old.",
    {
        "folders": rows("At most 500, by name", ref("Folder")),
        "complete": flag("All folders are listed, with their whole sizes"),
        "walking": flag("Sizes are being counted: ask again"),
        "chosen": ref("Chosen"),
        "filtered": ref("Filtered"),
        "bucket": ref("KnownBucket"),
        "bucket_delete": text("BUCKET_DELETE; `refuse`: an empty folder fails", enum=["allow", "refuse"]),
        "storage_space": nullable(
            text("The disk of the embedded storage; null: there is none", enum=["ok", "low", "full"])
        ),
    },
)

ALL: dict[str, Schema] = {
    "Status": STATUS,
    "Progress": PROGRESS,
    "Operation": OPERATION,
    "Delay": DELAY,
    "Limit": LIMIT,
    "FileError": FILE_ERROR,
    "Error": ERROR,
    "Resources": RESOURCES,
    "Timeline": TIMELINE,
    "Metrics": METRICS,
    "JobList": JOB_LIST,
    "JobPage": JOB_PAGE,
    "Folders": FOLDERS,
    "Folder": FOLDER,
    "Chosen": CHOSEN,
    "KnownBucket": KNOWN_BUCKET,
    "Filtered": FILTERED,
    "Mirrors": MIRRORS,
    "Mirror": MIRROR,
    "MirrorRun": MIRROR_RUN,
    "PlanSums": PLAN_SUMS,
    "Health": HEALTH,
    "Problem": PROBLEM,
}
