"""What goes wrong in the job's process, in its engine or in a member costs no more than it must, and ends."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from cluster_double import FakeMember, run, work
from test_cluster_shares import Scene

from syncworker.cluster import protocol
from syncworker.cluster.peers import Limits, Peer
from syncworker.cluster.protocol import Kind, Member, Record
from syncworker.cluster.shares import Shares
from syncworker.errors import FatalError, Stopped
from syncworker.plan.compare import Candidate


def of(scene: Scene) -> Shares:
    return Shares(scene.cluster, scene.home, Limits("job", 1000, patience_seconds=20.0))


async def end(doing: Shares) -> float:
    """How long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(600):
        await doing.finish()
        await doing.close()
    return loop.time() - began


def seconds_of(scene: Scene, files: int) -> float:
    """How long the scene takes to carry out so many files, and to end."""

    async def main() -> float:
        doing = of(scene)
        await doing.put([work(n) for n in range(files)])
        return await end(doing)

    return run(main())


@pytest.mark.parametrize("error", [OSError("no space"), Stopped("told to stop")])
def test_a_file_that_cannot_be_settled_costs_no_other_file_of_its_batch(error: Exception) -> None:
    """The storage has them: they belong into counters, index and report, whatever ends the job."""
    scene = Scene(1, 1)
    settle = scene.home.settle

    async def fail(each: Candidate, record: Record, peer: Peer) -> None:
        if each.file.key == "k00003":
            scene.home.stopping = isinstance(error, Stopped)
            raise error
        await settle(each, record, peer)

    scene.home.settle = fail  # type: ignore[method-assign]

    seconds_of(scene, 200)
    written = set(scene.folder.objects)
    assert scene.home.settled == dict.fromkeys(written - {"k00003"}, 1)
    assert len(written) > 3
    assert scene.home.error is error


def test_an_engine_that_fails_otherwise_than_it_may_ends_the_job() -> None:
    scene = Scene(1, 1)

    async def submit(member: Member, batch: bytes) -> bytes:
        await asyncio.sleep(0.1)
        raise RuntimeError("the client is closed")

    scene.cluster.submit = submit  # type: ignore[method-assign]

    assert seconds_of(scene, 200) < 30
    assert isinstance(scene.home.error, RuntimeError)


def test_what_ends_the_look_at_the_members_is_the_error_of_the_job() -> None:
    scene = Scene(1, 1)

    async def members() -> list[Member]:
        await asyncio.sleep(1.0)
        raise OSError("no process can be started")

    scene.cluster.members = members  # type: ignore[method-assign]

    seconds_of(scene, 100_000)  # nothing of it is collected for ever
    assert isinstance(scene.home.error, OSError)


def test_keys_that_cannot_be_had_when_all_is_done_are_not_missed() -> None:
    scene = Scene(1, 1)
    closed: list[bool] = []

    async def main() -> None:
        doing = of(scene)
        await doing.put([work(n) for n in range(100)])
        await doing.finish()
        (peer,) = doing.roll.peers.values()
        peer.shows["needs_keys"] = True

        async def greeting() -> dict[str, object]:
            raise FatalError("NoCredentials", "none")

        async def close() -> None:
            closed.append(True)

        scene.home.greeting = greeting  # type: ignore[method-assign]
        scene.cluster.close = close  # type: ignore[method-assign]
        await doing.roll.stop()
        await doing.close()

    run(main())
    assert closed == [True]
    assert scene.home.error is None


class Stuck(FakeMember):
    """Its disk hangs: it answers, and comes to the end of no file."""

    async def carry_out(self, data: bytes) -> bytes:
        self.numbers.add((0, len(self.numbers)))
        self.reading += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError


@pytest.mark.parametrize(("happens", "most"), [("nothing", 160.0), ("a stop", 12.0)])
def test_a_member_whose_disk_hangs_holds_up_the_job_for_two_minutes_and_its_stop_for_seconds(
    happens: str, most: float
) -> None:
    scene = Scene(1, 1)
    scene.members.append(Stuck(1, scene.folder, scene.chance))

    async def main() -> float:
        doing = of(scene)
        await doing.put([work(n) for n in range(600)])
        await asyncio.sleep(2.0)
        assert scene.members[1].numbers
        scene.home.stopping = happens == "a stop"
        return await end(doing)

    assert run(main()) < most
    if happens == "nothing":
        assert scene.home.settled == {f"k{n:05d}": 1 for n in range(600)}


def test_an_engine_that_fails_beside_a_disk_that_hangs_ends_the_job() -> None:
    """Nobody looks at the members any more, so nobody finds out that one of them does nothing."""
    scene = Scene(1, 0)
    scene.members.append(Stuck(1, scene.folder, scene.chance))
    members = scene.cluster.members

    async def fail_later() -> list[Member]:
        if scene.members[0].numbers:
            raise OSError("no process can be started")
        return await members()

    scene.cluster.members = fail_later  # type: ignore[method-assign]

    assert seconds_of(scene, 600) < 30
    assert isinstance(scene.home.error, OSError)


def test_a_member_that_is_being_greeted_when_the_job_ends_is_not_opened() -> None:
    """Its note would stay, and keep the next job on the destination waiting."""
    scene = Scene(1, 1)
    verbs: list[str] = []
    hear = scene.cluster.hear

    async def heard(member: Member, request: bytes) -> bytes:
        if member.id == "m1":
            verbs.append(protocol.unpack(request)["verb"])
        return await hear(member, request)

    async def refusal(answer: object, asked_at: float, seconds: float) -> None:
        await asyncio.sleep(0.5)  # it looks for a file

    async def main() -> int:
        scene.cluster.hear = heard  # type: ignore[method-assign]
        doing = of(scene)
        await doing.put([work(n) for n in range(100)])
        await doing.finish()
        scene.home.refusal = refusal  # type: ignore[method-assign,assignment]
        scene.members.append(FakeMember(1, scene.folder, scene.chance))
        await asyncio.sleep(0.5)
        await doing.close()
        marks = len(scene.home.marks)
        await asyncio.sleep(20.0)
        return marks

    assert run(main()) == len(scene.home.marks)
    assert scene.home.marks[-1] == 0
    assert verbs == ["hello"]


def test_files_that_members_give_back_wait_where_they_are_planned() -> None:
    """Members give back at once what they see otherwise; the job's process takes its time."""
    scene = Scene(1, 0)
    most = 0

    class GivesBack(FakeMember):
        async def carry_out(self, data: bytes) -> bytes:
            await asyncio.sleep(0.01)
            _, _, _, works = protocol.unpack_batch(data)
            return protocol.pack_answer("ready", [Record(Kind.BACK)] * len(cast("Any", works)))

    scene.members.append(GivesBack(1, scene.folder, scene.chance))
    alone, turn = scene.home.alone, asyncio.Semaphore(1)

    async def slowly(works: list[Candidate]) -> None:
        async with turn:
            await alone(works)

    async def main() -> None:
        nonlocal most
        scene.home.alone = slowly  # type: ignore[method-assign]
        doing = of(scene)
        for start in range(0, 40_000, 100):
            await doing.put([work(n) for n in range(start, start + 100)])
            most = max(most, start + 100 - len(scene.home.settled))
        await end(doing)

    run(main())
    assert scene.home.settled == {f"k{n:05d}": 1 for n in range(40_000)}
    assert most < 10_000
