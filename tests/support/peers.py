"""Ours and its peers as commands that make a bucket the mirror of a folder, deletions included.

Each runs as a user would run it, with the least that its documentation asks for to reach a store that is not
Amazon's. All of them meet the file modes that a user meets, also where the tests run as root.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import PROJECT
from stores import BIN, Store, die_with_parent_obeying_permissions, minimal_environment

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Place:
    """Which folder goes where: `url` is the store's or a proxy's before it."""

    base: Path
    store: Store
    url: str
    bucket: str

    @property
    def folder(self) -> Path:
        return self.base / "uploads" / "photos"


Command = Callable[[Place], list[str]]


def _ours(_: Place) -> list[str]:
    return [sys.executable, "-m", "syncworker", "start", "--source", "photos"]


def _aws(place: Place) -> list[str]:
    start = [str(BIN / "aws"), "--endpoint-url", place.url, "s3", "sync", "--only-show-errors", "--delete"]
    return [*start, f"{place.folder}/", f"s3://{place.bucket}/"]


def _rclone(place: Place) -> list[str]:
    # Multipart uploads from 8 MiB on, as the others do, and not from 200.
    return [str(BIN / "rclone"), "sync", "--s3-upload-cutoff", "8M", str(place.folder), f":s3:{place.bucket}"]


def _s5cmd(place: Place) -> list[str]:
    start = [str(BIN / "s5cmd"), "--endpoint-url", place.url, "--log", "error", "sync", "--delete"]
    return [*start, "--part-size", "8", f"{place.folder}/", f"s3://{place.bucket}/"]


def _juicefs(place: Place) -> list[str]:
    keys = f"{place.store.access_key}:{place.store.secret_key}"
    where = f"minio://{keys}@{place.url.removeprefix('http://')}/{place.bucket}/"
    start = [str(BIN / "juicefs"), "--no-agent", "sync", "--quiet", "--no-https", "--delete-dst"]
    return [*start, "--metrics", "127.0.0.1:0", f"{place.folder}/", where]


COMMANDS: dict[str, Command] = {
    OURS: _ours,
    "aws s3 sync --delete": _aws,
    "rclone sync": _rclone,
    "s5cmd sync --delete": _s5cmd,
    "juicefs sync --delete-dst": _juicefs,
}


def environment(place: Place) -> dict[str, str]:
    """One for all: each reads what is its own."""
    store = place.store
    return minimal_environment(
        place.base,
        PYTHONPATH=str(PROJECT),
        JOBS_DIR=str(place.base / "jobs"),
        UPLOADS_DIR=str(place.base / "uploads"),
        STORAGE_URL=place.url,
        MINIO_ACCESS_KEY=store.access_key,
        MINIO_SECRET_KEY=store.secret_key,
        AWS_ACCESS_KEY_ID=store.access_key,
        AWS_SECRET_ACCESS_KEY=store.secret_key,
        AWS_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        RCLONE_CONFIG="/dev/null",
        RCLONE_S3_PROVIDER="SeaweedFS",
        RCLONE_S3_ENDPOINT=place.url,
        RCLONE_S3_REGION="us-east-1",
        RCLONE_S3_ACCESS_KEY_ID=store.access_key,
        RCLONE_S3_SECRET_ACCESS_KEY=store.secret_key,
    )


def start(name: str, place: Place, **more: str) -> subprocess.Popen[bytes]:
    command = COMMANDS[name](place)
    if name == OURS:
        command += ["--dest", place.bucket]
    with (place.base / "output").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=place.base,
            env=environment(place) | more,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent_obeying_permissions,
        )


def sync(name: str, place: Place, **more: str) -> int:
    """One sync to its end: the exit status."""
    return start(name, place, **more).wait(120)
