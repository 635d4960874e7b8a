"""One budget of bytes a second for many processes: a few bytes in a file, under a kernel lock. No daemon.

The file says when the budget is free again. A process *draws*: it reserves the time from then on, at most a
quarter of a second divided by the number of processes that draw, and sends its bytes in that time. Each
process has one draw at a time, so they take turns, and a share that one does not use goes to the others. A
process that dies loses its draw and nothing else; the kernel frees the lock.

Times are those of the monotonic clock, which all processes share and nobody sets. It restarts with the
machine, so the file names the boot. A file is replaced when it is damaged, of another boot, or claims more
than all processes could have drawn; also when its lock is not free for `_LOCK_SECONDS` (its holder was
stopped while it held it): what that holder writes later goes to a file without a name.

    magic, CRC-32 of the rest, boot, rate, schedule (ns), then (pid, when it last drew) of each
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from syncworker.system import durable_files

DRAW_SECONDS = 0.25
MEMBERS_MAX = 64
_SEEN_NS = 2_000_000_000  # a process that has not drawn for so long has no share
_TOLERATED_NS = 40_000_000  # bytes that are late by less are sent at once
_BEHIND_MAX_NS = 500_000_000
_FASTER = 0.03  # until the delay has been made up for
_BUSY_NS = 500_000_000  # a process that drew within it sends without pauses
_LOCK_SECONDS = 1.0
_MAGIC = b"bucket1\n"
_FRAME, _HEAD, _MEMBER = struct.Struct("=8sI"), struct.Struct("=36sdqqI"), struct.Struct("=Iq")
_SIZE = _FRAME.size + _HEAD.size + MEMBERS_MAX * _MEMBER.size


class Draw(NamedTuple):
    """`size` bytes may be sent from `at_ns` on, at the rate of the budget, which `members` share now."""

    size: int
    at_ns: int
    members: int


class Schedule(NamedTuple):
    """When the next bytes may be sent, and how much time was lost by delays, to be made up for."""

    free_at_ns: int
    behind_ns: int = 0

    def book(self, now: int, duration: int, *, is_busy: bool) -> tuple[int, Schedule]:
        """Returns when these bytes may be sent, and the schedule after them. Delayed bytes are sent a little
        faster than the rate, never in a burst; `is_busy` is False after a time without anything to send."""
        late = max(0, now - self.free_at_ns)
        if not is_busy:
            at, behind = max(now, self.free_at_ns), 0
        else:
            at = max(self.free_at_ns, now - _TOLERATED_NS)
            behind = min(_BEHIND_MAX_NS, self.behind_ns + max(0, late - _TOLERATED_NS))
        gained = min(behind, int(duration * _FASTER))
        return at, Schedule(at + duration - gained, behind - gained)


class _State(NamedTuple):
    rate: float
    schedule: Schedule
    members: dict[int, int]  # pid: when it last drew


def boot_id() -> str:
    data = durable_files.read_start("/proc/sys/kernel/random/boot_id", 36)
    return (data or b"").decode("ascii", "replace")


class TokenBucket:
    def __init__(
        self, path: str, clock_ns: Callable[[], int] = time.monotonic_ns, pid: int | None = None
    ) -> None:
        self._path, self._clock_ns = path, clock_ns
        self._pid = os.getpid() if pid is None else pid
        self._boot = boot_id().encode().ljust(36)[:36]
        self._locked_since: float | None = None

    def draw(self, rate: int, wanted: int) -> Draw | None:
        """Draws at most `wanted` bytes. None: the lock is held just now, try again in a moment. OSError: the
        file cannot be used."""
        with durable_files.Lock(self._path) as lock:
            if not lock.acquire():
                self._renew_if_stuck()
                return None
            self._locked_since = None
            now = self._clock_ns()
            state = self._load(os.pread(lock.fd, _SIZE, 0), now, rate)
            drawn, state = _reserve(state, now, rate, wanted, self._pid)
            os.pwrite(lock.fd, self._dump(state), 0)
            return drawn

    def _renew_if_stuck(self) -> None:
        now = time.monotonic()
        if self._locked_since is None:
            self._locked_since = now
        elif now - self._locked_since > _LOCK_SECONDS:
            durable_files.remove(self._path)
            self._locked_since = None

    def _load(self, data: bytes, now: int, rate: int) -> _State:
        """Reads the file's content; a fresh state if it cannot be true now."""
        fresh = _State(rate, Schedule(now), {})
        if len(data) < _FRAME.size + _HEAD.size:
            return fresh
        magic, checksum = _FRAME.unpack_from(data)
        rest = data[_FRAME.size :]
        if magic != _MAGIC or zlib.crc32(rest) != checksum:
            return fresh
        boot, before, free_at, behind, count = _HEAD.unpack_from(rest)
        if boot != self._boot or not before > 0 or count > MEMBERS_MAX or not 0 <= behind <= _BEHIND_MAX_NS:
            return fresh
        if before != rate and free_at > now:  # bytes that are already drawn take longer now, or shorter
            free_at = now + int((free_at - now) * before / rate)
        if free_at - now > (MEMBERS_MAX + 1) * 1e9 * max(DRAW_SECONDS, 1 / rate):
            return fresh
        members = (_MEMBER.unpack_from(rest, _HEAD.size + each * _MEMBER.size) for each in range(count))
        seen = {pid: at for pid, at in members if now - _SEEN_NS < at <= now}
        return _State(rate, Schedule(free_at, behind), seen)

    def _dump(self, state: _State) -> bytes:
        newest = sorted(state.members.items(), key=lambda item: -item[1])[:MEMBERS_MAX]
        rest = _HEAD.pack(self._boot, state.rate, *state.schedule, len(newest))
        rest += b"".join(_MEMBER.pack(*item) for item in newest)
        rest = rest.ljust(_SIZE - _FRAME.size, b"\0")
        return _FRAME.pack(_MAGIC, zlib.crc32(rest)) + rest


def _reserve(state: _State, now: int, rate: int, wanted: int, pid: int) -> tuple[Draw, _State]:
    """Reserves the next free time. Pure."""
    is_busy = now - state.members.get(pid, -_BUSY_NS) < _BUSY_NS
    members = state.members | {pid: now}
    size = max(1, min(wanted, int(rate * DRAW_SECONDS / len(members))))
    at, schedule = state.schedule.book(now, int(size * 1e9 / rate), is_busy=is_busy)
    return Draw(size, at, len(members)), _State(rate, schedule, members)
