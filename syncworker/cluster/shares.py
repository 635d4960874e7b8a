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
- A part of a large file is with one member at a time, too, and always comes back to its `Parts`, sent or not.
- `barrier` returns when nothing that was begun elsewhere can still reach the storage, and what a lost member
  may have written late was looked at. No deletion may come before it.

Knows no engine, no storage, no job: those are `Cluster` and `Home`. One event loop owns all of it; its clock
is the only one that is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from typing import Any

from syncworker.cluster import protocol
from syncworker.cluster.peers import Batch, Home, Limits, Peer
from syncworker.cluster.protocol import (
    BATCH_BYTES,
    BATCH_FILES,
    HEAR_EVERY_SECONDS,
    WINDOW,
    Cluster,
    Kind,
    Lost,
    PartRecord,
    Record,
)
from syncworker.cluster.roll_call import RollCall
from syncworker.plan.compare import Candidate
from syncworker.system.gather import side_by_side
from syncworker.transfer.open_uploads import SentPart
from syncworker.transfer.parts import Parts

_DEATHS = 3  # of members on one batch, before it is halved
_TAIL_FILES = 64  # of a batch when few are left: the last one is what all wait for
_LEFTS = 3  # batches in a row that a member did not begin, without a reason


class Shares:
    """`suspects`: files of which a lost member may still write something; `resent`: handed out again."""

    def __init__(self, cluster: Cluster, home: Home, limits: Limits) -> None:
        self.cluster, self.home, self.limits = cluster, home, limits
        self.suspects: dict[str, Candidate] = {}
        self.resent = 0
        self._late_parts: list[Parts] = []  # that a lost member had some of
        self._offered: list[Parts] = []
        self._number = 0
        self._filling: list[Candidate] = []
        self._filling_bytes = 0
        self._waiting: deque[Batch] = deque()
        self.has_begun = False  # something was put
        self._open = 0  # files that were put and are not settled
        self._ending = self._closed = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self.roll = RollCall(cluster, home, limits, self)
        self.roll.ticker.add_done_callback(self._give_up)

    # -- in
    async def put(self, works: list[Candidate]) -> None:
        self.has_begun = True
        for work in works:
            self._filling.append(work)
            self._filling_bytes += work.file.size
            self._open += 1
            if len(self._filling) >= BATCH_FILES or self._filling_bytes >= BATCH_BYTES:
                self._cut()
        self.pump()
        while self._has_enough() and not self._is_over():
            await self._wait()

    def _has_enough(self) -> bool:
        """Counts answers that are being taken, because files that members give back may wait for a lane."""
        members = WINDOW * len(self.roll.peers)
        return len(self._waiting) + max(0, len(self._tasks) - members) > 2 + members

    def _is_over(self) -> bool:
        return self.home.is_stopping() or self.roll.ticker.done()

    def _give_up(self, _: object) -> None:
        """The ticker has ended: nobody would find out that a member is lost, and no lease is renewed."""
        for peer in self.roll.peers.values():
            for task in peer.carrying:
                task.cancel()

    def _cut(self) -> None:
        if self._filling:
            self._waiting.append(self._batch(self._filling))
            self._filling, self._filling_bytes = [], 0

    def _batch(self, works: list[Candidate], deaths: int = 0) -> Batch:
        self._number += 1
        return Batch(self._number, works, deaths)

    def offer(self, parts: Parts) -> None:
        """Members may have parts of this file, as long as it is not withdrawn."""
        self._offered.append(parts)
        self.pump()

    def withdraw(self, parts: Parts) -> None:
        self._offered = [each for each in self._offered if each is not parts]

    async def _wait(self) -> None:
        """Until something has changed, or for a moment."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAR_EVERY_SECONDS):
                await self._changed.wait()

    # -- out
    def pump(self) -> None:
        """Hands out what members have room for."""
        self._changed.set()
        if self._is_over() or self.home.is_paused():
            return
        if self.roll.is_alone:
            self._cut()
            if self._waiting and not self._beside:
                self._begin(self._do_alone(), self._beside)
            return
        while (handed := self._next()) is not None:
            peer, batch = handed
            batch.peer = peer
            peer.batches[batch.number] = batch
            self._begin(self._carry(peer, batch), peer.carrying)

    def _next(self) -> tuple[Peer, Batch] | None:
        """A batch, and the member that is to have it. One on which a member has died goes to a member that
        has nothing else: so it shows which one it was."""
        free = [p for p in self.roll.peers.values() if p.works and p.has_room]
        if not free:
            return None
        peer = min(free, key=lambda p: len(p.batches))
        has_parts = any(batch.parts is not None for batch in peer.batches.values())
        batch = None if has_parts else self._parts_batch()
        batch = batch or self._files_batch(peer) or self._parts_batch()
        return (peer, batch) if batch is not None else None

    def _parts_batch(self) -> Batch | None:
        for parts in list(self._offered):
            self._number += 1
            batch = Batch(self._number, [], parts=parts)
            if batch.numbers:
                self._offered.remove(parts)  # the next member helps with the next file
                self._offered.append(parts)
                return batch
        return None

    def _files_batch(self, peer: Peer) -> Batch | None:
        if not self._waiting and (self._ending or not peer.batches):
            self._cut()  # rather a small one than nobody at work
        at = next((n for n, b in enumerate(self._waiting) if not (b.deaths and peer.batches)), None)
        if at is None:
            return None
        batch = self._waiting[at]
        del self._waiting[at]
        is_tail = self._ending and len(self._waiting) < sum(peer.works for peer in self.roll.peers.values())
        if is_tail and len(batch.works) > _TAIL_FILES:
            self._waiting.appendleft(self._batch(batch.works[_TAIL_FILES:], batch.deaths))
            batch = self._batch(batch.works[:_TAIL_FILES], batch.deaths)
        return batch

    def _begin(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        for group in (tasks, self._tasks):
            group.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            for group in (tasks, self._tasks):
                group.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, Exception):
                self.home.fail(error)
            self.pump()

        task.add_done_callback(ended)

    async def _do_alone(self) -> None:
        while self._waiting and not self.home.is_stopping():
            batch = self._waiting.popleft()
            await self.home.alone(batch.works)
            self._open -= len(batch.works)

    async def _carry(self, peer: Peer, batch: Batch) -> None:
        """Has a member carry out a batch, and takes its answer."""
        try:
            answer = await self.cluster.submit(peer.member, batch.packed(self.limits.job, peer.epoch))
            if batch.peer is not peer:
                return  # it was given to another: what is said of it now is not asked for any more
            taking = self._answered(peer, batch, answer)
        except Lost as lost:
            if batch.peer is peer:
                self.roll.lose(peer, died=lost.died)
            return
        except ValueError as error:
            peer.refuse(str(error), self.roll.now())
            self.roll.lose(peer, died=False)
            return
        except BaseException:
            if batch.peer is peer:
                self._let_go(peer, batch)
                if batch.parts is not None:  # its file waits for it
                    batch.parts.give_back(batch.numbers)
            raise
        peer.carrying -= {asyncio.current_task()}  # taken to its end, whatever becomes of the member
        await taking

    def _answered(self, peer: Peer, batch: Batch, answer: bytes) -> Coroutine[Any, Any, None]:
        """Reads an answer; returns what takes it. ValueError: it is none to this batch."""
        if batch.parts is not None:
            part_records, doubted = protocol.unpack_parts(answer, batch.numbers)
            self._let_go(peer, batch)
            return self._take_parts(peer, batch.parts, part_records, doubted=doubted)
        _, records = protocol.unpack_answer(answer, batch.works)
        self._let_go(peer, batch)
        return self._take(peer, batch, records)

    @staticmethod
    def _let_go(peer: Peer, batch: Batch) -> None:
        batch.peer = None
        peer.batches.pop(batch.number, None)

    async def _take(self, peer: Peer, batch: Batch, records: list[Record]) -> None:
        undone, back = [], []
        for work, record in zip(batch.works, records, strict=True):
            if record.kind is Kind.LEFT:
                undone.append(work)
            elif record.kind is Kind.BACK:
                back.append(work)
            else:
                try:
                    await self.home.settle(work, record, peer)
                except Exception as error:  # noqa: BLE001 - it ends the job; the storage has the others
                    self.home.fail(error)
                    continue
                self._open -= 1
                peer.files_done += 1
                peer.bytes_done += record.file.size if record.kind is Kind.SENT and record.file else 0
        if back:
            await self.home.alone(back)
            self._open -= len(back)
        if undone:
            self._waiting.appendleft(self._batch(undone, batch.deaths))
        self._note_left(peer, len(undone) == len(batch.works))

    async def _take_parts(
        self, peer: Peer, parts: Parts, records: list[PartRecord], *, doubted: bool
    ) -> None:
        try:
            if doubted:
                parts.doubt()
            for record in records:
                self._take_part(peer, parts, record)
        finally:  # whatever could not be noted, nobody waits for it
            parts.give_back([record.number for record in records])
        self._note_left(peer, all(record.kind is Kind.LEFT for record in records))

    @staticmethod
    def _take_part(peer: Peer, parts: Parts, record: PartRecord) -> None:
        number = record.number
        if record.kind is Kind.SENT:
            parts.put_of_others(number, SentPart(record.etag, record.md5, record.crc, record.is_word))
            peer.bytes_done += parts.pieces[number][1]
        elif record.kind is Kind.REFUSED:
            parts.fail([number], protocol.error_of(record))
        elif record.kind is Kind.FAILED:
            parts.give_back([number], keep=True)

    def _note_left(self, peer: Peer, has_left_all: bool) -> None:
        peer.lefts = peer.lefts + 1 if has_left_all else 0
        if peer.lefts >= _LEFTS and not self.home.is_stopping():
            why = str(peer.shows.get("reason") or "it does not start the files that it is given")
            peer.refuse(why, self.roll.now())

    def take_back(self, peer: Peer, *, died: bool) -> None:
        """See `Hands`."""
        struck: list[Parts] = []
        for batch in list(peer.batches.values()):
            self._let_go(peer, batch)
            if batch.parts is not None:
                batch.parts.give_back(batch.numbers, died=died and batch.parts not in struck)
                struck.append(batch.parts)
                continue
            self.resent += len(batch.works)
            self.suspects.update((work.file.key, work) for work in batch.works)
            self._give_again(batch, died=died)
        self._late_parts = list(dict.fromkeys(self._late_parts + struck))

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

    # -- the end
    async def finish(self) -> None:
        """All has been put: returns when all has been settled, or the job is to stop and nothing is under
        way any more."""
        self._ending = True
        self._cut()
        while self._open and not self._is_over():
            self.pump()
            await self._wait()
        while any(peer.batches for peer in self.roll.peers.values()) and not self.roll.ticker.done():
            await self._wait()
        while self._tasks:  # answers that are being taken
            await asyncio.wait(set(self._tasks))
        if self.roll.ticker.done() and not self._closed:
            self.home.fail(RuntimeError("the ticker of the cluster has ended"))

    async def barrier(self) -> None:
        """Waits until a lost member can write nothing more, then has looked at what it may have written."""
        await self.roll.wait_for_lost()
        if not self.home.is_stopping():
            await side_by_side(self.home.confirm, list(self.suspects.values()), 16)
            await side_by_side(self.home.end_upload, self._late_parts, 16)

    async def close(self) -> None:
        """Ends the members' work for this job. What has not ended then is noted (`mark`)."""
        if self._closed:
            return
        self._closed = True
        await self.roll.stop()
        for task in set(self._tasks):
            task.cancel()
        try:
            await self.roll.end_all()
        finally:
            await self.cluster.close()
