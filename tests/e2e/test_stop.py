"""A stop, from outside: what writes is waited for and counted, what reads is dropped, `now` drops all."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
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
from stores import Store
from toxics import Toxic

MIB = 1 << 20
STORES = ["juicefs", "seaweedfs", "rclone"]
OLD = {f"old/{n:03}": b"old" for n in range(40)}
FILES = {"a": "1", "b": "22", "c": "333", "film": 40 * MIB}
WRITES = ("PUT", "UploadPart", "CompleteMultipartUpload", "DeleteObjects", "DELETE")
HELD_SECONDS = 2.5  # longer than anything that is not waited for may take
SOON_SECONDS = 5.0  # of a second, the rest for a busy machine and for interpreters to start and end
ONE_BY_ONE = ((), ("--wait", "0.01"))


class HeldAnswer:
    """A hook that lets requests do their work and keeps back their answers, until `open`."""

    def __init__(self, proxy: RecordingProxy, matches: Callable[[Request], bool]) -> None:
        self.arrived = threading.Event()
        self._opened = threading.Event()
        self._matches = matches
        proxy.on_request(self)

    def __call__(self, request: Request) -> Toxic | None:
        return Toxic(edit=self._keep) if self._matches(request) and not self._opened.is_set() else None

    def _keep(self, head: bytes, body: bytes) -> bytes:
        self.arrived.set()
        self._opened.wait(120)
        return head + body

    def wait(self, timeout: float = 20) -> None:
        assert self.arrived.wait(timeout), "the answer to be held never came"

    def open(self) -> None:
        self._opened.set()

    def drop(self) -> None:
        self.open()


class Held:
    """A job with one kind of request held, by its body or by its answer."""

    def __init__(self, shell: Shell, proxy: RecordingProxy, bucket: str) -> None:
        self.shell, self.proxy, self.bucket = shell, proxy, bucket
        shell.environment["STORAGE_URL"] = proxy.url
        self.hold: Gate | HeldAnswer

    def begin(self, kind: str, what: str, *options: str) -> None:
        def matches(request: Request) -> bool:
            return request.kind == kind

        self.hold = (Gate if what == "body" else HeldAnswer)(self.proxy, matches)
        self.process, self.job = self.shell.begin(self.bucket, "photos", *options)
        self.hold.wait()

    def status(self) -> dict[str, Any]:
        return self.shell.status(self.job)

    def cancel(self, *options: str) -> float:
        asked = time.monotonic()
        done = self.shell.run("cancel", *options, self.job)
        assert done.returncode == 0, done
        return asked

    def wait_until_held_up(self, seconds: float = 0.0) -> dict[str, Any]:
        """The status once it has said for so long what it waits for."""
        since: list[float] = []

        def says(status: dict[str, Any]) -> bool:
            if status["delay"]:
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] >= seconds

        return self.shell.wait_file(self.job, says)

    def end(self) -> int:
        return self.process.wait(30)

    def keys(self, op: str) -> set[str]:
        return {
            line["key"] for line in self.shell.report(self.job) if line["op"] == op and "error" not in line
        }


@pytest.fixture
def held(
    store: Store, bucket: str, make_shell: Callable[..., Shell], make_proxy: Callable[[Store], RecordingProxy]
) -> Iterator[Held]:
    shell = make_shell(store)
    fill(store, bucket, OLD)
    tree(shell.uploads, {"photos": FILES})
    made = Held(shell, make_proxy(store), bucket)
    yield made
    made.hold.open()


def assert_ended(held: Held, code: int, state: str) -> dict[str, Any]:
    assert held.end() == code, held.shell.log(held.job)
    status = held.status()
    assert (status["state"], status["delay"], status["errors"]) == (state, None, [])
    return status


def assert_counted(held: Held, store: Store, status: dict[str, Any]) -> None:
    """The report has what the bucket has, and the next run sends and deletes none of it."""
    found, progress = contents(store, held.bucket), status["progress"]
    uploaded, deleted = held.keys("upload"), held.keys("delete")
    assert len(uploaded) == progress["files_uploaded"]
    assert len(deleted) == progress["objects_deleted"]
    assert uploaded == found.keys() - OLD.keys()
    assert deleted == OLD.keys() - found.keys()
    held.proxy.reset()
    assert held.shell.run("resume", held.job).returncode == 0
    asked = {(request.method, request.key) for request in held.proxy.requests if request.key}
    assert not {key for _, key in asked} & uploaded, "looked at once more, or sent"
    assert held.status()["progress"]["files_unchanged"] >= len(uploaded)
    assert_same(contents(store, held.bucket), expected(held.shell.uploads / "photos"))


CELLS = [("juicefs", "body"), *((name, "answer") for name in STORES)]


@pytest.mark.parametrize(("store", "what"), CELLS, indirect=["store"])
@pytest.mark.parametrize("kind", WRITES)
def test_a_cancel_waits_for_a_write_in_flight_and_counts_it(
    kind: str, what: str, store: Store, held: Held
) -> None:
    held.begin(kind, what, *ONE_BY_ONE[kind == "DELETE"])
    asked = held.cancel()
    status = held.wait_until_held_up(HELD_SECONDS)
    assert status["state"] == "running"
    assert status["cancel_requested"]
    assert status["delay"]["reason"] == "writes_in_flight"
    assert status["delay"]["until"] is None
    assert status["message"].startswith("cancelling: waiting for ")
    before = len(held.proxy.requests)
    held.hold.open()
    status = assert_ended(held, 3, "cancelled")
    assert time.monotonic() - asked >= HELD_SECONDS
    later = [request.kind for request in held.proxy.requests[before:] if request.method in ("PUT", "POST")]
    assert not later, "begun after the stop"
    assert_counted(held, store, status)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("kind", WRITES)
def test_now_drops_a_write_that_a_cancel_waits_for(kind: str, store: Store, held: Held) -> None:
    held.begin(kind, "body", *ONE_BY_ONE[kind == "DELETE"])
    held.cancel()
    held.wait_until_held_up()
    held.cancel("--now")
    asked = time.monotonic()
    status = assert_ended(held, 3, "cancelled")
    assert time.monotonic() - asked < SOON_SECONDS
    held.hold.drop()
    assert_counted(held, store, status)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_now_may_be_written_by_hand_and_at_once(held: Held) -> None:
    held.begin("PUT", "body")
    asked = time.monotonic()
    held.shell.file(held.job, "cancel").write_text("now\n")
    assert_ended(held, 3, "cancelled")
    assert time.monotonic() - asked < SOON_SECONDS


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("kind", ["LIST", "HEAD"])
def test_a_cancel_drops_what_only_reads(kind: str, store: Store, held: Held) -> None:
    if kind == "HEAD":  # only the object's metadata can tell that this one is the file
        fill(store, held.bucket, {"a": b"1"})
        upload = store.client().create_multipart_upload(Bucket=held.bucket, Key="b")["UploadId"]
        part = store.client().upload_part(
            Bucket=held.bucket, Key="b", UploadId=upload, PartNumber=1, Body=b"22"
        )
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        store.client().complete_multipart_upload(
            Bucket=held.bucket, Key="b", UploadId=upload, MultipartUpload=parts
        )
    held.begin(kind, "body", "--wait", "0.01")
    asked = held.cancel()
    status = assert_ended(held, 3, "cancelled")
    assert time.monotonic() - asked < SOON_SECONDS
    assert status["message"] == "cancelled"


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("after_cancel", [False, True])
def test_a_signal_waits_ten_seconds_at_most(after_cancel: bool, store: Store, held: Held) -> None:
    held.begin("PUT", "body")
    if after_cancel:
        held.cancel()
        held.wait_until_held_up()
    pid = held.status()["pid"]
    asked = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    status = held.shell.wait_file(held.job, lambda status: (status["delay"] or {}).get("until"))
    assert "more at most" in status["message"]
    status = assert_ended(held, *((3, "cancelled") if after_cancel else (4, "interrupted")))
    assert 10 <= time.monotonic() - asked < 10 + SOON_SECONDS
    held.hold.drop()
    assert_counted(held, store, status)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.parametrize("kind", WRITES)
def test_a_write_that_is_never_answered_ends_a_cancelled_job_at_its_own_limit(
    kind: str, store: Store, held: Held
) -> None:
    held.shell.environment["STORAGE_TIMEOUT"] = "4"
    held.begin(kind, "answer", *ONE_BY_ONE[kind == "DELETE"])
    asked = held.cancel()
    assert held.end() == 3, held.shell.log(held.job)
    assert time.monotonic() - asked < 4 * 2 + SOON_SECONDS, "its limit, and that of finding out what it did"
    assert held.status()["state"] == "cancelled"
    held.hold.open()
    assert held.shell.run("resume", held.job).returncode == 0
    assert_same(contents(store, held.bucket), expected(held.shell.uploads / "photos"))


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_write_that_fails_after_the_stop_is_not_tried_again(held: Held) -> None:
    fails, sent = threading.Event(), []
    (held.shell.uploads / "photos" / "film").unlink()  # its parts may all be there before the stop is

    def fail(request: Request) -> Answer | None:
        if request.kind != "PUT":
            return None
        sent.append(request.key)
        fails.wait(60)
        return s3_error(500, "InternalError")

    held.begin("LIST", "answer")
    held.proxy.on_request(fail)
    held.hold.open()
    wait_for(lambda: len(sent) == 3, 20, "three uploads in flight")
    held.cancel()
    held.wait_until_held_up()
    fails.set()
    status = assert_ended(held, 3, "cancelled")
    assert sorted(sent) == ["a", "b", "c"], "tried again after the stop"
    assert (status["progress"]["files_uploaded"], held.keys("upload")) == (0, set())


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_what_a_write_has_done_is_found_out_after_the_stop(store: Store, held: Held) -> None:
    """A name that stores rewrite is looked for in the listing: that read belongs to the write."""
    tree(held.shell.uploads, {"photos": dict.fromkeys(FILES) | {"ends with a dot.": "1"}})
    held.begin("PUT", "answer")
    held.cancel()
    held.wait_until_held_up()
    held.proxy.reset()
    held.hold.open()
    status = assert_ended(held, 3, "cancelled")
    assert [request.kind for request in held.proxy.requests] == ["LIST"]
    assert_counted(held, store, status)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_the_routes_and_the_shell_say_what_is_waited_for(
    store: Store, held: Held, make_service: Callable[..., Service]
) -> None:
    service = make_service(store, STORAGE_URL=held.proxy.url)
    held.shell.share(service)
    tree(service.uploads, {"photos": FILES})
    held.begin("PUT", "body")
    held.shell.wait_file(held.job, lambda status: len(status["current"]) > 1)
    assert service.get(f"/cancel?id={held.job}&now=").status == 202
    held.wait_until_held_up(1.0)
    shown = held.shell.run("show", held.job).stdout
    assert re.search(r"cancelling: waiting for \d+ s .*: uploading a and \d+ more", shown), shown
    assert service.get(f"/get?id={held.job}").json()["delay"]["reason"] == "writes_in_flight"
    assert service.get(f"/cancel?id={held.job}&now=2").problem["param"] == "now"
    assert service.post_json("/cancel", {"id": held.job, "now": 1}).status == 202
    assert service.get(f"/cancel?id={held.job}").status == 202, "which takes nothing back"
    assert held.shell.file(held.job, "cancel").read_text() == "now\n"
    assert_ended(held, 3, "cancelled")
