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
    nullable_record,
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
    "updates": integer("Objects whose headers, tags or class are to be changed"),
}
_PLAN_LINES = rows("Lines of the plan", {"type": "object"})

_SPACE = nullable(
    text(
        "The free space on the disk of the embedded storage; null: there is no embedded"
        " storage, or its disk cannot be read",
        enum=["ok", "low", "full"],
    )
)
_SIZE = {
    "files": integer("Files counted"),
    "bytes": integer("Their bytes"),
    "complete": flag("Whether everything was counted; false: there may be more"),
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
                text("The value of `before` for the next page; null on the last page", pattern=ID_PATTERN)
            ),
        },
    ),
    "Folders": record(
        "The folders below the uploads root. Sizes may be some seconds old.",
        {
            "folders": rows("At most 500, sorted by name", ref("Folder")),
            "complete": flag("Whether all folders are listed and completely counted"),
            "walking": flag("Whether sizes are still being counted: then ask again"),
            "chosen": ref("Chosen"),
            "filtered": ref("Filtered"),
            "bucket": ref("KnownBucket"),
            "bucket_delete": text(
                "The setting BUCKET_DELETE; `refuse`: a sync of an empty folder fails",
                enum=["allow", "refuse"],
            ),
            "storage_space": _SPACE,
        },
    ),
    "Folder": record(
        "A folder directly in the uploads root.",
        {"source": text("Its name: the value of `source` for `/sync`"), **_SIZE},
    ),
    "Chosen": nullable_record(
        "The folder that `source` names; null if `source` was not given.",
        {
            "source": text("The folder"),
            "exists": flag("Whether it exists and is a folder"),
            "empty": nullable(
                flag("Whether it has no file at any depth, so that a sync deletes the bucket; null: unknown")
            ),
            **_SIZE,
        },
    ),
    "KnownBucket": nullable_record(
        "The bucket that `dest` names; null if `dest` was not given.",
        {
            "dest": text("The bucket"),
            "objects_known": nullable(
                integer("How many objects it had after the last sync; null: not known")
            ),
            "more": flag("Whether there are more than `objects_known`"),
        },
    ),
    "Filtered": nullable_record(
        "What `exclude` and `include` leave of the folder; null: neither was given, or"
        " another such count is running.",
        {
            "files": integer("Files that a sync would compare"),
            "bytes": integer("Their sizes"),
            "complete": flag("Whether the whole folder could be read in time"),
        },
    ),
    "Mirrors": record(
        "The named mirrors.",
        {
            "count": integer("How many follow"),
            "mirrors": rows("The mirrors, in the file's order", ref("Mirror")),
            "error": nullable(
                text(
                    "The first mistake in `mirrors.toml`; null: there is none. With a mistake, the last"
                    " version without mistakes stays in force"
                )
            ),
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
            "options": anything("The options of its runs, as given in the file"),
            "schedule": text("When it runs, in words"),
            "next_run_at": nullable(
                time("When it runs next by its schedule; null: it has no schedule, or waits for an approval")
            ),
            "last_job": nullable(text("The id of its newest job", pattern=ID_PATTERN)),
            "last_state": nullable(text("The state of that job")),
            "waiting_job": nullable(text("The id of its job that waits for approval", pattern=ID_PATTERN)),
            "last_success_at": nullable(time("When a run of the whole mirror last ended `done`")),
            "overdue": flag("Whether it had no success for longer than `max_age`"),
            "watching": flag("Whether its folder is watched, so that changes start a job"),
            "runs_skipped": integer("Runs that were skipped because the destination was busy"),
            "runs_missed": integer(
                "Runs that were due while no server ran; one run makes up for all of them"
            ),
            "last_missed_at": nullable(time("When the last of these runs was due")),
            "runs": rows("The last 30 runs, oldest first", ref("MirrorRun")),
            "error": nullable(text("What is wrong with it, in words")),
        },
    ),
    "MirrorRun": record(
        "A run of a mirror that has ended.",
        {
            "id": JOB_ID,
            "state": text("The state in which it ended"),
            "attempt": nullable(integer("The attempt that ended")),
            "scoped": flag("Whether it mirrored only the folders that had changed"),
            "started_at": nullable(time("When it began")),
            "finished_at": nullable(time("When it ended")),
            "files_total": nullable(
                integer("Files that it compared; null: this was not recorded at that time")
            ),
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
            "lines": integer("How many lines have been read"),
            "folders_total": integer("How many folders these lines are in"),
            "folders": rows(
                "The 200 folders with the most deletions; those with equal numbers by uploads and updates",
                record("A folder.", {"folder": text("The text that its keys begin with"), **_SUMS}),
            ),
            "files": nullable_record(
                "The sums of keys that are in none of the folders; null: there are none", _SUMS
            ),
            "biggest": record(
                "For each operation, the 100 lines with the biggest objects",
                {"delete": _PLAN_LINES, "upload": _PLAN_LINES, "update": _PLAN_LINES},
            ),
        },
    ),
    "Health": record(
        "The server answers. With `mirror`, there is only `status`.",
        {
            "status": text("`ok`", const="ok"),
            "service": text("The service's name"),
            "version": text("Its version"),
            "jobs": record(
                "How many jobs.", {"queued": integer("Jobs that wait"), "running": integer("Jobs that run")}
            ),
            "storage": text(
                "The embedded storage: `up`, `starting` or `down`; `external`: another storage is used"
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
            "type": text("Always `about:blank`: the status shows the kind of error"),
            "title": text("The HTTP status in words"),
            "status": integer("The HTTP status", minimum=400, maximum=599),
            "detail": text("What is wrong and what to do, for people"),
            "code": text("A short code for programs"),
            "param": text("The parameter that is wrong, if the error is about one"),
            "job": text(
                "The id of the job because of which the request was refused (409)", pattern=ID_PATTERN
            ),
        },
        "param",
        "job",
    ),
}
