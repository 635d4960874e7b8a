"""Processes: who one is, starting workers, signals. The only module that uses `psutil` and `signal`. What
every worker asks is read from /proc here: importing psutil takes a tenth of its start-up.

A pid alone is never believed: pids are used again. With the start time it names one process of one boot;
both are compared before every signal.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple

from syncworker.paths import PROJECT

TERM, KILL = signal.SIGTERM, signal.SIGKILL
_ADDRESSES_SECONDS = 5.0
_HOSTS = "/etc/hosts"
_OBJECTS_BETWEEN_LOOKS = 50_000  # containers made, less those that are gone; Python's own is 700
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENDED = frozenset("ZX")  # zombies, and what is about to be gone
_START_TOLERANCE_SECONDS = 1.0  # the start time is derived from the boot time, which the clock's steps move


def tune_gc() -> None:
    """Has Python look for cycles among its objects less often: a worker makes millions of records, which are
    none, and few cycles. Looking as often as it does by itself costs a sixth of a sync with nothing to do."""
    gc.freeze()  # what is there now stays
    gc.set_threshold(_OBJECTS_BETWEEN_LOOKS, 10, 10)


class _Stat(NamedTuple):
    """What /proc/PID/stat tells of a process (proc(5)). `ticks`: user and system, of ended children too."""

    state: str
    ticks: int
    start_ticks: int
    rss_pages: int

    @property
    def started_at(self) -> float:
        return self.start_ticks / _TICKS_A_SECOND + _booted_at()


def _stat(pid: int) -> _Stat | None:
    """None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # a name may hold blanks and brackets
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    state, times, start_ticks, rss_pages = fields[0], fields[11:15], fields[19], fields[21]
    return _Stat(state.decode(), sum(map(int, times)), int(start_ticks), int(rss_pages))


def _booted_at() -> float:
    with open("/proc/stat", "rb") as file:
        return next(float(line.split()[1]) for line in file if line.startswith(b"btime"))


def me() -> tuple[int, float]:
    """This process: pid, start time (seconds since the epoch)."""
    return os.getpid(), started_at(os.getpid()) or 0.0


def host() -> str:
    return socket.gethostname()


def machine() -> str:
    """Where a pid means the same process: other machines, and other containers here, may have this one's
    name. Of this boot alone."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"


def awake_seconds() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_own: tuple[float, frozenset[str]] = (-math.inf, frozenset())  # when it was asked, what it was


def own_addresses() -> frozenset[str]:
    """The IP addresses of this machine, as text; what was found serves for a few seconds."""
    global _own
    asked_at, known = _own
    if time.monotonic() - asked_at > _ADDRESSES_SECONDS:
        import psutil

        found = psutil.net_if_addrs().values()
        known = frozenset(
            address.address.partition("%")[0]
            for addresses in found
            for address in addresses
            if address.family in (socket.AF_INET, socket.AF_INET6)
        )
        _own = (time.monotonic(), known)
    return known


@functools.cache
def own_names() -> frozenset[str]:
    """The names of this machine, lower-case: its host name, and those beside it in /etc/hosts. Other names in
    that file may be those of several storages behind one proxy. No name server is asked."""
    own = host().lower()
    names = {own}
    try:
        with open(_HOSTS, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).lower().splitlines()
    except OSError:
        lines = []  # a machine without one
    for line in lines:
        on_line = line.partition("#")[0].split()[1:]
        if own in on_line:
            names.update(on_line)
    return frozenset(names)


def is_running(pid: int, started_at: float) -> bool:
    """Whether this very process still runs (a zombie does not)."""
    found = _stat(pid)
    if found is None or found.state in _ENDED:
        return False
    return abs(found.started_at - started_at) < _START_TOLERANCE_SECONDS


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
    found = _stat(pid)
    return None if found is None else (found.rss_pages * _PAGE_BYTES, found.ticks / _TICKS_A_SECOND)


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


def spawn_member(
    argv: list[str], environ: Mapping[str, str], fds: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """`python -m syncworker …` as a child that holds these descriptors, and whose standard input ends with
    this process. A session of its own: Ctrl-C is this process's to take."""
    return subprocess.Popen(
        [sys.executable, "-m", "syncworker", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=PROJECT,
        env=dict(environ),
        start_new_session=True,
        pass_fds=fds,
    )


def end_member(child: subprocess.Popen[bytes], seconds: float = 3.0) -> None:
    """Waits until a child has ended whose standard input is closed; one that does not is killed."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def on_stop(callback: Callable[[str], None]) -> None:
    """Calls back with the signal's name on SIGTERM and SIGINT. The callback only sets a flag."""

    def handle(number: int, _frame: object) -> None:
        callback(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def started_at(pid: int) -> float | None:
    """When a process started (seconds since the epoch), None when it is gone."""
    found = _stat(pid)
    return None if found is None else round(found.started_at, 2)


def working_folder(pid: int) -> str | None:
    """The folder a process works in; None when it is gone or not ours to see."""
    import psutil

    try:
        return str(psutil.Process(pid).cwd())
    except psutil.Error:
        return None


def listener(port: int) -> int | None:
    """The pid of who listens on a TCP port; None when nobody does, or that cannot be told."""
    import psutil

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
    import psutil

    pid = listener(port)
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else None
    except psutil.Error:
        return None
