"""A command under `strace`, which kills it at the n-th system call on the job directory, or makes that fail.

The calls are those on the files of one job (their paths are given to `strace -P`, so the job's id is known
beforehand), on the directories, and on the index. Killed *at* a call is killed before it is carried out, so
that all n together are every state that the disk can be left in. `strace` counts for each thread on its own.

A short write cannot be made so (a call that is skipped has written nothing): a small disk does that, in
`test_disk.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stores import die_with_parent

PROJECT = Path(__file__).resolve().parents[2]
ID = "20261122T131242-9f3a61c2"
SUFFIXES = (
    "json",
    "json.tmp",
    "lock",
    "cancel",
    "pause",
    "bandwidth",
    "report.jsonl",
    "secret",
    "secret.tmp",
    "log",
)
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a call: `how` is strace's word for it."""

    calls: str
    how: str

    def __str__(self) -> str:
        return f"{self.calls.replace(',', '+')} {self.how.partition('=')[2]}"


KILL = [
    Fault(call, "signal=SIGKILL")
    for call in (
        "openat",
        "write,pwrite64",
        "fsync,fdatasync",
        "close",
        "rename",
        "unlink",
        "ftruncate",
        "flock",
        "mkdir",
    )
]
FAIL = [
    Fault("openat", "error=EACCES"),
    Fault("openat", "error=EMFILE"),
    Fault("openat", "error=ENOSPC"),
    Fault("openat", "error=EIO"),
    Fault("write,pwrite64", "error=ENOSPC"),
    Fault("write,pwrite64", "error=EIO"),
    Fault("fsync,fdatasync", "error=EIO"),
    Fault("close", "error=EIO"),
    Fault("rename", "error=EACCES"),
    Fault("rename", "error=ENOSPC"),
    Fault("unlink", "error=EACCES"),
    Fault("ftruncate", "error=EIO"),
    Fault("flock", "error=EIO"),
]


def paths(jobs: Path, index: str) -> list[Path]:
    """The files of the job, the directories, the locks, and the index, whose file is named `index`."""
    found = [jobs / f"{ID}.{suffix}" for suffix in SUFFIXES]
    found += [jobs, jobs / ".dest", jobs / ".index", jobs / ".create.lock", jobs / ".server.lock"]
    found += [jobs / ".totals.json", jobs / ".totals.json.tmp", jobs / ".dest" / f"{index}.lock"]
    found += [jobs / ".dest" / f"{index}.json", jobs / ".dest" / f"{index}.json.tmp"]
    return found + [jobs / ".index" / f"{index}.sqlite{more}" for more in ("", "-wal", "-shm", "-journal")]


def traced(fault: Fault, number: int, files: list[Path], trace: Path) -> list[str]:
    """The beginning of a command line that has the n-th such call meet the fault."""
    command = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={fault.calls}"]
    for path in files:
        command += ["-P", str(path)]
    return [*command, "-e", f"inject={fault.calls}:{fault.how}:when={number}", "--"]


def has_happened(trace: Path) -> bool:
    """Whether the run came to its n-th call."""
    text = trace.read_text(errors="replace")
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def run(command: list[str], environment: dict[str, str], output: Path) -> int:
    """Runs it to its end; standard output and errors go to a file."""
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            return process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)
            raise AssertionError(f"hangs: {' '.join(command)}\n{output.read_text()[-3000:]}") from None


def put_back(template: Path, jobs: Path) -> None:
    """The job directory as it was before the trial."""
    shutil.rmtree(jobs, ignore_errors=True)
    shutil.copytree(template, jobs)
