"""How soon a cluster reacts: the protocol's own limits, by a clock that costs nothing. A request takes
40 ms here, and the engine adds up to 0.1 s to each `hear`."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest
from cluster_double import FakeHome, FakeMember, Folder, ThreadCluster, run, work

from syncworker.cluster.peers import Limits, Peer
from syncworker.cluster.protocol import BATCH_FILES, WINDOW
from syncworker.cluster.shares import Shares

FILES = 6_000
MEMBERS = 4


class Member(FakeMember):
    """`begun`: when its last request began."""

    begun = 0.0
    request_seconds = 0.04

    async def _put(self, key: str, version: int) -> None:
        self.begun = self.now()
        await asyncio.sleep(self.request_seconds)
        self.folder.write(key, version)


class Home(FakeHome):
    """`heard_of`: how often each member was heard."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.heard_of: Counter[str] = Counter()

    def heard(self, peer: Peer) -> None:
        self.heard_of[peer.member.id] += 1


class Job:
    """A job whose members are there, and at work: some of many, all of a few."""

    def __init__(self, seed: int, members: int) -> None:
        self.chance, folder = random.Random(seed), Folder()
        self.members = [Member(n, folder, self.chance) for n in range(members)]
        self.home = Home(folder)
        self.shares = Shares(ThreadCluster(list(self.members), self.chance), self.home, Limits("job", 1000))
        self.feeding = asyncio.ensure_future(self._feed())

    async def _feed(self) -> None:
        await self.shares.put([work(n) for n in range(FILES)])

    async def begin(self) -> float:
        peers = self.shares.roll.peers
        await self.until(lambda: sum(peer.works for peer in peers.values()) == len(self.members))
        await asyncio.sleep(self.chance.uniform(1.0, 3.0))  # at any instant between two questions
        return asyncio.get_running_loop().time()

    async def until(self, has_come: Callable[[], bool]) -> float:
        while not has_come():
            await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time()

    async def end(self) -> None:
        self.home.stopping = True
        self.feeding.cancel()
        await self.shares.finish()
        await self.shares.close()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("how", "seconds"), [("is killed", 1.0), ("freezes", 12.0)])
def test_what_a_member_had_is_for_others_soon(seed: int, how: str, seconds: float) -> None:
    async def main() -> tuple[float, int, int]:
        job = Job(seed, MEMBERS)
        began = await job.begin()
        victim = job.members[0]
        if how == "is killed":
            victim.die()
        else:
            victim.frozen_until = began + 1000.0
        ended = await job.until(lambda: job.shares.resent > 0)
        others = [peer for peer in job.shares.roll.peers.values() if peer.works]
        await job.end()
        return ended - began, job.shares.resent, len(others)

    took, resent, others = run(main())
    assert took <= seconds
    assert 0 < resent <= WINDOW * BATCH_FILES
    assert others == MEMBERS - 1


@pytest.mark.parametrize("seconds", [0.5, 5.0, 40.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_scheduler_that_comes_back_has_cost_its_absence_and_three_batches_of_each_member(
    seed: int, seconds: float
) -> None:
    """Its members end with it, and others join; the way to a storage is not what is asked here."""

    async def main() -> tuple[float, int]:
        job = Job(seed, MEMBERS)
        await job.begin()
        cluster, folder = job.shares.cluster, job.home.folder
        assert isinstance(cluster, ThreadCluster)
        cluster.is_down = True
        for member in cluster.all:
            member.die()
        await asyncio.sleep(seconds)
        cluster.all[:] = others = [Member(MEMBERS + n, folder, job.chance) for n in range(MEMBERS)]
        cluster.is_down = False
        began = asyncio.get_running_loop().time()
        took = await job.until(lambda: all(member.begun for member in others)) - began
        await job.end()
        return took, job.shares.resent

    took, resent = run(main())
    assert took <= 1.0
    assert 0 < resent <= MEMBERS * WINDOW * BATCH_FILES


@pytest.mark.parametrize("seed", range(8))
def test_a_cancel_is_the_last_request_within_half_a_second_and_the_end_within_one(seed: int) -> None:
    async def main() -> tuple[float, float]:
        job = Job(seed, MEMBERS)
        began = await job.begin()
        await job.end()
        return max(member.begun for member in job.members) - began, asyncio.get_running_loop().time() - began

    last, ended = run(main())
    assert 0 <= last <= 0.5
    assert ended <= 1.0


def test_64_members_are_heard_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real time: less of the processor than there is, though the members are in this process as well."""
    monkeypatch.setattr(Member, "request_seconds", 2.0)
    seconds, members = 5.0, 64

    async def main() -> tuple[list[int], float]:
        job = Job(1, members)
        await job.begin()
        before, used = job.home.heard_of.copy(), time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - used
        heard = [job.home.heard_of[each.member.id] - before[each.member.id] for each in job.members]
        await job.end()
        return heard, used

    heard, used = run(main())
    assert min(heard) >= 4 * seconds - 2  # the first and the last one
    assert used < seconds
