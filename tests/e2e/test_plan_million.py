"""A plan of a million lines, read, approved and carried out to its end, at the near-free store of the
benchmarks: what is measured is ours. docs/operations.md has the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from bench import PROJECT, Shell, peak_bytes
from stores import die_with_parent_obeying_permissions

from benchmarks.stub import Stub

pytestmark = pytest.mark.long

FOLDERS = int(os.environ.get("PLAN_FOLDERS", "500"))  # of a thousand files, deleted; and as many, uploaded
LINES = 2 * FOLDERS * 1000
PEAK_MB = 150


@pytest.fixture
def base() -> Iterator[Path]:
    """In memory: half a million files are made."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def run(shell: Shell, *arguments: str, wanted: int = 0) -> Path:
    """One command of the shell; prints what it took. Its output, in a file."""
    began, peak, output = time.monotonic(), 0, shell.base / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncworker", *arguments],
            cwd=PROJECT,
            env=shell.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent_obeying_permissions,
        )
        while not (found := os.wait4(process.pid, os.WNOHANG))[0]:
            with suppress(IndexError):  # it has just ended
                peak = max(peak, peak_bytes(process.pid))  # wait4 would tell of ours before exec, too
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(found[1])
    assert process.returncode == wanted, output.read_bytes()[-2000:]
    took, processor = time.monotonic() - began, found[2].ru_utime + found[2].ru_stime
    peak_mb = peak / 1e6
    print(
        f"{arguments[0]}: {took:.0f} s, {processor:.0f} s of processor time, {peak_mb:.0f} MB at most",
        flush=True,
    )
    assert peak_mb < PEAK_MB, arguments
    return output


@pytest.mark.timeout(3600)
def test_a_plan_of_a_million_lines_is_approved_and_carried_out_to_its_end(base: Path) -> None:
    with Stub(base / "stub", workers=1) as stub:
        keys = {"MINIO_ACCESS_KEY": stub.access_key, "MINIO_SECRET_KEY": stub.secret_key}
        shell = Shell(base, None, STORAGE_URL=stub.url, **keys)
        photos = shell.uploads / "photos"
        for number in range(FOLDERS):
            folder = photos / f"d{number:05}"
            folder.mkdir(parents=True)
            for file in range(1000):
                (folder / f"file-{file:03}.bin").write_bytes(b"%d" % number)
        start = ("start", "--source", "photos", "--dest", "million", "--quiet")
        run(shell, *start)
        for number in range(FOLDERS):
            (photos / f"d{number:05}").rename(photos / f"d{number + FOLDERS:05}")
        stub.reset()
        run(shell, *start, "--plan", wanted=5)
        assert not stub.counts().keys() & {"PUT", "DELETE"}, stub.counts()
        job = shell.ids()[-1]
        assert shell.status(job)["plan"]["lines"] == LINES
        with run(shell, "plan", job, "--json").open() as lines:
            found = Counter(json.loads(line)["op"] for line in lines)
        assert found == {"delete": LINES // 2, "upload": LINES // 2}
        run(shell, "approve", job, "--quiet")
        status, counts = shell.status(job), stub.counts()
        assert (status["state"], status["attempt"]) == ("done", 2)
        assert status["progress"]["files_uploaded"] == counts["PUT"] == LINES // 2
        assert status["progress"]["objects_deleted"] == LINES // 2
        stub.reset()
        run(shell, *start)
        assert stub.counts().get("PUT", 0) == stub.counts().get("DELETE", 0) == 0
        assert shell.status(shell.ids()[-1])["progress"]["files_unchanged"] == LINES // 2
