"""Beside other tools: what aws, s5cmd and rclone sent is recognised, and they find nothing to do after us."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from bench import Mirror, assert_same, expected
from stores import BIN, Store, die_with_parent, minimal_environment

MIB = 1 << 20
HOUR = 3600
# Above the size from which each tool sends parts (rclone's is lowered from 200 MiB; its part size is not).
LARGE = {"aws": 20 * MIB + 3, "s5cmd": 51 * MIB + 3, "rclone": 13 * MIB + 3}


class Tool:
    """A client of somebody else, with the keys of a store."""

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self._environment = minimal_environment(
            home,
            AWS_ACCESS_KEY_ID=store.access_key,
            AWS_SECRET_ACCESS_KEY=store.secret_key,
            AWS_REGION="us-east-1",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
            AWS_REQUEST_CHECKSUM_CALCULATION="when_required",
            AWS_RESPONSE_CHECKSUM_VALIDATION="when_required",
            RCLONE_CONFIG="/dev/null",
            RCLONE_CONFIG_S_TYPE="s3",
            RCLONE_CONFIG_S_PROVIDER="Other",
            RCLONE_CONFIG_S_ENV_AUTH="true",
            RCLONE_CONFIG_S_ENDPOINT=store.url,
            RCLONE_CONFIG_S_REGION="us-east-1",
        )

    def run(self, *command: str) -> str:
        program, *arguments = command
        if program != "rclone":
            arguments = ["--endpoint-url", self._store.url, *arguments]
        if program == "aws":  # it sometimes overlooks an answer that comes with `100 Continue`, and waits
            arguments = ["--cli-read-timeout", "2", *arguments]
        found = subprocess.run(
            [str(BIN / program), *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            preexec_fn=die_with_parent,
            check=False,
        )
        assert found.returncode == 0, f"{command}: {found.stdout[-2000:]}{found.stderr[-2000:]}"
        return found.stdout + found.stderr

    def upload(self, name: str, folder: Path, bucket: str) -> None:
        if name == "aws":
            self.run("aws", "s3", "cp", "--recursive", "--no-progress", f"{folder}/", f"s3://{bucket}/")
        elif name == "s5cmd":
            self.run("s5cmd", "cp", f"{folder}/", f"s3://{bucket}/")
        else:
            self.run("rclone", "copy", "--s3-upload-cutoff", "6M", str(folder), f"s:{bucket}")


@pytest.fixture
def tool(store: Store, tmp_path: Path) -> Tool:
    return Tool(store, tmp_path)


def make(mirror: Mirror, large: int) -> None:
    """Small files with odd names, an empty one, and one that is sent in parts; all an hour old."""
    files = {"a.txt": "alpha", "b c/\u00e9+%.bin": 3000, "empty": b"", "deep/er/still.md": "x" * 5000}
    mirror.make({**files, "large.bin": large})
    for folder, _, names in os.walk(mirror.folder):
        for name in names:
            os.utime(os.path.join(folder, name), (time.time() - HOUR,) * 2)


STORES = pytest.mark.parametrize("store", ["juicefs", "seaweedfs"], indirect=True)
SENDS = {"PUT", "UploadPart", "CreateMultipartUpload", "DELETE", "DeleteObjects"}


@STORES
@pytest.mark.parametrize("name", list(LARGE))
def test_what_another_tool_sent_is_recognised_and_not_sent_again(
    mirror: Mirror, tool: Tool, name: str
) -> None:
    make(mirror, LARGE[name])
    mirror.store.client().create_bucket(Bucket=mirror.bucket)
    tool.upload(name, mirror.folder, mirror.bucket)
    etag = mirror.store.client().head_object(Bucket=mirror.bucket, Key="large.bin")["ETag"]
    assert "-" in etag, "the tool sent it in one piece: this test would show nothing"
    run = mirror.sync()
    assert not set(mirror.proxy.kinds()) & SENDS, mirror.proxy.kinds()
    assert run.progress["files_unchanged"] == run.progress["files_total"] == 5
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}, "what was recognised once is remembered"


@STORES
def test_a_changed_file_of_the_same_size_and_time_is_sent_though_another_tool_sent_the_rest(
    mirror: Mirror, tool: Tool
) -> None:
    make(mirror, LARGE["rclone"])
    mirror.store.client().create_bucket(Bucket=mirror.bucket)
    tool.upload("rclone", mirror.folder, mirror.bucket)
    for name in ("large.bin", "a.txt"):
        path = mirror.folder / name
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(-1, 2)
            last = file.read(1)
            file.seek(-1, 2)
            file.write(bytes([last[0] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = mirror.sync()
    assert run.progress["files_uploaded"] == 2
    assert run.progress["files_unchanged"] == 3


@STORES
def test_other_tools_find_nothing_to_do_and_read_what_was_sent(
    mirror: Mirror, tool: Tool, tmp_path: Path
) -> None:
    make(mirror, LARGE["aws"])
    mirror.sync()
    said = tool.run("rclone", "check", str(mirror.folder), f"s:{mirror.bucket}")
    assert "0 differences found" in said
    assert "5 matching files" in said
    # Of what went in parts rclone knows no hash: its MD5 would have to be read before the first part is sent.
    assert "1 hashes could not be checked" in said
    aws = ("aws", "s3", "sync", "--dryrun", "--delete", str(mirror.folder), f"s3://{mirror.bucket}")
    assert tool.run(*aws) == ""
    s5cmd = ("s5cmd", "--dry-run", "sync", "--delete", f"{mirror.folder}/", f"s3://{mirror.bucket}/")
    assert tool.run(*s5cmd) == ""
    listed = tool.run("rclone", "lsl", f"s:{mirror.bucket}")
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime((mirror.folder / "a.txt").stat().st_mtime))
    assert day in listed, "rclone shows the file's own time"
    for name, command in {
        "aws": ("aws", "s3", "cp", "--recursive", "--no-progress", f"s3://{mirror.bucket}/"),
        "s5cmd": ("s5cmd", "cp", f"s3://{mirror.bucket}/*"),
        "rclone": ("rclone", "copy", f"s:{mirror.bucket}"),
    }.items():
        target = tmp_path / name
        target.mkdir()
        tool.run(*command, f"{target}/")
        assert_same(expected(target), expected(mirror.folder))
