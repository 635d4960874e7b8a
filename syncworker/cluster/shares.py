"""The job's process: cuts what is to be done into batches, hands them out, and takes each answer once.

```
put ── filling ─► waiting ─► a member, a few at a time ─► answer ─► home.settle, once for each file
                     ▲               │ lost, or left undone
                     └───────────────┘
```
Invariants
- A file is settled exactly once: when the answer of the member that its batch is with is taken, or when it is
  handed to `home.alone`. A batch that was taken from a lost member is forgotten there before another has it.
- `finish` returns when every file that was put has been settled, or the job is to stop. It always ends: each
  batch is answered, or its member is found to be lost after `SILENT_SECONDS` at most; one on which three
  members have died is halved until the file is found, which fails; with no members left the rest goes to
  `home.alone`, or the job fails.
- `barrier` returns when nothing that was begun elsewhere can still reach the storage, and what a lost member
  may have written late was looked at. No deletion may come before it.

Knows no engine, no storage, no job: those are `Cluster` and `Home`. One event loop owns all of it; its clock
is the only one that is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from syncworker.cluster import protocol
from syncworker.cluster.protocol import (
    BATCH_BYTES,
    BATCH_FILES,
    HEAR_EVERY_SECONDS,
    HEAR_SECONDS,
    LAST_SECONDS,
    LEASE_SECONDS,
    SILENT_SECONDS,
    THREADS,
    Cluster,
    Kind,
    Lost,
    Member,
    Record,
    State,
    Unreachable,
    Verb,
)
from syncworker.plan.events import Work
from syncworker.system.gather import side_by_side

_WINDOW = THREADS + 1  # batches that a member has: one more than it carries out
_DEATHS = 3  # of members on one batch, before it is halved
_TAIL_FILES = 64  # of a batch when few are left: the last one is what all wait for
_LEFTS = 3  # batches in a row that a member did not begin, without a reason
_ENDING_SECONDS = 12.0
_MARK_SECONDS = 1.0
_LOSSES = 3  # of a member; then it is not taken any more
_REFUSED_SECONDS = 30.0  # then a member that was refused is greeted anew


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

    def refusal(self, answer: dict[str, Any], asked_at: float, seconds: float) -> str | None:
        """Why a member that has answered so may not work; None: it may. `seconds`: between question and
        answer."""
        ...

    def heard(self, peer: Peer) -> None:
        """Takes what a member shows of itself."""
        ...

    async def settle(self, work: Work, record: Record, peer: Peer) -> None:
        """Accounts for a file, once."""
        ...

    async def alone(self, works: list[Work]) -> None:
        """Does these in this process."""
        ...

    def died_of(self, work: Work) -> None:
        """Accounts for a file on which members die."""
        ...

    async def confirm(self, work: Work) -> None:
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

    def mark(self, leased: list[Peer]) -> None:
        """Notes for whoever comes after this process who may still write to the destination."""
        ...


class Batch:
    __slots__ = ("deaths", "number", "peer", "size", "works")

    def __init__(self, number: int, works: list[Work], deaths: int = 0) -> None:
        self.number, self.works, self.deaths = number, works, deaths
        self.size = sum(work.file.size for work in works)
        self.peer: Peer | None = None  # with whom it is


class Peer:
    """A member as the job's process sees it, for one epoch."""

    def __init__(self, member: Member, epoch: int, now: float) -> None:
        self.member, self.epoch = member, epoch
        self.state = State.NONE
        self.since = now
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
        return len(self.batches) < _WINDOW and not any(batch.deaths for batch in self.batches.values())

    @property
    def works(self) -> bool:
        """Whether it may be given something."""
        return self.state is State.READY and not self.refused and self.lost_at is None


class Limits(NamedTuple):
    job: str
    epoch: int  # the first one of this attempt
    patience_seconds: float = 60.0


class Shares:
    """`suspects`: files of which a lost member may still write something; `resent`: handed out again."""

    def __init__(self, cluster: Cluster, home: Home, limits: Limits) -> None:
        self.cluster, self.home, self.limits = cluster, home, limits
        self.peers: dict[str, Peer] = {}
        self.lost: list[Peer] = []
        self.suspects: dict[str, Work] = {}
        self.resent = 0
        self.is_alone = False
        self._epoch = limits.epoch
        self._number = 0
        self._filling: list[Work] = []
        self._filling_bytes = 0
        self._waiting: deque[Batch] = deque()
        self.has_begun = False  # something was put
        self._open = 0  # files that were put and are not settled
        self._ending = self._closed = False
        self._someone_at = self._now()
        self._marked_at = -_MARK_SECONDS
        self._keeps_all = False
        self._losses: dict[str, int] = {}  # of each member
        self._away: dict[str, float] = {}  # lost members, and when they may come back
        self._looked_at = self._awake_since = self._now()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._ticker = asyncio.create_task(self._tick(), name="ticker of the cluster")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- in
    async def put(self, works: list[Work]) -> None:
        self.has_begun = True
        for work in works:
            self._filling.append(work)
            self._filling_bytes += work.file.size
            self._open += 1
            if len(self._filling) >= BATCH_FILES or self._filling_bytes >= BATCH_BYTES:
                self._cut()
        self._pump()
        while len(self._waiting) > 2 + _WINDOW * len(self.peers) and not self._is_over():
            await self._wait()

    def _is_over(self) -> bool:
        return self.home.is_stopping() or self._ticker.done()

    def _cut(self) -> None:
        if self._filling:
            self._waiting.append(self._batch(self._filling))
            self._filling, self._filling_bytes = [], 0

    def _batch(self, works: list[Work], deaths: int = 0) -> Batch:
        self._number += 1
        return Batch(self._number, works, deaths)

    async def _wait(self) -> None:
        """Until something has changed, or for a moment."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_EVERY_SECONDS):
                await self._changed.wait()

    # -- out
    def _pump(self) -> None:
        """Hands out what members have room for."""
        self._changed.set()
        if self.home.is_stopping() or self.home.is_paused():
            return
        if self.is_alone:
            self._cut()
            if self._waiting and not self._beside:
                self._begin(self._do_alone(), self._beside)
            return
        while (handed := self._next()) is not None:
            self._hand(*handed)

    def _next(self) -> tuple[Peer, Batch] | None:
        """A batch, and the member that is to have it. One on which a member has died goes to a member that
        has nothing else: so it shows which one it was."""
        free = [p for p in self.peers.values() if p.works and p.has_room]
        if not free:
            return None
        peer = min(free, key=lambda p: len(p.batches))
        if not self._waiting and (self._ending or not peer.batches):
            self._cut()  # rather a small one than nobody at work
        at = next((n for n, b in enumerate(self._waiting) if not (b.deaths and peer.batches)), None)
        if at is None:
            return None
        batch = self._waiting[at]
        del self._waiting[at]
        is_tail = self._ending and len(self._waiting) < sum(peer.works for peer in self.peers.values())
        if is_tail and len(batch.works) > _TAIL_FILES:
            self._waiting.appendleft(self._batch(batch.works[_TAIL_FILES:], batch.deaths))
            batch = self._batch(batch.works[:_TAIL_FILES], batch.deaths)
        return peer, batch

    def _hand(self, peer: Peer, batch: Batch) -> None:
        batch.peer = peer
        peer.batches[batch.number] = batch
        self._begin(self._carry(peer, batch), peer.carrying)

    def _begin(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        for group in (tasks, self._tasks):
            group.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            for group in (tasks, self._tasks):
                group.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception):
                self.home.fail(error)
            self._pump()

        task.add_done_callback(ended)
        return task

    async def _do_alone(self) -> None:
        while self._waiting and not self.home.is_stopping():
            batch = self._waiting.popleft()
            await self.home.alone(batch.works)
            self._open -= len(batch.works)

    async def _carry(self, peer: Peer, batch: Batch) -> None:
        """Has a member carry out a batch, and takes its answer."""
        packed = protocol.pack_batch(self.limits.job, peer.epoch, batch.number, batch.works)
        try:
            answer = await self.cluster.submit(peer.member, packed)
            _, records = protocol.unpack_answer(answer, batch.works)
        except Lost as lost:
            if batch.peer is peer:
                self._lose(peer, died=lost.died)
            return
        except ValueError as error:
            if batch.peer is peer:
                peer.refuse(str(error), self._now())
                self._lose(peer, died=False)
            return
        if batch.peer is not peer:
            return  # it was given to another: what is said of it now is not asked for any more
        batch.peer = None
        peer.batches.pop(batch.number, None)
        current = asyncio.current_task()
        assert current is not None
        peer.carrying.discard(current)  # taken to its end, whatever becomes of the member
        await self._take(peer, batch, records)

    async def _take(self, peer: Peer, batch: Batch, records: list[Record]) -> None:
        undone, large = [], []
        for work, record in zip(batch.works, records, strict=True):
            if record.kind is Kind.LEFT:
                undone.append(work)
            elif record.kind is Kind.LARGE:
                large.append(work)
            else:
                await self.home.settle(work, record, peer)
                self._open -= 1
                peer.files_done += 1
                peer.bytes_done += record.file.size if record.kind is Kind.SENT and record.file else 0
        if large:
            await self.home.alone(large)
            self._open -= len(large)
        if undone:
            self._waiting.appendleft(self._batch(undone, batch.deaths))
        peer.lefts = peer.lefts + 1 if len(undone) == len(batch.works) else 0
        if peer.lefts >= _LEFTS and not self.home.is_stopping():
            peer.refuse(str(peer.shows.get("reason") or "it begins nothing of what it is given"), self._now())

    def _lose(self, peer: Peer, *, died: bool) -> None:
        """A member is gone, or the way to it: others get what it had. Its answers are not waited for."""
        if peer.lost_at is not None:
            return
        peer.lost_at = self._now()
        self.peers.pop(peer.member.id, None)
        losses = self._losses[peer.member.id] = self._losses.get(peer.member.id, 0) + 1
        self._away[peer.member.id] = self._free_at(peer) if losses < _LOSSES else math.inf
        if peer.leased:
            self.lost.append(peer)
        for batch in list(peer.batches.values()):
            batch.peer = None
            self.resent += len(batch.works)
            self.suspects.update((work.file.key, work) for work in batch.works)
            self._give_again(batch, died=died)
        peer.batches.clear()
        self.home.forget(peer)
        for task in [*peer.carrying, *([peer.hearing] if peer.hearing else [])]:
            if task is not asyncio.current_task():
                task.cancel()
        self._pump()

    @staticmethod
    def _free_at(peer: Peer) -> float:
        """When nothing of it can reach the storage any more, by its lease."""
        return (peer.heard_at or peer.since) + LEASE_SECONDS + LAST_SECONDS

    def _give_again(self, batch: Batch, *, died: bool) -> None:
        deaths = batch.deaths + died
        works = batch.works
        if deaths < _DEATHS:
            self._waiting.appendleft(self._batch(works, deaths))
        elif len(works) > 1:
            half = len(works) // 2
            for part in (works[half:], works[:half]):
                self._waiting.appendleft(self._batch(part, _DEATHS - 1))
        else:
            self.home.died_of(works[0])
            self._open -= 1

    # -- who is there
    async def _tick(self) -> None:
        while not self._closed:
            try:
                async with asyncio.timeout(2 * HEAR_SECONDS):
                    present = {member.id: member for member in await self.cluster.members()}
            except (Unreachable, TimeoutError):
                present = None
            self._look(present)
            await asyncio.sleep(HEAR_EVERY_SECONDS)

    def _look(self, present: dict[str, Member] | None) -> None:
        now = self._now()
        if now - self._looked_at > 4 * HEAR_SECONDS:
            self._awake_since = now  # this process stood still: nobody else is silent for that
        self._looked_at = now
        for peer in list(self.peers.values()):
            is_gone = present is not None and peer.member.id not in present
            silent = now - max(peer.heard_at or peer.since, peer.since, self._awake_since)
            if peer.is_out:  # it has nothing; in a while it may show that it has been mended
                if is_gone or now - peer.refused_at > _REFUSED_SECONDS:
                    del self.peers[peer.member.id]
            elif is_gone or silent > SILENT_SECONDS:
                self._lose(peer, died=is_gone)
        stopping, self._keeps_all = self.home.is_stopping(), self.home.keeps_all()
        self._away = {member: until for member, until in self._away.items() if until > now}
        for member in (present or {}).values():
            if member.id not in self.peers and member.id not in self._away and not stopping:
                self._epoch += 1
                self.peers[member.id] = Peer(member, self._epoch, now)
        for peer in self.peers.values():
            is_asleep = self._keeps_all and not peer.leased and not peer.batches
            if is_asleep:
                peer.since = now
            elif peer.hearing is None and not peer.is_out:
                peer.hearing = asyncio.create_task(self._hear(peer))
        if now - self._marked_at >= _MARK_SECONDS:
            self._mark()
        is_hopeless = bool(self.peers) and all(peer.refused for peer in self.peers.values())
        if self._keeps_all:
            self._someone_at, self.is_alone = now, True
        elif any(peer.works for peer in self.peers.values()):
            self._someone_at, self.is_alone = now, False
        elif (is_hopeless or now - self._someone_at > self.limits.patience_seconds) and not (
            stopping or self.is_alone
        ):
            self.is_alone = self.home.no_members()
        self._pump()

    def _mark(self) -> None:
        leased = [peer for peer in (*self.peers.values(), *self.lost) if peer.leased]
        if leased:
            self._marked_at = self._now()
            self.home.mark(leased)

    async def _hear(self, peer: Peer) -> None:
        try:
            verb = (
                Verb.HELLO if peer.state is State.NONE else Verb.END if self._gives_back(peer) else Verb.RENEW
            )
            answer = await self._ask(peer, verb)
            if verb is Verb.HELLO and answer is not None and not self._gives_back(peer):
                await self._ask(peer, Verb.OPEN)
        except Exception as error:  # noqa: BLE001 - of the program: the job's log has it
            self.home.fail(error)
        finally:
            peer.hearing = None

    def _gives_back(self, peer: Peer) -> bool:
        return bool(peer.refused) or self._keeps_all

    async def _ask(self, peer: Peer, verb: Verb) -> dict[str, Any] | None:
        """One request; None: no answer in time, or none that is one. Nobody else waits for it."""
        request: dict[str, Any] = {
            "verb": str(verb),
            "job": self.limits.job,
            "epoch": peer.epoch,
            "clock": peer.clock,
            "stop": self.home.is_stopping(),
            "drop": self.home.drops_writes(),
            "pause": self.home.is_paused(),
        }
        if verb in (Verb.HELLO, Verb.OPEN) or peer.shows.get("needs_keys"):
            request |= await self.home.greeting()
        if verb is Verb.HELLO:
            for secret in ("keys", "head"):  # only for who has been found to be one of ours
                request.pop(secret, None)
        if verb is Verb.OPEN:
            peer.leased = True
            peer.state = State.OPENING
            self._mark()  # before it can begin anything
        asked_at = self._now()
        try:
            async with asyncio.timeout(HEAR_SECONDS):
                answer = protocol.unpack(await self.cluster.hear(peer.member, protocol.pack(request)))
            peer.clock = float(answer["clock"])
            state = State(answer["state"])
        except (Lost, Unreachable, TimeoutError, ValueError, KeyError, TypeError):
            return None
        peer.heard_at, peer.shows = self._now(), answer
        if verb is Verb.HELLO:
            peer.refuse(self.home.refusal(answer, asked_at, peer.heard_at - asked_at) or "", peer.heard_at)
        else:
            peer.state = state
            peer.refuse(str(answer.get("refused") or ""), peer.heard_at)
            if state is State.NONE:  # its lease had run out, or it was told to end
                peer.leased = False
                self._epoch += 1
                peer.epoch = self._epoch
        self.home.heard(peer)
        self._pump()
        return dict(answer)

    # -- the end
    async def finish(self) -> None:
        """All has been put: returns when all has been settled, or the job is to stop and nothing is under
        way any more."""
        self._ending = True
        self._cut()
        while self._open and not self.home.is_stopping() and not self._ticker.done():
            self._pump()
            await self._wait()
        while any(peer.batches for peer in self.peers.values()) and not self._ticker.done():
            await self._wait()
        while self._tasks:  # answers that are being taken
            await asyncio.wait(set(self._tasks))
        if self._ticker.done() and not self._closed:
            self.home.fail(RuntimeError("the ticker of the cluster has ended"))

    async def barrier(self) -> None:
        """Waits until a lost member can write nothing more, then has looked at what it may have written."""
        for peer in self.lost:
            until = self._free_at(peer)
            while self._now() < until and not self.home.has_ended(peer) and not self.home.is_stopping():
                await asyncio.sleep(min(HEAR_EVERY_SECONDS, max(0.0, until - self._now())))
        if not self.home.is_stopping():
            await side_by_side(self.home.confirm, list(self.suspects.values()), 16)

    async def close(self) -> None:
        """Ends the members' work for this job. What has not ended then is noted (`mark`)."""
        if self._closed:
            return
        self._closed = True
        self._ticker.cancel()
        await asyncio.gather(self._ticker, return_exceptions=True)
        for task in set(self._tasks):
            task.cancel()
        leased = [peer for peer in self.peers.values() if peer.leased]
        ended = await asyncio.gather(*(self._end(peer) for peer in leased))
        left = [peer for peer, has_ended in zip(leased, ended, strict=True) if not has_ended]
        now = self._now()
        left += [peer for peer in self.lost if now < self._free_at(peer) and not self.home.has_ended(peer)]
        self.home.mark(left)
        await self.cluster.close()

    async def _end(self, peer: Peer) -> bool:
        """Whether the member has said that it does nothing more for this job."""
        if peer.hearing is not None:
            await asyncio.wait({peer.hearing})
        until = self._now() + _ENDING_SECONDS
        while self._now() < until:
            answer = await self._ask(peer, Verb.END)
            if answer is not None and peer.state is State.NONE:
                return True
            if answer is None and peer.heard_at is not None and self._now() - peer.heard_at > SILENT_SECONDS:
                return False
            await asyncio.sleep(HEAR_EVERY_SECONDS / 5)
        return False


OpenShares = Callable[[Home, Limits], Coroutine[Any, Any, Shares]]
