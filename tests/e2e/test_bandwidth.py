"""Limits of bandwidth, from outside: measured on a real store, changed live, shared by processes."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import RecordingProxy, Service, Shell, assert_same, contents, expected, tree, wait_for
from stores import Store

from syncworker.system import token_bucket
from syncworker.system.rates import Limit, parse_rate
from syncworker.system.token_bucket import DRAW_SECONDS, MEMBERS_MAX, TokenBucket

KIB, MIB = 1 << 10, 1 << 20
SECOND = 1_000_000_000
TOLERANCE = 0.05


# -- how a rate is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("0", 0), ("1", 1), ("500000", 500_000), ("512K", 512 * KIB), ("512k", 512 * KIB), ("1.5M", 1_572_864),
     ("1G", 1 << 30), ("0.25G", 1 << 28), ("0K", 0), ("0.0001K", 1)],
)  # fmt: skip
def test_a_rate_is_read(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "1.5", "x", "1T", "1KB", "1 K", "1e6", ".5M", "1.K", "1M\n", "٣", "nan"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bytes a second"):
        parse_rate(text)


def test_a_limit_follows_its_file_and_ignores_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "bandwidth"
    limit = Limit(str(path), 100)
    assert (limit.look(), limit.rate) == (None, 100)
    path.write_text(" 2K \n")
    assert (limit.look(), limit.rate) == (None, 2048)
    for nonsense in ("", "fast", "\0", "1" * 80):
        path.write_text(nonsense)
        limit.look()
        assert limit.rate == 2048
    path.write_text("3K")
    assert (limit.look(), limit.rate) == (None, 3072)
    path.write_text("fast")
    assert "is ignored" in (limit.look() or "")
    assert limit.look() is None, "said once"
    path.unlink()
    assert (limit.look(), limit.rate) == (None, 100)
    path.mkdir()
    assert (limit.look(), limit.rate) == (None, 100)


# -- the budget --------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend(buckets: list[TokenBucket], clock: Clock, rate: int, seconds: float) -> list[int]:
    """What each gets that wants all it can have: each draws again when the time of its last draw has come."""
    got = [0] * len(buckets)
    due = [clock.now] * len(buckets)
    until = clock.now + int(seconds * SECOND)
    while min(due) < until:
        which = due.index(min(due))
        clock.now = max(clock.now, due[which])
        drawn = buckets[which].draw(rate, 1 << 40)
        assert drawn is not None
        got[which] += drawn.size
        due[which] = drawn.at_ns + int(drawn.size / rate * SECOND)
    clock.now = until
    return got


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_budget_is_held_and_shared_fairly(count: int, tmp_path: Path, clock: Clock) -> None:
    buckets = [TokenBucket(str(tmp_path / "b"), clock, pid) for pid in range(1, count + 1)]
    got = spend(buckets, clock, MIB, 10)
    assert sum(got) == pytest.approx(10 * MIB, rel=TOLERANCE)
    assert min(got) > sum(got) / count / 2
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_who_goes_leaves_its_share_to_the_others(tmp_path: Path, clock: Clock) -> None:
    buckets = [TokenBucket(str(tmp_path / "b"), clock, pid) for pid in (1, 2, 3)]
    spend(buckets, clock, MIB, 3)
    assert sum(spend(buckets[:1], clock, MIB, 10)) == pytest.approx(10 * MIB, rel=TOLERANCE)


def test_who_was_idle_makes_up_for_nothing(tmp_path: Path, clock: Clock) -> None:
    bucket = TokenBucket(str(tmp_path / "b"), clock, 1)
    bucket.draw(MIB, 100)
    clock.now += 60 * SECOND
    drawn = bucket.draw(MIB, 1 << 30)
    assert drawn is not None
    assert drawn.at_ns == clock.now
    assert drawn.size == int(MIB * DRAW_SECONDS)


def test_more_bytes_than_one_draw_has_are_never_given(tmp_path: Path, clock: Clock) -> None:
    bucket = TokenBucket(str(tmp_path / "b"), clock, 1)
    assert bucket.draw(100, 7) == (7, clock.now, 1)
    assert (bucket.draw(1, 1 << 30) or (0,))[0] == 1, "one byte a second moves too"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda data: data[:20],
    "zeros": lambda data: bytes(len(data)),
    "a bit": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "other magic": lambda data: b"bucket9\n" + data[8:],
    "text": lambda _: b"no limit, please\n" * 90,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_made_anew(damage: str, tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "b"
    bucket = TokenBucket(str(path), clock, 1)
    spend([bucket], clock, MIB, 1)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    drawn = bucket.draw(MIB, 1000)
    assert drawn is not None
    assert drawn.at_ns <= clock.now
    assert sum(spend([bucket], clock, MIB, 10)) == pytest.approx(10 * MIB, rel=TOLERANCE)


def test_another_boot_and_a_clock_that_went_back_stall_nobody(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "b")
    TokenBucket(path, clock, 1).draw(MIB, MIB)
    clock.now = 5 * SECOND  # the same boot, they say: the claim is more than all could have drawn
    drawn = TokenBucket(path, clock, 2).draw(MIB, 1000)
    assert drawn is not None
    assert (drawn.at_ns, drawn.members) == (clock.now, 1)
    TokenBucket(path, clock, 1).draw(1000, 10_000)
    monkeypatch.setattr(token_bucket, "boot_id", lambda: "another")
    drawn = TokenBucket(path, clock, 2).draw(1000, 1000)
    assert drawn is not None
    assert (drawn.at_ns, drawn.members) == (clock.now, 1)


def test_what_was_drawn_at_a_low_rate_holds_up_nobody_at_a_high_one(tmp_path: Path, clock: Clock) -> None:
    buckets = [TokenBucket(str(tmp_path / "b"), clock, pid) for pid in range(1, 9)]
    for bucket in buckets:
        bucket.draw(1, 1)
    drawn = buckets[0].draw(MIB, 1000)
    assert drawn is not None
    assert drawn.at_ns - clock.now < SECOND // 10


def test_more_members_than_have_room_are_no_damage(tmp_path: Path, clock: Clock) -> None:
    for pid in range(1, 2 * MEMBERS_MAX):
        assert TokenBucket(str(tmp_path / "b"), clock, pid).draw(MIB, 10)


def test_a_lock_that_is_never_freed_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be stopped while it holds it."""
    monkeypatch.setattr(token_bucket, "_LOCK_SECONDS", 0.1)
    path = str(tmp_path / "b")
    bucket = TokenBucket(path)
    with token_bucket.durable_files.Lock(path) as held:
        assert held.acquire()
        assert bucket.draw(MIB, 10) is None
        wait_for(lambda: bucket.draw(MIB, 10), 5)


# -- measured ----------------------------------------------------------------------------------------------


class Line:
    """Bodies that the store was sent, by time."""

    def __init__(self, proxy: RecordingProxy) -> None:
        self.proxy = proxy

    def total(self) -> int:
        return sum(request.body_bytes for request in list(self.proxy.requests))

    def samples(self, seconds: float, step: float = 0.1) -> list[tuple[float, int]]:
        began, found = time.monotonic(), []
        while (now := time.monotonic()) < began + seconds:
            found.append((now, self.total()))
            time.sleep(step)
        return [*found, (time.monotonic(), self.total())]


def rate_of(samples: list[tuple[float, int]]) -> float:
    (since, before), (now, after) = samples[0], samples[-1]
    return (after - before) / (now - since)


def assert_rate(line: Line, seconds: float, rate: float, rel: float) -> None:
    """Over so many seconds, or over later ones, where machine or store was busy with something else."""
    wait_for(
        lambda: rate_of(line.samples(seconds)) == pytest.approx(rate, rel=rel), 15, f"{rate} bytes a second"
    )


def highest(samples: list[tuple[float, int]], seconds: float = 2.0) -> float:
    """The highest rate over any two seconds."""
    rates = [
        (after - before) / (now - since)
        for number, (since, before) in enumerate(samples)
        for now, after in samples[number + 1 :]
        if now - since >= seconds
    ]
    return max(rates)


class Desk:
    def __init__(
        self, service: Service, shell: Shell, proxy: RecordingProxy, store: Store, bucket: str
    ) -> None:
        self.service, self.shell, self.proxy, self.store, self.bucket = service, shell, proxy, store, bucket
        self.line = Line(proxy)

    def wait_moving(self) -> None:
        wait_for(lambda: self.line.total() > 0)

    def finish(self, job: str) -> None:
        """Without a limit, to its end."""
        assert self.service.get("/limit", bandwidth="0").status == 200
        assert self.service.get("/limit", id=job, bandwidth="0").status in (200, 409)  # it may have ended
        status = self.service.wait_state(job, timeout=60)
        assert status["state"] == "done", status
        folder = self.service.uploads / status["source"]
        assert_same(contents(self.store, status["dest"]), expected(folder))


@pytest.fixture
def desk(juicefs: Store, bucket: str, side_by_side: Callable[..., Any]) -> Desk:
    return Desk(*side_by_side(juicefs, MAX_RUNNING_JOBS="8"), juicefs, bucket)


FOLDERS: dict[str, dict[str, int]] = {
    "large": {"film": 100 * MIB},
    "for 40 seconds": {"film": 40 * MIB},
    "small": {f"{n % 50}/{n:05}": 2 * KIB for n in range(5000)},
    "middling": {f"{n:03}": 700 * KIB for n in range(80)},
}
RATES = {"large": "2M", "small": "256K", "middling": "2M"}


@pytest.mark.long
@pytest.mark.parametrize("kind", RATES)
def test_the_limit_of_a_job_is_held(kind: str, desk: Desk) -> None:
    rate = parse_rate(RATES[kind])
    tree(desk.service.uploads / "photos", FOLDERS[kind])
    job = desk.service.sync(desk.bucket, bandwidth=RATES[kind])
    desk.wait_moving()
    samples = desk.line.samples(10)
    assert rate_of(samples) == pytest.approx(rate, rel=TOLERANCE)
    assert highest(samples) < 1.1 * rate
    status = desk.service.show(job)
    assert status["options"] == {"bandwidth": RATES[kind]}
    assert status["limit"] == {"bandwidth": rate, "all_jobs": None}
    assert status["progress"]["bytes_per_second"] == pytest.approx(rate, rel=0.2)
    assert status["progress"]["eta_seconds"] == pytest.approx(
        (status["progress"]["bytes_total"] - status["progress"]["bytes_done"]) / rate, rel=0.3
    )
    desk.finish(job)


def test_a_low_limit_has_one_body_alone(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {f"{n:03}": 100 * KIB for n in range(200)})
    job = desk.service.sync(desk.bucket, bandwidth="60000")
    desk.wait_moving()
    seen = []
    for _ in range(30):
        seen.append(sum(r.finished is None and r.kind == "PUT" for r in list(desk.proxy.requests)))
        time.sleep(0.1)
    assert max(seen) <= 2, "one whose body goes, and one that is answered"
    desk.finish(job)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_limit_for_all_jobs_is_held_and_shared(count: int, desk: Desk, make_bucket: Any) -> None:
    rate = 4 * MIB
    (desk.service.jobs / "bandwidth").write_text("4M\n")
    jobs = []
    for n in range(count):
        tree(desk.service.uploads / f"f{n}", {"film": 60 * MIB})
        bucket = make_bucket(desk.store)
        if n % 2:
            jobs.append(desk.shell.begin(bucket, f"f{n}")[1])
        else:
            jobs.append(desk.service.sync(bucket, f"f{n}"))
    for job in jobs:
        desk.service.wait_file(job, lambda s: s["phase"] == "transferring", 40)
    time.sleep(1)
    before = [desk.service.show(job)["progress"]["bytes_done"] for job in jobs]
    samples = desk.line.samples(10)
    after = [desk.service.show(job)["progress"]["bytes_done"] for job in jobs]
    assert rate_of(samples) == pytest.approx(rate, rel=TOLERANCE)
    assert highest(samples) < 1.1 * rate
    each = [now - then for then, now in zip(before, after, strict=True)]
    assert min(each) > rate * 10 / count / 2
    for job in jobs:
        desk.finish(job)


@pytest.mark.long
def test_jobs_that_come_and_go_keep_the_limit_full(desk: Desk, make_bucket: Any) -> None:
    rate = 2 * MIB
    assert desk.service.get("/limit", bandwidth="2M").json() == {"bandwidth": None, "all_jobs": rate}
    tree(desk.service.uploads / "photos", FOLDERS["large"])
    job = desk.service.sync(desk.bucket)
    ending = threading.Event()

    def come_and_go() -> None:
        n = 0
        while not ending.is_set():
            n += 1
            tree(desk.service.uploads / f"f{n}", {"a": 200 * KIB, "b": 300 * KIB})
            desk.service.wait_state(desk.service.sync(make_bucket(desk.store), f"f{n}"))

    guests = [threading.Thread(target=come_and_go)]
    desk.wait_moving()
    for guest in guests:
        guest.start()
    try:
        samples = desk.line.samples(10)
    finally:
        ending.set()
        for guest in guests:
            guest.join(60)
    assert rate_of(samples) == pytest.approx(rate, rel=TOLERANCE)
    desk.finish(job)


MEANS = ("http", "shell", "file")


def set_limit(desk: Desk, means: str, job: str | None, rate: str) -> None:
    match means:
        case "http":
            given = {"id": job} if job else {}
            assert desk.service.post("/limit", bandwidth=rate, **given).status == 200
        case "shell":
            done = desk.shell.run("limit", *([job] if job else []), rate, "--json")
            assert done.returncode == 0, done
            assert json.loads(done.stdout)["bandwidth" if job else "all_jobs"] == (parse_rate(rate) or None)
        case "file":
            (desk.service.jobs / (f"{job}.bandwidth" if job else "bandwidth")).write_text(f"{rate}\n")


@pytest.mark.parametrize("of_all", [False, True])
@pytest.mark.parametrize("means", MEANS)
def test_a_limit_changes_while_the_job_runs(means: str, of_all: bool, desk: Desk) -> None:
    tree(desk.service.uploads / "photos", FOLDERS["large"])
    job = desk.service.sync(desk.bucket, bandwidth="1M")
    desk.wait_moving()
    if of_all:
        desk.service.file(job, "bandwidth").write_text("0")
    for rate in ("500000", "3M"):
        set_limit(desk, means, None if of_all else job, rate)
        time.sleep(1.0)
        wanted = pytest.approx(parse_rate(rate), rel=0.12)
        wait_for(lambda wanted=wanted: rate_of(desk.line.samples(3)) == wanted, 15)
    name = "all_jobs" if of_all else "bandwidth"
    assert desk.service.show(job)["limit"][name] == 3 * MIB
    assert desk.service.get("/limit", id=job).json()[name] == 3 * MIB
    set_limit(desk, means, None if of_all else job, "0")
    asked = time.monotonic()
    status = desk.service.wait_state(job)
    assert status["state"] == "done"
    assert time.monotonic() - asked < 20


def test_nonsense_changes_nothing_and_is_logged(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", FOLDERS["for 40 seconds"])
    job = desk.service.sync(desk.bucket, bandwidth="1M")
    desk.wait_moving()
    path = desk.service.file(job, "bandwidth")
    for nonsense in ("", "fast"):
        path.write_text(nonsense)
        time.sleep(0.5)
        assert_rate(desk.line, 2, MIB, 0.15)
    assert "is ignored" in desk.service.log(job)
    assert "fast" not in json.dumps(desk.service.show(job))
    desk.finish(job)


def test_what_is_told_of_a_limit_is_what_holds_while_its_file_is_nonsense(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {"a": "1", "b": "2"})
    job = desk.service.sync(desk.bucket, wait=3600, bandwidth="1M")
    paths = {"bandwidth": desk.service.file(job, "bandwidth"), "all_jobs": desk.service.jobs / "bandwidth"}
    for path in paths.values():
        path.write_text("2M")
    held = dict.fromkeys(paths, 2 * MIB)
    desk.service.wait_file(job, lambda status: status["limit"] == held)
    for nonsense in ("", "fast"):
        for path in paths.values():
            path.write_text(nonsense)
        assert desk.service.get("/limit", id=job).json() == held
    desk.service.get("/cancel", id=job)
    desk.service.wait_state(job)


def test_the_setting_limits_all_jobs_until_a_file_says_else(
    juicefs: Store,
    bucket: str,
    make_service: Callable[..., Service],
    make_proxy: Callable[[Store], RecordingProxy],
) -> None:
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, STORAGE_URL=proxy.url, BANDWIDTH="1M")
    assert service.get("/limit").json() == {"bandwidth": None, "all_jobs": MIB}
    tree(service.uploads / "photos", FOLDERS["for 40 seconds"])
    job = service.sync(bucket)
    wait_for(lambda: Line(proxy).total() > 0)
    assert_rate(Line(proxy), 4, MIB, 0.1)
    assert service.get("/limit", bandwidth="0").json() == {"bandwidth": None, "all_jobs": None}
    assert service.wait_state(job)["state"] == "done"


def test_a_wrong_setting_is_told(juicefs: Store, make_service: Callable[..., Service]) -> None:
    service = make_service(juicefs, start=False, BANDWIDTH="fast")
    assert service.spawn().wait(20) == 2
    assert "BANDWIDTH" in service.output()


def test_limits_are_refused_as_the_contract_says(desk: Desk) -> None:
    service = desk.service
    tree(service.uploads / "photos", {"a": "a"})
    job = service.done(desk.bucket)["id"]
    assert service.get("/limit", id=job, bandwidth="1M").problem["code"] == "JobFinished"
    assert service.get("/limit", id="20200101T000000-00000000").status == 404
    assert service.get("/limit", id="x").problem["param"] == "id"
    assert service.get("/limit", bandwidth="fast").problem["param"] == "bandwidth"
    assert service.get("/sync", bandwidth="-1").problem["param"] == "bandwidth"
    assert service.request("HEAD", "/limit").status == 405
    assert not (service.jobs / "bandwidth").exists()
    assert not service.file(job, "bandwidth").exists()
    assert desk.shell.run("limit", "fast").returncode == 2
    assert desk.shell.run("limit", job, "1M").returncode == 2
    assert desk.shell.run("limit").stdout == "all jobs together: no limit\n"
    assert service.post_json("/limit", {"bandwidth": 500_000}).json()["all_jobs"] == 500_000
    assert desk.shell.run("limit").stdout == "all jobs together: 488.3 KiB/s\n"


def test_all_forms_give_the_same_option(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {"a": "a"})
    service = desk.service
    asked = {"source": "photos", "dest": desk.bucket}
    forms: list[tuple[Callable[[], Any], int | str]] = [
        (lambda: service.get("/sync", **asked, bandwidth="500000"), 500_000),
        (lambda: service.post("/sync", **asked, bandwidth="1.5M"), "1.5M"),
        (lambda: service.post_json("/sync", {**asked, "bandwidth": 500_000}), 500_000),
        (lambda: service.post_json("/sync", {**asked, "bandwidth": "512K"}), "512K"),
    ]
    for ask, kept in forms:
        status = service.wait_state(ask().json()["id"])
        assert (status["state"], status["options"]) == ("done", {"bandwidth": kept})
    run = desk.shell.sync(desk.bucket, "photos", "--bandwidth", "512K")
    assert run.status["options"] == {"bandwidth": "512K"}


# -- processes that end --------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_killed_worker_leaves_the_budget_to_the_others(desk: Desk, make_bucket: Any) -> None:
    rate = 2 * MIB
    (desk.service.jobs / "bandwidth").write_text("2M")
    tree(desk.service.uploads / "photos", FOLDERS["large"])
    job = desk.service.sync(desk.bucket)
    desk.wait_moving()
    for n in range(4):
        tree(desk.service.uploads / f"f{n}", {"film": 20 * MIB})
        process, _ = desk.shell.begin(make_bucket(desk.store), f"f{n}")
        time.sleep(0.7 + 0.13 * n)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    time.sleep(0.5)
    samples = desk.line.samples(8)
    assert rate_of(samples) == pytest.approx(rate, rel=TOLERANCE)
    desk.finish(job)


def test_a_throttled_job_is_cancelled_stopped_and_resumed(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {f"{n:03}": 30 * KIB for n in range(300)})
    job = desk.service.sync(desk.bucket, bandwidth="100K")
    desk.wait_moving()
    asked = time.monotonic()
    desk.service.get("/cancel", id=job)
    assert desk.service.wait_state(job)["state"] == "cancelled"
    assert time.monotonic() - asked < 6
    desk.proxy.reset()
    assert desk.service.get("/resume", id=job).status == 202
    desk.wait_moving()
    assert_rate(desk.line, 4, 100 * KIB, 0.15)  # the resume keeps the limit
    [worker] = desk.service.workers()
    worker.send_signal(signal.SIGTERM)
    assert desk.service.wait_state(job)["state"] == "interrupted"
    assert desk.service.get("/resume", id=job).status == 202
    desk.service.wait_state(job, "running")
    desk.finish(job)


def test_a_paused_job_ends_what_is_in_flight_and_begins_no_body(desk: Desk) -> None:
    """Bodies that wait for their turn are not in flight."""
    tree(desk.service.uploads / "photos", {f"{n:03}": 50 * KIB for n in range(300)})
    job = desk.service.sync(desk.bucket, bandwidth="100K")
    desk.wait_moving()
    assert desk.service.get("/pause", id=job).status == 202
    desk.service.wait_file(job, lambda s: s["phase"] == "paused")
    wait_for(lambda: all(request.finished for request in list(desk.proxy.requests)), 10)
    before = len(desk.proxy.requests)
    time.sleep(2)
    assert len(desk.proxy.requests) == before
    assert desk.service.get("/continue", id=job).status == 202
    desk.finish(job)


def test_cancel_now_waits_for_no_turn(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", FOLDERS["for 40 seconds"])
    job = desk.service.sync(desk.bucket, bandwidth="1K")
    desk.wait_moving()
    asked = time.monotonic()
    desk.service.get("/cancel", id=job, now="1")
    assert desk.service.wait_state(job)["state"] == "cancelled"
    assert time.monotonic() - asked < 6


def test_without_a_limit_nothing_is_shared(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {"a": "a"})
    desk.service.done(desk.bucket)
    assert not (desk.service.jobs / ".bandwidth").exists()


def test_what_verify_deep_reads_counts_as_well(desk: Desk) -> None:
    tree(desk.service.uploads / "photos", {f"{n}": 4 * MIB for n in range(5)})
    desk.service.done(desk.bucket)
    began = time.monotonic()
    desk.service.wait_state(desk.service.sync(desk.bucket, verify="deep", bandwidth="4M"), "done")
    assert time.monotonic() - began > 20 / 4 - 1.5


def test_where_the_budget_cannot_be_shared_each_job_keeps_to_it(desk: Desk) -> None:
    (desk.service.jobs / ".bandwidth").mkdir()
    (desk.service.jobs / "bandwidth").write_text("1M")
    tree(desk.service.uploads / "photos", FOLDERS["for 40 seconds"])
    job = desk.service.sync(desk.bucket)
    desk.wait_moving()
    assert_rate(desk.line, 4, MIB, 0.12)
    assert "not shared" in desk.service.log(job)
    desk.finish(job)
    (desk.service.jobs / ".bandwidth").rmdir()
