"""Processes: who one is, starting workers, signals. The only module that uses `psutil` and `signal`.

A pid alone is never believed: pids are used again. With the start time it names one process of one boot;
both are compared before every signal.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import IO

import psutil

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TERM, KILL = signal.SIGTERM, signal.SIGKILL
_OBJECTS_BETWEEN_LOOKS = 50_000  # containers made, less those that are gone; Python's own is 700
_START_TOLERANCE_SECONDS = 1.0  # the start time is derived from the boot time, which the clock's steps move


def collect_seldom() -> None:
    """Has Python look for cycles among its objects less often: a worker makes millions of records, which are
    none, and few cycles. Looking as often as it does by itself costs a sixth of a sync with nothing to do."""
    gc.freeze()  # what is there now stays
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS, 10, 10)


def me() -> tuple[int, float]:
    """This process: pid, start time (seconds since the epoch)."""
    return os.getpid(), round(psutil.Process().create_time(), 2)


def host() -> str:
    return socket.gethostname()


def is_running(pid: int, started_at: float) -> bool:
    """Whether this very process still runs (a zombie does not)."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_at) < _START_TOLERANCE_SECONDS
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def send_signal(pid: int, started_at: float, number: int) -> bool:
    """Signals the process only when pid and start time both match; False when it is gone or another."""
    if pid <= 1:
        return False
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The descriptor pins the process: checked after opening, it cannot change any more.
        if not is_running(pid, started_at):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def resources(pid: int) -> tuple[int, float] | None:
    """Resident memory in bytes and processor seconds (user and system, of its ended children too) of a
    process, None when gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            ended = times.children_user + times.children_system
            return int(process.memory_info().rss), float(times.user + times.system + ended)
    except psutil.Error:
        return None


def spawn_worker(job_id: str, log: IO[bytes], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """`python -m syncworker run ID` in a session of its own, so that no signal to the server reaches it."""
    return subprocess.Popen(
        [sys.executable, "-m", "syncworker", "run", job_id],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=PROJECT,
        env=dict(environ),
        start_new_session=True,
        close_fds=True,
    )


def on_stop(callback: Callable[[str], None]) -> None:
    """Calls back with the signal's name on SIGTERM and SIGINT. The callback only sets a flag."""

    def handle(number: int, _frame: object) -> None:
        callback(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def started_at(pid: int) -> float | None:
    """When a process started (seconds since the epoch), None when it is gone."""
    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def working_folder(pid: int) -> str | None:
    """The folder a process works in; None when it is gone or not ours to see."""
    try:
        return str(psutil.Process(pid).cwd())
    except psutil.Error:
        return None


def listener(port: int) -> int | None:
    """The pid of who listens on a TCP port; None when nobody does, or that cannot be told."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local[1] == port and connection.pid:
                return int(connection.pid)
    except psutil.Error:
        pass  # another user's process: it stays unknown
    return None


def port_holder(port: int) -> str | None:
    """Who listens on a TCP port, for people: `nginx (pid 812)`; None when that cannot be told."""
    pid = listener(port)
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else None
    except psutil.Error:
        return None
