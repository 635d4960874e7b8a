"""Processes: which one this is, starting workers, signals. The only module that uses `psutil` and `signal`.
What every worker needs is read from /proc: importing psutil takes a tenth of its start-up.

A pid alone is never trusted: pids are reused. With the start time it names one process of one boot; both are
compared before every signal.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from syncworker.paths import PROJECT
from syncworker.system.durable_files import closing

TERM, KILL = signal.SIGTERM, signal.SIGKILL
_ADDRESSES_SECONDS = 5.0
_HOSTS = "/etc/hosts"
_GC_THRESHOLD = 50_000  # allocations less deallocations of containers; Python's own is 700
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ENDED = frozenset("ZX")  # zombies, and what is about to be gone
_START_TOLERANCE_SECONDS = 1.0  # the start time is derived from the boot time, which the clock's steps move


def tune_gc() -> None:
    """Raises the garbage collector's threshold: a worker creates millions of tuples and almost no reference
    cycles. At Python's own threshold a sixth of a sync with nothing to do goes to the collector."""
    gc.freeze()  # what is there now stays
    gc.set_threshold(_GC_THRESHOLD, 10, 10)


def work_in_batches() -> None:
    """Tells the kernel that this thread, and what it starts, does batch work (SCHED_BATCH, sched(7)): it gets
    as much of the processor as before, but pushes nobody aside when it wakes up. So a worker that shares its
    cores with the storage is woken for several answers, not for each. Keeps a policy that somebody chose."""
    with contextlib.suppress(OSError):  # some sandboxes do not permit it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class _Stat(NamedTuple):
    """Fields of /proc/PID/stat (proc(5)). `ticks`: user and system time, ended children included."""

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
    """Names the pid namespace of this boot, in which a pid means the same process. Host names do not: other
    machines and containers may have the same one."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"


def awake_seconds() -> float:
    """A clock that cannot be set, and that runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_own: tuple[float, frozenset[str]] = (-math.inf, frozenset())  # when it was asked, what it was


def own_addresses() -> frozenset[str]:
    """The IP addresses of this machine, as text; cached for a few seconds."""
    global _own
    if time.monotonic() - _own[0] > _ADDRESSES_SECONDS:
        import psutil

        found = itertools.chain(*psutil.net_if_addrs().values())
        families = (socket.AF_INET, socket.AF_INET6)
        known = frozenset(each.address.partition("%")[0] for each in found if each.family in families)
        _own = (time.monotonic(), known)
    return _own[1]


@functools.cache
def own_names() -> frozenset[str]:
    """The names of this machine, lower-case: its host name, and those on the same line of /etc/hosts. Other
    names in that file may belong to several storages behind one proxy. Asks no name server."""
    own = host().lower()
    names = {own}
    with contextlib.suppress(OSError), open(_HOSTS, encoding="utf-8", errors="replace") as file:
        for line in file.read(1 << 20).lower().splitlines():
            if own in (on_line := line.partition("#")[0].split()[1:]):
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
    with closing(fd), contextlib.suppress(ProcessLookupError):
        # The descriptor pins the process: checked after opening, it cannot change any more.
        if is_running(pid, started_at):
            signal.pidfd_send_signal(fd, number)
            return True
    return False


def resources(pid: int) -> tuple[int, float] | None:
    """Resident memory in bytes and processor seconds (user and system, ended children included) of a process;
    None when it is gone."""
    found = _stat(pid)
    return None if found is None else (found.rss_pages * _PAGE_BYTES, found.ticks / _TICKS_A_SECOND)


def _spawn(arguments: list[str], environ: Mapping[str, str], **streams: Any) -> subprocess.Popen[bytes]:
    """`python -m syncworker …` in a session of its own, which no Ctrl-C or signal to this one reaches."""
    command = [sys.executable, "-m", "syncworker", *arguments]
    return subprocess.Popen(command, cwd=PROJECT, env=dict(environ), start_new_session=True, **streams)


def spawn_worker(job_id: str, log: IO[bytes], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return _spawn(["run", job_id], environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def spawn_member(
    arguments: list[str], environ: Mapping[str, str], fds: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """A child that inherits these descriptors, and whose standard input ends with this process."""
    return _spawn(arguments, environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=fds)


def end_member(child: subprocess.Popen[bytes], seconds: float = 3.0) -> None:
    """Waits until a child whose standard input is closed has ended; kills it after `seconds`."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def on_stop(callback: Callable[[str], object]) -> None:
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

    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).cwd())
    return None


def listener(port: int) -> int | None:
    """The pid of the process that listens on a TCP port; None when there is none, or it is not known."""
    import psutil

    with contextlib.suppress(psutil.Error):  # another user's process: it stays unknown
        for each in psutil.net_connections(kind="tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr[1] == port and each.pid:
                return int(each.pid)
    return None


def port_holder(port: int) -> str | None:
    """The process that listens on a TCP port, for people: `nginx (pid 812)`; None when it is not known."""
    import psutil

    pid = listener(port)
    with contextlib.suppress(psutil.Error):
        return f"{psutil.Process(pid).name()} (pid {pid})" if pid else None
    return None
