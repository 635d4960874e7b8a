"""The lanes on their own: what is read and done, how far ahead, and that they always come to an end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from syncworker.model import FileEntry
from syncworker.plan.compare import Candidate, Decision, Reason, Verdict
from syncworker.system.stop_token import StopToken
from syncworker.transfer.lane_count import LEAST, Turns
from syncworker.transfer.lanes import BYTES_IN_FLIGHT, LARGE_LANES, Budget, Lanes
from syncworker.transfer.readers import Outcome, ReadResult

GROUP = 32
SECONDS = 30  # for what takes milliseconds: a test that hangs fails


class Body:
    """Stands for the bytes of a file, and knows when nobody holds them any more."""

    def __init__(self, play: Play, size: int) -> None:
        self.play, self.size = play, size
        play.bytes_held += size
        play.most_held = max(play.most_held, play.bytes_held)

    def __del__(self) -> None:
        self.play.bytes_held -= self.size


async def nothing(_: ReadResult) -> None:
    await asyncio.sleep(0)


@dataclass
class Play:
    """Lanes with readers and senders of the test's own, and what became of the files."""

    one: bool = False
    begin: int = LEAST
    send: Callable[[ReadResult], Awaitable[None]] = nothing
    fails_to_read: str = ""
    slow_reads: bool = False
    was_read: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    bytes_held: int = 0
    most_held: int = 0
    reading: int = 0
    most_reading: int = 0
    most_sending: int = 0
    turns: Turns = field(default_factory=Turns)

    def make(self) -> Lanes:
        self.lanes = Lanes(self, cast(StopToken, self), one=self.one, begin=self.begin)
        return self.lanes

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    def requested(self) -> bool:
        return bool(self.errors)

    def is_throttled(self) -> bool:
        return False

    async def read(self, group: list[Candidate]) -> list[ReadResult]:
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        if self.slow_reads:
            await asyncio.sleep(0.01)
        self.reading -= 1
        if any(work.file.key == self.fails_to_read for work in group):
            raise OSError("a disk that is broken")
        self.was_read += [work.file.key for work in group]
        return [
            ReadResult(work, Outcome.BODY, work.file, body=cast(bytes, Body(self, work.file.size)))
            for work in group
        ]

    async def handle_read(self, result: ReadResult) -> None:
        self.begun.append(result.file.key)
        self.most_sending = max(self.most_sending, len(self.begun) - len(self.done))
        await self.send(result)
        self.done.append(result.file.key)

    async def send_large(self, result: ReadResult) -> None:
        await asyncio.sleep(0)
        self.large.append(result.file.key)

    def run(self, groups: list[list[Candidate]]) -> None:
        async def all_of_it() -> None:
            lanes = self.make()
            for group in groups:
                await lanes.put(group)
            await lanes.finish()

        asyncio.run(asyncio.wait_for(all_of_it(), SECONDS))


def groups(count: int, size: int = 10, files: int = GROUP) -> list[list[Candidate]]:
    numbers = itertools.count()
    new = Decision(Verdict.UPLOAD, Reason.NEW)

    def work() -> Candidate:
        key = f"file-{next(numbers):05}"
        return Candidate(FileEntry(key, size, 1, 1, 1, key), None, None, new)

    return [[work() for _ in range(files)] for _ in range(count)]


def keys(wanted: list[list[Candidate]]) -> list[str]:
    return [work.file.key for group in wanted for work in group]


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("count", [0, 1, 50])
def test_every_file_of_every_group_is_done_once(one: bool, count: int) -> None:
    wanted = groups(count)
    play = Play(one=one)
    play.run(wanted)
    assert play.was_read == keys(wanted)
    assert sorted(play.done) == keys(wanted)
    assert not play.errors


def test_a_group_is_read_only_when_the_one_before_has_been_taken() -> None:
    furthest = 0

    async def slow(_: ReadResult) -> None:
        nonlocal furthest
        furthest = max(furthest, len(play.was_read) - len(play.done))
        await asyncio.sleep(0.001)

    play = Play(send=slow)
    play.run(groups(20))
    assert furthest <= LEAST + GROUP


def test_as_many_lanes_begin_as_are_known_to_help() -> None:
    """A member of a cluster begins with what the job's process has found out."""
    play = Play(begin=100, send=lambda _: asyncio.sleep(0.02))
    play.run(groups(20))
    assert play.most_sending == 100


def test_one_at_a_time_reads_a_file_after_the_one_before_is_done() -> None:
    async def look(result: ReadResult) -> None:
        for _ in range(5):
            assert play.was_read[-1] == result.file.key
            await asyncio.sleep(0)

    play = Play(one=True, send=look)
    play.run(groups(20, files=1))
    assert not play.errors
    assert play.done == play.was_read


def test_several_groups_are_read_at_the_same_time_from_a_slow_disk() -> None:
    play = Play(slow_reads=True)
    play.run(groups(40, files=4))
    assert play.most_reading >= 8


def test_a_group_that_cannot_be_read_ends_the_job_and_nothing_more_is_begun() -> None:
    wanted = groups(30)
    play = Play(fails_to_read=keys(wanted)[3 * GROUP])
    play.run(wanted)
    assert [str(error) for error in play.errors] == ["a disk that is broken"]
    assert len(play.begun) <= 3 * GROUP


def test_what_ends_the_job_in_a_lane_ends_no_lane_and_begins_nothing_more() -> None:
    async def fails(result: ReadResult) -> None:
        await asyncio.sleep(0)
        if result.file.key == "file-00003":
            raise ValueError(result.file.key)

    play = Play(send=fails)
    play.run(groups(30, files=10 * LEAST))
    assert [str(error) for error in play.errors] == ["file-00003"]
    assert len(play.begun) <= 3 * LEAST
    assert len(play.was_read) == 10 * LEAST
    assert play.lanes._budget.used == 0


def test_large_files_are_handed_on_however_many_there_are() -> None:
    async def hand_on(result: ReadResult) -> None:
        await play.lanes.put_large(result)

    wanted = groups(10)
    play = Play(send=hand_on)
    play.run(wanted)
    assert sorted(play.large) == keys(wanted)
    assert len(wanted) * GROUP > 4 * LARGE_LANES


def test_the_bytes_in_memory_are_bounded() -> None:
    size = 6 << 20
    play = Play(slow_reads=True)
    play.run(groups(60, size=size, files=1))
    assert len(play.done) == 60
    assert size * 4 < play.most_held <= BYTES_IN_FLIGHT


def test_a_waiting_lane_keeps_nothing_of_its_last_file_in_memory() -> None:
    play = Play()

    async def look() -> None:
        lanes = play.make()
        for group in groups(30, size=1 << 20):
            await lanes.put(group)
        while len(play.done) < 30 * GROUP:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert play.bytes_held == 0
        await lanes.finish()

    asyncio.run(asyncio.wait_for(look(), SECONDS))


def test_one_larger_than_all_passes_alone() -> None:
    async def alone() -> None:
        budget = Budget(100)
        await budget.acquire(1000)
        waiting = asyncio.create_task(budget.acquire(1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        budget.release(1000)
        await asyncio.wait_for(waiting, SECONDS)
        assert budget.used == 1

    asyncio.run(alone())


def test_a_group_of_which_reading_gives_nothing_gives_its_bytes_back() -> None:
    class Empty(Play):
        async def read(self, group: list[Candidate]) -> list[ReadResult]:
            return []

    play = Empty()
    play.run(groups(30, size=5 << 20, files=2))
    assert play.lanes._budget.used == 0
    assert not play.done
