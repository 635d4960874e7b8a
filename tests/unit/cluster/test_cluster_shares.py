"""What the job's process hands to its cluster, over many schedules: each file is settled once, nothing is
written after the barrier, and it always ends."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from cluster_double import FakeHome, FakeMember, Folder, ThreadCluster, run, work
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from syncworker.cluster import protocol, roll_call
from syncworker.cluster.peers import Limits
from syncworker.cluster.protocol import Kind, Record
from syncworker.cluster.shares import Shares

SCHEDULES = int(os.environ.get("SCHEDULES", "40"))
SOON = 900.0  # virtual seconds in which every schedule ends


class Scene:
    """`files` put to `count` members, with `events` at random instants."""

    def __init__(self, seed: int, count: int, *, faults: float = 0.0, alone: bool = True) -> None:
        self.chance = random.Random(seed)
        self.folder = Folder()
        self.members = [FakeMember(n, self.folder, self.chance) for n in range(count)]
        self.cluster = ThreadCluster(self.members, self.chance, faults)
        self.home = FakeHome(self.folder, alone=alone)

    async def play(self, files: int, events: list[str]) -> Shares:
        doing = Shares(self.cluster, self.home, Limits("job", 1000, patience_seconds=20.0))
        beside = [asyncio.ensure_future(self.happen(event)) for event in events]
        try:
            async with asyncio.timeout(SOON):
                for start in range(0, files, 32):
                    await doing.put([work(n) for n in range(start, min(files, start + 32))])
                    await asyncio.sleep(self.chance.choice((0.0, 0.0, 0.5)))
                await doing.finish()
                await doing.barrier()
                self.folder.is_closed = not self.home.is_stopping()
                await doing.close()
        finally:
            for task in beside:
                task.cancel()
        await asyncio.sleep(60.0)  # what comes late comes now
        return doing

    async def happen(self, event: str) -> None:
        await asyncio.sleep(self.chance.uniform(0.0, 15.0))
        now = asyncio.get_running_loop().time()
        member = self.chance.choice(self.members)
        if event == "dies":
            member.die()
        elif event == "freezes":
            member.frozen_until = now + self.chance.choice((1.0, 5.0, 30.0))
        elif event == "is cut off":
            member.cut_until = now + self.chance.choice((1.0, 5.0, 30.0))
        elif event == "comes":
            self.members.append(FakeMember(len(self.members), self.folder, self.chance))
        elif event == "is down":
            self.cluster.is_down = True
            await asyncio.sleep(self.chance.choice((1.0, 10.0, 60.0)))
            self.cluster.is_down = False
        elif event == "pauses":
            self.home.paused = True
            await asyncio.sleep(20.0)
            self.home.paused = False
        elif event == "is limited":
            self.home.limited = True
            await asyncio.sleep(10.0)
            self.home.limited = False
        elif event == "changes":
            for number in range(0, 2000, 3):
                self.folder.versions[f"k{number:05d}"] = 2
        elif event == "stops":
            self.home.stopping = True


EVENTS = ("dies", "freezes", "is cut off", "comes", "is down", "pauses", "is limited", "changes")


@settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(1, 4),
    files=st.integers(0, 900),
    faults=st.sampled_from((0.0, 0.05, 0.3)),
    events=st.lists(st.sampled_from(EVENTS), max_size=6),
)
def test_each_file_is_settled_once_and_nothing_comes_after_the_barrier(
    seed: int, count: int, files: int, faults: float, events: list[str]
) -> None:
    scene = Scene(seed, count, faults=faults)
    note(f"{seed=} {count=} {files=} {faults=} {events=}")
    run(scene.play(files, events))
    assert scene.home.error is None
    assert scene.home.settled == {f"k{n:05d}": 1 for n in range(files)}
    assert scene.folder.late == []
    wrong = [key for key, version in scene.home.believed.items() if scene.folder.objects[key] != version]
    assert wrong == []


@settings(max_examples=SCHEDULES // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 32),
    files=st.integers(1, 900),
    events=st.lists(st.sampled_from(EVENTS), max_size=4),
)
def test_a_stop_ends_it_and_settles_nothing_twice(seed: int, files: int, events: list[str]) -> None:
    scene = Scene(seed, 3, faults=0.1)
    run(scene.play(files, [*events, "stops"]))
    assert scene.home.error is None
    assert set(scene.home.settled.values()) <= {1}


def test_a_file_that_kills_members_is_found_and_fails_alone() -> None:
    scene = Scene(1, 1)
    scene.members[0].poison = {"k00100"}

    async def replace() -> None:
        while True:
            await asyncio.sleep(0.5)
            if all(member.is_dead for member in scene.members):
                scene.members.append(FakeMember(len(scene.members), scene.folder, scene.chance))
                scene.members[-1].poison = {"k00100"}

    async def main() -> None:
        nurse = asyncio.ensure_future(replace())
        await scene.play(256, [])
        nurse.cancel()

    run(main())
    assert scene.home.killers == ["k00100"]
    assert scene.home.settled == {f"k{n:05d}": 1 for n in range(256)}
    assert len(scene.members) <= 3 + 9  # three, then one for each time the batch is halved


def test_without_members_the_job_continues_alone_or_fails() -> None:
    scene = Scene(1, 0)
    run(scene.play(100, []))
    assert len(scene.home.settled) == 100
    assert scene.home.error is None
    scene = Scene(1, 0, alone=False)
    run(scene.play(100, []))
    assert str(scene.home.error) == "ClusterLost"
    assert scene.home.settled == {}


def test_the_barrier_waits_for_the_lease_of_a_lost_member_and_asks_for_what_it_had() -> None:
    scene = Scene(3, 2)

    async def main() -> tuple[float, float, Shares]:
        loop = asyncio.get_running_loop()
        doing = Shares(scene.cluster, scene.home, Limits("job", 1000))
        await doing.put([work(n) for n in range(512)])
        await asyncio.sleep(1.5)
        scene.members[0].cut_until = loop.time() + 1000.0
        last = loop.time()
        await doing.finish()
        await doing.barrier()
        ended = loop.time()
        await doing.close()
        return last, ended, doing

    last, ended, doing = run(main())
    assert doing.suspects
    assert sorted(scene.home.confirmed) == sorted(doing.suspects)
    assert ended - last >= protocol.LEASE_SECONDS + protocol.LAST_SECONDS - 1.0
    assert scene.home.marks[-1] == 0  # nobody is left who could write


def test_a_job_that_stops_names_the_members_that_may_still_write() -> None:
    scene = Scene(3, 2)

    async def main() -> None:
        doing = Shares(scene.cluster, scene.home, Limits("job", 1000))
        await doing.put([work(n) for n in range(512)])
        await asyncio.sleep(1.5)
        scene.members[0].cut_until = asyncio.get_running_loop().time() + 1000.0
        await asyncio.sleep(0.5)
        scene.home.stopping = True
        await doing.finish()
        await doing.barrier()
        await doing.close()

    run(main())
    assert scene.home.marks[-1] == 1


def test_a_refused_member_gets_nothing_and_is_asked_again_later() -> None:
    scene = Scene(4, 2)
    asked_at: list[float] = []

    async def refusal(answer: dict[str, object], at: float, seconds: float) -> str | None:
        asked_at.append(at)
        return "sees a different folder" if len(asked_at) == 1 else None

    scene.home.refusal = refusal  # type: ignore[method-assign]

    async def main() -> tuple[int, int]:
        doing = Shares(scene.cluster, scene.home, Limits("job", 1000))
        await doing.put([work(n) for n in range(300)])
        await asyncio.sleep(2.0)
        given, scene.home.paused = [len(member.numbers) for member in scene.members], True
        await asyncio.sleep(roll_call.REFUSED_SECONDS + 2.0)
        scene.home.paused = False
        await doing.finish()
        await doing.close()
        return min(given), max(given)

    assert run(main())[0] == 0
    assert len(asked_at) == 3
    assert asked_at[2] - asked_at[0] >= roll_call.REFUSED_SECONDS
    assert len(scene.home.settled) == 300


def test_a_job_whose_members_are_all_refused_does_not_wait_for_others() -> None:
    scene = Scene(4, 2)

    async def refusal(*_: object) -> str:
        return "sees a different folder"

    scene.home.refusal = refusal  # type: ignore[method-assign]

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await scene.play(100, [])
        return loop.time() - began

    assert run(main()) < 80.0  # of which a minute is the test's own
    assert scene.cluster.submitted == 0
    assert len(scene.home.settled) == 100


@pytest.mark.parametrize("data", [b"", b"nonsense", protocol.pack(1), protocol.pack(("ready", [(9,)]))])
def test_a_malformed_answer_is_ignored(data: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        protocol.unpack_answer(data, [work(1)])


def test_an_answer_to_another_batch_is_ignored() -> None:
    answer = protocol.pack_answer("ready", [Record(Kind.SENT, work(2).file)])
    with pytest.raises(ValueError, match="another batch"):
        protocol.unpack_answer(answer, [work(1)])


def test_batches_and_answers_come_back_as_they_went() -> None:
    packed = protocol.pack_batch("job", 1001, 7, [work(1), work(2, size=5)])
    assert protocol.unpack_batch(packed) == ("job", 1001, 7, [work(1), work(2, size=5)])
    records = [Record(Kind.SENT, work(1).file, "e", "d", 0, 5, False, 0.5), Record(Kind.LEFT)]
    assert protocol.unpack_answer(protocol.pack_answer("ready", records), [work(1), work(2)]) == (
        "ready",
        records,
    )


class Begun(Scene):
    """Remembers when members began a request, and when each answered."""

    def __init__(self, seed: int, count: int) -> None:
        super().__init__(seed, count)
        self.begun: list[float] = []
        self.answers: Counter[int] = Counter()
        for number, member in enumerate(self.members):
            member._put = self._noting(member._put)  # type: ignore[method-assign]
            member.hear = self._counting(number, member.hear)  # type: ignore[method-assign]

    def _noting(self, put: Callable[[str, int], Awaitable[None]]) -> Callable[[str, int], Awaitable[None]]:
        async def noted(key: str, version: int) -> None:
            self.begun.append(asyncio.get_running_loop().time())
            await put(key, version)

        return noted

    def _counting(self, number: int, hear: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def counted(request: bytes) -> bytes:
            self.answers[number] += 1
            return hear(request)

        return counted

    async def work_for(self, files: int, seconds: float, then: Callable[[float], None]) -> float:
        """Has members work, calls `then` with the time, and returns that, after whatever they began since."""
        doing = Shares(self.cluster, self.home, Limits("job", 1000))
        putting = asyncio.ensure_future(doing.put([work(n) for n in range(files)]))
        await asyncio.sleep(seconds)
        now = asyncio.get_running_loop().time()
        then(now)
        await asyncio.sleep(7.0)  # nobody is lost yet, whose files others had
        self.home.stopping = True
        await putting
        await doing.close()
        return now


@pytest.mark.parametrize("seed", range(5))
def test_when_a_job_is_heard_no_more_its_members_begin_nothing_after_four_seconds(seed: int) -> None:
    """As when its process was killed on another machine."""
    scene = Begun(seed, 8)

    def cut(now: float) -> None:
        for member in scene.members:
            member.cut_until = now + 1000.0

    at = run(scene.work_for(8000, 5.0, cut))
    assert at + 1.0 < max(scene.begun) <= at + 4.0


def test_of_64_members_each_is_heard_thrice_a_second_though_some_are_frozen() -> None:
    scene = Begun(6, 64)
    for member in scene.members[:4]:
        member.frozen_until = SOON * 10
    run(scene.work_for(64 * 700, 10.0, lambda _: None))
    assert min(scene.answers[number] for number in range(4, 64)) >= 3 * 17
