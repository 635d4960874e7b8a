"""The API's answers as JSON Schema. Fields are only ever added; a job's status is in `status_schema`."""

from __future__ import annotations

from syncworker.web import status_schema
from syncworker.web.schema_types import (
    ID_PATTERN,
    Schema,
    anything,
    flag,
    integer,
    nullable,
    record,
    ref,
    rows,
    text,
    time,
)
from syncworker.web.status_schema import JOB_ID

_SUMS = {
    "deletes": integer("Objects to delete"),
    "delete_bytes": integer("Their bytes"),
    "uploads": integer("Files to send"),
    "updates": integer("Objects to get other headers"),
}
_PLAN_LINES = rows("Lines of the plan", {"type": "object"})

_SPACE = nullable(text("The disk of the embedded storage; null: there is none", enum=["ok", "low", "full"]))
_SIZE = {
    "files": integer("Files counted"),
    "bytes": integer("Their bytes"),
    "complete": flag("Everything was counted; else there may be more"),
}

ALL: dict[str, Schema] = {
    **status_schema.ALL,
    "JobList": record(
        "Jobs.", {"count": integer("How many follow"), "jobs": rows("The jobs", ref("Status"))}
    ),
    "JobPage": record(
        "A page of the history.",
        {
            "count": integer("How many follow"),
            "jobs": rows("The jobs, newest first", ref("Status")),
            "next": nullable(
                text("Give it as `before` for the next page; null on the last", pattern=ID_PATTERN)
            ),
        },
    ),
    "Folders": record(
        "The folders below the uploads root. Sizes may be some seconds old.",
        {
            "folders": rows("At most 500, by name", ref("Folder")),
            "complete": flag("All folders are listed, with their whole sizes"),
            "walking": flag("Sizes are being counted: ask again"),
            "chosen": ref("Chosen"),
            "filtered": ref("Filtered"),
            "bucket": ref("KnownBucket"),
            "bucket_delete": text("BUCKET_DELETE; `refuse`: an empty folder fails", enum=["allow", "refuse"]),
            "storage_space": _SPACE,
        },
    ),
    "Folder": record(
        "A folder right below the uploads root.",
        {"source": text("Its name: what `/sync` takes as `source`"), **_SIZE},
    ),
    "Chosen": nullable(
        record(
            "The folder asked about; null when none was.",
            {
                "source": text("The folder"),
                "exists": flag("It is there, and is a folder"),
                "empty": nullable(flag("No file at any depth: a sync deletes the bucket. Null: unknown")),
                **_SIZE,
            },
        )
    ),
    "KnownBucket": nullable(
        record(
            "The bucket asked about; null when none was.",
            {
                "dest": text("The bucket"),
                "objects_known": nullable(integer("Objects after the last sync; null: not known")),
                "more": flag("There are more than `objects_known`"),
            },
        )
    ),
    "Filtered": nullable(
        record(
            "What `exclude` and `include` leave of the source; null: none were given, or another such count"
            " runs.",
            {
                "files": integer("Files that a sync would compare"),
                "bytes": integer("Their sizes"),
                "complete": flag("The folder was read to its end in time"),
            },
        )
    ),
    "Mirrors": record(
        "The named mirrors.",
        {
            "count": integer("How many follow"),
            "mirrors": rows("The mirrors, in the file's order", ref("Mirror")),
            "error": nullable(text("The first mistake in `mirrors.toml`; the last good file holds")),
            "mistakes": rows(
                "All mistakes in it",
                record(
                    "A mistake.",
                    {"line": nullable(integer("Its line, from 1")), "message": text("What is wrong with it")},
                ),
            ),
        },
    ),
    "Mirror": record(
        "A named mirror of `mirrors.toml`, and its runs.",
        {
            "name": text("Its name"),
            "source": text("The folder below the uploads root"),
            "dest": text("The bucket"),
            "storage_url": text("The S3 endpoint"),
            "options": anything("The options of its runs, as given"),
            "schedule": text("When it runs, in words"),
            "next_run_at": nullable(
                time("When it runs next by its schedule; null: it has none, or it waits")
            ),
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
    ),
    "MirrorRun": record(
        "A run of a mirror that has ended.",
        {
            "id": JOB_ID,
            "state": text("How it ended"),
            "attempt": nullable(integer("Which attempt that was")),
            "scoped": flag("It mirrored changed folders only"),
            "started_at": nullable(time("When it began")),
            "finished_at": nullable(time("When it ended")),
            "files_total": nullable(integer("Files it compared; null: not recorded then")),
            "bytes_total": nullable(integer("Their bytes")),
            "files_uploaded": nullable(integer("Files sent")),
            "bytes_uploaded": nullable(integer("Bytes sent")),
            "objects_deleted": nullable(integer("Objects deleted")),
            "error": nullable(text("The code of its error")),
        },
    ),
    "PlanSums": record(
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
    ),
    "Health": record(
        "That the server answers; with `mirror` there is only `status`.",
        {
            "status": text("`ok`", const="ok"),
            "service": text("The service's name"),
            "version": text("Its version"),
            "jobs": record(
                "How many jobs.", {"queued": integer("Jobs that wait"), "running": integer("Jobs that run")}
            ),
            "storage": text(
                "The embedded storage: `up`, `starting` or `down`; `external` when there is none"
            ),
            "storage_space": _SPACE,
        },
        "service",
        "version",
        "jobs",
        "storage",
        "storage_space",
    ),
    "Problem": record(
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
    ),
}
