"""A cluster in one process, for the tests of the protocol: an engine that loses, repeats, delays and reorders
what goes over it, members that die, freeze and are cut off, a storage that takes writes late, and a clock
that costs nothing: time passes when nobody has anything to do.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from syncworker.cluster import protocol
from syncworker.cluster.peers import Peer
from syncworker.cluster.protocol import (
    Kind,
    Lease,
    Lost,
    Member,
    PartRecord,
    PartRun,
    Record,
    State,
    Unreachable,
)
from syncworker.model import FileEntry
from syncworker.plan.compare import NEW, Candidate
from syncworker.transfer.parts import Parts

T = TypeVar("T")


class _NoWaiting(selectors.SelectSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits for ever")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time passes at once."""

    def __init__(self) -> None:
        selector = _NoWaiting()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def work(number: int, size: int = 10) -> Candidate:
    return Candidate(FileEntry(f"k{number:05d}", size, 1, 1, number, f"k{number:05d}"), None, None, NEW)


class Folder:
    """Files that change, and the storage. `versions`: what a file is now; `objects`: what was written."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.objects: dict[str, int] = {}
        self.writes = 0
        self.is_closed = False  # after the barrier nothing may come
        self.late: list[str] = []

    def read(self, key: str) -> int:
        return self.versions.get(key, 1)

    def write(self, key: str, version: int) -> None:
        self.writes += 1
        self.objects[key] = version
        if self.is_closed:
            self.late.append(key)


class FakeMember:
    """Does what a member does, with the real lease. `frozen_until`: it stands still; `cut_until`: only the
    storage hears it."""

    def __init__(self, number: int, folder: Folder, chance: random.Random) -> None:
        self.member = Member(f"m{number}", f"member {number}")
        self.folder, self.chance = folder, chance
        self.lease = Lease()
        self.epoch = 0
        self.state = State.NONE
        self.stopping = self.paused = self.is_dead = False
        self.frozen_until = self.cut_until = 0.0
        self.in_flight = self.done = self.reading = 0
        self.poison: set[str] = set()
        self.unread = 0.0  # how often it cannot read a part
        self.numbers: set[tuple[int, int]] = set()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def thaw(self) -> None:
        while self.now() < self.frozen_until:
            await asyncio.sleep(self.frozen_until - self.now())

    def may_begin(self, epoch: int) -> bool:
        is_open = epoch == self.epoch and self.state is State.READY
        return is_open and not self.stopping and not self.is_dead and self.lease.may_begin(self.now())

    def die(self) -> None:
        self.is_dead = True

    async def carry_out(self, data: bytes) -> bytes:
        _, epoch, number, works = protocol.unpack_batch(data)
        if isinstance(works, PartRun):
            return await self._carry_parts(epoch, number, works)
        records = []
        if (epoch, number) in self.numbers:
            return protocol.pack_answer("ready", protocol.left(works))
        self.numbers.add((epoch, number))
        for each in works:
            await self.thaw()
            while self.paused and self.may_begin(epoch):
                await asyncio.sleep(0.1)
            if not self.may_begin(epoch):
                records.append(Record(Kind.LEFT))
                continue
            key = each.file.key
            if key in self.poison:
                self.die()
            version = self.folder.read(key)
            self.in_flight += 1
            try:
                await self._put(key, version)
            finally:
                self.in_flight -= 1
                self.done += 1
            if self.is_dead:
                raise Lost("it died", died=True)
            records.append(Record(Kind.SENT, each.file, etag=str(version)))
        if self.is_dead:
            raise Lost("it died", died=True)
        return protocol.pack_answer("ready", records)

    async def _carry_parts(self, epoch: int, number: int, run: PartRun) -> bytes:
        is_new = (epoch, number) not in self.numbers
        self.numbers.add((epoch, number))
        records = []
        for each in run.numbers:
            await self.thaw()
            while self.paused and self.may_begin(epoch):
                await asyncio.sleep(0.1)
            if not is_new or not self.may_begin(epoch):
                records.append(PartRecord(each))
                continue
            self.in_flight += 1
            try:
                await self._put(f"{run.upload_id} {each}", 1)
            finally:
                self.in_flight -= 1
            if self.chance.random() < self.unread:
                records.append(PartRecord(each, Kind.FAILED))
            else:
                records.append(PartRecord(each, Kind.SENT, "00" * 16, bytes(16)))
        if self.is_dead:
            raise Lost("it died", died=True)
        return protocol.pack_parts("ready", records, doubted=False)

    async def _put(self, key: str, version: int) -> None:
        """A request: what was sent before the member froze may be written by the storage all the same."""
        took = self.chance.choices((0.0, 0.01, 0.2, 2.0, 8.0), (60, 30, 8, 1, 1))[0]
        await asyncio.sleep(took)
        if self.is_dead and self.chance.random() < 0.5:
            return
        if self.lease.must_end(self.now()):
            return  # the connection was ended
        self.folder.write(key, version)

    def _is_busy(self) -> bool:
        return bool(self.in_flight or self.reading)

    def hear(self, data: bytes) -> bytes:
        request = protocol.unpack(data)
        verb, epoch = request["verb"], request["epoch"]
        if self.state is State.READY and not self.lease.may_begin(self.now()):
            self.state = State.ENDING
        if self.state is State.ENDING and not self._is_busy():
            self.state = State.NONE
        if verb == "open" and self.state is State.READY and epoch > self.epoch:
            self.state = State.ENDING  # of an older one, which ends first
        if verb == "open" and self.state is State.NONE and epoch > self.epoch:
            self.epoch, self.lease, self.state = epoch, Lease(), State.READY
        if epoch == self.epoch:
            self.lease.renew(request["clock"], self.now())
            self.stopping, self.paused = request["stop"], request["pause"]
            if self.stopping and self.state is State.READY:
                self.state = State.ENDING
            if verb == "end" and self.state is not State.NONE:
                self.state = State.ENDING if self._is_busy() else State.NONE
        shows = {"waits": self.in_flight > 0, "done": self.done, "version": "same"}
        return protocol.pack({"clock": self.now(), "state": str(self.state), **shows})


class ThreadCluster:
    """The engine. Everything it does to what goes over it is drawn from `chance`."""

    def __init__(self, members: list[FakeMember], chance: random.Random, faults: float = 0.0) -> None:
        self.all = members
        self.chance, self.faults = chance, faults
        self.is_down = False
        self.submitted = 0

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _is_cut(self, member: FakeMember) -> bool:
        return self.is_down or member.is_dead or self._now() < member.cut_until

    def _of(self, member: Member) -> FakeMember:
        return next(each for each in self.all if each.member == member)

    async def members(self) -> list[Member]:
        await asyncio.sleep(0)
        if self.is_down:
            raise Unreachable("no scheduler")
        return [each.member for each in self.all if not each.is_dead]

    async def submit(self, member: Member, batch: bytes) -> bytes:
        self.submitted += 1
        there = self._of(member)
        await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.3)))
        if self._is_cut(there):
            raise Lost("the way is cut", died=there.is_dead)
        work = asyncio.ensure_future(there.carry_out(batch))
        if self.chance.random() < self.faults:  # given to it twice
            again = asyncio.ensure_future(there.carry_out(batch))
            again.add_done_callback(lambda task: task.cancelled() or task.exception())
        work.add_done_callback(lambda task: task.cancelled() or task.exception())
        while not work.done():
            await asyncio.wait({work}, timeout=0.1)
            if self._is_cut(there):
                raise Lost("the way is cut", died=there.is_dead)  # it goes on, unheard
        answer = work.result()
        if self.chance.random() < self.faults:
            await asyncio.sleep(self.chance.choice((0.5, 5.0, 20.0)))  # late
        if self.chance.random() < self.faults:
            raise Lost("the answer is lost", died=self.chance.random() < 0.5)
        if self.chance.random() < self.faults / 2:
            return b"nonsense"
        return answer

    async def hear(self, member: Member, request: bytes) -> bytes:
        there = self._of(member)
        await asyncio.sleep(self.chance.choice((0.0, 0.01, 0.1)))
        if self._is_cut(there):
            raise Unreachable("the way is cut")
        if there.frozen_until > self._now():  # it comes when it wakes up, whoever waits by then
            later = asyncio.ensure_future(self._hear_later(there, request))
            await asyncio.sleep(60.0)
            return later.result()
        answer = there.hear(request)
        if self.chance.random() < self.faults:
            await asyncio.sleep(3.0)
        return answer

    async def _hear_later(self, there: FakeMember, request: bytes) -> bytes:
        await there.thaw()
        return there.hear(request)

    async def close(self) -> None:
        await asyncio.sleep(0)


class FakeHome:
    """The job's process: counts what is settled."""

    def __init__(self, folder: Folder, *, alone: bool = True) -> None:
        self.folder, self.goes_alone = folder, alone
        self.settled: dict[str, int] = {}  # how often
        self.believed: dict[str, int] = {}  # which version
        self.killers: list[str] = []
        self.stopping = self.dropping = self.paused = self.limited = False
        self.error: Exception | None = None
        self.marks: list[int] = []
        self.confirmed: list[str] = []
        self.ended_uploads: list[str] = []

    def is_stopping(self) -> bool:
        return self.stopping or self.error is not None

    def drops_writes(self) -> bool:
        return self.dropping

    def is_paused(self) -> bool:
        return self.paused and not self.is_stopping()

    async def greeting(self) -> dict[str, Any]:
        return {"keys": ("a", "s", None), "head": {}}

    async def refusal(self, answer: dict[str, Any], asked_at: float, seconds: float) -> str | None:
        return None if answer["version"] == "same" else "another version"

    def heard(self, peer: Peer) -> None: ...

    async def settle(self, work: Candidate, record: Record, peer: Peer) -> None:
        await asyncio.sleep(0)
        self.settled[work.file.key] = self.settled.get(work.file.key, 0) + 1
        self.believed[work.file.key] = int(record.etag)

    async def alone(self, works: list[Candidate]) -> None:
        for each in works:
            await asyncio.sleep(0.01)
            key = each.file.key
            self.believed[key] = self.folder.read(key)
            self.folder.write(key, self.believed[key])
            self.settled[key] = self.settled.get(key, 0) + 1

    def died_of(self, work: Candidate) -> None:
        self.settled[work.file.key] = self.settled.get(work.file.key, 0) + 1
        self.killers.append(work.file.key)

    async def end_upload(self, parts: Parts) -> None:
        await asyncio.sleep(0)
        self.ended_uploads.append(parts.upload.id)

    async def confirm(self, work: Candidate) -> None:
        await asyncio.sleep(0)
        key = work.file.key
        self.confirmed.append(key)
        if key in self.believed and self.folder.objects.get(key) != self.believed[key]:
            self.believed[key] = self.folder.read(key)
            self.folder.write(key, self.believed[key])

    def no_members(self) -> bool:
        if not self.goes_alone:
            self.fail(RuntimeError("ClusterLost"))
        return self.goes_alone

    def fail(self, error: Exception) -> None:
        self.error = self.error or error

    def has_ended(self, peer: Peer) -> bool:
        return False

    def keeps_all(self) -> bool:
        return self.limited

    def forget(self, peer: Peer) -> None: ...

    async def mark(self, leased: list[Peer]) -> None:
        self.marks.append(len(leased))
