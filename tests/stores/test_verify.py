"""`verify=1` and `verify=deep`: what is not as the folder has it is found, and nothing is repaired."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from bench import Answer, Gate, Mirror, Run, Service, fill, s3_error, tree
from fault_catalog import is_listing
from stores import Store
from test_filters import flags
from test_quirks import changed_body

FILES = {"a": "1", "b/c": "22", "d": "333", "empty": "", "large": 9 << 20}
WRITES = {"PUT", "DELETE", "DeleteObjects", "CreateMultipartUpload", "CopyObject"}


def findings(mirror: Mirror, run: Run) -> dict[str, str]:
    """key -> what the report says was found."""
    lines = mirror.shell.report(run.status["id"])
    return {line["key"]: line["error"]["code"] for line in lines if line["op"] == "verify"}


def verify(mirror: Mirror, how: int | str, **options: Any) -> Run:
    mirror.proxy.reset()
    return mirror.start(*flags(verify=how, **options))


def behind_our_back(mirror: Mirror, act: Callable[[], object]) -> None:
    """`act` is done before the second listing of the next job: after it has compared."""
    seen: list[object] = []
    lock = threading.Lock()

    def hook(request: Any) -> None:
        if is_listing(request):
            with lock:
                seen.append(request)
                if len(seen) == 2:
                    act()

    mirror.proxy.on_request(hook)


def assert_failed(run: Run, *texts: str) -> None:
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "VerifyFailed", run.err[-1500:]
    assert all(text in run.status["error"]["message"] for text in texts), run.status["error"]


@pytest.mark.parametrize("how", [1, "deep"])
def test_a_mirror_that_is_one_is_verified(mirror: Mirror, store: Store, how: int | str) -> None:
    mirror.make(FILES)
    run = verify(mirror, how)
    assert run.status["state"] == "done", (run.status["error"], run.status["errors"])
    assert run.status["options"] == {"verify": how}
    counts = run.progress
    assert (counts["objects_verified"], counts["bytes_verified"]) == (5, (9 << 20) + 6)
    assert "5 objects " in run.status["message"]
    again = verify(mirror, how)
    assert again.status["state"] == "done"
    assert again.progress["objects_verified"] == 5
    assert not WRITES & set(mirror.proxy.kinds())
    assert mirror.proxy.kinds()["LIST"] == 2
    assert mirror.proxy.kinds()["GET"] == (3 + 3 if how == "deep" else 0)
    assert findings(mirror, again) == {}


@pytest.mark.parametrize("how", [1, "deep"])
def test_what_is_changed_behind_our_back_is_found_and_left(
    mirror: Mirror, store: Store, how: int | str
) -> None:
    """Of the same size, of another, removed, and added: while the job runs: only verifying sees it."""
    mirror.make(FILES)
    mirror.sync()
    client = store.client()

    def alter() -> None:
        client.put_object(Bucket=mirror.bucket, Key="a", Body=b"2")
        client.put_object(Bucket=mirror.bucket, Key="d", Body=b"4444")
        client.put_object(Bucket=mirror.bucket, Key="large", Body=b"\1" * (9 << 20))
        client.delete_object(Bucket=mirror.bucket, Key="empty")
        client.put_object(Bucket=mirror.bucket, Key="theirs", Body=b"5")

    behind_our_back(mirror, alter)
    run = verify(mirror, how)
    assert_failed(run, "5 differences", "1 ObjectExtra", "1 ObjectMissing", "3 ObjectDiffers", "1 object ")
    assert findings(mirror, run) == {
        "a": "ObjectDiffers", "d": "ObjectDiffers", "large": "ObjectDiffers", "empty": "ObjectMissing",
        "theirs": "ObjectExtra",
    }  # fmt: skip
    assert {error["op"] for error in run.status["errors"]} == {"verify"}
    assert not WRITES & set(mirror.proxy.kinds())
    mirror.proxy.clear_hooks()
    assert mirror.shell.run("resume", run.status["id"]).returncode == 0
    assert mirror.shell.status(run.status["id"])["options"] == {"verify": how}
    assert mirror.shell.status(run.status["id"])["progress"]["objects_verified"] == 5


def flipped(name: str, offset: int) -> Callable[[Any], Answer | None]:
    """The store's disk has damaged an object: another bit, the same size and ETag."""

    def hook(request: Any) -> Any:
        first = int((request.headers.get("range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if request.kind == "GET" and request.key == name and first <= offset < first + (4 << 20):
            return changed_body(b"\0", b"\1")
        return None

    return hook


def test_only_deep_finds_other_bytes_under_the_same_etag(mirror: Mirror, store: Store) -> None:
    mirror.make({"small": b"ab\0cd", "large": 9 << 20, "good": "1"})
    mirror.sync()
    mirror.proxy.on_request(flipped("small", 0))
    mirror.proxy.on_request(flipped("large", 5 << 20))
    assert verify(mirror, 1).status["state"] == "done"
    run = verify(mirror, "deep")
    assert_failed(run, "2 differences", "2 ObjectDiffers", "1 object read back")
    assert findings(mirror, run) == {"small": "ObjectDiffers", "large": "ObjectDiffers"}


def test_a_bit_that_turns_once_on_its_way_is_no_difference(mirror: Mirror) -> None:
    mirror.make({"small": b"ab\0cd"})
    mirror.sync()
    once = [flipped("small", 0)]
    mirror.proxy.on_request(lambda request: once.pop()(request) if once and request.kind == "GET" else None)
    run = verify(mirror, "deep")
    assert run.status["state"] == "done"
    assert mirror.proxy.kinds()["GET"] == 2


@pytest.mark.parametrize("how", [1, "deep"])
def test_a_file_that_changes_meanwhile_is_told_and_no_difference(mirror: Mirror, how: int | str) -> None:
    mirror.make({"same": "1", "size": "22", "content": "333", "gone": "4444"})
    mirror.sync()

    def change() -> None:
        mirror.make({"size": "2", "content": "444", "gone": None, "new": "5", "same": "1"})

    behind_our_back(mirror, change)
    run = verify(mirror, how)
    assert run.status["state"] == "done", run.status["error"]
    assert findings(mirror, run) == dict.fromkeys(("size", "content", "gone", "new"), "changed")
    assert run.progress["objects_verified"] == 1
    assert "4 whose files changed during the job" in run.status["message"]


def test_a_file_that_was_damaged_under_its_stat_is_a_difference(mirror: Mirror) -> None:
    """No sync would see it: only its bytes tell, which `deep` reads."""
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    info = (mirror.folder / "a").stat()
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    mirror.make({"a": "9"})
    os.utime(mirror.folder / "a", ns=(info.st_atime_ns, info.st_mtime_ns))
    now = (mirror.folder / "a").stat()
    with closing(sqlite3.connect(path)) as index, index:  # as if the kernel had told of no change
        index.execute(
            "UPDATE objects SET ctime_ns=?, inode=?, checked_ns=? WHERE key='a'",
            (now.st_ctime_ns, now.st_ino, now.st_ctime_ns + 3_000_000_000),
        )
    assert verify(mirror, 1).status["state"] == "done"
    run = verify(mirror, "deep")
    assert_failed(run, "1 ObjectDiffers")
    assert findings(mirror, run) == {"a": "ObjectDiffers"}


def test_without_an_index_content_tells(mirror: Mirror, store: Store) -> None:
    mirror.make(FILES)
    mirror.sync()
    client = store.client()

    def alter() -> None:
        for path in mirror.shell.jobs.glob(".index/*.sqlite*"):
            path.write_bytes(b"damaged")
        client.put_object(Bucket=mirror.bucket, Key="a", Body=b"2")

    behind_our_back(mirror, alter)
    run = verify(mirror, 1)
    assert_failed(run, "1 ObjectDiffers", "4 objects verified")


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_the_mirror_alone_is_verified(mirror: Mirror, store: Store) -> None:
    """With a prefix, filters and `delete=0` what is none of the mirror's is no difference."""
    theirs = {"x": b"1", "below/x.tmp": b"2", "below/old": b"3"}
    fill(store, mirror.bucket, theirs)
    mirror.make({"a": "1", "b.tmp": "2"})
    run = verify(mirror, "deep", prefix="below/", exclude=["*.tmp"], delete=0)
    assert run.status["state"] == "done", run.status["error"]
    assert run.progress["objects_verified"] == 1
    mirror.make({"a": None})
    run = verify(mirror, 1, prefix="below/", exclude=["*.tmp"])
    assert run.status["state"] == "done", run.status["error"]
    assert run.progress["objects_verified"] == 0


def test_an_archived_object_is_counted_and_not_read(mirror: Mirror) -> None:
    mirror.make({"a": "1", "cold": "2"})
    archived = s3_error(403, "InvalidObjectState")
    mirror.proxy.on_request(lambda r: archived if (r.kind, r.key) == ("GET", "cold") else None)
    run = verify(mirror, "deep")
    assert run.status["state"] == "done", run.status["error"]
    assert (run.progress["objects_verified"], run.progress["objects_unverified"]) == (1, 1)
    assert findings(mirror, run) == {"cold": "archived"}
    assert "1 archived and not read" in run.status["message"]


def test_an_object_that_cannot_be_read_is_not_verified(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2"})
    denied = s3_error(403, "AccessDenied")
    mirror.proxy.on_request(lambda r: denied if (r.kind, r.key) == ("GET", "b") else None)
    run = verify(mirror, "deep")
    assert_failed(run, "1 AccessDenied", "1 object read back")


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_an_object_that_the_store_retains_is_no_difference(mirror: Mirror, store: Store) -> None:
    client = store.client()
    client.create_bucket(Bucket=mirror.bucket, ObjectLockEnabledForBucket=True)
    mirror.make({"a": "1"})
    mirror.sync()

    def keep() -> None:
        lock = {"ObjectLockLegalHoldStatus": "ON", "ContentMD5": "xMpCOKC5I4INzFCab3WEmw=="}
        client.put_object(Bucket=mirror.bucket, Key="kept", Body=b"1", **lock)

    behind_our_back(mirror, keep)
    run = verify(mirror, 1)
    assert run.status["state"] == "done", run.status["error"]
    assert findings(mirror, run) == {"kept": "retained"}
    client.put_object_legal_hold(Bucket=mirror.bucket, Key="kept", LegalHold={"Status": "OFF"})


def test_an_object_where_the_folder_has_only_a_link_that_leads_out_is_a_difference(mirror: Mirror) -> None:
    """A sync leaves it, as no file of the folder is known to be gone; verifying tells what it is."""
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    mirror.make({"b": None})
    (mirror.folder / "b").symlink_to("/etc/hostname")
    assert mirror.start().status["state"] == "done"
    run = verify(mirror, 1)
    assert_failed(run, "1 ObjectExtra", "1 object verified")
    assert findings(mirror, run) == {"b": "ObjectExtra"}


def test_a_folder_that_cannot_be_read_any_more_is_told_and_no_object_is_called_extra(mirror: Mirror) -> None:
    mirror.make({"a": "1", "sub/b": "2", "sub/c": "3"})
    mirror.sync()
    behind_our_back(mirror, lambda: (mirror.folder / "sub").chmod(0))
    try:
        run = verify(mirror, 1)
        assert_failed(run, "1 differences", "1 EACCES")
    finally:
        (mirror.folder / "sub").chmod(0o700)


def test_a_pure_check_compares_the_folder_as_it_is_now_and_changes_nothing(mirror: Mirror) -> None:
    """With `plan`: what has changed since the last sync is a difference, on either side."""
    mirror.make({"same": "1", "changed": "22", "gone": "3", "size": "4"})
    mirror.sync()
    run = verify(mirror, 1, plan=1)
    assert (run.status["state"], run.status["progress"]["objects_verified"]) == ("done", 4), run.status
    assert (run.progress["files_total"], run.progress["files_done"]) == (4, 4)
    mirror.make({"changed": "33", "gone": None, "new": "5", "size": "44"})
    for how in (1, "deep"):
        run = verify(mirror, how, plan=1)
        assert_failed(run, "4 differences", "1 object ")
        assert findings(mirror, run) == {
            "changed": "ObjectDiffers",
            "gone": "ObjectExtra",
            "new": "ObjectMissing",
            "size": "ObjectDiffers",
        }
        assert not WRITES & set(mirror.proxy.kinds())


@pytest.mark.parametrize("how", [1, "deep"])
def test_a_listing_that_lags_is_asked_after(mirror: Mirror, how: int | str) -> None:
    """A page of before the upload and the deletion, at both looks: HEAD knows better."""
    mirror.make({"a": "1", "b": "22"})
    mirror.sync()
    mirror.make({"b": None, "c": "333"})
    text = (
        "<ListBucketResult><Contents><Key>a</Key><Size>1</Size><ETag>c4ca4238a0b923820dcc509a6f75849b</ETag>"
        "</Contents><Contents><Key>b</Key><Size>2</Size><ETag>b6d767d2f8ed5d21a44b0e5886680cb9</ETag>"
        "</Contents><IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    lags = Answer(200, {"Content-Type": "application/xml"}, text.encode())
    mirror.proxy.on_request(lambda r: lags if is_listing(r) else None)
    run = verify(mirror, how)
    assert run.status["state"] == "done", run.status["error"]
    assert run.progress["objects_verified"] == 2


def test_memory_is_bounded_and_a_cancel_ends_it_within_a_second(mirror: Mirror) -> None:
    mirror.make({f"f{n}": 40 << 20 for n in range(4)})
    mirror.sync()
    gate = Gate(
        mirror.proxy, lambda r: r.kind == "GET" and (r.headers.get("range") or "").endswith("-41943039")
    )
    process, job = mirror.shell.begin(mirror.bucket, "photos", *flags(verify="deep"))
    gate.wait()
    status = mirror.shell.wait_file(job, lambda status: bool(status["current"]))
    assert status["phase"] == "verifying"
    assert {item["op"] for item in status["current"]} == {"verify"}
    assert status["resources"]["rss_bytes"] < 160 << 20
    started = time.monotonic()
    (mirror.shell.jobs / f"{job}.cancel").touch()
    assert process.wait(20) == 3
    assert time.monotonic() - started < 5, "1 s, and a slow machine's"
    assert mirror.shell.status(job)["state"] == "cancelled"
    gate.drop()


def test_every_form_asks_for_it(make_service: Callable[..., Service], juicefs: Store, bucket: str) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"a": "1"})
    pairs = {"source": "photos", "dest": bucket, "verify": "deep"}
    for ask in (service.get, service.post, service.post_json):
        answer = ask("/sync", pairs) if ask == service.post_json else ask("/sync", **pairs)
        assert answer.json()["options"] == {"verify": "deep"}
        status = service.wait_state(answer.json()["id"], "done")
        assert status["progress"]["objects_verified"] == 1
    assert service.post_json("/sync", {**pairs, "verify": 1}).json()["options"] == {"verify": 1}
    for bad in ("2", "Deep", "yes"):
        answer = service.get("/sync", **{**pairs, "verify": bad})
        assert (answer.status, answer.problem["param"]) == (400, "verify")


def test_the_flag_alone_is_1(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    assert mirror.start("--verify").status["options"] == {"verify": 1}
    assert mirror.start("--verify", "deep").status["options"] == {"verify": "deep"}
    assert mirror.shell.run("start", "--verify", "often").returncode == 2


@pytest.mark.parametrize("how", [1, "deep"])
@pytest.mark.parametrize("is_missing", [False, True])
def test_a_pure_check_of_a_folder_without_files_deletes_nothing(
    mirror: Mirror, how: int | str, is_missing: bool
) -> None:
    mirror.make({"a": "1", "b/c": "2"})
    mirror.sync()
    before = mirror.contents
    shutil.rmtree(mirror.folder)
    if not is_missing:
        mirror.folder.mkdir()
    run = verify(mirror, how, plan=1)
    assert set(mirror.proxy.kinds()) <= {"LIST", "HEAD", "GET", "HeadBucket"}, mirror.proxy.kinds()
    assert mirror.contents == before
    assert_failed(run, "2 differences")
