"""What a member has in the place of a job's keys, index, progress and accounts.

A file's record goes to the job's process, which counts and remembers; what is known of the storage came from
there. Nothing here is written to a disk.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from syncworker.cluster.protocol import Kind, Record, fields_of
from syncworker.errors import SyncError
from syncworker.index.records import IndexRow, Part
from syncworker.jobs.progress import Operation, UploadResult
from syncworker.model import FileEntry, Phase
from syncworker.plan.compare import Candidate
from syncworker.s3.signing import Keys
from syncworker.transfer.readers import ReadResult

TICK_SECONDS = 0.05
_KEYS_SECONDS = 20.0


def clock() -> float:
    """Goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HeardKeys:
    """Keys that the job's process gives. `missing`: these have expired, it is to give others."""

    origin = "those that the job's process gives"

    def __init__(self, keys: Keys) -> None:
        self.given = keys
        self.missing = False

    async def keys(self) -> Keys:
        return self.given

    async def renew(self, used: Keys) -> bool:
        self.missing = self.given == used
        until = clock() + _KEYS_SECONDS
        while self.given == used and clock() < until:
            await asyncio.sleep(TICK_SECONDS)
        self.missing = False
        return self.given != used


class Facts:
    """The index as far as a member has one: what is known of the storage."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = dict(known)

    def fact(self, name: str) -> str | None:
        return self.known.get(name)

    def set_fact(self, name: str, value: str) -> None:
        self.known[name] = value

    def drop_facts(self, names: list[str]) -> None:
        for name in names:
            self.known.pop(name, None)

    def uploads(self) -> list[Any]:
        return []

    def remember_part(self, part: Part) -> None:
        """The job's process does, when it has the part's record."""


class Flight:
    """The progress as far as a member has one: what is in flight. What is done is in the records."""

    def __init__(self) -> None:
        self.counts = {"files_uploaded": 0}
        self.flight: dict[int, Operation] = {}
        self.ended_at: float | None = None
        self.bytes = 0
        self.done = 0  # files and parts, whatever became of them

    def phase(self, phase: Phase, message: str) -> None: ...

    def grown(self, was: int, now: int) -> None: ...

    def begin(self, op: str, key: str, size: int) -> Operation:
        operation = Operation(op, key, size)
        self.flight[id(operation)] = operation
        return operation

    def end(self, operation: Operation) -> None:
        self.flight.pop(id(operation), None)


class Records:
    """The accounts of a member: a record for each file of the batches that are open."""

    is_plan = False

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._slots: dict[str, tuple[Opened, int]] = {}
        self._is_closed = False

    def open(self, works: list[Candidate]) -> Opened:
        opened = Opened(works)
        for at, work in enumerate(works):
            if self._is_closed or work.file.key in self._slots:  # given twice: the first time counts
                opened.put(at, Record(Kind.LEFT))
            else:
                self._slots[work.file.key] = (opened, at)
        return opened

    def close(self) -> None:
        """What has no record yet was not begun."""
        self._is_closed = True
        for opened, at in self._slots.values():
            opened.put(at, Record(Kind.LEFT))
        self._slots.clear()

    def _put(self, key: str, record: Record) -> None:
        opened, at = self._slots.pop(key)
        self._flight.done += 1
        opened.put(at, record)

    def plan_upload(self, work: Candidate, file: FileEntry) -> None:
        raise AssertionError("a plan is made in the job's process")

    def plan_update(self, work: Candidate) -> None:
        raise AssertionError("a plan is made in the job's process")

    def is_outdated(self, result: ReadResult) -> bool:
        return False  # the job's process knows what the object was given, and asks itself

    def same(self, result: ReadResult) -> None:
        record = Record(
            Kind.SAME, result.file, "", result.digest, result.part_size, result.read_ns, result.changes
        )
        self._put(result.work.file.key, record)

    def vanished(self, work: Candidate, file: FileEntry) -> None:
        self._put(work.file.key, Record(Kind.VANISHED, file))

    def failed(self, file: FileEntry, error: SyncError) -> None:
        self._put(file.key, Record(Kind.FAILED, file, **fields_of(error)))

    def refused(self, work: Candidate, error: SyncError) -> None:
        self._put(work.file.key, Record(Kind.REFUSED, work.file, **fields_of(error)))

    def back(self, result: ReadResult) -> None:
        self._put(result.work.file.key, Record(Kind.BACK, result.file))

    def sent(self, result: ReadResult, sent: UploadResult, started: float) -> None:
        self._flight.counts["files_uploaded"] += 1
        self._flight.bytes += sent.file.size
        self._put(result.work.file.key, Record(Kind.SENT, *sent, time.monotonic() - started))

    def updated(self, row: IndexRow, work: Candidate, counted: int, started: float) -> None:
        raise AssertionError("updates are made by the job's process")


class Opened:
    """A batch that is being carried out."""

    def __init__(self, works: list[Candidate]) -> None:
        self.records: list[Record] = [Record(Kind.LEFT)] * len(works)
        self.left = len(works)
        self.done = asyncio.get_running_loop().create_future()
        if not works:
            self.done.set_result(None)

    def put(self, at: int, record: Record) -> None:
        self.records[at] = record
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)
