"""Ours and the peers: how each is told to make a bucket an exact mirror of a folder.

A peer gets what its own documentation names for speed; where that depends on the work (many small files, few
large ones, nothing to do), each kind of work its own. All of them delete what is gone at the source.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stores import PROJECT, minimal_environment
from benchmarks.trees import trees, work_folder

BIN = Path(sys.executable).parent
OURS, MD5 = "ours", "openssl md5"
FILES, PARTS, PAGES = FLOORS = "the files alone", "the parts alone", "the pages alone"
PUTS = "the requests alone"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to, and from which folder below `trees()`."""

    url: str
    access_key: str
    secret_key: str
    bucket: str
    tree: str

    @property
    def folder(self) -> str:
        return f"{trees() / self.tree}/"

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    exact: bool  # notices every change of content
    command: Callable[[Target], list[str]]
    environment: Callable[[Target], dict[str, str]]
    is_peer: bool = True  # else the least that the machine needs for some of the work: a floor


def jobs_folder(target: Target) -> Path:
    """Of ours: one for each destination, so that an index is kept with what it is about."""
    return work_folder() / "jobs" / target.bucket


def forget_jobs() -> None:
    """No index, no history: as on the first day."""
    shutil.rmtree(work_folder() / "jobs", ignore_errors=True)


def our_command(target: Target) -> list[str]:
    return [sys.executable, "-m", "syncworker", "start", "--source", target.tree, "--dest", target.bucket]


def our_environment(target: Target) -> dict[str, str]:
    jobs_folder(target).parent.mkdir(exist_ok=True)
    return minimal_environment(
        work_folder(),
        PYTHONPATH=str(PROJECT),
        JOBS_DIR=str(jobs_folder(target)),
        UPLOADS_DIR=str(trees()),
        STORAGE_URL=target.url,
        MINIO_ACCESS_KEY=target.access_key,
        MINIO_SECRET_KEY=target.secret_key,
    )


def _aws_environment(target: Target) -> dict[str, str]:
    """Of the tools that read AWS's variables; and aws-cli's own settings, which live in a file."""
    config = work_folder() / "aws-config"
    # docs.aws.amazon.com/cli/latest/topic/s3-config.html: more requests at a time, larger parts
    config.write_text(
        "[default]\nregion = us-east-1\nrequest_checksum_calculation = when_required\ns3 =\n"
        "  max_concurrent_requests = 32\n  max_queue_size = 10000\n  multipart_chunksize = 16MB\n"
        "  addressing_style = path\n"
    )
    return minimal_environment(
        work_folder(),
        AWS_ACCESS_KEY_ID=target.access_key,
        AWS_SECRET_ACCESS_KEY=target.secret_key,
        AWS_REGION="us-east-1",
        AWS_CONFIG_FILE=str(config),
        AWS_EC2_METADATA_DISABLED="true",
    )


def _rclone_environment(target: Target) -> dict[str, str]:
    return minimal_environment(
        work_folder(),
        RCLONE_CONFIG="/dev/null",
        RCLONE_S3_PROVIDER="Minio",
        RCLONE_S3_ENDPOINT=target.url,
        RCLONE_S3_REGION="us-east-1",
        RCLONE_S3_ACCESS_KEY_ID=target.access_key,
        RCLONE_S3_SECRET_ACCESS_KEY=target.secret_key,
    )


def _s5cmd(*options: str) -> Callable[[Target], list[str]]:
    # README: 256 workers by default; --size-only compares without the dates
    def command(target: Target) -> list[str]:
        start = [str(BIN / "s5cmd"), "--endpoint-url", target.url, "--log", "error", "--numworkers", "256"]
        return [*start, "sync", "--delete", *options, target.folder, f"s3://{target.bucket}/"]

    return command


def _rclone(*options: str) -> Callable[[Target], list[str]]:
    # rclone.org/s3: --fast-list, --size-only or --checksum (no HEAD per object), --s3-no-check-bucket,
    # --s3-no-head; rclone.org/docs: more --transfers and --checkers for many files
    def command(target: Target) -> list[str]:
        start = [str(BIN / "rclone"), "sync", target.folder, f":s3:{target.bucket}"]
        return [*start, "--fast-list", "--s3-no-check-bucket", "--s3-no-head", *options]

    return command


def _juicefs(*options: str) -> Callable[[Target], list[str]]:
    # juicefs.com/docs/community/guide/sync: --threads for concurrency, --list-threads for listing
    def command(target: Target) -> list[str]:
        keys = f"{target.access_key}:{target.secret_key}"
        where = f"minio://{keys}@{target.address}/{target.bucket}/"
        start = [str(BIN / "juicefs"), "--no-agent", "sync", "--quiet", "--no-https", "--delete-dst"]
        return [*start, "--metrics", "127.0.0.1:0", *options, target.folder, where]

    return command


def _aws(*options: str) -> Callable[[Target], list[str]]:
    def command(target: Target) -> list[str]:
        start = [str(BIN / "aws"), "--endpoint-url", target.url, "s3", "sync", "--only-show-errors"]
        return [*start, "--delete", *options, target.folder, f"s3://{target.bucket}/"]

    return command


def _juicefs_environment(_: Target) -> dict[str, str]:
    return minimal_environment(work_folder())


_OURS = Contender(OURS, True, our_command, our_environment)
_MANY = ("--size-only", "--transfers", "32", "--checkers", "32")


def for_small_files() -> list[Contender]:
    return [
        _OURS,
        Contender("s5cmd", False, _s5cmd(), _aws_environment),
        Contender("rclone", False, _rclone(*_MANY), _rclone_environment),
        Contender("juicefs sync", False, _juicefs("--threads", "50"), _juicefs_environment),
        Contender("aws s3 sync", False, _aws(), _aws_environment),
    ]


def for_large_files() -> list[Contender]:
    parts = ("--s3-upload-concurrency", "8", "--s3-chunk-size", "16M", "--s3-disable-checksum")
    return [
        _OURS,
        Contender("s5cmd", False, _s5cmd("--concurrency", "10", "--part-size", "16"), _aws_environment),
        Contender("rclone", False, _rclone("--size-only", *parts), _rclone_environment),
        Contender("juicefs sync", False, _juicefs("--threads", "50"), _juicefs_environment),
        Contender("aws s3 sync", False, _aws(), _aws_environment),
    ]


def md5_floor() -> Contender:
    """The MD5 of the same bytes, on one core."""

    def command(target: Target) -> list[str]:
        return ["openssl", "md5", *(str(path) for path in sorted(Path(target.folder).iterdir()))]

    return Contender(MD5, True, command, _juicefs_environment, is_peer=False)


def parts_floor(checksum: str) -> Contender:
    """The same bytes in parts, with the sum that the storage checks, and nothing else."""

    def command(target: Target) -> list[str]:
        start = [sys.executable, "-m", "benchmarks.bare_parts", target.url]
        files = sorted(Path(target.folder).iterdir())
        return [*start, target.access_key, target.secret_key, target.bucket, checksum, *map(str, files)]

    return Contender(PARTS, True, command, _in_project, is_peer=False)


def pages_floor(threads: int = 0) -> Contender:
    """The bucket listed page by page, or so many at the same time, and the folder's files asked for size and
    date; nothing compared."""

    def command(target: Target) -> list[str]:
        start = [sys.executable, "-m", "benchmarks.bare_pages", target.url]
        more = [str(threads)] if threads else []
        return [*start, target.access_key, target.secret_key, target.bucket, target.folder, *more]

    return Contender(PAGES, True, command, _in_project, is_peer=False)


def _in_project(_: Target) -> dict[str, str]:
    return minimal_environment(work_folder(), PYTHONPATH=str(PROJECT))


def files_floor() -> Contender:
    """Each file read, hashed and sent by a signed PUT, and nothing else."""

    def command(target: Target) -> list[str]:
        start = [sys.executable, "-m", "benchmarks.bare_files", target.url]
        return [*start, target.access_key, target.secret_key, target.bucket, target.folder]

    return Contender(FILES, True, command, _in_project, is_peer=False)


def puts_floor(count: int) -> Contender:
    """As many PUTs of bodies in memory, neither signed nor hashed, and nothing remembered of them."""

    def command(target: Target) -> list[str]:
        port = target.address.rpartition(":")[2]
        return [sys.executable, "-m", "benchmarks.transport", "bare", port, str(count)]

    return Contender(PUTS, True, command, _in_project, is_peer=False)


def for_nothing() -> list[Contender]:
    check = ("--checksum", *_MANY[1:])
    many_lists = ("--threads", "50", "--list-threads", "16", "--list-depth", "1")
    return [
        _OURS,
        Contender("s5cmd", False, _s5cmd("--size-only"), _aws_environment),
        Contender("rclone --size-only", False, _rclone(*_MANY), _rclone_environment),
        Contender("rclone --checksum", True, _rclone(*check), _rclone_environment),
        Contender("juicefs sync", False, _juicefs("--threads", "50"), _juicefs_environment),
        Contender("juicefs sync, 16 lists", False, _juicefs(*many_lists), _juicefs_environment),
        Contender("aws s3 sync", False, _aws("--size-only"), _aws_environment),
    ]
