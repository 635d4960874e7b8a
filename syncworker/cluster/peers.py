"""What the job's process knows of its members: who each is, and what it has of this job."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol

from syncworker.cluster import protocol
from syncworker.cluster.protocol import WINDOW, Member, PartRun, Record, State
from syncworker.plan.compare import Candidate
from syncworker.transfer.parts import Parts


class Batch:
    """Files, or a few `parts` of one large file."""

    def __init__(
        self, number: int, works: list[Candidate], deaths: int = 0, parts: Parts | None = None
    ) -> None:
        self.number, self.works, self.deaths, self.parts = number, works, deaths, parts
        self.numbers = parts.take_run() if parts is not None else []
        self.peer: Peer | None = None  # with whom it is

    def packed(self, job: str, epoch: int) -> bytes:
        if self.parts is None:
            return protocol.pack_batch(job, epoch, self.number, self.works)
        parts, upload = self.parts, self.parts.upload
        run = PartRun(parts.file, upload.id, upload.algorithm.name, parts.size, self.numbers, parts.is_opaque)
        return protocol.pack_run(job, epoch, self.number, run)


class Peer:
    """A member as the job's process sees it, for one epoch."""

    def __init__(self, member: Member, epoch: int, now: float) -> None:
        self.member, self.epoch = member, epoch
        self.state = State.NONE
        self.since = self.moved_at = now  # moved: a file came to its end, or something was waited for
        self.heard_at: float | None = None  # when its last answer came; its lease is no longer than that
        self.clock: float | None = None  # its own, as of that answer
        self.leased = False  # it was opened: it may have written something
        self.lost_at: float | None = None
        self.refused, self.refused_at = "", 0.0
        self.lefts = 0
        self.shows: dict[str, Any] = {}
        self.files_done = self.bytes_done = 0
        self.lost_time: str | None = None  # for people
        self.batches: dict[int, Batch] = {}
        self.hearing: asyncio.Task[None] | None = None
        self.carrying: set[asyncio.Task[None]] = set()

    def refuse(self, why: str, now: float) -> None:
        if why and not self.refused:
            self.refused, self.refused_at = why, now

    @property
    def is_out(self) -> bool:
        """Whether it was refused, and does nothing for this job."""
        return bool(self.refused) and not self.leased and not self.batches

    @property
    def has_room(self) -> bool:
        return len(self.batches) < WINDOW and not any(batch.deaths for batch in self.batches.values())

    @property
    def works(self) -> bool:
        """Whether it may be given something."""
        return self.state is State.READY and not self.refused and self.lost_at is None


class Limits(NamedTuple):
    job: str
    epoch: int  # the first one of this attempt
    patience_seconds: float = 60.0


class Home(Protocol):
    """What the job's process does with it."""

    def is_stopping(self) -> bool: ...

    def drops_writes(self) -> bool:
        """Whether what is in flight is to be given up as well."""
        ...

    def is_paused(self) -> bool: ...

    async def greeting(self) -> dict[str, Any]:
        """What a member is asked and told when it is greeted and opened, keys included."""
        ...

    async def refusal(self, answer: dict[str, Any], asked_at: float, seconds: float) -> str | None:
        """Why a member that has answered so may not work; None: it may. `seconds`: between question and
        answer."""
        ...

    def heard(self, peer: Peer) -> None:
        """Takes what a member shows of itself."""
        ...

    async def settle(self, work: Candidate, record: Record, peer: Peer) -> None:
        """Accounts for a file, once."""
        ...

    async def alone(self, works: list[Candidate]) -> None:
        """Does these in this process."""
        ...

    def died_of(self, work: Candidate) -> None:
        """Accounts for a file on which members die."""
        ...

    async def end_upload(self, parts: Parts) -> None:
        """Sees to it that no upload stays open whose parts came late."""
        ...

    async def confirm(self, work: Candidate) -> None:
        """Sees to it that the storage has what was settled, whatever came late."""
        ...

    def no_members(self) -> bool:
        """Nobody was there for the whole patience. True: goes on alone; False: the job has failed."""
        ...

    def fail(self, error: Exception) -> None: ...

    def keeps_all(self) -> bool:
        """Whether members are to give back what they have not begun, and this process does all."""
        ...

    def forget(self, peer: Peer) -> None:
        """A member is lost."""
        ...

    def has_ended(self, peer: Peer) -> bool:
        """Whether the member's process is known to have ended."""
        ...

    async def mark(self, leased: list[Peer]) -> None:
        """Notes for whoever comes after this process who may still write to the destination."""
        ...
