"""A job's status as JSON Schema: every field, its type, its unit, and null where a value may be unknown.

Fields are only ever added. No object is closed, so that an older client's copy stays valid. A test checks
that no status has a field which is missing here.
"""

from __future__ import annotations

from syncworker.model import Phase, State
from syncworker.web.schema_types import (
    ID_PATTERN,
    Schema,
    anything,
    counts,
    flag,
    integer,
    nullable,
    nullable_record,
    number,
    record,
    ref,
    rows,
    text,
    time,
)

JOB_ID = text("The job's id; ids sort by time", pattern=ID_PATTERN, examples=["20261122T131242-9f3a61c2"])
STATES = text(
    "`queued`, `running`, or a final state: `done` (the bucket equals the folder); `failed`,"
    " `cancelled` or `interrupted` (the worker ended before its work was finished), which can"
    " be resumed; `waiting` (nothing was deleted, and a plan waits for approval).",
    enum=[state.value for state in State],
)
PHASES = nullable(text("What a running job is doing; null otherwise", enum=[phase.value for phase in Phase]))


ALL: dict[str, Schema] = {
    "Status": record(
        "A job, as in its file `jobs/ID.json`.",
        {
            "version": integer("Version of this schema", const=1),
            "id": JOB_ID,
            "state": STATES,
            "phase": PHASES,
            "source": text("The folder below the uploads root; empty: all of it"),
            "dest": text("The bucket"),
            "storage_url": text("The S3 endpoint"),
            "wait": number(
                "Seconds to wait between two operations; 0: no wait, full parallel speed", maximum=3600
            ),
            "skipped": counts("How many files are not mirrored, by reason"),
            "options": anything("The other options, as given; those that were not given are left out"),
            "mirror": nullable(text("The named mirror that the job belongs to; null: none")),
            "scope": nullable(rows("The folders that are mirrored; null: all of them", {"type": "string"})),
            "plan": nullable_record(
                "The plan that waits for approval or was approved (`/plan`); null: there is none.",
                {
                    "etag": text("SHA-256 of the plan's file"),
                    "lines": integer("How many lines it has"),
                    "approved_at": nullable(time("When somebody approved it")),
                },
            ),
            "cluster": nullable(
                anything("The members of the cluster that work on the job; null: it uses no cluster")
            ),
            "pid": nullable(integer("The worker's process id")),
            "pid_started_at": nullable(number("When that process started, seconds since the epoch")),
            "host": text("The name of the machine on which the worker runs"),
            "attempt": integer("1, plus 1 for each resume and each approval", minimum=1),
            "auto_resume": flag("Whether a server that starts resumes the job automatically"),
            "created_at": time("When the job was requested"),
            "started_at": nullable(time("When this attempt began")),
            "updated_at": time("When this status was written"),
            "finished_at": nullable(time("When it ended")),
            "cancel_requested": flag("Whether a cancel was requested"),
            "pause_requested": flag("Whether a pause was requested; a queued job is then not started"),
            "progress": ref("Progress"),
            "current": rows("At most twenty of the operations in flight", ref("Operation")),
            "delay": ref("Delay"),
            "limit": ref("Limit"),
            "errors": rows("The first hundred errors; the report has all errors", ref("FileError")),
            "error": ref("Error"),
            "resources": ref("Resources"),
            "timeline": ref("Timeline"),
            "metrics": ref("Metrics"),
            "notified_at": nullable(
                time("When people were notified of the end of this attempt, if it is the job of a mirror")
            ),
            "message": text("What is happening or has happened, for people"),
            "warning": text(
                "Only in the answer to a request: it may be a mistake, or its URL contained a secret key"
            ),
        },
        "warning",
        "timeline",
    ),
    "Progress": record(
        "Counters of the current attempt; they do not decrease during the attempt.",
        {
            "scan_complete": flag("Whether the whole folder has been read, so that the totals are final"),
            "files_total": integer("Files found so far"),
            "files_done": integer("Files that are finished, with any result"),
            "bytes_total": integer("Bytes of the files found so far"),
            "bytes_done": integer(
                "Bytes of these files, and the bytes of files in flight that have been sent"
            ),
            "files_unchanged": integer("Files whose content the bucket already had"),
            "files_uploaded": integer("Files sent"),
            "objects_deleted": integer("Objects deleted because they have no file"),
            "files_failed": integer("Files that could not be sent"),
            "files_skipped": integer(
                "Files that are not sent, for example because they vanished, or are sockets or"
                " links that lead out"
            ),
            "bytes_uploaded": integer("Bytes sent and accepted by the store"),
            "bytes_resumed": integer("Bytes of parts that an earlier attempt had already sent"),
            "files_updated": integer(
                "Objects whose headers, tags or class were changed without sending the file again"
            ),
            "objects_kept": integer(
                "Objects that were to be deleted but are kept: their file exists again, a file"
                " in their folder has a name that is not UTF-8, or the storage retains them"
            ),
            "files_changing": integer(
                "Files that are written to all the time, and were sent as they were when opened"
            ),
            "files_to_upload": integer("In a plan: files that would be sent"),
            "bytes_to_upload": integer("In a plan: the bytes of these files"),
            "files_to_update": integer("In a plan: objects whose headers would be changed"),
            "objects_to_delete": integer("In a plan: objects that would be deleted"),
            "objects_verified": integer("With `verify`: objects that are equal to their files"),
            "bytes_verified": integer("With `verify`: the bytes of these objects"),
            "objects_unverified": integer("With `verify=deep`: archived objects, which were not read back"),
            "throttled_seconds": number("Seconds during which the storage asked to slow down"),
            "bytes_per_second": number("Bytes per second in the last few seconds"),
            "eta_seconds": nullable(number("Estimated seconds until the end, at this speed; null: unknown")),
            "elapsed_seconds": number("Seconds since the attempt began"),
        },
    ),
    "Operation": record(
        "An operation in flight.",
        {
            "op": text("`upload`, `delete`, …"),
            "key": text("The object's key"),
            "size": integer("Bytes of the whole file or object"),
            "bytes_done": integer("Bytes sent so far"),
        },
    ),
    "Delay": nullable_record(
        "Why a running job makes no progress; null while it makes progress.",
        {
            "reason": text(
                "`writes_in_flight`: the job was told to stop, and waits for its writes;"
                " `storage_down`: no request succeeds; `storage_silent`: no data is sent or"
                " received; `slow_down`: the storage asks for fewer requests; `paused`: the"
                " job was paused"
            ),
            "since": time("Since when the job has made no progress"),
            "until": nullable(
                time(
                    "When the job stops waiting at the latest; null: there is no fixed time (a"
                    " pause lasts until `/continue`, a request as long as its time limits allow)"
                )
            ),
        },
    ),
    "Limit": nullable_record(
        "The bandwidth limits that are in force.",
        {
            "bandwidth": nullable(integer("Bytes per second for this job; null: it has no limit of its own")),
            "all_jobs": nullable(integer("Bytes per second for all running jobs together; null: no limit")),
        },
    ),
    "FileError": record(
        "An error of one file or object.",
        {
            "time": time("When it happened"),
            "op": text("The operation that failed"),
            "key": text("The object's key"),
            "code": text("A short code for programs: an error code of S3 or of this service"),
            "message": text("A sentence for people"),
        },
    ),
    "Error": nullable_record(
        "Why the job is not `done`; null: there is no error.",
        {"code": text("A short code for programs"), "message": text("A sentence for people")},
    ),
    "Resources": record(
        "The resources that the worker of this attempt uses, measured at `updated_at`. A value"
        " is null before the first measurement.",
        {
            "rss_bytes": nullable(integer("Resident memory")),
            "cpu_seconds": nullable(number("Processor time, user and system")),
        },
    ),
    "Timeline": record(
        "The course of this attempt: its phases, and the bytes that it transferred over time.",
        {
            "phases": rows(
                "When each phase began, oldest first; if there are more than forty, only the"
                " first twenty and the last twenty",
                record("A phase.", {"phase": text("Its name"), "at": time("When it began")}),
            ),
            "speed": record(
                "The bytes of each step of time since the attempt began. The steps become"
                " longer, so that there are never more than sixty.",
                {
                    "step_seconds": integer("How long a step is", minimum=1),
                    "bytes": rows("Bytes that were transferred in each step", integer("Bytes")),
                },
            ),
        },
    ),
    "Metrics": record(
        "Sums over all attempts of the job; they never decrease. `/metrics` has the sums over all jobs.",
        {
            "counts": counts("Files, objects and bytes by result; attempts; retries; `cpu_seconds`"),
            "errors": counts("Errors by code"),
            "phase_seconds": counts("Seconds by phase"),
            "requests": counts("Requests to the store by operation and HTTP status: `PutObject 200`"),
        },
    ),
}
