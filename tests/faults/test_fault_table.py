"""Every fault between worker and store, on every store: the bucket equals the folder, or the job says why.

Each cell runs a real worker through the proxy, against a bucket that holds what is to be kept, overwritten
and deleted. Whatever the outcome: nothing hangs, no wrong byte is believed, nothing is deleted that has a
file, and nothing at all after an incomplete listing or a failed upload. Then the fault is lifted, and a
resume (or another sync) must end `done`. The outcomes stand in docs/reliability.md.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench import RecordingProxy, Shell, assert_same, contents, fill, tree, wait_for
from fault_catalog import AFTER, BEFORE, FAULTS, LARGE, LARGE_BYTES, Fault, Scene
from reliability_page import WRITING, Table
from stores import Store, all_stores, list_uploads
from zygote import Zygote

STORES = {"juicefs": "juicefs gateway", "seaweedfs": "SeaweedFS", "moto": "moto", "rclone": "rclone serve"}
TABLE = Table("faults", "fault", [fault.name for fault in FAULTS], list(STORES.values()))
LARGE_BODY = os.urandom(LARGE_BYTES)
WANTED = AFTER | {LARGE: LARGE_BODY}


class Bench:
    """One store with a proxy before it, a folder, and workers that start quickly."""

    def __init__(self, store: Store, proxy: RecordingProxy, shell: Shell) -> None:
        self.store, self.proxy, self.shell = store, proxy, shell
        shell.environment["STORAGE_URL"] = proxy.url
        self.output = shell.base / "output"
        self.zygote = Zygote(shell.environment, self.output)

    def stage(self, bucket: str) -> Scene:
        """The folder as it is to be, and a bucket as it was."""
        folder = self.shell.uploads / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        tree(folder, WANTED)
        fill(self.store, bucket, BEFORE)
        self.proxy.reset()
        return Scene(self.proxy, self.store, bucket)

    def start(self, scene: Scene, *altered: str) -> dict[str, Any]:
        """One sync, however it ends: its status."""
        before = set(self.shell.ids())
        exit_status = self.zygote.run("start", "--source", "photos", "--dest", scene.bucket, altered=altered)
        return self._ended(exit_status, (set(self.shell.ids()) - before).pop())

    def finish(self, status: dict[str, Any], scene: Scene) -> dict[str, Any]:
        """What a user does next: resume what failed, or sync once more."""
        if status["state"] == "done":
            return self.start(scene)
        return self._ended(self.zygote.run("resume", status["id"]), status["id"])

    def _ended(self, exit_status: int, job: str) -> dict[str, Any]:
        status = self.shell.status(job)
        ends = {"done": 0, "failed": 1, "cancelled": 3}
        assert ends[status["state"]] == exit_status, self.output.read_text()
        assert_adds_up(status["progress"])
        return status


def assert_adds_up(progress: dict[str, Any]) -> None:
    done = [progress[f"files_{how}"] for how in ("unchanged", "uploaded", "failed", "skipped")]
    assert sum(done) == progress["files_done"] <= progress["files_total"], progress
    if progress["scan_complete"]:
        assert progress["bytes_done"] <= progress["bytes_total"], progress


@pytest.fixture(scope="module")
def benches(stores: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Bench]]:
    made: dict[str, Bench] = {}

    def get(name: str) -> Bench:
        if name not in made:
            store = stores.get(name)
            made[name] = Bench(store, RecordingProxy(store), Shell(tmp_path_factory.mktemp(name), store))
        return made[name]

    yield get
    for bench in made.values():
        bench.zygote.close()
        bench.shell.close()
        bench.proxy.close()
    if WRITING:
        TABLE.write()


@pytest.mark.parametrize("store", list(STORES), indirect=True)
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_ends_with_the_right_bucket_or_with_the_reason(
    fault: Fault, store: Store, bucket: str, benches: Callable[[str], Bench]
) -> None:
    bench = benches(store.name)
    scene = bench.stage(bucket)
    fault.arm(scene)
    try:
        status = bench.start(scene, *fault.altered)
    finally:
        lift(scene)
    assert scene.struck or "clock" in fault.name, "the fault never happened"
    if "a bit" in fault.name and "true" not in fault.name:
        assert any(request.flipped for request in bench.proxy.requests), "no bit was turned"
    found = contents(store, bucket)
    if status["state"] == "done":
        assert_same(found, WANTED)
        assert not list_uploads(store.client(), bucket)
        outcome = "done"
    else:
        assert_nothing_lost(found, status, fault)
        outcome = f"failed, `{code_of(status)}`"
    TABLE.see(fault.name, STORES[store.name], outcome)
    if outcome == "done":
        return
    after = bench.finish(status, scene)
    assert after["state"] == "done", after
    assert_same(contents(store, bucket), WANTED)
    assert not list_uploads(store.client(), bucket)


def lift(scene: Scene) -> None:
    scene.proxy.clear_hooks()
    scene.released.set()
    scene.proxy.refuse()
    scene.proxy.listen()


def code_of(status: dict[str, Any]) -> str:
    """What made the job fail: its own error, or where files failed, theirs."""
    codes = sorted({error["code"] for error in status["errors"]})
    return status["error"]["code"] if status["error"]["code"] != "FilesFailed" else " ".join(codes)


def assert_nothing_lost(found: dict[str, bytes], status: dict[str, Any], fault: Fault) -> None:
    """Every object is one that was there, or its file; only what was named as wrong may be wrong."""
    assert status["state"] == "failed", status
    said = " ".join([status["error"]["message"], *(error["message"] for error in status["errors"])])
    assert fault.says, f"may not fail, and did: {said}"
    for pattern in fault.says:
        assert re.search(pattern, said), f"{pattern!r} is not in {said!r}"
    named = {error["key"] for error in status["errors"] if error["code"] == "StoredWrongBytes"} | fault.harms
    for key, body in found.items():
        assert key in named or body in (BEFORE.get(key), WANTED.get(key)), f"{key} has foreign bytes"
    if fault.in_deletion:
        missing = WANTED.keys() - found.keys()
    else:
        missing = BEFORE.keys() - found.keys()
    assert missing <= named, f"deleted, and must not have been: {sorted(missing)}"


HANGS = {
    "a listing": ({"LIST"}, []),
    "an upload": ({"PUT"}, []),
    "a part": ({"UploadPart"}, []),
    "deletions": ({"DeleteObjects"}, []),
    "a deletion": ({"DELETE"}, ["--wait", "0.01"]),
}
STOPS = [("cancel", name) for name in STORES] + [("SIGTERM", "seaweedfs")]


@pytest.mark.parametrize(("how", "store"), STOPS, indirect=["store"])
@pytest.mark.parametrize("hang", HANGS)
def test_a_job_whose_store_hangs_can_be_stopped(
    hang: str, how: str, store: Store, bucket: str, benches: Callable[[str], Bench]
) -> None:
    """Its worker waits for a silent store without end: what reads is dropped at once, what writes 10 s
    after a signal, or when a cancel is followed by another with `now`."""
    kinds, options = HANGS[hang]
    bench = benches(store.name)
    scene = bench.stage(bucket)
    scene.hang(lambda request: request.kind in kinds)
    before = set(bench.shell.ids())
    arguments = ("start", "--source", "photos", "--dest", bucket, *options)
    bench.zygote.begin(*arguments, altered=["short_waits", "endless_silence"])
    try:
        wait_for(lambda: scene.struck, 20, "a request that hangs")
        job = (set(bench.shell.ids()) - before).pop()
        if how == "cancel":
            bench.shell.file(job, "cancel").touch()
        else:
            os.kill(bench.shell.status(job)["pid"], signal.SIGTERM)
        asked = time.monotonic()
        if hang != "a listing":
            said = bench.shell.wait_file(job, lambda status: status["delay"])
            assert said["message"].startswith("cancelling" if how == "cancel" else "stopping (SIGTERM)")
            if how == "cancel":
                bench.shell.file(job, "cancel").write_text("now")
                asked = time.monotonic()
        exit_status = bench.zygote.wait()
        seconds = time.monotonic() - asked
    finally:
        lift(scene)
    status = bench.shell.status(job)
    assert (status["state"], exit_status) == (("cancelled", 3) if how == "cancel" else ("interrupted", 4))
    at_most = 10.0 if how == "SIGTERM" and hang != "a listing" else 1.0
    assert seconds < at_most + 10, "and a busy machine"
    assert not status["errors"], "what was given up because of the stop is no error"
    assert status["progress"]["objects_deleted"] == 0
    if "deletion" not in hang:
        assert BEFORE.keys() <= contents(store, bucket).keys()


def test_the_page_has_a_row_for_every_fault_and_a_column_for_every_store() -> None:
    assert list(STORES) == list(all_stores())
    if not WRITING:
        TABLE.check_names()
