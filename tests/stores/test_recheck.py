"""`done` is seen, not believed: what becomes of a bucket between the last operation and the last look."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from bench import Answer, Gate, Mirror, Run, assert_same, expected
from fault_catalog import is_listing, listed
from proxy import Request, s3_error
from stores import Store
from test_quirks import changed_body

from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.index.rows import Rows
from syncworker.model import ObjectEntry
from syncworker.plan import differences
from syncworker.plan.differences import Changes, Found, Listable, collect
from syncworker.plan.spool import Spool
from syncworker.s3.xml_messages import Page

WRITES = ("PUT", "CompleteMultipartUpload", "DELETE", "DeleteObjects")


def before_the_last_listing(mirror: Mirror, act: Callable[[], object]) -> list[Request]:
    """`act` is done when a listing comes after something was written or deleted: that listing."""
    met: list[Request] = []

    def hook(request: Request) -> None:
        if is_listing(request) and not met and mirror.proxy.of_kind(*WRITES):
            met.append(request)
            act()

    mirror.proxy.on_request(hook)
    return met


def verified(mirror: Mirror, run: object) -> dict[str, str]:
    """key -> what the report says was seen."""
    lines = mirror.shell.report(run.status["id"])  # type: ignore[attr-defined]
    return {line["key"]: line["error"]["code"] for line in lines if line["op"] == "verify"}


@pytest.mark.long
@pytest.mark.parametrize("store", ["seaweedfs", "rclone"], indirect=True)
def test_names_that_stores_put_in_other_orders_are_listed_whole_by_ranges(
    mirror: Mirror, store: Store
) -> None:
    """SeaweedFS lists `photos/…` before `photos-2020/…` and `photos.zip`, by bytes they come behind."""
    tree = {f"photos/{n:04}": "1" for n in range(1000)} | {f"photos-2020/{n:02}": "2" for n in range(60)}
    mirror.make(tree | {"photos.zip": "3", "a": "4", "z/z": "5"})
    mirror.sync()
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    for cuts in (
        ["photos-2020/30"],
        ["photos.zip"],
        ["photos/0500"],
        ["b", "photos-", "photos-2020/30", "photos.", "photos/0001", "photos/0999x", "y"],
    ):
        with contextlib.closing(sqlite3.connect(path)) as index, index:
            facts = [("cuts", json.dumps(cuts)), ("ranges", "64")]
            index.executemany("INSERT OR REPLACE INTO facts VALUES (?,?)", facts)
        run = mirror.sync()
        assert set(mirror.proxy.kinds()) == {"LIST"}
        assert run.progress["files_unchanged"] == len(tree) + 3
    mirror.make({"photos/0500": None, "photos-2020/30": None})
    assert mirror.sync().progress["objects_deleted"] == 2
    assert_same(mirror.contents, expected(mirror.folder))


# -- what the listing shows, and what is done ---------------------------------------------------------------


def test_an_object_that_is_lost_after_it_was_sent_is_sent_again(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b/c": "22", "large": 9 << 20})
    client = mirror.store.client()

    def lose() -> None:
        client.delete_object(Bucket=mirror.bucket, Key="b/c")
        client.delete_object(Bucket=mirror.bucket, Key="large")

    assert before_the_last_listing(mirror, lose) == []
    run = mirror.sync()
    assert verified(mirror, run) == {"b/c": "missing", "large": "missing"}
    assert run.progress["files_uploaded"] == run.progress["files_done"] == 3
    mirror.proxy.clear_hooks()
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


def test_an_object_that_another_has_overwritten_is_sent_again(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "22", "same": "1234"})
    mirror.sync()
    mirror.make({"b": "33"})
    client = mirror.store.client()

    def overwrite() -> None:
        client.put_object(Bucket=mirror.bucket, Key="b", Body=b"another size")
        client.put_object(Bucket=mirror.bucket, Key="same", Body=b"4321")  # not touched by this run

    before_the_last_listing(mirror, overwrite)
    assert verified(mirror, mirror.sync("--wait", "0.05")) == {"b": "other", "same": "other"}


def test_what_the_store_only_says_that_it_has_done_is_done_again_once(mirror: Mirror) -> None:
    """An upload and a deletion whose answers say that all is well, and which never came."""
    mirror.make({"kept": "1", "gone": "2"})
    mirror.sync()
    mirror.make({"gone": None, "new": "3"})
    lies = {
        ("PUT", "new"): Answer(200, {"ETag": '"eccbc87e4b5ce2fe28308fd9f2a7baf3"'}),
        ("DELETE", "gone"): Answer(204),
    }
    mirror.proxy.on_request(lambda request: lies.pop((request.kind, request.key), None))
    run = mirror.sync()
    assert not lies
    assert verified(mirror, run) == {"gone": "not_deleted", "new": "missing"}
    assert run.progress["objects_deleted"] == run.progress["files_uploaded"] == 1


def test_an_object_whose_file_has_come_back_is_not_deleted_again(mirror: Mirror) -> None:
    mirror.make({"kept": "1", "gone": "2"})
    mirror.sync()
    mirror.make({"gone": None})
    deletions: list[Request] = []

    def hook(request: Request) -> Answer | None:
        if (request.kind, request.key) == ("DELETE", "gone"):
            deletions.append(request)
            return Answer(204)
        if deletions and (request.kind, request.key) == ("HEAD", "gone"):
            mirror.make({"gone": "2"})
        return None

    mirror.proxy.on_request(hook)
    assert verified(mirror, mirror.sync()) == {"gone": "not_deleted"}
    assert len(deletions) == 1


def test_what_the_store_never_does_though_it_says_so_fails_the_job(mirror: Mirror) -> None:
    mirror.make({"kept": "1", "gone": "2"})
    mirror.sync()
    mirror.make({"gone": None, "new": "3"})
    lies = {
        ("PUT", "new"): Answer(200, {"ETag": '"eccbc87e4b5ce2fe28308fd9f2a7baf3"'}),
        ("DELETE", "gone"): Answer(204),
    }
    mirror.proxy.on_request(lambda request: lies.get((request.kind, request.key)))
    run = mirror.start()
    assert run.status["error"]["code"] == "Differs"
    assert run.status["error"]["message"].startswith("2 objects ")
    assert {(e["op"], e["key"], e["code"]) for e in run.status["errors"]} == {
        ("verify", "gone", "Differs"),
        ("verify", "new", "Differs"),
    }
    assert len([r for r in mirror.proxy.requests if (r.kind, r.key) in lies]) == 4, "each twice, and no more"
    mirror.proxy.clear_hooks()
    assert mirror.shell.run("resume", run.status["id"]).returncode == 0
    assert_same(mirror.contents, expected(mirror.folder))


def test_what_came_meanwhile_is_told_and_left_for_the_next_sync(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    client = mirror.store.client()
    before_the_last_listing(
        mirror, lambda: client.put_object(Bucket=mirror.bucket, Key="theirs", Body=b"theirs")
    )
    run = mirror.start()
    assert run.status["state"] == "done"
    assert (
        run.status["message"]
        == "mirrored, and 1 object that appeared during the job is left for the next sync"
    )
    assert verified(mirror, run) == {"theirs": "extra"}
    assert set(mirror.contents) == {"a", "theirs"}
    mirror.proxy.clear_hooks()
    assert mirror.sync().progress["objects_deleted"] == 1


def test_a_bucket_that_was_listed_by_ranges_is_listed_anew(mirror: Mirror) -> None:
    """Its first page, too, which the job has asked for before all else."""
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    mirror.make({"b": "3"})
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as index, index:
        index.execute("INSERT OR REPLACE INTO facts VALUES ('cuts', '[\"a\"]')")
    client = mirror.store.client()
    before_the_last_listing(
        mirror, lambda: client.put_object(Bucket=mirror.bucket, Key="theirs", Body=b"theirs")
    )
    assert verified(mirror, mirror.start()) == {"theirs": "extra"}


def test_a_file_that_changes_meanwhile_is_no_difference(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2", "c": "3"})

    def change() -> None:
        mirror.make({"a": "changed", "b": None, "d": "new"})

    before_the_last_listing(mirror, change)
    run = mirror.start()
    assert run.status["state"] == "done"
    assert verified(mirror, run) == {}
    assert mirror.contents == {"a": b"1", "b": b"2", "c": b"3"}
    mirror.proxy.clear_hooks()
    mirror.sync()


def lists(mirror: Mirror, *keys: str, times: int | None) -> None:
    """The storage's first listings name these keys, each an object with the content "1"."""
    rows = [
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>c4ca4238a0b923820dcc509a6f75849b</ETag></Contents>"
        for key in keys
    ]
    left = itertools.repeat(None) if times is None else itertools.repeat(None, times)

    def hook(request: Request) -> Answer | None:
        is_whole = is_listing(request) and "prefix=" not in request.target
        return listed(rows) if is_whole and next(left, 0) is None else None

    mirror.proxy.on_request(hook)


def broken(mirror: Mirror, *flags: str) -> Run:
    """A job that fails because of its listing."""
    run = mirror.start(*flags)
    assert (run.exit_status, run.status["error"]["code"]) == (1, "BrokenListing"), run
    return run


def test_an_outdated_listing_names_an_object_that_is_gone(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    mirror.sync()
    lists(mirror, "a", "gone/0", times=1)
    run = mirror.sync()
    assert not mirror.proxy.of_kind(*WRITES)
    assert (run.progress["objects_deleted"], verified(mirror, run)) == (0, {})


def test_an_object_that_is_listed_again_and_again_and_never_there_fails_the_job(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    mirror.sync()
    lists(mirror, "a", "gone/0", times=None)
    broken(mirror)
    assert not mirror.proxy.of_kind(*WRITES)


def test_an_object_that_was_listed_under_a_wrong_key_does_not_stay_unseen(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    mirror.sync()
    mirror.store.client().put_object(Bucket=mirror.bucket, Key="b1", Body=b"1")
    lists(mirror, "a", "b0", times=1)
    run = broken(mirror)
    assert "b1" in mirror.contents
    assert mirror.shell.run("resume", run.status["id"]).returncode == 0
    assert mirror.contents == {"a": b"1"}


def test_an_object_of_ours_that_was_listed_under_a_wrong_key_does_not_stay_unseen(mirror: Mirror) -> None:
    """Its row is as it is listed at the end; that it has no file any more is another question."""
    mirror.make({"a": "1", "b1": "1", "skipped": "1"})
    mirror.sync()
    mirror.make({"b1": None, "skipped": None})
    lists(mirror, "a", "b0", "skipped", times=1)
    run = broken(mirror, "--exclude", "skipped")
    assert verified(mirror, run) == {"b1": "extra"}
    assert mirror.shell.run("resume", run.status["id"]).returncode == 0
    assert mirror.contents == {"a": b"1", "skipped": b"1"}


def test_an_object_that_was_listed_as_a_folder_does_not_stay_unseen(mirror: Mirror) -> None:
    """One bit makes `/` of `o`. A marker of a folder is empty, this object is not."""
    mirror.make({"a": "1"})
    mirror.sync()
    mirror.store.client().put_object(Bucket=mirror.bucket, Key="photo", Body=b"1")
    lists(mirror, "a", "phot/", times=1)
    broken(mirror)
    assert not mirror.proxy.of_kind(*WRITES)


@pytest.mark.parametrize("refused", ["HEAD", "LIST"])
def test_an_object_listed_under_a_wrong_key_is_found_though_the_store_refuses(
    mirror: Mirror, refused: str
) -> None:
    """HEAD, or the listing that begins right before the key."""
    mirror.make({"a": "1", "b1": "1"})
    mirror.sync()
    mirror.make({"b1": None})
    lists(mirror, "a", "b0", times=1)

    def refuses(request: Request) -> bool:
        return request.kind == refused and (refused == "HEAD" or "start-after" in request.query)

    answer = s3_error(403, "AccessDenied") if refused == "HEAD" else s3_error(400, "InvalidArgument")
    mirror.proxy.on_request(lambda request: answer if refuses(request) else None)
    broken(mirror)
    assert not mirror.proxy.of_kind(*WRITES)
    assert mirror.contents == {"a": b"1", "b1": b"1"}


def test_of_many_objects_that_are_gone_not_each_is_listed_anew(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    mirror.sync()
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as index, index:
        index.execute("INSERT OR REPLACE INTO facts VALUES ('names_deleted', '1')")
    lists(mirror, "a", *(f"gone/{number:03}" for number in range(300)), times=1)
    run = mirror.sync()
    assert run.progress["objects_deleted"] == 0
    assert len([r for r in mirror.proxy.of_kind("LIST") if "start-after" in r.query]) == 1


def test_a_listing_that_lags_is_asked_after_and_nothing_is_sent_again(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "22"})
    mirror.sync()
    mirror.make({"b": None, "c": "333"})
    [old] = mirror.proxy.of_kind("LIST")[-1:]
    text = (
        "<ListBucketResult><Contents><Key>a</Key><Size>1</Size><ETag>c4ca4238a0b923820dcc509a6f75849b</ETag>"
        "</Contents><Contents><Key>b</Key><Size>2</Size><ETag>b6d767d2f8ed5d21a44b0e5886680cb9</ETag>"
        "</Contents><IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    assert old.status == 200
    lags = Answer(200, {"Content-Type": "application/xml"}, text.encode())
    mirror.proxy.on_request(lambda r: lags if is_listing(r) else None)
    run = mirror.sync()
    assert verified(mirror, run) == {}
    assert [r.key for r in mirror.proxy.of_kind("PUT")] == ["c"]
    assert {r.key for r in mirror.proxy.of_kind("HEAD")} >= {"b", "c"}


def test_a_store_that_keeps_an_object_under_another_name_is_found_out(mirror: Mirror) -> None:
    md5 = hashlib.md5(b"content").hexdigest()
    there = {"ETag": f'"{md5}"', "Content-Length": "7"}
    renames = changed_body(b"<Key>Name</Key>", b"<Key>name</Key>")
    mirror.proxy.on_request(lambda r: renames if r.kind == "LIST" else None)
    mirror.proxy.on_request(
        lambda r: Answer(200, there, content_length=False) if (r.kind, r.key) == ("HEAD", "name") else None
    )
    mirror.make({"Name": "content", "other": "2"})
    run = mirror.start()
    assert run.status["state"] == "failed"
    assert [(e["key"], e["code"]) for e in run.status["errors"]] == [("Name", "KeyChangedByStore")]


def test_a_last_listing_that_is_broken_fails_the_job_and_says_that_all_was_sent(mirror: Mirror) -> None:
    page = Answer(200, {"Content-Type": "text/html"}, b"<html>Please log in</html>")
    mirror.make({"a": "1"})
    mirror.proxy.on_request(lambda r: page if r.kind == "LIST" and mirror.proxy.of_kind("PUT") else None)
    run = mirror.start()
    assert run.status["error"]["code"] == "BadAnswer"
    assert run.status["error"]["message"].startswith(
        "everything was sent, but the bucket could not be checked: "
    )
    assert_same(mirror.contents, expected(mirror.folder))


# -- what it costs ------------------------------------------------------------------------------------------


def test_a_run_that_changed_nothing_lists_once_and_another_twice(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    assert mirror.proxy.kinds() == {"LIST": 2, "CreateBucket": 1, "PUT": 2}
    mirror.sync()
    assert mirror.proxy.kinds() == {"LIST": 1}
    mirror.make({"a": None})
    mirror.proxy.reset()
    mirror.sync()
    assert mirror.proxy.kinds()["LIST"] == 2


def test_a_cancel_while_the_bucket_is_looked_at_once_more_ends_the_job(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    gate = Gate(mirror.proxy, lambda r: r.kind == "LIST" and bool(mirror.proxy.of_kind("PUT")))
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait()
    mirror.shell.wait_file(job, lambda status: status["phase"] == "verifying")
    assert mirror.shell.run("cancel", job).returncode == 0
    started = time.monotonic()
    assert process.wait(30) == 3
    assert time.monotonic() - started < 10, "the LIST that is held is not waited for"
    assert mirror.shell.status(job)["state"] == "cancelled"
    gate.drop()


# -- stores and indexes that are not as they should be ------------------------------------------------------


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_store_out_of_byte_order_is_looked_at_all_the_same(mirror: Mirror, store: Store) -> None:
    mirror.make({name: name for name in ("a-b", "a/b", "a.b", "a0", "a/c/d", "a/c-d", "ä", "z")})
    client = mirror.store.client()
    before_the_last_listing(mirror, lambda: client.delete_object(Bucket=mirror.bucket, Key="a-b"))
    assert verified(mirror, mirror.sync()) == {"a-b": "missing"}


def test_without_an_index_what_this_run_has_sent_is_held_against_the_listing(mirror: Mirror) -> None:
    """The index cannot be made: there is a folder of its name."""
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    [path] = (mirror.shell.jobs / ".index").glob("*.sqlite")
    for file in path.parent.iterdir():
        file.unlink()
    path.mkdir()
    mirror.make({"b": "3"})
    client = mirror.store.client()
    before_the_last_listing(mirror, lambda: client.delete_object(Bucket=mirror.bucket, Key="b"))
    assert verified(mirror, mirror.sync()) == {"b": "missing"}


class Held:
    """A bucket of some objects, listed as real ones are; `asked` are the pages given."""

    def __init__(self, objects: dict[str, str], *, knows_start_after: bool = True) -> None:
        self.objects = objects
        self.knows = knows_start_after
        self.asked = 0

    def page(self, after: str) -> Page:
        self.asked += 1
        keys = [key for key in sorted(self.objects) if key > after]
        entries = [ObjectEntry(key, 1, self.objects[key], "t") for key in keys[:1000]]
        return Page(entries, entries[-1].key if len(keys) > 1000 else None, len(keys) > 1000)

    def fetch(self, token: str | None) -> Future[Page]:
        return done(self.page(token or ""))

    def fetch_range(self, low: str | None, high: str | None) -> Arrived:
        pages = [self.page(low or "" if self.knows else "")]
        while pages[-1].truncated and not (high and pages[-1].entries[-1].key > high):
            pages.append(self.page(pages[-1].token or ""))
        return Arrived(pages)


class Arrived(list[Page]):
    """A range whose pages are all there."""

    is_fetching = False


def done(value: object) -> Future:  # type: ignore[type-arg]
    future: Future = Future()  # type: ignore[type-arg]
    future.set_result(value)
    return future


def row(key: str, etag: str = "e") -> IndexRow:
    return IndexRow(key, 1, 0, 0, 0, etag, "", 0, "", 5 * 10**9)


def found_by(tmp_path: Path, index: Index, changes: Changes, bucket: Held) -> list[str]:
    listable = Listable(bucket.fetch, bucket.fetch_range, ["k0004900"], len(bucket.objects))
    with Found(str(tmp_path)) as found:
        collect(found, index, changes, listable, lambda: Spool(str(tmp_path)), lambda: None)
        return sorted(difference.key for chunk in found.chunks() for difference in chunk)


@pytest.fixture
def known(tmp_path: Path) -> tuple[Index, dict[str, str], Changes]:
    objects = {f"k{number:07}": "e" for number in range(0, 20_000, 2)}
    index = Index(str(tmp_path / "index.sqlite"))
    for key in objects:
        index.remember(row(key))
    index.flush()
    return index, objects, Changes(str(tmp_path))


def test_of_a_few_changes_only_the_pages_around_them_are_listed(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes]
) -> None:
    index, objects, changes = known
    for key in ("k0000000", "k0000002", "k0010000", "k0019998"):
        changes.sent(row(key))
    changes.ordered("k0010001")
    del objects["k0000002"], objects["k0019998"]
    objects |= {"k0010000": "other", "k0010001": "e", "z": "e", "k0005001": "e"}
    bucket = Held(objects)
    assert found_by(tmp_path, index, changes, bucket) == ["k0000002", "k0010000", "k0010001", "k0019998"]
    assert bucket.asked == 3
    # A store that does not know `start-after`: the whole of it, and then all is seen.
    bucket = Held(objects, knows_start_after=False)
    assert set(found_by(tmp_path, index, changes, bucket)) == {
        "k0000002", "k0010000", "k0010001", "k0019998", "z", "k0005001",
    }  # fmt: skip


def test_of_many_changes_the_whole_bucket_is_listed(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes]
) -> None:
    index, objects, changes = known
    for key in list(objects)[::500]:
        changes.sent(row(key))
    objects["z"] = "e"
    bucket = Held(objects)
    assert found_by(tmp_path, index, changes, bucket) == ["z"]
    assert bucket.asked >= 10


def changed_at(objects: dict[str, str], number: int, how: str) -> str:
    key = f"k{number:07}"
    if how == "missing":
        del objects[key]
    elif how == "other":
        objects[key] = "other"
    else:
        key = f"k{number + 1:07}"
        objects[key] = "e"
    return key


@pytest.mark.parametrize("how", ["missing", "other", "extra"])
def test_one_difference_is_found_at_every_place_of_a_page(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes], how: str
) -> None:
    index, objects, changes = known
    for key in list(objects)[::500]:  # many: the whole bucket is listed
        changes.sent(row(key))
    for number in (0, 2, 1998, 2000, 2002, 9998, 10_000, 19_996, 19_998):
        some = dict(objects)
        assert found_by(tmp_path, index, changes, Held(some)) == []
        key = changed_at(some, number, how)
        assert found_by(tmp_path, index, changes, Held(some)) == [key]


def test_of_pages_that_are_as_remembered_only_what_a_listing_tells_is_read(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, objects, changes = known
    for key in list(objects)[::500]:
        changes.sent(row(key))
    asked: list[str] = []
    whole = index.rows

    def rows(ranges: list[differences.Range] | None = None, start: str = "") -> Rows[IndexRow]:
        asked.append(start)
        return whole(ranges, start)

    monkeypatch.setattr(index, "rows", rows)
    assert found_by(tmp_path, index, changes, Held(objects)) == []
    assert asked == []
    # From the first page on that is not: what its objects may be known by is in the whole row.
    index.remember(row("k0004000", "sent")._replace(digest="listed"))
    index.flush()
    objects["k0004000"] = "listed"
    assert found_by(tmp_path, index, changes, Held(objects)) == []
    assert asked == ["k0004000"]


def test_an_index_that_is_damaged_in_the_middle_is_helped_out_by_what_was_sent(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes]
) -> None:
    index, objects, changes = known
    index.close()
    sent = list(objects)[-100:]
    for key in sent:
        changes.sent(row(key))
    path = tmp_path / "index.sqlite"
    with path.open("r+b") as file:  # the second half of the file, on the disk
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(path.stat().st_size // 2))
    index = Index(str(path))
    del objects[sent[50]]
    missing = set(found_by(tmp_path, index, changes, Held(objects))) - set(objects)
    assert missing == {sent[50]}


def test_a_row_that_the_index_cannot_hold_is_missed_when_its_object_is(
    tmp_path: Path, known: tuple[Index, dict[str, str], Changes]
) -> None:
    index, objects, changes = known
    late = row("late")._replace(mtime_ns=1 << 63)
    index.remember(late)
    changes.sent(late)
    assert found_by(tmp_path, index, changes, Held(objects)) == ["late"]


def test_what_is_found_waits_on_disk_and_comes_back_as_it_was(tmp_path: Path) -> None:
    some = [
        differences.Difference(row("a"), None),
        differences.Difference(None, ObjectEntry("b", 0, "", "")),
        differences.Difference(row("c"), ObjectEntry("c", 0, "x", "y")),
    ]
    with Found(str(tmp_path)) as found:
        found.become(some)
        assert list(found.chunks()) == [some]
        assert list(found.chunks(known=False)) == [[some[1]]]
        found.become([])
        assert list(found.chunks()) == []


def test_what_the_mirror_is_not_about_is_no_difference(mirror: Mirror) -> None:
    mirror.make({"a": "1", "skipped": "2"})
    mirror.sync()
    mirror.make({"a": "3", "skipped": "4"})
    client = mirror.store.client()

    def change() -> None:
        client.delete_object(Bucket=mirror.bucket, Key="skipped")
        client.put_object(Bucket=mirror.bucket, Key="theirs", Body=b"theirs")

    before_the_last_listing(mirror, change)
    run = mirror.start("--exclude", "skipped", "--delete", "0")
    assert run.status["state"] == "done"
    assert verified(mirror, run) == {}
    assert mirror.contents == {"a": b"3", "theirs": b"theirs"}
