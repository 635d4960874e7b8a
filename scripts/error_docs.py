"""Writes docs/troubleshooting.md and syncworker/jobs/known_errors.py: `make docs`. A test sees that it was done.

The codes and what is said with them are read from the source (`error_codes`); what they mean and what to do
is here. A code without a meaning, and a meaning without a code, are errors.
"""

# ruff: noqa: E501 - the texts are lines of the page

from __future__ import annotations

import errno
import os
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [PROJECT, os.path.join(PROJECT, "scripts")]

import error_codes  # noqa: E402 - the project's folder is not a package that is installed

from syncworker.folder import scan_items  # noqa: E402
from syncworker.s3 import error_codes as faults  # noqa: E402

TARGET = os.path.join(PROJECT, "docs", "troubleshooting.md")
CODES_TARGET = os.path.join(PROJECT, "syncworker", "jobs", "known_errors.py")
CODES_HEAD = '''\
"""Every code that an error of a job or of a file may have, as far as they are known before: `/metrics` begins
to count each of them at 0. Written by `make docs` from scripts/error_docs.py: change that. The other codes
are words of a storage.
"""

from __future__ import annotations

CODES = frozenset(
    {
'''
HEAD = """\
<!-- Written by `make docs` from scripts/error_docs.py and the source: change those. -->

# Troubleshooting, by error message

Search this page for the code (`AccessDenied`) or for the words of the message; `…` stands for a part that is different each time.

Where to find an error: the answer to a refused request has `code` and `detail` (and `param`, the parameter at fault).
A job that has ended has `error` in its status; files that failed are in `errors` (the first hundred) and in
`jobs/ID.report.jsonl` (all). `jobs/ID.log` has further messages of the worker. A job that fails before its first
deletion has deleted nothing from the bucket; a resume does the remaining work.

```sh
curl -s 'localhost:5000/get?id=ID' | jq '{state, error, errors}'
jq -r 'select(.error) | [.op, .key, .error.code, .error.message] | @tsv' jobs/ID.report.jsonl
```

"""

Section = tuple[str, str, dict[str, str]]
SECTIONS: tuple[Section, ...] = (
    (
        "How a job ended",
        "`error.code` of a job whose state is `failed` or `interrupted`, whatever the storage.",
        {
            "FilesFailed": "Some files or objects failed; all others are done. If files failed, nothing was deleted (if the only cause is names that are not UTF-8: nothing in the folders of these files). Read `errors`, remove the causes, then resume",
            "OptionRefused": "The storage does not support the storage class, ACLs or tags, or it is not allowed to use the encryption"
            " key. Sync without that option, or with a value that the storage supports",
            "VerifyFailed": "With `verify`: the mirror differs from the folder. Nothing was repaired; `errors` and"
            " the report name each difference. Sync again to send what is missing or different. If an object's bytes differ but its ETag does not (found by `deep`), the storage has damaged it: delete it, sync again, and do not trust that storage",
            "FilterFailed": "The lines of `exclude` and `include` need more memory than is allowed. Use fewer `*`",
            "FilesSkipped": "FAIL_ON_SKIPPED=1, and something in the folder cannot be mirrored: links that lead out"
            " of it or nowhere, sockets, devices. `skipped` in the status counts them by reason, the report names"
            " each. All other files were synced; if the bucket was to be deleted, it was kept. Remove or exclude these files, or unset FAIL_ON_SKIPPED",
            "TooManyDeletes": "The job would delete more objects than `max_delete` (or MAX_DELETE) allows. Read the plan (`/plan`,"
            " `syncworker plan ID`): is the folder complete, and the right one? Then approve it; else cancel the job",
            "PlanOutgrown": "After the plan was made, more files were removed, or objects changed. Nothing was deleted, or, of a bucket that was being deleted, only objects of the plan; read and approve the new plan",
            "PlanDamaged": "`jobs/ID.plan.jsonl` was changed or removed after it was written. Start a new job with `plan=1`",
            "Superseded": "A newer job with the same destination and options is `waiting` or `done`, so the older plan is out of date",
            "Stopped": "Somebody sent the worker SIGTERM or SIGINT (`kill`, Ctrl-C, a shutdown). Resume",
            "WorkerDied": "The worker ended without recording a result: `kill -9`, out of memory (`dmesg`), a power"
            " cut. Resume: at most two parts of a large file are sent again",
            "WorkerDidNotStart": "The server tried three times to start the worker. `jobs/ID.log` has the reason, often a full disk or too"
            " many processes",
            "ClusterLost": "With `CLUSTER_ALONE=0`: no working member of the cluster was left. Look at `cluster"
            " status`, and resume. Nothing was deleted",
            "ClusterNotInstalled": "`CLUSTER` is set, and the packages that it needs are not there. Install them where"
            " the service runs, as the message says, or leave `CLUSTER` empty",
            "BadClusterKeys": "A file that `CLUSTER_TLS_CA`, `CLUSTER_TLS_CERT` or `CLUSTER_TLS_KEY` names is missing, or"
            " other users can read the key or write to one of the three. `cluster keys` creates them; see [several machines](cluster.md#several-machines)",
            "StorageFull": "Of the embedded storage: the disk of STORAGE_DIR is full, and the storage sends no answer while it waits for free space. Free space there (`df -h app/storage`), move STORAGE_DIR, or set STORAGE_URL. Of another storage: its disk is full, or its quota is used up. Free space there, or raise the quota; then resume",
            "BrokenListing": "The storage's listing contradicts itself, so nothing more was deleted. Resume; if it happens again, the storage has a bug: report it there.",
            "DestinationBusy": "Only one job may run on a bucket. Wait for the other, or cancel it",
            "LocalError": "A file of the job itself (status, report, index) could not be written: most often the"
            " disk of `jobs/` is full. Free some space and resume",
            "InternalError": "A bug in this program. The traceback"
            " is in `jobs/ID.log`, or in the server's log: please report it",
            "OutOfResources": "The machine has no memory, file descriptors or threads left. Raise the limit (`ulimit -n`,"
            " `MemoryMax=`) or lower MAX_RUNNING_JOBS, and resume",
        },
    ),
    (
        "The folder",
        "Why a folder was not synced, or why nothing was deleted. After any of these errors, nothing more is deleted.",
        {
            "UploadsRootMissing": "UPLOADS_DIR is not there. Mount its disk, or correct the setting",
            "UploadsRootUnreadable": "Give the user of the service read permission for UPLOADS_DIR",
            "DiskNotMounted": "A disk that an earlier sync saw at or below the folder is not mounted. New and"
            " changed files were sent. Mount it and resume; or, if it is gone for good and its objects may be"
            " deleted, start one sync with `forget_mounts=1` (`--forget-mounts`, or the button on the page of the job)",
            "DestinationFactsLost": "The list of disks that belong to the folder is damaged, so an empty folder may be a disk that is not mounted. Mount all disks, then start one sync with `forget_mounts=1`",
            "SourceMissing": "The folder was removed while the job ran. Sync again",
            "SourceNotADirectory": "`source` names a file. Give the folder that contains it",
            "SourceOutsideRoot": "A link in the path leads out of UPLOADS_DIR. Give the real folder, or set UPLOADS_DIR to a folder above both",
            "SourceDangling": "`source` is a link whose target does not exist, which may be a disk that is not mounted. Mount it,"
            " or remove the link",
            "SourceVanished": "The folder was removed or replaced while it was read. Sync again when it is back",
            "ScanFailed": "The second process of the job, which reads large folders, was killed, perhaps because memory ran out. Sync again",
            "OnlyUnusableLinks": "The folder is not empty, but holds nothing that can be sent. Remove the links if the bucket is to be deleted, or repair them",
            "BucketDeleteRefused": "The folder is empty, and BUCKET_DELETE=refuse forbids deleting the bucket. Set BUCKET_DELETE=allow to permit it",
            "FilesystemEncoding": "The locale is not UTF-8. Set PYTHONUTF8=1 for the service",
            "BadSource": "`source` is the path of a folder, relative to UPLOADS_DIR: `photos/2024`. Empty means all of UPLOADS_DIR",
        },
    ),
    (
        "One file or object",
        "In `errors` and in the report; the job goes on with the others and ends `failed` (`FilesFailed`). Codes such as"
        " `EACCES` are the kernel's: see the table below.",
        {
            "NameNotUTF8": "S3 keys are UTF-8. Rename the file (`convmv -f latin1 -t utf8 --notest`). Until then, no object in its folder is deleted",
            "KeyTooLong": "S3 allows keys of at most 1,024 bytes. Shorten the names on the path",
            "ChangedWhileScanning": "A folder became a file, or the reverse, while it was read. Sync again",
            "ChangedWhileReading": "The file's existing content changed during each of three tries; no mixture of old and new content was sent. Sync again when the file no longer changes. (A file that only grows, such as a log, is sent as it was when it was opened)",
            "EntityTooLarge": "S3 does not accept such a large file. Split it",
            "StoredWrongBytes": "The storage reports different bytes from those that were sent: a defect of the storage, of memory or of a proxy. Resume; if it happens again, do not trust that storage",
            "MemberDied": "Three members of the cluster died while they sent this file. Look at their logs, or"
            " sync it without `CLUSTER`",
            "Differs": "When the bucket was listed again, this object was wrong. It was sent or deleted again, and is still wrong. Another program writes to the bucket, or the storage reports success without having done the operation. Stop the other program, and resume",
            "ObjectMissing": "Found by `verify`. Another program, or a lifecycle rule of the bucket, deleted it; the next sync sends it",
            "ObjectDiffers": "Found by `verify`. Another program replaced it, or the storage damaged it",
            "ObjectExtra": "Found by `verify`: something else writes to the bucket. The next sync deletes it",
            "DeletedOther": "A request to delete was corrupted on plain http, or carried out only in part: another object may have been deleted. Resume to send it again. Use https",
            "ReadBackFailed": "The same as `StoredWrongBytes`; the difference was found when the object was read back and compared",
            "KeyChangedByStore": "This storage changes names such as `a//b`, or names with a backslash. Rename the file",
            "KeyIsFolder": "A storage that is a file system cannot hold `x` beside `x/y`. If one of them no longer exists in the folder, fix the other errors first, then sync again: the old object is then deleted; if both exist, rename one",
            "Unknown": "The file could not be read, and the system gave no reason. Check the disk",
            "BucketNotEmpty": "The bucket does not become empty: another program writes to it, or objects are locked (retention). Stop that program, or wait until the retention ends",
            "kept": "Before an object was deleted, its file came back (`objects_kept`)."
            " The object was kept; the next sync compares it with that file",
            "Retained": "The storage keeps a version of this key (object lock, a legal hold) until the time in the message, so the"
            " key is unchanged and the bucket was not deleted. Wait, shorten the retention at the storage, or set BUCKET_DELETE=refuse",
            "NotImplemented": "The storage does not support this operation. If the job can work without it, it continues; otherwise the file or the job fails. (In an HTTP answer of this server, the code has [another meaning](#a-request-was-refused))",
            "vanished": "No error: the file was removed after it was listed. The next sync deletes its object",
        },
    ),
    (
        "The connection to the storage",
        "The job retries these by itself, with pauses. If a storage that has answered before is down, the job waits for it for up to STORAGE_PATIENCE (15 minutes by default)."
        " It ends with one of these codes only if the storage never answered or is still down after that time, or if forty requests in a row were cut off in spite of their retries."
        " If only the requests for one file fail, that file fails.",
        {
            "ConnectFailed": "No program listens at that address. Start the storage, or correct STORAGE_URL",
            "ConnectTimeout": "A firewall drops the packets, or the address is wrong",
            "ConnectionLost": "The storage, a proxy or a load balancer closes connections. Resume",
            "Timeout": "The storage accepted a request and then sent nothing, or less than 1 KiB/s. Check its load and its log; if it is slow by design (tape), set STORAGE_TIMEOUT",
            "DnsError": "The name server does not answer at the moment. Resume when it does",
            "TlsError": "If the message is about the certificate, it says what to do, and the job ends without a retry. AWS_CA_BUNDLE, or `ca_bundle` in `~/.aws/config`,"
            " names the file of your certificate authority. Otherwise, https is used on an http port, or the"
            " storage supports only very old TLS versions",
            "ProxyUnreachable": "The proxy in the named variable is down, or the variable is wrong. Add the storage's"
            " host to NO_PROXY to connect without it",
            "ProxyFailed": "The proxy could not reach the storage. Look at the proxy's log, or add the host to NO_PROXY",
            "BadAnswer": "The answer does not come from an S3 storage (but from a login page or a web server), or the storage is broken. Check"
            " STORAGE_URL with `curl -i`",
        },
    ),
    (
        "The address, the proxy and the keys of the storage",
        "These settings are wrong, or do not fit the storage. A retry would not help, so the job ends. Correct the setting, then resume.",
        {
            "NoSuchHost": "The name does not exist. Correct STORAGE_URL",
            "NoStorage": "A web server, a console (MinIO's is on another port) or a login page answers. Correct"
            " STORAGE_URL; `curl -i` shows what answers",
            "WrongRegion": "Set AWS_REGION to the region of the bucket. (The job has already tried the region that the message names)",
            "WrongAddressing": "The storage refuses both ways to name a bucket, in the path and in the host name: set"
            " STORAGE_ADDRESSING and STORAGE_URL as its documentation says",
            "NoCredentials": "No keys were found, or a job's own keys were removed when it ended: resume it with"
            " `access_key` and `secret_key`",
            "BadCaBundle": "AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE) is not a readable PEM file",
            "BadProxy": "HTTP_PROXY and HTTPS_PROXY must look like `http://host:3128`",
            "ProxyUnsupported": "Only http:// proxies are supported (for https storages too, by CONNECT)",
            "ProxyRefused": "The proxy does not allow this host, or requires a password (`http://user:pw@host`)",
        },
    ),
    (
        "A request was refused",
        "`code` of an HTTP answer (400, 401, 403, 404, 405, 409, 413, 415, 503), and messages of the shell with exit"
        " status 2. Nothing was done.",
        {
            "MissingParameter": "Add the parameter that `param` names",
            "UnknownParameter": "Probably a spelling mistake: the message lists the parameters of the route",
            "RepeatedParameter": "Give it once, in the query or the body",
            "TooManyParameters": "No route has so many parameters",
            "BadParameter": "Give the value in quotes; only parameters whose type in `/openapi.json` is a number may be JSON numbers",
            "BadEncoding": "Percent-encode as UTF-8: `curl --data-urlencode`",
            "BadJson": 'The body is one object: `{"source": "photos", "dest": "mybucket"}`',
            "UnsupportedBody": "Send a form or JSON with its Content-Type",
            "BodyTooLong": "No request needs such a long body",
            "BadBucketName": "S3's rules for bucket names apply. A bucket whose name has capitals or underscores, or is an alias, is used if it exists, but never created",
            "BadWait": "A number of seconds, with a decimal point if needed",
            "BadBandwidth": "`500000`, `512K`, `1.5M`, `1G`, or `0` for no limit",
            "BadOption": "The message names the option and its valid values",
            "BadHeader": "A line is `*.html Cache-Control: no-cache`; the message says what is wrong with it",
            "BadPrefix": "A prefix is like a path below the bucket: `backups/vm1/`",
            "BadPattern": "A line that git would ignore: a `[` without `]`, a backslash at the end, only `!` or"
            " `/`; or `!` in include; too many lines, or too many stars in all of them",
            "BadKey": "The key was copied with a space or a line end",
            "BadId": "Ids are listed by `/jobs` and `list --all`",
            "BadState": "Give one of the seven states",
            "BadTime": "Give a time with its time zone: `2026-11-22T13:00:00Z`; or `2026-11-22`, or `20261122T13`",
            "BadNumber": "The message has the bounds; for more entries than one page holds, follow `next` or `Link`",
            "BadOperation": "The message lists them",
            "BadStorageUrl": "Like `https://s3.example.com` or `http://127.0.0.1:9000`",
            "StorageUrlRefused": "Such addresses are a cloud's metadata service, never a storage",
            "StorageUrlNotAllowed": "This storage is not one of those that the administrator allows",
            "NoSuchJob": "Its files were removed (KEEP_JOBS), or it is in another JOBS_DIR",
            "NoSuchMirror": "Mirrors are named in `mirrors.toml` (MIRRORS_FILE); `/mirrors` lists them, and the mistakes in the file",
            "MirrorOverdue": "Of `/healthz?mirror=…`: the mirror has had no success within its `max_age`. `/mirrors` has the results of its last runs",
            "NoSuchPlan": "The job was not started with `plan=1`, had nothing to do, or has not written its plan yet",
            "NotWaiting": "Only a `waiting` job can be approved; this one was already approved, cancelled or superseded",
            "PlanChanged": "The job has a new plan. Read `/plan` again, and approve the new one",
            "JobFinished": "The job has ended, so there is nothing to cancel. `resume` continues it",
            "JobRunning": "Its worker is still ending. Wait a second",
            "NotResumable": "The job is running, or it is `done` (start a new sync), or it is `waiting` (approve or cancel it)",
            "QueueFull": "Wait for jobs to end, or raise MAX_QUEUED_JOBS",
            "Busy": "Try again in a second (`Retry-After`)",
            "Unauthorized": "Send `Authorization: Bearer TOKEN`; the token is API_TOKEN, or in `.api-token`",
            "HostNotAllowed": "The host name in the URL must be in ALLOWED_HOSTS",
            "CrossSite": "Another web site sent this request through your browser. Open the dashboard itself",
            "CrossOrigin": "The same as `CrossSite`; the `Origin` header shows it. A proxy in front must keep the `Host` header",
            "PageUnknown": "A hostile page could have sent it. Start jobs in the dashboard, or with POST, or set API_TOKEN",
            "Preview": "A chat, a mail program or a search engine fetched the address. Open it yourself; if your own program has a similar `User-Agent`, use POST",
            "Prefetch": "The browser loaded the address before you opened it. Open it",
            "UpgradeRefused": "The server has no WebSockets. A proxy should not send `Upgrade`",
            "ProxyRequest": "The client uses this server as a proxy: correct its proxy setting",
            "MethodNotAllowed": "Use GET or POST. A HEAD request is accepted only where GET changes nothing",
            "NotFound": "No such route: the README lists them",
            "StorageAway": "From `/healthz?storage=1`: the storage did not answer a HEAD request. Start it, or correct"
            " STORAGE_URL; the error of a sync says more",
            "JobsDirectoryFailed": "The disk of `jobs/` is full, read-only or broken",
        },
    ),
    (
        "The server does not start",
        "Written to stderr (`journalctl -u s3-sync-api`), exit status 2.",
        {
            "WrongSetting": "The message names every wrong setting. They come from the environment and `.env`",
            "BadEnvFile": "Save `.env` as UTF-8",
            "CannotListen": "The port is taken (the message says by whom), or the address is not this machine's."
            " Set API_PORT or API_HOST",
            "AlreadyServed": "Only one server may use a JOBS_DIR. Stop the other, or set JOBS_DIR",
            "Unprotected": "Anyone who can reach the port can delete buckets: set API_TOKEN=auto",
            "BadToken": "Set another token, or remove the file that the message names",
            "JobsDirectoryNotPrivate": "Other users could write job files. Do what the message says",
            "JobsDirectoryUnusable": "Missing permissions, or a read-only or full disk",
            "LocksDoNotWork": "NFS, SMB or a shared folder. Put JOBS_DIR on a local disk",
            "RenameDoesNotWork": "The cause is the same as for `LocksDoNotWork`: put JOBS_DIR on a local disk",
            "PortTaken": "Another program, perhaps a storage, uses MINIO_PORT. Set another port, or use that storage with STORAGE_URL",
            "StorageInUse": "Stop the other server, or give this one a STORAGE_DIR of its own",
            "StorageNotMade": "The message contains the storage's own error, often a full disk or missing permissions",
            "NoEmbeddedStorage": "Install the requirements (`make run`), or set STORAGE_URL",
            "NoKeys": "An empty variable of the environment overrides the value in `.env`",
            "BadKeys": "Set longer keys; if none are set, `make run` generates some",
        },
    ),
)
OF_REQUESTS = 5  # the sections before it are of jobs and files
# A job may end with them as well: what was allowed when it was made may not be any more.
ALSO_OF_JOBS = {"BadStorageUrl", "StorageUrlRefused", "StorageUrlNotAllowed"}
# Never shown as an error.
SILENT = {"LoggedIn", "Moved", "NotDeleted", "Dropped"}
# What waitress and Bottle find before routing: their words, without spaces.
OF_HTTP = """\
A request may also fail before it reaches a route, with one of these codes: `BadRequest` (invalid HTTP, or a path that is not UTF-8),
`RequestEntityTooLarge`, `RequestHeaderFieldsTooLarge` (a URL of more than 16 KiB: use POST), `NotImplemented` (status 501: a transfer
encoding other than chunked), `InternalServerError`.
"""
STORE_ADVICE = {
    "AccessDenied": "the keys may not do this: allow ListBucket, PutObject, DeleteObject (and CreateBucket,"
    " DeleteBucket, ListBucketVersions, multipart uploads) for them",
    "RequestTimeTooSkewed": "this machine's clock is wrong: the message says by how much",
}
SKIPS = {
    "vanished": "the file was deleted after it was listed",
    "being_written": "in a job of a watched mirror: modified in the last two seconds, so the next job sends it",
    "symlink_outside": "a link that leads out of the uploads folder",
    "symlink_dangling": "a link whose target does not exist",
    "symlink_loop": "a link that leads to itself",
    "socket": "no content to send",
    "fifo": "no content to send",
    "device": "no content to send",
    "special": "another kind of special file",
}
SEEN = {
    "missing": "a file's object was missing: the file was sent again",
    "other": "a file's object was different: the file was sent again",
    "not_deleted": "an object was still there after a successful answer to its deletion: deleted again",
    "extra": "an object that appeared during the job: left for the next sync",
    "changed": "with `verify`: the file has changed since it was compared; the next sync sends it",
    "archived": "with `verify=deep`: the object is in an archive, and was not read back",
    "retained": "with `verify`: an object without a file that the storage refuses to delete",
}


# Messages that another function returns: the module and its functions.
SAID_BY = {"StorageAway": ("storage_check.py", ("_ask", "_check"))}


def messages_by_code() -> dict[str, list[str]]:
    """code -> its messages, ours and the storage's."""
    said = error_codes.collect()
    for code, (module, functions) in SAID_BY.items():
        said[code] += error_codes.returned(module, functions)
    for code in said.keys() & faults._FATAL.keys():  # ours, and a storage's: one row for both
        said[code].append(faults._FATAL[code])
    return said


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def section(title: str, intro: str, meanings: dict[str, str], said: dict[str, list[str]]) -> list[str]:
    lines = [
        f"## {title}",
        "",
        intro,
        "",
        "| code | it says | what it means, what to do |",
        "| --- | --- | --- |",
    ]
    for code, meaning in meanings.items():
        words = "<br>".join(cell(text) for text in said[code] if text.strip("…"))
        assert words, f"no message is known of {code}: see SAID_BY"
        lines.append(f"| `{code}` | {words} | {cell(meaning)} |")
    return [*lines, ""]


def of_stores(said: dict[str, list[str]]) -> list[str]:
    again = ", ".join(f"`{code}`" for code in sorted(faults._RETRY))
    slower = ", ".join(f"`{code}`" for code in sorted(faults._THROTTLED))
    return [
        "## What a storage says",
        "",
        "These codes are the storage's own. A code that is not on this page is an error of one file; its message contains the storage's own message:"
        " *the storage refused … with …*. If an answer has no code, the code is `Http` and the status (`Http403`).",
        "",
        "| code | what it means, what to do |",
        "| --- | --- |",
        *(
            f"| `{code}` | {cell(text)} |"
            for code, text in (STORE_ADVICE | faults._FATAL).items()
            if code not in said
        ),
        "",
        f"*the storage asks to slow down* is the message for {slower}, for every 429, and for every 503 whose code is not"
        " named elsewhere on this page. The job tries again, with fewer requests"
        " at the same time. If a job fails with one of these codes, run fewer jobs, or give `wait`.",
        "",
        f"*the storage failed with …* is the message for {again}, and for every other 5xx. The job tries again. If files fail with one of"
        " these codes, look at the storage's log and resume.",
        "",
        "*the storage denies …: the keys need that permission* is the message if `AccessDenied` concerns the whole bucket. Then the job ends.",
        "",
        "*the credentials have expired* is the message for `ExpiredToken`: the job could not get new credentials. *the storage does not answer*,"
        " *the storage no longer answers*: see [the connection to the storage](#the-connection-to-the-storage).",
        "",
    ]


def of_files() -> list[str]:
    lines = ["## Errors of the kernel for a file", "", "| code | what to do |", "| --- | --- |"]
    for number, hint in sorted(scan_items._HINTS.items()):
        lines.append(f"| `{errno.errorcode[number]}` ({os.strerror(number)}) | {hint} |")
    lines += ["| `OSError` | an error without a number: check the disk |", ""]
    lines += [
        "## What is skipped",
        "",
        "These are not errors: they are counted in `files_skipped` and named in the report.",
        "",
    ]
    lines += ["| reason | what it is |", "| --- | --- |"]
    lines += [*(f"| `{reason}` | {text} |" for reason, text in SKIPS.items()), ""]
    lines += [
        "## What the last check found",
        "",
        "These are not errors, but codes of the report's `verify` lines.",
        "",
    ]
    lines += ["| code | what it is |", "| --- | --- |"]
    return [*lines, *(f"| `{code}` | {text} |" for code, text in SEEN.items()), ""]


def render() -> str:
    said = messages_by_code()
    explained = {code for _, _, meanings in SECTIONS for code in meanings}
    if explained | SILENT != set(said):
        raise AssertionError(f"explained or in the source, not both: {(explained | SILENT) ^ set(said)}")
    lines = [HEAD.rstrip(), ""]
    for title, intro, meanings in SECTIONS:
        lines += section(title, intro, meanings, said)
        if title.startswith("A request"):
            lines += [OF_HTTP]
    return "\n".join([*lines, *of_stores(said), *of_files()]).rstrip() + "\n"


def codes_of_jobs() -> list[str]:
    assert SECTIONS[OF_REQUESTS][0].startswith("A request")
    found = {code for _, _, meanings in SECTIONS[:OF_REQUESTS] for code in meanings} | ALSO_OF_JOBS
    found |= {*faults._RETRY, *faults._THROTTLED, *faults._FATAL, *STORE_ADVICE, "OSError"}
    found |= {errno.errorcode[number] for number in scan_items._HINTS}
    return sorted(found - set(SKIPS) - {"kept"})


def render_codes() -> str:
    return CODES_HEAD + "".join(f'        "{code}",\n' for code in codes_of_jobs()) + "    }\n)\n"


if __name__ == "__main__":
    pages = {TARGET: render(), CODES_TARGET: render_codes()}  # before the old ones are gone
    for path, page in pages.items():
        with open(path, "w", encoding="utf-8") as file:
            file.write(page)
