"""A storage that is away for a while, or asks to slow down: what the job says, waits for, and how it ends."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from bench import (
    Gate,
    RecordingProxy,
    Request,
    Service,
    Shell,
    assert_same,
    contents,
    expected,
    fill,
    tree,
    wait_for,
)
from proxy import Answer, s3_error
from stores import Store, list_uploads

from syncworker.errors import RetryError
from syncworker.s3 import outage as outages
from syncworker.s3.client import TRIES
from syncworker.system.control import Control
from syncworker.system.stop_token import StopToken

MIB = 1 << 20
SURVIVORS = ["juicefs", "seaweedfs", "rclone"]
OLD = {f"old/{n:03}": b"old" for n in range(40)}
FILES = {"a": "1", "b": "22", "c": "333", "film": 40 * MIB}
SOON_SECONDS = 5.0  # of a second, the rest for a busy machine and for interpreters to start and end


@dataclass(frozen=True)
class Phase:
    """When the storage goes: at the `nth` request of a kind of those that follow one of the kinds `after`."""

    kind: str
    after: tuple[str, ...] = ()
    nth: int = 1
    changes: dict[str, None] = field(default_factory=dict)
    options: tuple[str, ...] = ()


DELETING = ("DELETE", "DeleteObjects")
SLOWLY = ("--wait", "0.01")
# The first listing is the first thing asked of a storage: it has to answer once.
PHASES = {
    "comparing": Phase("LIST", after=("LIST",)),
    "transferring": Phase("PUT"),
    "a large file": Phase("UploadPart"),
    "completing it": Phase("CompleteMultipartUpload"),
    "deleting": Phase("DELETE", options=SLOWLY),
    "the second look": Phase("LIST", after=DELETING),
    "verifying": Phase("LIST", after=DELETING, nth=2, options=("--verify", "1")),
    "reading back": Phase("GET", after=DELETING, nth=3, options=("--verify", "deep")),
    "deleting the bucket": Phase("DELETE", changes=dict.fromkeys(FILES), options=SLOWLY),
}


class Outage:
    """A shell whose storage goes away at the first request of a kind."""

    def __init__(self, store: Store, bucket: str, shell: Shell, proxy: RecordingProxy) -> None:
        self.store, self.bucket, self.shell, self.proxy = store, bucket, shell, proxy
        shell.environment["STORAGE_URL"] = proxy.url
        shell.environment["STORAGE_PATIENCE"] = "120"
        fill(store, bucket, OLD)
        tree(shell.uploads, {"photos": FILES})
        self.struck = False

    def begin(self, phase: Phase, strike: Callable[[], None]) -> None:
        lock = threading.Lock()
        seen, has_begun = 0, not phase.after

        def hook(request: Request) -> None:
            nonlocal seen, has_begun
            with lock:
                seen += has_begun and request.kind == phase.kind
                has_begun = has_begun or request.kind in phase.after
                strikes = seen == phase.nth and not self.struck
                self.struck = self.struck or strikes
            if strikes:
                strike()

        self.proxy.on_request(hook)
        self.process, self.job = self.shell.begin(self.bucket, "photos", *phase.options)
        wait_for(lambda: self.struck, 20, "the storage to go")

    def says(self, reason: str, seconds: float = 20) -> dict[str, Any]:
        return self.shell.wait_file(self.job, lambda s: (s["delay"] or {}).get("reason") == reason, seconds)

    def end(self, seconds: float = 60) -> dict[str, Any]:
        self.process.wait(seconds)
        return self.shell.status(self.job)


@pytest.fixture
def outage(
    store: Store, bucket: str, make_shell: Callable[..., Shell], make_proxy: Callable[[Store], RecordingProxy]
) -> Outage:
    return Outage(store, bucket, make_shell(store), make_proxy(store))


def assert_all_told(outage: Outage, status: dict[str, Any], old: dict[str, bytes]) -> None:
    """No line of the report is lost, and none is there twice."""
    lines = [line for line in outage.shell.report(outage.job) if "error" not in line]
    uploads = sorted(line["key"] for line in lines if line["op"] == "upload")
    deletions = sorted(line["key"] for line in lines if line["op"] == "delete")
    folder = expected(outage.shell.uploads / "photos")
    assert uploads == sorted(folder)
    assert deletions == sorted(old | OLD)
    assert status["progress"]["files_uploaded"] == len(folder)
    assert status["progress"]["objects_deleted"] == len(old | OLD)
    assert_same(contents(outage.store, outage.bucket), folder)


@pytest.mark.parametrize("store", SURVIVORS, indirect=True)
@pytest.mark.parametrize("phase", PHASES)
def test_a_store_that_dies_and_is_started_again_is_waited_for(
    phase: str, store: Store, outage: Outage
) -> None:
    at, old = PHASES[phase], OLD
    if phase == "comparing":  # a second page, which never comes
        old = {f"old/{n:04}": b"old" for n in range(1001)}
        fill(store, outage.bucket, old)
    tree(outage.shell.uploads, {"photos": at.changes})
    try:
        outage.begin(at, store.kill)
        status = outage.says("storage_down")
        assert status["state"] == "running"
        assert re.search(
            r"^retrying: .*; nothing has succeeded since \d\d:\d\d:\d\d UTC, the job waits until",
            status["message"],
        )
        assert status["delay"]["until"] > status["delay"]["since"]
    finally:
        if not store.alive:
            store.start()
    status = outage.end()
    assert status["state"] == "done", f"{status['error']} {status['errors']}"
    assert status["delay"] is None
    if not at.changes:
        assert_all_told(outage, status, old)
        assert not list_uploads(store.client(), outage.bucket)
        parts = [key for key, number in outage.proxy.bytes_sent() if number]
        assert len(parts) == 5 or not store.multipart_survives_restart, "parts of the large file sent twice"


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_one_asks_at_a_time_and_ever_more_seldom(outage: Outage) -> None:
    away: list[float] = []
    asked: list[str] = []
    known = threading.Event()  # the job, by its number

    def fail(request: Request) -> Answer | None:
        if request.kind == "LIST":
            return None
        known.wait(20)
        if outage.shell.status(outage.job)["delay"]:
            asked.append(request.kind)
            if request.kind == "HeadBucket":
                away.append(time.monotonic())
        return s3_error(500, "InternalError")

    outage.proxy.on_request(fail)
    outage.process, outage.job = outage.shell.begin(outage.bucket)
    known.set()
    wait_for(lambda: len(away) >= 4, 40, "four questions")
    outage.proxy.clear_hooks()
    assert outage.end()["state"] == "done"
    under_way = asked.index("HeadBucket")  # sent before the first of them was told of the outage
    assert set(asked[under_way:]) == {"HeadBucket"}, "only what asks whether the storage is back"
    pauses = [later - before for before, later in pairwise(away)]
    assert pauses == sorted(pauses), "twice as long each time"


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_longer_than_the_patience_fails_and_a_resume_goes_on(store: Store, outage: Outage) -> None:
    outage.shell.environment["STORAGE_PATIENCE"] = "8"
    outage.begin(Phase("UploadPart"), outage.proxy.refuse)
    outage.says("storage_down")
    status = outage.end()
    assert status["state"] == "failed"
    assert status["error"]["code"] == "ConnectFailed"
    assert "no longer answers" in status["error"]["message"]
    assert status["progress"]["objects_deleted"] == 0
    assert OLD.keys() <= contents(store, outage.bucket).keys()
    outage.proxy.listen()
    assert outage.shell.run("resume", outage.job).returncode == 0
    assert_same(contents(store, outage.bucket), expected(outage.shell.uploads / "photos"))


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_without_patience_the_tries_decide(outage: Outage) -> None:
    outage.shell.environment["STORAGE_PATIENCE"] = "0"
    outage.begin(Phase("PUT"), outage.proxy.refuse)
    status = outage.end(40)
    assert (status["state"], status["error"]["code"]) == ("failed", "ConnectFailed")


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("kind", ["PUT", "UploadPart", "DELETE"])
def test_a_cancel_ends_the_waiting_at_once(kind: str, outage: Outage) -> None:
    outage.begin(Phase(kind), outage.proxy.refuse)
    outage.says("storage_down")
    asked = time.monotonic()
    outage.shell.file(outage.job, "cancel").touch()
    status = outage.end(20)
    assert time.monotonic() - asked < SOON_SECONDS
    assert (status["state"], status["errors"]) == ("cancelled", [])


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_key_that_alone_fails_is_that_files_fault(store: Store, outage: Outage) -> None:
    """Nothing else is under way, so nothing succeeds: but the storage answers when it is asked."""
    tree(outage.shell.uploads, {"photos": dict.fromkeys(FILES) | {"only": "1"}})
    outage.proxy.on_request(lambda r: s3_error(500, "InternalError") if r.key == "only" else None)
    run = outage.shell.start(outage.bucket, timeout=60)
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
    assert run.progress["elapsed_seconds"] < 40


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_storage_that_is_back_and_cannot_do_all_at_once_is_given_time(outage: Outage) -> None:
    """More failures of one request than it has tries, while another is answered."""
    proxy, failed = outage.proxy, 0

    def starting(request: Request) -> Answer | None:
        nonlocal failed
        is_away = len(proxy.of_kind("HeadBucket")) < 2
        if request.kind == "PUT" and request.key == "a" and not is_away:
            failed += 1
            is_away = failed <= TRIES + 2
        return s3_error(500, "InternalError") if is_away and request.kind != "LIST" else None

    proxy.on_request(starting)
    status = outage.shell.sync(outage.bucket, timeout=60).status
    assert failed > TRIES + 2
    assert status["progress"]["files_uploaded"] == len(FILES)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_storage_that_has_never_answered_is_not_waited_for(how: str, outage: Outage) -> None:
    if how == "refused":
        outage.proxy.refuse()
    else:
        Gate(outage.proxy, lambda request: True)
    run = outage.shell.start(outage.bucket, timeout=100)
    assert run.exit_status == 1
    assert "does not answer" in run.status["error"]["message"]
    assert run.progress["elapsed_seconds"] < 60


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_listing_that_takes_long_is_waited_for_where_the_storage_answers_otherwise(
    outage: Outage,
) -> None:
    """The first request of a job may take longer than a storage that never answers is given."""
    gate = Gate(outage.proxy, lambda request: request.kind == "LIST")
    outage.process, outage.job = outage.shell.begin(outage.bucket)
    gate.wait()
    outage.says("storage_silent")
    wait_for(lambda: outage.proxy.of_kind("HeadBucket"), 30, "a question beside it")
    gate.open()
    assert outage.end()["state"] == "done"


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_storage_that_asks_to_slow_down_is_named(
    store: Store, outage: Outage, make_service: Callable[..., Service]
) -> None:
    service = make_service(store, STORAGE_URL=outage.proxy.url)
    outage.shell.share(service)
    tree(service.uploads, {"photos": FILES})
    outage.proxy.on_request(lambda r: s3_error(503, "SlowDown") if r.kind == "PUT" else None)
    outage.process, outage.job = outage.shell.begin(outage.bucket)
    status = outage.shell.wait_file(outage.job, lambda s: s["progress"]["throttled_seconds"] > 3)
    assert status["delay"]["reason"] == "slow_down"
    said = r"asked to slow down since \d\d:\d\d:\d\d UTC: it accepted \w+ requests? in the last 10 s"
    assert re.search(said, status["message"])
    assert re.search(said, service.get(f"/get?id={outage.job}").json()["message"])
    wait_for(lambda: re.search(said, (outage.shell.base / "shell1.out").read_text()), 20, "the shell's line")
    outage.proxy.clear_hooks()
    status = outage.end()
    assert (status["state"], status["delay"]) == ("done", None)
    assert 3 < status["progress"]["throttled_seconds"] <= status["progress"]["elapsed_seconds"]
    assert_all_told(outage, status, OLD)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_nothing_is_said_where_nothing_is_amiss(outage: Outage) -> None:
    run = outage.shell.sync(outage.bucket)
    assert run.progress["throttled_seconds"] == 0
    assert "slow down" not in run.out


def test_a_store_that_answers_between_and_is_away_again_is_waited_for_anew() -> None:
    """What was in flight succeeds while the store is asked, and the question fails with 503."""
    error, asked = RetryError("Http503", "the storage answered 503"), 0

    async def ask() -> RetryError | None:
        nonlocal asked
        asked += 1
        if asked > 1:
            return None
        seen.answered()
        return error

    seen = outages.Outage(900, ask, StopToken(Control("")))
    seen.answered()
    seen.failed(error, time.time())
    assert asyncio.run(seen.is_over()), "the store is back"
    assert asked == 2


def test_a_clock_that_is_set_back_does_not_make_a_storage_start_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error, answers = RetryError("Http503", "the storage answered 503"), iter([True, False])

    async def ask() -> RetryError | None:
        return error if next(answers) else None

    seen = outages.Outage(900, ask, StopToken(Control("")))
    assert not seen.is_just_over
    seen.answered()
    seen.failed(error, time.time())
    assert asyncio.run(seen.is_over())
    assert seen.is_just_over
    epoch, running = time.time(), time.monotonic()
    monkeypatch.setattr(outages.time, "time", lambda: epoch - 3600)
    monkeypatch.setattr(outages.time, "monotonic", lambda: running + 61)
    assert not seen.is_just_over
