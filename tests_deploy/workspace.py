"""The folder that the test works in, and what tests that were killed have left.

One test at a time: its containers have fixed addresses. The lock is the kernel's, so it is never left over.
Everything a test starts has its folder's name, which nobody else uses, in its command line or is a child of
such a process: that is how what is left is found. It does not know Docker beyond that.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import ipaddress
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator

from tests_deploy import machine
from tests_deploy.machine import run

LOCK = "/run/s3-sync-api-test-deploy.lock"
PREFIX = "test-deploy-"
MEMORY_BYTES = 3 << 30  # of images, several times over; a disk takes longer
MEMORY_LEFT_BYTES = 3 << 30


@contextlib.contextmanager
def workspace() -> Iterator[str]:
    """A new folder, in memory where there is plenty: nothing of it must outlive the test. Gone at the end."""
    with open(LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("   another test of the deployment runs on this machine: waiting for its end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        remove_leftovers()
        folder = tempfile.mkdtemp(prefix=PREFIX)
        try:
            if available_memory() > MEMORY_BYTES + MEMORY_LEFT_BYTES:
                run(["mount", "-t", "tmpfs", "-o", f"size={MEMORY_BYTES}", "tmpfs", folder], check=False)
            os.chmod(folder, 0o755)  # noqa: S103 - the container's user reads the uploads below it
            yield folder
        finally:
            remove(folder)


def available_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        found = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
    return int(found[1]) * 1024 if found else 0


def remove(folder: str) -> None:
    end_processes_of(folder)
    machine.unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Of tests that were killed: called with the lock, so none of them lives."""
    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), PREFIX + "*")):
        found = os.lstat(folder)
        if found.st_uid == 0 and os.path.isdir(folder) and not os.path.islink(folder):
            print(f"   removing {folder}, which a test that was killed has left", flush=True)
            remove(folder)
    if shutil.which("iptables"):
        while not run(["iptables", "-w", "-C", *machine.FORWARD_RULE], check=False).strip():
            run(["iptables", "-w", "-D", *machine.FORWARD_RULE])
    for name in left_bridges():
        run(["ip", "link", "delete", name], check=False)


def left_bridges() -> list[str]:
    if not shutil.which("ip"):
        return []
    pool = ipaddress.ip_network(machine.POOL)
    lines = [line.split() for line in run(["ip", "-4", "-o", "address", "show"], check=False).splitlines()]
    return [
        words[1]
        for words in lines
        if words[1].startswith("br-") and ipaddress.ip_interface(words[3]).ip in pool
    ]


def end_processes_of(folder: str) -> None:
    """The daemon, containerd and its shims, and what they have started, containers included."""
    for pid in processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_of(folder: str) -> list[int]:
    """Those whose command line names something in the folder, and all below them; not this process."""
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                command = file.read()
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended just now
        children.setdefault(parent, []).append(int(name))
        if folder.encode() + b"/" in command and int(name) != os.getpid():
            found.append(int(name))
    for pid in found:  # it grows while it is walked
        found += [child for child in children.get(pid, []) if child not in found]
    return found
