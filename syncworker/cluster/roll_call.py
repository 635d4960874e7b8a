"""Who is there: greets members, opens them, renews their leases, finds out who is lost, and ends them.

A member is greeted (`hello`), refused or opened, and heard four times a second from then on. It is lost when
it is not there any more, or has answered nothing for `SILENT_SECONDS`. Each has its own request under way, so
that a slow one holds up nobody.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Protocol

from syncworker.cluster import protocol
from syncworker.cluster.peers import Home, Limits, Peer
from syncworker.cluster.protocol import (
    HEAR_EVERY_SECONDS,
    HEAR_SECONDS,
    LAST_SECONDS,
    LEASE_SECONDS,
    SILENT_SECONDS,
    Cluster,
    Lost,
    Member,
    State,
    Stranger,
    Unreachable,
    Verb,
)

REFUSED_SECONDS = 30.0  # then a member that was refused is greeted anew
STUCK_SECONDS = 120.0  # a member that neither waits for the storage nor comes to the end of a file is lost
STUCK_AT_STOP_SECONDS = 5.0  # the same, of a member that was told to stop
_ENDING_SECONDS = 12.0
_MARK_SECONDS = 1.0
_LOSSES = 3  # of a member; then it is not taken any more


class Hands(Protocol):
    """Who gives the members something to do."""

    def pump(self) -> None:
        """Something has changed: hands out what members have room for."""
        ...

    def take_back(self, peer: Peer, *, died: bool) -> None:
        """What a lost member had is for others."""
        ...


class RollCall:
    """`is_alone`: no member is there that may work, and nobody waits for one any more."""

    def __init__(self, cluster: Cluster, home: Home, limits: Limits, hands: Hands) -> None:
        self.cluster, self.home, self.limits, self.hands = cluster, home, limits, hands
        self.peers: dict[str, Peer] = {}
        self.lost: list[Peer] = []
        self.is_alone = False
        self.trouble = ""  # why nobody can say who is there
        self._epoch = limits.epoch
        self._is_closed = self._keeps_all = False
        self._losses: dict[str, int] = {}  # of each member
        self._away: dict[str, float] = {}  # lost members, and when they may come back
        now = asyncio.get_running_loop().time()
        self._someone_at = self._looked_at = self._awake_since = now
        self._stopped_at: float | None = None
        self._marked_at = -_MARK_SECONDS
        self.ticker = asyncio.create_task(self._tick(), name="ticker of the cluster")

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _tick(self) -> None:
        try:
            while not self._is_closed:
                present = await self._present()
                if self.now() - self._marked_at >= _MARK_SECONDS:
                    await self._mark()  # before any lease is renewed: who comes after us counts from there
                self._look(present)
                await asyncio.sleep(HEAR_EVERY_SECONDS)
        except Exception as error:
            self.home.fail(error)
            raise

    async def _present(self) -> dict[str, Member] | None:
        try:
            async with asyncio.timeout(2 * HEAR_SECONDS):
                present = {member.id: member for member in await self.cluster.members()}
        except (Unreachable, TimeoutError) as error:
            self.trouble = str(error) or self.trouble
            return None
        self.trouble = ""
        return present

    def _look(self, present: dict[str, Member] | None) -> None:
        now = self.now()
        if now - self._looked_at > 4 * HEAR_SECONDS:
            self._awake_since = now  # this process stood still: nobody else is silent for that
        self._looked_at = now
        stopping, self._keeps_all = self.home.is_stopping(), self.home.keeps_all()
        if stopping and self._stopped_at is None:
            self._stopped_at = now
        self._find_lost(present, now)
        self._away = {member: until for member, until in self._away.items() if until > now}
        for member in (present or {}).values():
            if member.id not in self.peers and member.id not in self._away and not stopping:
                self._epoch += 1
                self.peers[member.id] = Peer(member, self._epoch, now)
        for peer in self.peers.values():
            if self._keeps_all and not peer.leased and not peer.batches:  # it sleeps
                peer.since = now
            elif peer.hearing is None and not peer.is_out:
                peer.hearing = asyncio.create_task(self._hear(peer))
        self._decide_alone(now, stopping=stopping)
        self.hands.pump()

    def _find_lost(self, present: dict[str, Member] | None, now: float) -> None:
        for peer in list(self.peers.values()):
            is_gone = present is not None and peer.member.id not in present
            silent = now - max(peer.heard_at or peer.since, peer.since, self._awake_since)
            if peer.is_out:  # it has nothing; in a while it may show that it has been mended
                if is_gone or now - peer.refused_at > REFUSED_SECONDS:
                    del self.peers[peer.member.id]
            elif is_gone or silent > SILENT_SECONDS:
                self.lose(peer, died=is_gone)
            elif peer.batches and (seconds := self._stuck_for(peer, now)):
                peer.refuse(f"it has read no file for {seconds:g} s: does its disk answer?", now)
                self.lose(peer, died=False)

    def _stuck_for(self, peer: Peer, now: float) -> float | None:
        """The limit that a member has passed without coming to the end of a file. One that has heard that it
        is to stop, and waits for nothing of the storage, has only a read left, which may never end."""
        since = max(peer.moved_at, self._awake_since)
        if self._stopped_at is not None and peer.state is State.ENDING:
            since, most = max(since, self._stopped_at), STUCK_AT_STOP_SECONDS
        else:
            most = STUCK_SECONDS
        return most if now - since > most else None

    def _decide_alone(self, now: float, *, stopping: bool) -> None:
        is_hopeless = bool(self.peers) and all(peer.refused for peer in self.peers.values())
        if self._keeps_all or any(peer.works for peer in self.peers.values()):
            self._someone_at, self.is_alone = now, self._keeps_all
        elif (is_hopeless or now - self._someone_at > self.limits.patience_seconds) and not (
            stopping or self.is_alone
        ):
            self.is_alone = self.home.no_members()

    def lose(self, peer: Peer, *, died: bool) -> None:
        """A member is gone, or the way to it: others get what it had. Its answers are not waited for."""
        if peer.lost_at is not None:
            return
        peer.lost_at = self.now()
        self.peers.pop(peer.member.id, None)
        losses = self._losses[peer.member.id] = self._losses.get(peer.member.id, 0) + 1
        self._away[peer.member.id] = self._free_at(peer) if losses < _LOSSES else math.inf
        if peer.leased:
            self.lost.append(peer)
        self.hands.take_back(peer, died=died)
        self.home.forget(peer)
        for task in [*peer.carrying, *([peer.hearing] if peer.hearing else [])]:
            if task is not asyncio.current_task():
                task.cancel()
        self.hands.pump()

    @staticmethod
    def _free_at(peer: Peer) -> float:
        """When nothing of it can reach the storage any more, by its lease."""
        return (peer.heard_at or peer.since) + LEASE_SECONDS + LAST_SECONDS

    async def wait_for_lost(self) -> None:
        """Until a lost member can write nothing more, or the job is to stop."""
        for peer in self.lost:
            until = self._free_at(peer)
            while self.now() < until and not self.home.has_ended(peer) and not self.home.is_stopping():
                await asyncio.sleep(min(HEAR_EVERY_SECONDS, max(0.0, until - self.now())))

    async def _mark(self) -> None:
        leased = [peer for peer in (*self.peers.values(), *self.lost) if peer.leased]
        if leased:
            now = self.now()
            await self.home.mark(leased)
            self._marked_at = now

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
        if verb in (Verb.HELLO, Verb.OPEN) or (verb is Verb.RENEW and peer.shows.get("needs_keys")):
            request |= await self.home.greeting()
        if verb is Verb.HELLO:
            for secret in ("keys", "head"):  # only for who has been found to be one of ours
                request.pop(secret, None)
        if verb is Verb.OPEN:
            peer.leased = True
            peer.state = State.OPENING
            await self._mark()  # before it can begin anything
        asked_at = self.now()
        try:
            async with asyncio.timeout(HEAR_SECONDS):
                answer = protocol.unpack(await self.cluster.hear(peer.member, protocol.pack(request)))
            peer.clock = float(answer["clock"])
            state = State(answer["state"])
        except Stranger as error:
            peer.refuse(str(error), self.now())
            return None
        except (Lost, Unreachable, TimeoutError, ValueError, KeyError, TypeError):
            return None
        peer.heard_at, before, peer.shows = self.now(), peer.shows, answer
        waits = answer.get("waits") or request["pause"] or not peer.batches
        if waits or answer.get("done") != before.get("done"):
            peer.moved_at = peer.heard_at
        if verb is Verb.HELLO:
            why = await self.home.refusal(answer, asked_at, peer.heard_at - asked_at)
            peer.refuse(why or "", peer.heard_at)
        else:
            peer.state = state
            peer.refuse(str(answer.get("refused") or ""), peer.heard_at)
            if state is State.NONE:  # its lease had run out, or it was told to end
                peer.leased = False
                self._epoch += 1
                peer.epoch = self._epoch
        self.home.heard(peer)
        self.hands.pump()
        return dict(answer)

    # -- the end
    async def stop(self) -> None:
        """A member that is being greeted is not opened any more: it would be noted, and keep the next job on
        the destination waiting."""
        self._is_closed = True
        greeted = [peer.hearing for peer in self.peers.values() if peer.hearing and not peer.leased]
        for task in (self.ticker, *greeted):
            task.cancel()
        await asyncio.gather(self.ticker, *greeted, return_exceptions=True)

    async def end_all(self) -> None:
        """Ends the members' work for this job. What has not ended then is noted (`mark`)."""
        leased = [peer for peer in self.peers.values() if peer.leased]
        ended = await asyncio.gather(*(self._end(peer) for peer in leased))
        left = [peer for peer, has_ended in zip(leased, ended, strict=True) if not has_ended]
        now = self.now()
        left += [peer for peer in self.lost if now < self._free_at(peer) and not self.home.has_ended(peer)]
        await self.home.mark(left)

    async def _end(self, peer: Peer) -> bool:
        """Whether the member has said that it does nothing more for this job."""
        if peer.hearing is not None:
            await asyncio.wait({peer.hearing})
        until = self.now() + _ENDING_SECONDS
        while self.now() < until:
            answer = await self._ask(peer, Verb.END)
            if answer is not None and peer.state is State.NONE:
                return True
            if answer is None and peer.heard_at is not None and self.now() - peer.heard_at > SILENT_SECONDS:
                return False
            await asyncio.sleep(HEAR_EVERY_SECONDS / 5)
        return False
