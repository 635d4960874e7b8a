"""How many small files are under way: more where more helps, and back where it does not."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter

import pytest
from bench import Answer, Mirror, Request, s3_error, wait_for
from stores import Store

from syncworker.errors import FileError, RetryError, Stopped, SyncError
from syncworker.transfer.lane_count import LEAST, MOST, LaneController, Turns
from syncworker.wire import throttle
from syncworker.wire.throttle import AdaptiveThrottle


def play(pace: LaneController, rate_of: list[float], looks: int) -> list[int]:
    lanes = []
    for _ in range(looks):
        pace.record_rate(rate_of[pace.lanes], is_busy=True)
        lanes.append(pace.lanes)
    return lanes


def test_a_store_far_away_gets_as_many_as_there_may_be() -> None:
    lanes = play(LaneController(), [20.0 * n for n in range(MOST + 1)], 10)
    assert lanes[:4] == [48, 72, 108, MOST]
    assert lanes[-1] == MOST


def test_a_store_that_is_busy_keeps_the_least_but_for_a_try_now_and_then() -> None:
    lanes = play(LaneController(), [3000.0] * (MOST + 1), 200)
    assert set(lanes) == {LEAST, 48}
    assert lanes.count(48) < 12


def test_a_step_that_gains_too_little_is_taken_back() -> None:
    lanes = play(LaneController(), [20.0 * min(n, 60) for n in range(MOST + 1)], 20)
    assert lanes[:4] == [48, 72, 108, 72]
    assert lanes[-1] == 72


def test_no_lanes_are_added_while_no_bytes_move() -> None:
    assert set(play(LaneController(), [0.0] * (MOST + 1), 20)) == {LEAST}


def test_no_lanes_are_added_without_work_or_when_the_store_is_throttling() -> None:
    pace = LaneController()
    for rate in (1.0, 100.0, 10_000.0):
        pace.record_rate(rate, is_busy=False)
        assert pace.lanes == LEAST


@pytest.mark.parametrize(("least", "most"), list(itertools.product([1, 7], [7, 8])))
def test_never_fewer_nor_more_than_asked_for(least: int, most: int) -> None:
    pace = LaneController(least, most)
    for rate in (1.0, 5.0, 50.0, 1.0, 1.0, 80.0) * 30:
        pace.record_rate(rate, is_busy=True)
        assert least <= pace.lanes <= most


def test_only_what_began_after_a_step_is_measured() -> None:
    turns = Turns()
    assert turns.rate(32) == 0.0
    turns.begin(10.0)
    turns.record(9.9, 12.0)
    assert turns.count == 0
    turns.record(10.0, 10.1)
    turns.record(10.1, 10.4)
    assert (turns.count, turns.rate(32)) == (2, pytest.approx(160))
    turns.begin(11.0)
    assert (turns.count, turns.rate(32)) == (0, 0.0)


@pytest.mark.parametrize("seconds", [0.15, 0.2, 0.24, 0.3, 0.7])
def test_the_most_lanes_are_used_whenever_the_answers_of_a_distant_store_come(seconds: float) -> None:
    """In half a second, a lane sends two or three files: when they were counted, 72 lanes seemed to gain
    nothing over 48."""
    pace, turns, now = LaneController(), Turns(), 0.0
    turns.begin(now)
    ends = [now + seconds] * pace.lanes  # of the file that each lane sends
    judge = now + 0.5
    while now < 15.0:
        now = min(ends)
        if now >= judge and turns.count >= pace.lanes:
            pace.record_rate(turns.rate(pace.lanes), is_busy=True)
            turns.begin(now)
            judge = now + 0.5
            ends += [now + seconds] * (pace.lanes - len(ends))
        for lane in [n for n, end in enumerate(ends) if end == now]:
            turns.record(now - seconds, now)
            ends[lane] = now + seconds
    assert pace.lanes == MOST


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_where_each_answer_takes_its_time_more_files_are_under_way(store: Store, mirror: Mirror) -> None:
    mirror.make({f"f{i:04}": str(i) for i in range(900)})
    lock = threading.Lock()
    inside = most = 0

    def far_away(request: Request) -> None:
        nonlocal inside, most
        if request.method != "PUT" or not request.key:
            return
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.2)
        with lock:
            inside -= 1

    mirror.proxy.on_request(far_away)
    mirror.sync()
    assert LEAST < most <= MOST


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_store_that_takes_so_many_a_second_is_asked_for_hardly_more(store: Store, mirror: Mirror) -> None:
    mirror.make({f"f{i:04}": str(i) for i in range(250)})
    taken: Counter[int] = Counter()
    lock = threading.Lock()
    refused = 0

    def ten_in_a_tenth(request: Request) -> Answer | None:
        nonlocal refused
        if request.method != "PUT" or not request.key:
            return None
        with lock:
            tenth = int(time.monotonic() * 10)
            taken[tenth] += 1
            if taken[tenth] <= 10:
                return None
            refused += 1
        return s3_error(503, "SlowDown")

    mirror.proxy.on_request(ten_in_a_tenth)
    run = mirror.sync()
    assert run.progress["files_failed"] == 0
    assert 0 < refused < 100  # without a rate: 200 and more


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_cancel_does_not_wait_for_the_turns_that_a_store_gives(store: Store, mirror: Mirror) -> None:
    """One request a second: the files that have their turn in minutes never begin."""
    mirror.make({f"f{i:04}": str(i) for i in range(200)})
    seen: list[float] = []

    def one_a_second(request: Request) -> Answer | None:
        if request.method != "PUT" or not request.key:
            return None
        seen.append(time.monotonic())
        return None if len(seen) == 1 else s3_error(503, "SlowDown")

    mirror.proxy.on_request(one_a_second)
    process, job = mirror.shell.begin(mirror.bucket)
    wait_for(lambda: len(seen) > 30, 60)
    mirror.shell.file(job, "cancel").touch()
    assert process.wait(30) == 3
    assert mirror.shell.status(job)["state"] == "cancelled"
    assert len(seen) < 200


def test_a_request_that_waits_for_a_place_is_not_sent_after_a_stop() -> None:
    """A slow store that was asked for too much: its lanes would go on one after the other, for minutes."""
    told: list[str] = []

    async def play() -> list[object]:
        throttle = AdaptiveThrottle(1)
        await throttle.acquire()
        waiting = [asyncio.create_task(throttle.acquire(lambda: bool(told))) for _ in range(20)]
        await asyncio.sleep(0)
        told.append("stop")
        throttle.release(None)
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
        assert throttle.in_flight == 0
        return list(outcomes)

    assert {type(outcome) for outcome in asyncio.run(play())} == {Stopped}


@pytest.mark.parametrize(
    "answer", [FileError("AccessDenied", "no"), RetryError("InternalError", "500"), None]
)
def test_the_rate_recovers_once_the_store_stops_throttling(
    monkeypatch: pytest.MonkeyPatch, answer: SyncError | None
) -> None:
    """Also where nothing succeeds: a store that is a file system fails each key below another object."""
    monkeypatch.setattr(throttle, "_FORGET_SECONDS", 0.3)
    monkeypatch.setattr(throttle, "_CALM_SECONDS", 0.2)

    async def ask() -> int:
        asked = AdaptiveThrottle(16)
        await asked.acquire()
        asked.release(RetryError("SlowDown", "slower", throttled=True))
        assert asked.rate == 1.0
        loop, count = asyncio.get_running_loop(), 0
        until = loop.time() + 20
        while loop.time() < until and asked.rate is not None:
            await asked.acquire()
            asked.release(answer)
            count += 1
        assert (asked.rate, asked.slow_since) == (None, None)
        return count

    assert asyncio.run(ask()) >= 1
