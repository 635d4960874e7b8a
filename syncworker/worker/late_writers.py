"""Waits for cluster members that may still write to a destination although their job's process has died.

A job that has members lists them in a file beside the destination's lock, and rewrites it once a second.
The next job on the destination waits until the leases in that file have expired or the processes are known
to have ended, so that no old content arrives after newer content. No file: there were no members.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from syncworker.jobs.destination import Destination
from syncworker.storage_url import destination_id
from syncworker.system import durable_files, processes

LATE_SECONDS = 15.0  # a lease, its last requests in flight (cluster/protocol.py), and the file's age
_POLL_SECONDS = 0.1


def note(destination: Destination, members: list[dict[str, Any]]) -> None:
    """Records the members of the job that holds the destination; removes the file if there are none."""
    if members:
        about = {"storage_url": destination.storage_url, "bucket": destination.bucket}
        about |= {"prefix": destination.prefix, "at": time.time(), "members": members}
        about |= {"machine": processes.machine(), "clock": processes.awake_seconds()}
        durable_files.replace_json(destination.members_path, about, durable=False)
    else:
        durable_files.remove(destination.members_path)


async def wait(jobs_dir: str, destination: Destination, check: Callable[[], None]) -> None:
    """Waits until no member of an earlier job can write to the destination. `check` raises when the job is
    to stop."""
    for path, about in _near(jobs_dir, destination):
        until = processes.awake_seconds() + LATE_SECONDS - _age(about)
        while processes.awake_seconds() < until and any(map(may_live, about.get("members") or [])):
            check()
            await asyncio.sleep(_POLL_SECONDS)
        if path == destination.members_path:
            durable_files.remove(path)


def _age(about: dict[str, Any]) -> float:
    """Returns the file's age in seconds. If the file is of this boot, changes of the clock do not matter."""
    if about.get("machine") == processes.machine():
        return processes.awake_seconds() - float(about["clock"])
    return max(0.0, time.time() - float(about.get("at") or 0.0))


def _near(jobs_dir: str, destination: Destination) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the files of this destination and of those that contain it or lie in it; no job holds these."""
    folder = os.path.join(jobs_dir, ".dest")
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in [name for name in names if name.endswith(".members")]:
        path = os.path.join(folder, name)
        about = durable_files.read_json(path)
        if about is None:
            continue
        same = destination_id(str(about.get("storage_url")), str(about.get("bucket"))) == destination_id(
            destination.storage_url, destination.bucket
        )
        prefix = str(about.get("prefix"))
        if same and (prefix.startswith(destination.prefix) or destination.prefix.startswith(prefix)):
            yield path, about


def may_live(member: dict[str, Any]) -> bool:
    """Returns whether a member's process may still run; True for another machine."""
    if member.get("machine") != processes.machine() or not member.get("pid"):
        return True
    return processes.is_running(int(member["pid"]), float(member.get("started") or 0.0))
