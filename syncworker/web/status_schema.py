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
    number,
    record,
    ref,
    rows,
    text,
    time,
)

JOB_ID = text("The job's id; ids sort by time", pattern=ID_PATTERN, examples=["20261122T131242-9f3a61c2"])
STATES = text(
    "`queued`, `running`, then one of the final ones: `done` (the bucket equals the folder), `failed`,"
    " `cancelled`, `interrupted` (the worker ended before its work did), which can be resumed, or `waiting`"
    " (nothing was deleted, and a plan waits to be approved).",
    enum=[state.value for state in State],
)
PHASES = nullable(text("What a running job does; null otherwise", enum=[phase.value for phase in Phase]))


ALL: dict[str, Schema] = {
    "Status": record(
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
            "skipped": counts("Files that are not mirrored, by reason"),
            "options": anything("The other options, as given; those that were not given are left out"),
            "mirror": nullable(text("The named mirror that the job belongs to; null for none")),
            "scope": nullable(rows("The folders that are mirrored; null: all of them", {"type": "string"})),
            "plan": nullable(
                record(
                    "The plan that waits or was approved (`/plan`); null: none.",
                    {
                        "etag": text("SHA-256 of the file"),
                        "lines": integer("How many lines it has"),
                        "approved_at": nullable(time("When somebody approved it")),
                    },
                )
            ),
            "cluster": nullable(anything("The machines that work on it; null: only this one")),
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
            "notified_at": nullable(
                time("When people were notified of the end of this attempt, for a mirror's job")
            ),
            "message": text("What happens or happened, for people"),
            "warning": text(
                "Only in an answer: the request may be a mistake, or its address held a secret key"
            ),
        },
        "warning",
        "timeline",
    ),
    "Progress": record(
        "Counters of the current attempt; they only grow within it.",
        {
            "scan_complete": flag("The folder has been read to its end: the totals are final"),
            "files_total": integer("Files found so far"),
            "files_done": integer("Files finished, in any way"),
            "bytes_total": integer("Bytes of the files found so far"),
            "bytes_done": integer("Bytes finished, those in flight included"),
            "files_unchanged": integer("Files the bucket had already"),
            "files_uploaded": integer("Files sent"),
            "objects_deleted": integer("Objects deleted because they have no file"),
            "files_failed": integer("Files that could not be sent"),
            "files_skipped": integer("Files that are not to be sent: vanished, sockets, links that lead out"),
            "bytes_uploaded": integer("Bytes sent and accepted by the store"),
            "bytes_resumed": integer("Bytes of parts that an earlier attempt had sent"),
            "files_updated": integer(
                "Objects whose headers, tags or class were changed, and not their bytes"
            ),
            "objects_kept": integer(
                "Objects to be deleted that stay: their file came back, or the storage keeps them"
            ),
            "files_changing": integer("Files that change all the time, sent as they were when opened"),
            "files_to_upload": integer("Of a plan: files that it would send"),
            "bytes_to_upload": integer("Of a plan: their bytes"),
            "files_to_update": integer("Of a plan: objects whose headers it would change"),
            "objects_to_delete": integer("Of a plan: objects that it would delete"),
            "objects_verified": integer("With `verify`: objects that equal their files"),
            "bytes_verified": integer("With `verify`: the bytes of these"),
            "objects_unverified": integer("With `verify=deep`: archived objects, which were not read back"),
            "throttled_seconds": number("Seconds in which the storage asked to slow down"),
            "bytes_per_second": number("Speed over the last seconds"),
            "eta_seconds": nullable(number("Seconds left at this speed; null while unknown")),
            "elapsed_seconds": number("Seconds since the attempt began"),
        },
    ),
    "Operation": record(
        "An operation in flight.",
        {
            "op": text("`upload`, `delete`, …"),
            "key": text("The object's key"),
            "size": integer("Bytes of the whole"),
            "bytes_done": integer("Bytes sent so far"),
        },
    ),
    "Delay": nullable(
        record(
            "What a running job without progress waits for; null while it makes progress.",
            {
                "reason": text(
                    "`writes_in_flight`: the job is to stop and waits for its writes; `storage_down`: no"
                    " request succeeds; `storage_silent`: no byte moves; `slow_down`: the storage asks for"
                    " fewer requests; `paused`: somebody has paused the job"
                ),
                "since": time("Since when"),
                "until": nullable(time("How long at most; null: as long as a request may take")),
            },
        )
    ),
    "Limit": nullable(
        record(
            "The limits that hold now.",
            {
                "bandwidth": nullable(integer("Bytes a second of this job; null: no limit of its own")),
                "all_jobs": nullable(integer("Bytes a second of all running jobs together; null: no limit")),
            },
        )
    ),
    "FileError": record(
        "What went wrong with one file or object.",
        {
            "time": time("When"),
            "op": text("The operation that failed"),
            "key": text("The object's key"),
            "code": text("A short word for programs: an S3 error code or one of the service's"),
            "message": text("A sentence for people"),
        },
    ),
    "Error": nullable(
        record(
            "Why the job is not `done`; null when there is no reason.",
            {"code": text("A short word for programs"), "message": text("A sentence for people")},
        )
    ),
    "Resources": record(
        "What the worker of this attempt uses, as measured at `updated_at`; null before that.",
        {
            "rss_bytes": nullable(integer("Resident memory")),
            "cpu_seconds": nullable(number("Processor time, user and system")),
        },
    ),
    "Timeline": record(
        "The course of this attempt: its phases, and what it sent or read over the whole run.",
        {
            "phases": rows(
                "When each phase began, oldest first; if there are more than forty, the first and the last",
                record("A phase.", {"phase": text("Its name"), "at": time("When it began")}),
            ),
            "speed": record(
                "The bytes of each step since the attempt began. Steps grow so that there are sixty at most.",
                {
                    "step_seconds": integer("How long a step is", minimum=1),
                    "bytes": rows("What went over the network", integer("Bytes")),
                },
            ),
        },
    ),
    "Metrics": record(
        "What the job has done in all its attempts; these only grow. `/metrics` has the sums of all jobs.",
        {
            "counts": counts("Files, objects and bytes by result, attempts, retries, `cpu_seconds`"),
            "errors": counts("Errors by code"),
            "phase_seconds": counts("Seconds by phase"),
            "requests": counts("Requests to the store by operation and HTTP status: `PutObject 200`"),
        },
    ),
}
