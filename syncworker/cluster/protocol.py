"""The words between a job's process and the members of its cluster: four verbs, batches, answers, leases.

```
job's process                                    member
submit(member, batch) ────────────────────────►  carries it out ── PUT, HEAD ──► store
        ◄──────────── one record for each file ──
hear(member, request), four times a second ───►  lease, stop, pause, keys
        ◄──────── clock, state, what is in flight ──
members()   who is there now
close()
```
- A batch has `BATCH_FILES` files or `BATCH_BYTES` at most, or some parts of one large file, whose upload the
  job's process begins and completes. Carrying it out twice costs traffic and changes nothing. It is with one
  member at a time, which the job's process has chosen.
- A member begins something only while it has a lease. Each answer to `hear` carries the member's own clock;
  the next request brings that back, and grants `LEASE_SECONDS` from it. So no lease is longer than that after
  the last answer that the job's process has had, however late a request arrives.
- When the lease has run out nothing begins, and what is in flight is ended within `LAST_SECONDS`.
- `epoch` grows with each opening of a member. What comes with another epoch than the member's is left.

Bytes go both ways (marshal of plain tuples and dicts): hello compares the versions first. Keys of the storage
go by `hear` alone, never in a batch.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
import math
import os
import sys
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, Protocol

import syncworker
from syncworker.errors import FileError, RetryError, SyncError
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan.compare import Candidate, Decision, Reason, Verdict

BATCH_FILES = 256
BATCH_BYTES = 64 << 20
LEASE_SECONDS = 3.0
LAST_SECONDS = 10.0
_LATE_SECONDS = 1.0
HEAR_EVERY_SECONDS = 0.25
HEAR_SECONDS = 1.0
SILENT_SECONDS = 8.0  # a member that answers nothing for so long is lost
# An operation of a member that no report and no `current` shows: the job's process shows the file.
PART = "part"
WINDOW = 3  # batches of a job that a member has at a time


class Member(NamedTuple):
    """A process that carries out batches. `id` names one life of it, and is never used again."""

    id: str
    name: str


class Lost(Exception):
    """A batch was not answered. `died`: the member's process has ended; else perhaps only the way to it."""

    def __init__(self, why: str, *, died: bool) -> None:
        super().__init__(why)
        self.died = died


class Unreachable(Exception):
    """Nobody can say who is there."""


class Stranger(Exception):
    """A process that is there and is no member of ours: why it is not taken."""


class Cluster(Protocol):
    """An engine: Dask (dask_engine.py), or a double in the tests."""

    async def members(self) -> list[Member]:
        """Who is there now. Unreachable."""
        ...

    async def submit(self, member: Member, batch: bytes) -> bytes:
        """The answer to a batch, whenever that comes. Lost."""
        ...

    async def hear(self, member: Member, request: bytes) -> bytes:
        """The answer to a request. Lost, Unreachable, Stranger."""
        ...

    async def close(self) -> None: ...


class Kind(IntEnum):
    SENT = 0
    SAME = 1
    VANISHED = 2
    FAILED = 3  # the file cannot be read or compared
    REFUSED = 4  # its upload failed
    BACK = 5  # for the job's process: large by now, or not the file that it saw
    LEFT = 6  # not begun


class Record(NamedTuple):
    """What has become of a file: as it was read, and by kind its ETag, digest and part size, or an error.
    From `file` to `changes` in the order of `UploadResult`."""

    kind: Kind
    file: FileEntry | None = None
    etag: str = ""
    digest: str = ""
    part_size: int = 0
    read_ns: int = 0
    changes: bool = False
    seconds: float = 0.0
    code: str = ""
    message: str = ""
    may_pass: bool = False  # of the error


_LEFT = Record(Kind.LEFT)


class PartRun(NamedTuple):
    """Parts of a large file, for an upload that is open. `is_opaque`: the storage's ETags tell nothing."""

    file: FileEntry
    upload_id: str
    algorithm: str
    part_size: int
    numbers: list[int]
    is_opaque: bool


class PartRecord(NamedTuple):
    """What has become of a part: by kind what the storage has now, or an error. FAILED: it cannot be read or
    summed there. REFUSED: its upload failed, or the file is not what it was when the upload was begun."""

    number: int
    kind: Kind = Kind.LEFT
    etag: str = ""
    md5: bytes = b""
    crc: bytes = b""
    is_word: bool = False
    code: str = ""
    message: str = ""
    may_pass: bool = False


def fields_of(error: SyncError) -> dict[str, Any]:
    """Those of a record that tell of an error."""
    return {"code": error.code, "message": error.message, "may_pass": isinstance(error, RetryError)}


def error_of(record: Record | PartRecord) -> SyncError:
    return (RetryError if record.may_pass else FileError)(record.code, record.message)


class Verb(StrEnum):
    HELLO = "hello"  # what are you, and what do you see?
    OPEN = "open"  # work for this job from now on
    RENEW = "renew"
    END = "end"  # nothing more of this job


class State(StrEnum):
    """Of a member, for one job."""

    NONE = "none"
    OPENING = "opening"
    READY = "ready"
    ENDING = "ending"


class Lease:
    """How long a member may work for a job that it hears nothing more of. Of one epoch, by the member's own
    clock, which goes on while the machine sleeps. Pure: the clock is the caller's."""

    def __init__(self) -> None:
        self.until = -math.inf

    def renew(self, clock: float | None, now: float) -> None:
        """`clock`: of the last answer that the job's process had. One from the future is nobody's."""
        if clock is not None and clock <= now:
            self.until = max(self.until, clock + LEASE_SECONDS)

    def may_begin(self, now: float) -> bool:
        return now < self.until

    def must_end(self, now: float) -> bool:
        """Whether what is in flight is to be ended as well. A bit before others count on it: whoever does
        that may be late."""
        return now >= self.until + LAST_SECONDS - _LATE_SECONDS


def pack(value: Any) -> bytes:
    return marshal.dumps(value)


def unpack(data: bytes) -> Any:
    """ValueError: no such thing."""
    try:
        return marshal.loads(data)  # noqa: S302 - of a process that has shown a certificate of ours
    except (EOFError, TypeError, ValueError) as error:
        raise ValueError("an unreadable answer") from error


def pack_batch(job: str, epoch: int, number: int, works: list[Candidate]) -> bytes:
    return pack((job, epoch, number, [_plain(work) for work in works]))


def pack_run(job: str, epoch: int, number: int, run: PartRun) -> bytes:
    return pack((job, epoch, number, (tuple(run.file), *run[1:])))


def unpack_batch(data: bytes) -> tuple[str, int, int, list[Candidate] | PartRun]:
    job, epoch, number, what = unpack(data)
    if isinstance(what, tuple):
        return job, epoch, number, PartRun(FileEntry._make(what[0]), *what[1:])
    return job, epoch, number, [_work(*parts) for parts in what]


def _plain(work: Candidate) -> tuple[Any, ...]:
    file, obj, row, (verdict, reason) = work
    return (
        tuple(file),
        obj and tuple(obj),
        row and tuple(row),
        verdict.value,
        reason and reason.value,
    )


def _work(file: Any, obj: Any, row: Any, verdict: str, reason: str | None) -> Candidate:
    return Candidate(
        FileEntry._make(file),
        ObjectEntry._make(obj) if obj else None,
        IndexRow._make(row) if row else None,
        Decision(Verdict(verdict), Reason(reason) if reason else None),
    )


def pack_answer(state: str, records: list[Record]) -> bytes:
    return pack((str(state), [(int(r.kind), r.file and tuple(r.file), *r[2:]) for r in records]))


def unpack_answer(data: bytes, works: list[Candidate]) -> tuple[str, list[Record]]:
    """ValueError: it is no answer to this batch."""
    answer = unpack(data)
    try:
        state, rows = answer
        records = [Record(Kind(row[0]), row[1] and FileEntry._make(row[1]), *row[2:]) for row in rows]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError("an answer in an unknown format") from error
    if len(records) != len(works) or any(
        record.file is not None and record.file.key != work.file.key
        for record, work in zip(records, works, strict=True)
    ):
        raise ValueError("an answer to another batch")
    return str(state), records


def pack_parts(state: str, records: list[PartRecord], *, doubted: bool) -> bytes:
    return pack((str(state), [(r.number, int(r.kind), *r[2:]) for r in records], doubted))


def unpack_parts(data: bytes, numbers: list[int]) -> tuple[list[PartRecord], bool]:
    """The records, and whether the storage was seen not to check its parts' sums. ValueError: it is no answer
    to this batch."""
    answer = unpack(data)
    try:
        _, rows, doubted = answer
        records = [PartRecord(row[0], Kind(row[1]), *row[2:]) for row in rows]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError("an answer in an unknown format") from error
    if [record.number for record in records] != numbers:
        raise ValueError("an answer to another batch")
    return records, bool(doubted)


def left(works: list[Candidate]) -> list[Record]:
    return [_LEFT] * len(works)


@functools.cache
def _fingerprint() -> str:
    """Twelve hexadecimal digits of all modules below syncworker/, by name and content."""
    root = os.path.dirname(os.path.abspath(syncworker.__file__))
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    digest.update(os.path.relpath(path, root).encode() + b"\0" + file.read() + b"\0")
    return digest.hexdigest()[:12]


def this_version() -> str:
    """Of what both sides must have in common: the product (a hash of its source), Python, marshal."""
    return f"{_fingerprint()} {sys.version_info[0]}.{sys.version_info[1]} {marshal.version}"
