"""A pause, from outside: nothing begins, what is in flight ends, and it goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
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
from proxy import s3_error
from stores import Store, list_uploads

MIB = 1 << 20
SMALL = {f"{n:03}": f"file {n}" for n in range(300)}
QUIET_SECONDS = 1.5  # in which nothing may begin
SOON_SECONDS = 6.0  # of a second, the rest for a busy machine
MEANS = ("http", "shell", "file")


class Desk:
    """A server and a shell beside it, on one folder of jobs and one store behind a proxy."""

    def __init__(
        self, service: Service, shell: Shell, proxy: RecordingProxy, store: Store, bucket: str
    ) -> None:
        self.service, self.shell, self.proxy, self.store, self.bucket = service, shell, proxy, store, bucket
        self.folder = service.uploads / "photos"

    def slow_down(self, seconds: float) -> None:
        def wait(request: Request) -> None:
            if request.kind in ("PUT", "UploadPart", "DELETE"):
                time.sleep(seconds)

        self.proxy.on_request(wait)

    def pause(self, job: str, means: str) -> None:
        match means:
            case "http":
                reply = self.service.get("/pause", id=job)
                assert (reply.status, reply.json()["pause_requested"]) == (202, True), reply
            case "shell":
                assert self.shell.run("pause", job).returncode == 0
            case "file":
                self.service.file(job, "pause").touch()

    def go_on(self, job: str, means: str) -> None:
        match means:
            case "http":
                reply = self.service.post("/continue", id=job)
                assert (reply.status, reply.json()["pause_requested"]) == (202, False), reply
            case "shell":
                assert self.shell.run("continue", job).returncode == 0
            case "file":
                self.service.file(job, "pause").unlink()

    def wait_paused(self, job: str) -> dict[str, Any]:
        """Until it is paused, and what was in flight has ended."""
        is_quiet = lambda s: s["phase"] == "paused" and all(r.finished for r in self.proxy.requests)  # noqa: E731
        return self.service.wait_file(job, is_quiet, 30)

    def assert_quiet(self, seconds: float = QUIET_SECONDS) -> None:
        before = len(self.proxy.requests)
        time.sleep(seconds)
        assert self.proxy.requests[before:] == []

    def assert_done(self, job: str) -> dict[str, Any]:
        status = self.service.wait_state(job)
        assert (status["state"], status["pause_requested"]) == ("done", False), status
        assert not self.service.file(job, "pause").exists()
        assert_same(contents(self.store, self.bucket), expected(self.folder))
        return status


@pytest.fixture
def desk(juicefs: Store, bucket: str, side_by_side: Callable[..., Any]) -> Desk:
    return Desk(*side_by_side(juicefs, MAX_RUNNING_JOBS="1"), juicefs, bucket)


@pytest.mark.parametrize("means", MEANS)
def test_nothing_begins_while_paused_and_it_goes_on_within_a_second(means: str, desk: Desk) -> None:
    tree(desk.folder, SMALL)
    desk.slow_down(1)  # a shell takes seconds to start on a busy machine
    job = desk.service.sync(desk.bucket)
    desk.service.wait_file(job, lambda s: s["progress"]["files_uploaded"] > 5)
    desk.pause(job, means)
    status = desk.wait_paused(job)
    desk.assert_quiet()
    status = desk.service.wait_file(job, lambda s: s["current"] == [])
    assert (status["state"], status["progress"]["eta_seconds"]) == ("running", None)
    assert 5 < status["progress"]["files_uploaded"] < len(SMALL)
    assert status["delay"]["reason"] == "paused"
    assert status["message"].startswith("paused since ")
    [worker] = desk.service.workers()
    assert [c for c in worker.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED] == []
    before = len(desk.proxy.requests)
    desk.go_on(job, means)
    wait_for(lambda: len(desk.proxy.requests) > before, SOON_SECONDS)
    desk.proxy.clear_hooks()
    status = desk.assert_done(job)
    assert status["metrics"]["phase_seconds"]["paused"] > QUIET_SECONDS


def test_a_large_upload_stays_open_and_goes_on(desk: Desk) -> None:
    tree(desk.folder, {"film": 48 * MIB})
    desk.slow_down(0.6)
    job = desk.service.sync(desk.bucket)
    wait_for(lambda: len(desk.proxy.of_kind("UploadPart")) >= 2)
    desk.pause(job, "file")
    status = desk.wait_paused(job)
    desk.assert_quiet()
    assert [item["key"] for item in status["current"]] == ["film"]
    [upload] = list_uploads(desk.store.client(), desk.bucket)
    desk.go_on(job, "file")
    desk.assert_done(job)
    parts = desk.proxy.of_kind("UploadPart")
    assert {r.query["uploadId"] for r in parts} == {upload["UploadId"]}
    assert sorted(r.part or 0 for r in parts) == list(range(1, 7)), "each part is sent once"


@pytest.mark.parametrize("wait", ["0", "0.01"])
def test_a_file_that_changes_during_a_pause_is_sent_as_it_is_after_it(wait: str, desk: Desk) -> None:
    tree(desk.folder, SMALL)
    desk.slow_down(0.5)
    job = desk.service.sync(desk.bucket, wait=wait)
    desk.service.wait_file(job, lambda s: s["progress"]["files_uploaded"] > 1)
    desk.pause(job, "http")
    desk.wait_paused(job)
    desk.proxy.clear_hooks()
    sent = set(contents(desk.store, desk.bucket))
    tree(desk.folder, {name: f"changed {name}" for name in SMALL if name not in sent})
    desk.go_on(job, "http")
    desk.assert_done(job)


def test_deletions_and_a_bucket_deletion_pause_too(desk: Desk) -> None:
    fill(desk.store, desk.bucket, {f"old/{n}": b"old" for n in range(60)})
    tree(desk.folder, {"kept": "kept"})
    desk.slow_down(0.3)
    job = desk.service.sync(desk.bucket, wait="0.01")
    desk.service.wait_file(job, lambda s: s["progress"]["objects_deleted"] > 2)
    desk.pause(job, "http")
    desk.wait_paused(job)
    desk.assert_quiet()
    left = len(contents(desk.store, desk.bucket))
    assert 1 < left < 61
    desk.proxy.clear_hooks()
    desk.service.get("/cancel", id=job)
    assert desk.service.wait_state(job)["state"] == "cancelled"
    assert len(contents(desk.store, desk.bucket)) == left
    assert not desk.service.file(job, "pause").exists()


# -- every state and what may be asked in it ---------------------------------------------------------------


def _pauses(desk: Desk, **options: str) -> str:
    """A job that is paused in the middle: it is slow until then."""
    tree(desk.folder, SMALL)
    desk.slow_down(0.5)
    job = desk.service.sync(desk.bucket, **options)
    desk.service.wait_file(job, lambda s: s["progress"]["files_uploaded"] > 5)
    desk.pause(job, "file")
    desk.wait_paused(job)
    desk.proxy.clear_hooks()
    return job


def _queued(desk: Desk) -> str:
    """A job that is paused while it is queued: another has the only place."""
    tree(desk.service.uploads / "other", SMALL)
    tree(desk.folder, SMALL)
    desk.slow_down(0.1)
    other = desk.service.sync(f"{desk.bucket}-other", "other", wait="600")
    desk.service.wait_state(other, "running")
    job = desk.service.sync(desk.bucket)
    desk.pause(job, "file")
    assert desk.service.get("/cancel", id=other, now="1").status == 202
    desk.service.wait_state(other)
    return job


def _killed(desk: Desk) -> str:
    job = _pauses(desk)
    [worker] = desk.service.workers()
    worker.kill()
    assert desk.service.wait_state(job)["state"] == "interrupted"
    return job


STATES: dict[str, Callable[[Desk], str]] = {"paused": _pauses, "queued": _queued, "interrupted": _killed}
# state, action -> HTTP status, exit status of the shell, state some time later
TABLE = {
    ("paused", "pause"): (202, 0, "running"),
    ("paused", "continue"): (202, 0, "done"),
    ("paused", "cancel"): (202, 0, "cancelled"),
    ("paused", "resume"): (409, 2, "running"),
    ("queued", "pause"): (202, 0, "queued"),
    ("queued", "continue"): (202, 0, "done"),
    ("queued", "cancel"): (202, 0, "cancelled"),
    ("queued", "resume"): (409, 2, "queued"),
    ("interrupted", "pause"): (409, 2, "interrupted"),
    ("interrupted", "continue"): (409, 2, "interrupted"),
    ("interrupted", "cancel"): (409, 2, "interrupted"),
    ("interrupted", "resume"): (202, None, "queued"),  # a shell's own worker begins, and is paused
}


@pytest.mark.parametrize(("state", "action"), TABLE)
@pytest.mark.parametrize("means", ["http", "shell"])
def test_what_a_pause_allows(means: str, state: str, action: str, desk: Desk) -> None:
    answer, exit_status, later = TABLE[state, action]
    job = STATES[state](desk)
    if means == "http":
        assert desk.service.get(f"/{action}", id=job).status == answer
    elif exit_status is None:
        process = desk.shell.spawn("resume", job)
        desk.wait_paused(job)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) == 4
        return
    else:
        done = desk.shell.run(action, job)
        assert done.returncode == exit_status, done
    if later in ("done", "cancelled"):
        assert desk.service.wait_state(job)["state"] == later
        assert not desk.service.file(job, "pause").exists()
        return
    desk.assert_quiet(1.0)
    status = desk.service.show(job)
    assert (status["state"], status["pause_requested"]) == (later, True)
    assert status["phase"] == ("paused" if later == "running" else None)
    if later == "queued":
        assert status["message"].startswith("paused: ")


@pytest.mark.parametrize("state", ["done", "cancelled"])
@pytest.mark.parametrize("route", ["/pause", "/continue"])
def test_an_ended_job_is_not_paused(route: str, state: str, desk: Desk) -> None:
    tree(desk.folder, {"a": "a", "b": "b"})
    job = desk.service.sync(desk.bucket, wait="0" if state == "done" else "600")
    if state == "cancelled":
        desk.service.get("/cancel", id=job, now="1")
    assert desk.service.wait_state(job)["state"] == state
    assert desk.service.get(route, id=job).problem["code"] == "JobFinished"
    assert desk.service.get(route, id="20200101T000000-00000000").status == 404
    assert desk.service.get(route).status == 400
    assert desk.service.request("HEAD", route, {"id": job}).status == 405
    assert not desk.service.file(job, "pause").exists()


# -- processes that end while it is paused -------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_wins_over_a_pause_and_a_resume_keeps_it(number: int, desk: Desk) -> None:
    job = _pauses(desk)
    [worker] = desk.service.workers()
    asked = time.monotonic()
    worker.send_signal(number)
    status = desk.service.wait_state(job)
    assert time.monotonic() - asked < SOON_SECONDS
    assert (status["state"], status["error"]["code"]) == ("interrupted", "Stopped")
    assert desk.service.get("/resume", id=job).status == 202
    desk.assert_quiet(1.0)
    assert desk.service.show(job)["state"] == "queued"
    desk.go_on(job, "file")
    desk.assert_done(job)


def test_a_server_that_dies_leaves_the_job_paused_and_the_next_one_continues_it(desk: Desk) -> None:
    job = _pauses(desk)
    desk.service.restart()
    desk.assert_quiet()
    assert desk.service.show(job)["phase"] == "paused"
    desk.go_on(job, "http")
    desk.assert_done(job)


def test_a_paused_job_survives_the_end_of_the_machine(desk: Desk) -> None:
    job = _pauses(desk)
    desk.service.kill()
    for worker in desk.service.workers():
        worker.kill()
    desk.service.start()
    wait_for(lambda: desk.service.show(job)["state"] == "queued")
    desk.assert_quiet()
    status = desk.service.show(job)
    assert (status["state"], status["pause_requested"], status["attempt"]) == ("queued", True, 2)
    desk.go_on(job, "http")
    desk.assert_done(job)


def test_a_paused_job_keeps_its_bucket_and_gives_its_place_to_another(desk: Desk, make_bucket: Any) -> None:
    job = _pauses(desk)
    assert desk.service.get("/sync", source="photos", dest=desk.bucket).problem["job"] == job
    tree(desk.service.uploads / "other", {"a": "a"})
    desk.service.done(make_bucket(desk.store), "other")  # MAX_RUNNING_JOBS is 1
    assert desk.service.show(job)["phase"] == "paused"
    desk.go_on(job, "shell")
    desk.assert_done(job)


def test_a_pause_that_is_there_before_the_job_lets_nothing_begin(desk: Desk) -> None:
    tree(desk.folder, {"a": "a", "b": "b"})
    process, job = desk.shell.begin(desk.bucket, "photos", "--wait", "600")
    desk.service.wait_file(job, lambda s: s["phase"] == "transferring")
    desk.service.file(job, "cancel").touch()
    assert process.wait(20) == 3
    desk.service.file(job, "pause").touch()
    desk.proxy.reset()
    process = desk.shell.spawn("resume", job)
    desk.service.wait_file(job, lambda s: s["phase"] == "paused")
    time.sleep(0.5)
    assert desk.proxy.requests == []
    assert desk.shell.run("cancel", job).returncode == 0
    assert process.wait(20) == 3


def test_a_storage_that_is_away_during_a_pause_costs_no_patience(desk: Desk) -> None:
    desk.service.environment["STORAGE_PATIENCE"] = "8"
    desk.service.restart()
    job = _pauses(desk)
    desk.proxy.refuse()
    desk.go_on(job, "file")
    desk.service.wait_file(job, lambda s: (s["delay"] or {}).get("reason") == "storage_down", 30)
    desk.pause(job, "file")
    desk.service.wait_file(job, lambda s: s["phase"] == "paused")
    time.sleep(8)
    desk.proxy.listen()
    desk.go_on(job, "file")
    desk.assert_done(job)


def test_a_request_that_fails_is_not_tried_again_while_paused(desk: Desk) -> None:
    tree(desk.folder, {"a": "a"})
    tried: list[str] = []

    def refuse(request: Request) -> Any:
        if request.kind != "PUT":
            return None
        assert asked.wait(20)
        tried.append(job)
        desk.service.file(job, "pause").touch()
        desk.service.wait_file(job, lambda s: s["phase"] == "paused")
        return s3_error(500, "InternalError")

    asked = threading.Event()
    job = desk.service.sync(desk.bucket, wait="0")
    desk.service.wait_state(job)
    tree(desk.folder, {"a": "another"})
    desk.proxy.on_request(refuse)
    job = desk.service.sync(desk.bucket)
    asked.set()
    desk.wait_paused(job)
    desk.assert_quiet()
    assert len(tried) == 1
    desk.proxy.clear_hooks()
    desk.go_on(job, "file")
    desk.assert_done(job)


def test_the_folder_is_not_read_while_paused(desk: Desk) -> None:
    """Content is compared by hashing, which stops between two blocks."""
    tree(desk.folder, {"big": 200 * MIB, "small": "s"})
    desk.service.done(desk.bucket)
    for path in (desk.service.jobs / ".index").glob("*"):
        path.unlink()
    gate = Gate(desk.proxy, lambda request: request.kind == "LIST")
    job = desk.service.sync(desk.bucket)
    gate.wait()
    desk.pause(job, "file")
    desk.service.wait_file(job, lambda s: s["phase"] == "paused")
    gate.open()
    [worker] = desk.service.workers()
    time.sleep(0.5)
    before = worker.io_counters().read_chars
    time.sleep(1.0)
    assert worker.io_counters().read_chars - before < 20 * MIB
    assert desk.service.show(job)["progress"]["files_unchanged"] == 0
    desk.go_on(job, "file")
    desk.assert_done(job)


def test_a_pause_and_a_continue_again_and_again_lose_nothing(desk: Desk) -> None:
    tree(desk.folder, {**SMALL, "film": 40 * MIB})
    desk.slow_down(0.05)
    job = desk.service.sync(desk.bucket)
    for n in range(12):
        with contextlib.suppress(FileNotFoundError):
            (
                desk.service.file(job, "pause").touch
                if n % 2 == 0
                else desk.service.file(job, "pause").unlink
            )()
        time.sleep(0.15)
    status = desk.service.show(job)
    assert status["errors"] == [], json.dumps(status)
    if status["state"] == "running":
        desk.service.get("/continue", id=job)
    desk.service.wait_state(job)
    desk.service.file(job, "pause").unlink(missing_ok=True)
    assert_same(contents(desk.store, desk.bucket), expected(desk.folder))
