"""A member: what the engine calls in it, and the jobs that it works for.

```
carry_out (a thread of the engine's) ─► Carrier: a thread with an event loop, connections and lanes of its own
hear      (at once, whatever goes on) ─►         one for each job that it works for
```
`hear` raises nothing: what it was given holds keys, and an engine may log what failed with its arguments.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import Any

from syncworker.cluster import protocol
from syncworker.cluster.carrier import Carrier
from syncworker.cluster.member_accounts import clock
from syncworker.cluster.protocol import PartRecord, PartRun, State, Verb
from syncworker.errors import SyncError
from syncworker.folder.uploads_root import Tree
from syncworker.settings import Settings
from syncworker.system import processes


class Office:
    """The jobs that this process works for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._carriers: dict[str, Carrier] = {}
        self._lock = threading.Lock()

    def carry_out(self, data: bytes) -> bytes:
        job, epoch, number, what = protocol.unpack_batch(data)
        carrier = self._carriers.get(job)
        is_ours = carrier is not None and carrier.epoch == epoch  # else fenced, or not opened
        if isinstance(what, PartRun):
            records = carrier.carry_parts(number, what) if carrier is not None and is_ours else None
            doubted = carrier is not None and carrier.has_doubts
            left = [PartRecord(number) for number in what.numbers]
            return protocol.pack_parts(State.NONE, records or left, doubted=doubted)
        if carrier is None or not is_ours:
            return protocol.pack_answer(State.NONE, protocol.left(what))
        return protocol.pack_answer(carrier.state, carrier.carry_out(number, what))

    def hear(self, data: bytes) -> bytes:
        """The answer to a request; of one that cannot be understood, that."""
        try:
            with self._lock:
                return protocol.pack(self._hear(protocol.unpack(data)))
        except Exception as error:  # noqa: BLE001 - see above: no argument may reach a log
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}"
            return protocol.pack({"clock": clock(), "state": str(State.NONE), "refused": why})

    def _hear(self, request: dict[str, Any]) -> dict[str, Any]:
        verb, job, epoch = Verb(request["verb"]), request["job"], request["epoch"]
        carrier = self._carriers.get(job)
        if carrier is not None and carrier.epoch == epoch:
            carrier.take(request)
        elif carrier is not None and epoch > carrier.epoch:
            carrier.stops = True  # of an older epoch: it ends first
        has_ended = carrier is None or (epoch > carrier.epoch and carrier.state is State.NONE)
        if verb is Verb.OPEN and has_ended:
            carrier = self._carriers[job] = Carrier(job, epoch, request, self.settings)
        for other, ended in list(self._carriers.items()):
            if other != job and ended.state is State.NONE:
                del self._carriers[other]
        state = carrier.state if carrier is not None else State.NONE
        answer = {"clock": clock(), "state": str(state), **(self._about_me())}
        if verb is Verb.HELLO:
            answer |= self._look(request["samples"])
        if carrier is not None and carrier.epoch == epoch:
            answer |= carrier.show()
        return answer

    def leave(self) -> None:
        for carrier in list(self._carriers.values()):
            carrier.drops = True

    def _about_me(self) -> dict[str, Any]:
        pid, started = processes.me()
        rss, cpu = processes.resources(pid) or (0, 0.0)
        where = {"host": processes.host(), "machine": processes.machine()}
        return {"pid": pid, "started": started, **where, "rss": rss, "cpu": cpu}

    def _look(self, samples: list[tuple[str, int, int, int, int]]) -> dict[str, Any]:
        """Which program this is, what its clock says, and whether it sees the same files."""
        sees: dict[str, bool] = {}
        try:
            with Tree(self.settings.uploads_dir) as tree:
                for path, *expected in samples:
                    info = tree.lstat(path)
                    found = info and [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
                    sees[path] = found == expected
            trouble = ""
        except (SyncError, OSError) as error:
            trouble = getattr(error, "message", "") or str(getattr(error, "strerror", error))
        return {"version": protocol.this_version(), "time": time.time(), "sees": sees, "trouble": trouble}


_office: Office | None = None


def open_office(settings: Settings) -> None:
    """Makes this process a member."""
    global _office
    _office = Office(settings)


def leave() -> None:
    """Ends all that this process does as a member, and what is in flight."""
    if _office is not None:
        _office.leave()


def carry_out(data: bytes) -> bytes:
    """Called by the engine in a member."""
    if _office is None:
        print("a batch came to a process that is not a member", file=sys.stderr, flush=True)
        raise RuntimeError("this process is not a member")
    return _office.carry_out(data)


def hear(sealed: Sealed) -> bytes:
    """Called by the engine in a member."""
    if _office is None:
        return protocol.pack({"clock": clock(), "state": str(State.NONE), "refused": "it is not a member"})
    return _office.hear(sealed.data)


class Sealed:
    """A request on its way: shown nowhere, because it may hold keys."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return "<request>"
