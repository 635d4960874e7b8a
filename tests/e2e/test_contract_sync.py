"""CONTRACT §1 "What a sync does", on four real stores. Unless a test says otherwise, each sync is done twice,
and the second may do nothing but list (`Mirror.twice`)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from bench import Answer, Gate, assert_same, expected, fill, remove, s3_error, tree, wait_for
from shapes import check_report, check_status
from stores import BIN, list_keys, list_uploads, minimal_environment

BASIC = {"a": "1", "empty": "", "d": {"b": "22", "deep/er": {"c": "333"}}, "d-2/x": "4", "d.x": "5"}
WRITES = {
    "PUT",
    "DELETE",
    "DeleteObjects",
    "CreateBucket",
    "DeleteBucket",
    "UploadPart",
    "CreateMultipartUpload",
}
SOON_SECONDS = 5.0  # of a second, the rest for a busy machine
VERSIONING = pytest.mark.parametrize("store", ["moto", "seaweedfs"], indirect=True)


def ops(mirror, run):
    report = mirror.shell.report(run.status["id"])
    check_report(report)
    return sorted((line["op"], line["key"]) for line in report)


def listed(mirror):
    return {key for key in list_keys(mirror.store.client(), mirror.bucket) if not key.endswith("/")}


# -- an exact mirror --------------------------------------------------------------------------------------


def test_a_folder_becomes_a_bucket_with_every_file_and_nothing_else(mirror, store):
    mirror.make(BASIC)
    run = mirror.twice()
    check_status(run.status)
    assert set(mirror.contents) == {"a", "empty", "d/b", "d/deep/er/c", "d-2/x", "d.x"}
    assert run.progress["files_uploaded"] == run.progress["files_total"] == run.progress["files_done"] == 6
    uploaded = [key for op, key in ops(mirror, run) if op == "upload"]
    assert sorted(uploaded) == sorted(mirror.contents)


def test_new_and_changed_files_are_sent_and_objects_with_no_file_are_deleted(mirror, store):
    mirror.make({**BASIC, "same": "unchanged", "touched": "t", "grows": "1", "rewritten": "aaaa"})
    mirror.twice()
    old = mirror.folder / "rewritten"
    times = (old.stat().st_atime_ns, old.stat().st_mtime_ns)
    mirror.make({"grows": "12", "rewritten": "bbbb", "new": "n", "d/b": None, "d/deep": None, "a": None})
    os.utime(old, ns=times)  # same size, same mtime, other content
    os.utime(mirror.folder / "touched", (1, 1))
    run = mirror.sync()
    assert {request.key for request in mirror.proxy.of_kind("PUT")} == {"grows", "rewritten", "new"}
    assert run.progress["files_uploaded"] == 3
    assert run.progress["files_unchanged"] == 5
    assert ("delete", "a") in ops(mirror, run)
    assert {key for op, key in ops(mirror, run) if op == "upload"} == {"grows", "rewritten", "new"}
    mirror.twice()


def test_a_changed_file_with_an_older_mtime_is_sent(mirror):
    mirror.make({"f": "one", "g": "x"})
    os.utime(mirror.folder / "f", (2_000_000_000, 2_000_000_000))
    mirror.twice()
    mirror.make({"f": "two"})
    os.utime(mirror.folder / "f", (1_000_000, 1_000_000))
    mirror.twice()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["f"]


def test_a_rename_over_a_file_with_the_same_size_and_times_is_noticed(mirror):
    mirror.make({"f": "one", "g": "two"})
    for name in "fg":
        os.utime(mirror.folder / name, (1_500_000_000, 1_500_000_000))
    mirror.twice()
    (mirror.folder / "g").rename(mirror.folder / "f")
    mirror.twice()
    assert mirror.contents == {"f": b"two"}


def test_what_the_bucket_holds_already_is_not_sent_again(mirror, store):
    mirror.make(BASIC)
    fill(store, mirror.bucket, {**expected(mirror.folder), "a": b"other", "stranger": b"x", "d/z": b"y"})
    run = mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["a"]
    assert (run.progress["files_uploaded"], run.progress["files_unchanged"]) == (1, 5)
    assert run.progress["objects_deleted"] == 2
    mirror.twice()


def test_without_its_index_a_sync_still_sends_nothing(mirror, store, make_shell):
    mirror.make(BASIC)
    mirror.twice()
    shutil.rmtree(mirror.shell.jobs)
    mirror.sync()
    assert not WRITES & set(mirror.proxy.kinds()), mirror.proxy.kinds()


@pytest.mark.parametrize("damage", [b"", b"not a database at all", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_index_is_made_anew(mirror, damage):
    mirror.make(BASIC)
    mirror.twice()
    index = [path for path in (mirror.shell.jobs / ".index").rglob("*") if path.is_file()]
    assert index
    for path in index:
        path.write_bytes(damage)
    mirror.twice()
    mirror.make({"a": "9"})
    mirror.twice()


def test_somebody_elses_change_in_the_bucket_is_undone(mirror, store):
    mirror.make(BASIC)
    mirror.twice()
    fill(store, mirror.bucket, {"a": b"x", "extra": b"y"})
    store.client().delete_object(Bucket=mirror.bucket, Key="d.x")
    mirror.twice()


def test_a_file_replaced_by_a_folder_of_its_name_and_the_reverse(mirror, store):
    mirror.make({"x": "file", "y": {"z": "deep", "w/v": "deeper"}, "keep": "k"})
    mirror.twice()
    mirror.make({"x": None, "y": None})
    mirror.make({"x": {"in": "side", "y/z": "2"}, "y": "now a file"})
    mirror.twice()
    assert set(mirror.contents) == {"x/in", "x/y/z", "y", "keep"}


def test_names_that_sort_around_the_slash_survive_every_order_of_listing(mirror, store):
    names = [
        "a",
        "a-b",
        "a.b",
        "a0",
        "a!",
        "ab/c",
        "ab-c/d",
        "ab.c",
        "b/c/d",
        "b/c-d",
        "b-c/d",
        "B",
        "é",
        "z",
    ]
    stuff = {name: name for name in names if store.nested_keys or name != "a/"}
    mirror.make({"a-dir/x": "1", "a-dir-2/x": "2", "a-dir": {"y": "3"}, **stuff})
    mirror.twice()
    mirror.make({"a-b": None, "b/c/d": "changed", "ab/c0": "new"})
    run = mirror.twice()
    assert {request.key for request in mirror.proxy.of_kind("PUT")} == {"b/c/d", "ab/c0"}
    assert run.progress["objects_deleted"] == 1


def test_listings_of_several_pages_and_deletions_of_several_batches(mirror, store):
    count = 1100
    mirror.make({f"d{number % 2}/{number:05}": "" for number in range(count)})
    assert mirror.start().exit_status == 0
    assert listed(mirror) == set(expected(mirror.folder))
    assert mirror.start().progress["files_unchanged"] == count
    assert set(mirror.proxy.kinds()) == {"LIST"}
    remove(mirror.folder / "d1")
    for number in range(100, count, 2):
        (mirror.folder / f"d0/{number:05}").unlink()
    mirror.make({"last": "1"})
    run = mirror.twice()
    deleted = {key for op, key in ops(mirror, run) if op == "delete" and not key.endswith("/")}
    assert len(deleted) == 1050


# -- names ------------------------------------------------------------------------------------------------

ODD = [
    "sp ace",
    " lead",
    "trail ",
    "pl+us",
    "per%cent",
    "%41",
    "%2F",
    "ha#sh",
    "qu?estion",
    "am&p=x",
    "new\nline",
    "ta\tb",
    "car\rriage",
    "ctl\x01\x1f",
    "del\x7f",
    "caf\u00e9",
    "cafe\u0301",
    ".hidden",
    "..two",
    ".d/.h/...",
    "q\"uo'te",
    "<x>&amp;",
    "back\\slash",
    "*?[x]{y}|~`^$!;,",
    "a:b@c",
    "trail.",
    "UPPER",
    "upper",
    "\U0001f600/\ufeffbom\u2028\u202e",
    "\uffff",
    "\ud7ff\ue000",
    "x" * 255,
    "é" * 127,
    "/".join(["d" * 250] * 3 + ["e" * 247]),
    "CON/aux.txt",
    "index.html",
    "-n",
    "null",
]


def test_odd_names_arrive_as_they_are(mirror, store):
    names = [name for name in ODD if not store.cannot_hold(name)]
    assert len(names) >= len(ODD) - 1
    mirror.make({name: f"content of {name}" for name in names})
    mirror.twice()
    mirror.make({name: f"other content of {name}" for name in names[::2]})
    mirror.twice()
    mirror.make({**dict.fromkeys(names), "left": "1"})
    mirror.twice()
    assert mirror.contents == {"left": b"1"}


def test_a_key_of_1024_bytes_is_sent_and_one_of_1025_is_a_failed_file(mirror, store):
    folders = "/".join(["d" * 250] * 4)  # 1,003 bytes
    mirror.make({"fine": "1", f"{folders}/{'e' * 20}": "fits", f"{folders}/{'e' * 21}": "too long"})
    for _again in range(2):
        run = mirror.start()
        assert run.exit_status == 1
        assert run.status["error"]["code"] == "FilesFailed"
        assert "1 of 3" in run.status["error"]["message"]
        assert [error["key"] for error in run.status["errors"]] == [f"{folders}/{'e' * 21}"]
        assert run.progress["files_failed"] == 1
        assert set(mirror.contents) == {"fine", f"{folders}/{'e' * 20}"}


def test_a_name_that_is_no_utf8_is_a_failed_file_and_the_others_are_sent(mirror):
    mirror.make({"fine": "1", "d/also": "2"})
    for name in (b"bad-\xff\xfe", b"d/latin-\xe9"):
        Path(os.fsdecode(os.fsencode(mirror.folder) + b"/" + name)).write_bytes(b"x")
    run = mirror.start()
    assert run.exit_status == 1
    check_status(run.status)
    assert run.status["error"]["code"] == "FilesFailed"
    assert "2 of 4" in run.status["error"]["message"]
    assert len(run.status["errors"]) == 2
    assert set(mirror.contents) == {"fine", "d/also"}
    mirror.shell.run("show", run.status["id"])


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_key_that_the_store_renames_fails_and_the_renamed_object_is_kept(mirror, store):
    mirror.make({"fine": "1", "back\\slash": "renamed by this store"})
    first = mirror.start()
    assert set(mirror.contents) == {"fine", "back/slash"}
    second = mirror.start()
    assert second.exit_status == 1
    assert [error["code"] for error in second.status["errors"]] == ["KeyChangedByStore"]
    assert [error["key"] for error in second.status["errors"]] == ["back\\slash"]
    assert set(mirror.contents) == {"fine", "back/slash"}, "it holds what our file holds"
    assert first.exit_status in (0, 1)


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_key_that_the_store_refuses_is_a_failed_file(mirror, store):
    mirror.make({"fine": "1", "new\nline": "x"})
    run = mirror.start()
    assert run.exit_status == 1
    assert [error["key"] for error in run.status["errors"]] == ["new\nline"]
    assert set(mirror.contents) == {"fine"}


# -- an empty or missing folder ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["missing", "empty", "only folders"])
def test_a_folder_without_a_file_deletes_the_bucket(mirror, store, how):
    mirror.make(BASIC)
    mirror.twice()
    remove(mirror.folder)
    if how != "missing":
        mirror.folder.mkdir()
    if how == "only folders":
        (mirror.folder / "d" / "deep").mkdir(parents=True)
    run = mirror.start()
    assert run.exit_status == 0, run
    assert run.status["state"] == "done"
    assert not mirror.exists
    assert "delete_bucket" in [op for op, _key in ops(mirror, run)]
    deleted = [key for op, key in ops(mirror, run) if op == "delete"]
    assert {"a", "empty", "d/b", "d/deep/er/c", "d-2/x", "d.x"} <= set(deleted)
    assert len(set(deleted)) == len(deleted) == run.progress["objects_deleted"], "what was deleted, once"
    again = mirror.start()
    assert again.exit_status == 0, "a missing bucket is success"
    assert not mirror.exists
    mirror.make({"back": "again"})
    mirror.twice()


@VERSIONING
def test_a_bucket_is_deleted_with_its_versions_and_delete_markers(mirror, store):
    client = store.client()
    client.create_bucket(Bucket=mirror.bucket)
    client.put_bucket_versioning(Bucket=mirror.bucket, VersioningConfiguration={"Status": "Enabled"})
    for round_ in range(3):
        for key in ("a", "d/b", "odd +%&"):
            client.put_object(Bucket=mirror.bucket, Key=key, Body=b"%d" % round_)
    client.delete_object(Bucket=mirror.bucket, Key="a")
    client.delete_object(Bucket=mirror.bucket, Key="never")
    (mirror.folder).mkdir()
    run = mirror.start()
    assert run.exit_status == 0, run
    assert not mirror.exists
    deleted = sum(kind in ("DELETE", "DeleteObjects") for kind in mirror.proxy.kinds().elements())
    assert deleted, "the versions were deleted one by one or in batches, before the bucket"
    client.create_bucket(Bucket=mirror.bucket)
    left = client.list_object_versions(Bucket=mirror.bucket)
    assert (left.get("Versions", []), left.get("DeleteMarkers", [])) == ([], [])


def test_a_bucket_is_deleted_with_its_unfinished_uploads(mirror, store):
    client = store.client()
    fill(store, mirror.bucket, {"a": b"1"})
    uploads = []
    for key in ("big", "d/big", "d/big"):
        upload = client.create_multipart_upload(Bucket=mirror.bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=mirror.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 10)
        uploads.append((key, upload))
    run = mirror.start()
    assert run.exit_status == 0, run
    assert not mirror.exists
    aborted = {request.query["uploadId"] for request in mirror.proxy.of_kind("AbortMultipartUpload")}
    assert aborted == {upload for _key, upload in uploads}
    client.create_bucket(Bucket=mirror.bucket)
    assert list_uploads(client, mirror.bucket) == []


@VERSIONING
def test_a_mirror_of_a_versioned_bucket_is_exact(mirror, store):
    client = store.client()
    client.create_bucket(Bucket=mirror.bucket)
    client.put_bucket_versioning(Bucket=mirror.bucket, VersioningConfiguration={"Status": "Enabled"})
    mirror.make({"a": "1", "b": "2"})
    mirror.twice()
    mirror.make({"a": "3", "b": None})
    mirror.twice()
    mirror.make({"a": None})
    assert mirror.start().exit_status == 0
    assert not mirror.exists


def test_deleting_the_bucket_can_be_refused(mirror):
    mirror.make(BASIC)
    before = expected(mirror.folder)
    mirror.twice()
    mirror.shell.environment["BUCKET_DELETE"] = "refuse"
    remove(mirror.folder)
    run = mirror.start()
    assert run.exit_status == 1
    check_status(run.status)
    assert run.status["state"] == "failed"
    assert_same(mirror.contents, before)
    assert not WRITES & set(mirror.proxy.kinds())
    mirror.make({"one": "file"})
    mirror.sync()


def test_an_empty_root_on_another_device_is_an_unmounted_disk(mirror, request):
    """The root is a link: first to a disk with files, then to an empty folder of another file system."""
    other = Path(f"/dev/shm/{uuid.uuid4().hex}")
    other.mkdir()
    request.addfinalizer(lambda: shutil.rmtree(other))
    mirror.make(BASIC)
    before = expected(mirror.folder)
    real = mirror.shell.uploads.rename(mirror.shell.base / "disk")
    assert real.stat().st_dev != other.stat().st_dev
    mirror.shell.uploads.symlink_to(real)
    mirror.sync()
    mirror.shell.uploads.unlink()
    mirror.shell.uploads.symlink_to(other)
    run = mirror.start()
    assert run.exit_status == 1
    assert run.status["state"] == "failed"
    assert_same(mirror.contents, before)
    mirror.shell.uploads.unlink()
    mirror.shell.uploads.symlink_to(real)
    mirror.sync()


def test_a_source_that_vanishes_after_the_job_began_deletes_nothing(mirror, store):
    fill(store, mirror.bucket, {"old": b"1", "d/old": b"2"})
    mirror.make({f"f{number}": "x" for number in range(5)})
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "0.05")
    gate.wait()
    remove(mirror.folder)
    gate.open()
    assert process.wait(20) == 1
    assert mirror.shell.status(job)["state"] == "failed"
    assert {"old", "d/old"} <= set(mirror.contents)


# -- what cannot be read ----------------------------------------------------------------------------------


def test_an_unreadable_folder_fails_the_job_and_nothing_under_it_is_deleted(mirror, store):
    mirror.make({"a": "1", "locked": {"b": "2", "in/c": "3"}, "locked-not/x": "4"})
    mirror.twice()
    before = mirror.contents
    (mirror.folder / "locked").chmod(0)
    mirror.make({"new": "5", "a": "1+"})
    run = mirror.start()
    (mirror.folder / "locked").chmod(0o755)
    assert run.exit_status == 1
    check_status(run.status)
    assert any("locked" in error["key"] for error in run.status["errors"])
    found = mirror.contents
    assert {key: found.get(key) for key in before if key.startswith("locked")} == {
        key: body for key, body in before.items() if key.startswith("locked")
    }
    assert (found["new"], found["a"]) == (b"5", b"1+"), "the others are sent"
    mirror.twice()


@pytest.mark.parametrize("what", [".", "d"])
def test_a_folder_that_cannot_be_read_is_not_known_to_be_empty(mirror, what):
    mirror.make({"d/a": "1"})
    mirror.twice()
    locked = mirror.folder / what
    locked.chmod(0)
    run = mirror.start()
    locked.chmod(0o755)
    assert run.exit_status in (1, 2)
    assert mirror.contents == {"d/a": b"1"}
    assert not {"DELETE", "DeleteObjects", "DeleteBucket"} & set(mirror.proxy.kinds())


def test_a_root_that_cannot_be_searched_fails_the_job_and_deletes_nothing(mirror):
    mirror.make({"a": "1"})
    mirror.twice()
    mirror.shell.uploads.chmod(0)
    run = mirror.start()
    mirror.shell.uploads.chmod(0o755)
    assert run.exit_status in (1, 2)
    assert mirror.contents == {"a": b"1"}


def test_an_unreadable_file_fails_alone_and_nothing_is_deleted(mirror, store):
    mirror.make({"a": "1", "gone": "2", "locked": "3"})
    mirror.twice()
    mirror.make({"gone": None, "new": "4", "locked": "33"})
    (mirror.folder / "locked").chmod(0)
    run = mirror.start()
    (mirror.folder / "locked").chmod(0o644)
    assert run.exit_status == 1
    check_status(run.status)
    assert run.status["error"]["code"] == "FilesFailed"
    assert "1 of 3" in run.status["error"]["message"]
    assert [(error["op"], error["key"]) for error in run.status["errors"]] == [("upload", "locked")]
    assert [line["key"] for line in mirror.shell.report(run.status["id"]) if line.get("error")] == ["locked"]
    assert mirror.contents == {"a": b"1", "gone": b"2", "locked": b"3", "new": b"4"}
    mirror.twice()


def test_links_are_followed_inside_of_the_root_and_skipped_when_they_lead_out(mirror, tmp_path):
    tree(tmp_path / "outside", {"secret": "s", "d/secret2": "s"})
    tree(mirror.shell.uploads, {"shared": {"s": "shared", "sub/t": "2"}})
    mirror.make({"real": "1", "d/file": "2"})
    links = {
        "to-file": "real",
        "to-folder": "../shared",
        "d/up": "../real",
        "out-file": tmp_path / "outside" / "secret",
        "out-folder": tmp_path / "outside",
        "dangling": "nowhere",
        "loop": ".",
        "d/parent": "..",
        "self": "self",
        "proc": "/proc/self",
        "device": "/dev/zero",
        "absolute-inside": mirror.folder / "real",
    }
    for name, target in links.items():
        (mirror.folder / name).symlink_to(target)
    run = mirror.shell.sync(mirror.bucket)
    inside = {"real": b"1", "to-file": b"1", "d/up": b"1", "absolute-inside": b"1", "d/file": b"2"}
    inside |= {"to-folder/s": b"shared", "to-folder/sub/t": b"2"}
    assert mirror.contents == inside
    skipped = {"out-file", "out-folder", "dangling", "loop", "d/parent", "self", "proc", "device"}
    assert run.progress["files_skipped"] == len(skipped)
    text = mirror.shell.file(run.status["id"], "report.jsonl").read_text()
    assert all(f'"{name}' in text for name in skipped), "each with its reason"
    mirror.proxy.reset()
    mirror.shell.sync(mirror.bucket)
    assert set(mirror.proxy.kinds()) == {"LIST"}


def test_a_source_may_be_a_link_to_a_folder_of_the_root(mirror):
    tree(mirror.shell.uploads, {"real": {"a": "1"}})
    mirror.folder.symlink_to("real")
    mirror.shell.sync(mirror.bucket)
    assert mirror.contents == {"a": b"1"}


def test_pipes_and_sockets_are_skipped_and_never_opened(mirror, monkeypatch):
    mirror.make({"a": "1"})
    os.mkfifo(mirror.folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(mirror.folder)
        listener.bind("socket")
        run = mirror.shell.sync(mirror.bucket, timeout=20)
    assert mirror.contents == {"a": b"1"}
    assert run.progress["files_skipped"] == 2
    text = mirror.shell.file(run.status["id"], "report.jsonl").read_text()
    assert "pipe" in text
    assert "socket" in text


def test_a_file_that_vanishes_before_it_is_read_is_skipped_and_no_error(mirror):
    mirror.make({"a": "1", "m": "2", "z": "3"})
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "0.3")
    gate.wait()
    wait_for(lambda: mirror.shell.status(job)["progress"]["scan_complete"])
    (mirror.folder / "z").unlink()
    (mirror.folder / "m").unlink()
    gate.open()
    assert process.wait(20) == 0
    status = mirror.shell.status(job)
    assert status["progress"]["files_skipped"] == 2
    assert "vanished" in mirror.shell.file(job, "report.jsonl").read_text()
    assert mirror.contents == {"a": b"1"}


def test_a_file_that_changes_while_it_is_read_is_never_stored_torn(mirror):
    first, second = b"1" * 40_000_000, b"2" * 40_000_000
    mirror.make({"big": first})

    def overwrite(request):
        if request.part == 2 and not overwritten:
            overwritten.append(True)
            (mirror.folder / "big").write_bytes(second)

    overwritten = []
    mirror.proxy.on_request(overwrite)
    run = mirror.start()
    assert overwritten
    if run.exit_status == 1:
        assert [error["code"] for error in run.status["errors"]] == ["ChangedWhileReading"]
        assert mirror.contents == {}
    else:
        assert mirror.contents == {"big": second}
    mirror.twice()
    assert mirror.contents == {"big": second}
    assert list_uploads(mirror.store.client(), mirror.bucket) == []


# -- the order of things ----------------------------------------------------------------------------------


def test_deletions_come_after_the_last_upload(mirror, store):
    mirror.make({f"old{number}": "x" for number in range(5)})
    mirror.twice()
    mirror.make({f"old{number}": None for number in range(5)})
    mirror.make({f"{letter}{number}": "y" for letter in "az" for number in range(10)})
    mirror.sync()
    uploads = [request for request in mirror.proxy.of_kind("PUT") if request.status == 200]
    deletions = mirror.proxy.of_kind("DELETE", "DeleteObjects")
    assert len(uploads) == 20
    assert min(d.started for d in deletions) > max(u.answered for u in uploads)


def test_after_a_failed_upload_nothing_is_deleted(mirror, store):
    mirror.make({"old": "1", "keep": "2"})
    mirror.twice()
    before = mirror.contents
    mirror.make({"old": None, "new1": "x", "new2": "y", "new3": "z"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.key == "new2" else None)
    run = mirror.start()
    assert run.exit_status == 1
    check_status(run.status)
    assert run.status["state"] == "failed"
    assert not {"DELETE", "DeleteObjects"} & set(mirror.proxy.kinds())
    assert before.items() <= mirror.contents.items()
    mirror.proxy.clear_hooks()
    assert mirror.shell.run("resume", run.status["id"]).returncode == 0
    assert_same(mirror.contents, expected(mirror.folder))
    mirror.twice()


def test_a_failed_file_is_told_in_the_status_and_in_the_report(mirror):
    mirror.make({f"f{number:03}": "x" for number in range(150)})
    mirror.proxy.on_request(
        lambda r: s3_error(400, "InvalidArgument") if r.kind == "PUT" and r.key != "f000" else None
    )
    run = mirror.start(timeout=100)
    assert run.exit_status == 1
    check_status(run.status)
    assert run.status["error"] == {"code": "FilesFailed", "message": run.status["error"]["message"]}
    assert "149 of 150" in run.status["error"]["message"]
    assert len(run.status["errors"]) == 100
    assert {error["code"] for error in run.status["errors"]} == {"InvalidArgument"}
    failed = [line for line in mirror.shell.report(run.status["id"]) if line.get("error")]
    assert len({line["key"] for line in failed}) == 149
    assert run.progress["files_failed"] == 149
    assert mirror.contents == {"f000": b"x"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200), "an empty answer"),
        (
            Answer(200, {"Content-Type": "text/html"}, b"<html><body>Welcome</body></html>"),
            "a page of a proxy",
        ),
        (Answer(200, {}, b'{"objects": []}'), "no XML"),
        (
            Answer(
                200,
                {"Content-Type": "application/xml"},
                b"<ListBucketResult><Name>x</Name><IsTruncated>true</IsTruncated><KeyCount>1</KeyCount><Contents>"
                b"<Key>a</Key><Size>1</Size><ETag>x</ETag></Contents></ListBucketResult>",
            ),
            "cut short, without a token",
        ),
        (
            Answer(
                200,
                {"Content-Type": "application/xml"},
                b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
                b"<KeyCount>0</KeyCount></ListBucketResult>",
            ),
            "the same token for ever",
        ),
        (Answer(200, {"Content-Type": "application/xml"}, b"<ListBucketResult><Contents><Key>a"), "half XML"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_listing_that_is_broken_fails_the_job_and_deletes_nothing(mirror, answer, why):
    mirror.make({"a": "1", "b": "2"})
    mirror.twice()
    mirror.make({"b": None, "c": "3"})
    mirror.proxy.on_request(lambda request: answer if request.kind == "LIST" else None)
    run = mirror.start(timeout=100)
    assert run.exit_status == 1, why
    assert run.status["error"]["code"] != "InternalError"
    assert {"a", "b"} <= set(mirror.contents)
    assert not {"DELETE", "DeleteObjects", "DeleteBucket"} & set(mirror.proxy.kinds())
    mirror.proxy.clear_hooks()
    mirror.twice()


def test_a_broken_listing_is_no_empty_bucket_when_the_bucket_is_deleted(mirror):
    mirror.make({"a": "1"})
    mirror.twice()
    remove(mirror.folder)
    mirror.proxy.on_request(lambda request: Answer(200) if request.kind == "LIST" else None)
    run = mirror.start(timeout=100)
    assert run.exit_status == 1
    assert mirror.contents == {"a": b"1"}


def test_every_body_carries_its_md5_and_no_trailer(mirror, store):
    mirror.make({"small": "1", "empty": "", "big": 17_000_000, "gone1": "x", "gone2": "y", "gone3": "z"})
    mirror.twice()
    sent = list(mirror.proxy.requests)
    mirror.make({"gone1": None, "gone2": None, "gone3": None})
    mirror.twice()
    sent += mirror.proxy.requests
    checked = [r for r in sent if r.kind in ("PUT", "UploadPart", "DeleteObjects")]
    assert {"PUT", "UploadPart", "DeleteObjects"} <= {r.kind for r in checked}
    for request in checked:
        assert "content-md5" in request.headers, request
        assert "x-amz-trailer" not in request.headers
        assert "aws-chunked" not in request.headers.get("content-encoding", "")


# -- large files ------------------------------------------------------------------------------------------


def test_a_large_file_is_sent_in_parts_and_recognised(mirror, store):
    mirror.make({"d/big": 20_000_000, "small": "1"})
    mirror.twice()
    parts = mirror.proxy.of_kind("UploadPart")
    assert len(parts) == len({part.part for part in parts}) >= 2
    assert all(part.body_bytes >= 8 << 20 for part in sorted(parts, key=lambda p: p.part)[:-1])
    assert list_uploads(store.client(), mirror.bucket) == []
    (mirror.folder / "d/big").touch()
    mirror.twice()
    assert not WRITES & set(mirror.proxy.kinds())
    with (mirror.folder / "d/big").open("r+b") as file:
        file.seek(15_000_000)
        file.write(b"changed")
    mirror.twice()


@pytest.mark.parametrize("part_mib", [5, 8, 15, 16])
def test_parts_of_other_programs_are_recognised_by_their_etag(mirror, part_mib):
    mirror.make({"big": 20_000_000})
    body = (mirror.folder / "big").read_bytes()
    client, bucket = mirror.store.client(), mirror.bucket
    client.create_bucket(Bucket=bucket)
    upload = client.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    size, parts = part_mib << 20, []
    for number, start in enumerate(range(0, len(body), size), 1):
        part = {"Bucket": bucket, "Key": "big", "UploadId": upload, "PartNumber": number}
        tag = client.upload_part(**part, Body=body[start : start + size])["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
    client.complete_multipart_upload(
        Bucket=bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": parts}
    )
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


@pytest.mark.parametrize("program", ["rclone", "s5cmd", "aws"])
def test_what_other_programs_uploaded_is_not_sent_again(mirror, juicefs, program):
    mirror.make({"big": 60_000_000, "small": "1", "d/e": "2"})
    juicefs.client().create_bucket(Bucket=mirror.bucket)
    folder, target = str(mirror.folder), mirror.bucket
    keys = {"AWS_ACCESS_KEY_ID": juicefs.access_key, "AWS_SECRET_ACCESS_KEY": juicefs.secret_key}
    remote = f":s3,provider=Other,endpoint='{juicefs.url}',env_auth:{target}"
    command = {
        "rclone": ["rclone", "copy", "--config", "/dev/null", "--s3-upload-cutoff", "1M", folder, remote],
        "s5cmd": ["s5cmd", "--endpoint-url", juicefs.url, "cp", f"{folder}/", f"s3://{target}/"],
        "aws": ["aws", "--endpoint-url", juicefs.url, "s3", "sync", folder, f"s3://{target}"],
    }[program]
    more = {"AWS_REGION": "us-east-1", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}
    environment = minimal_environment(mirror.shell.home, **keys, **more)
    subprocess.run([str(BIN / command[0]), *command[1:]], env=environment, check=True, capture_output=True)
    etag = list_keys(juicefs.client(), target)["big"]["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}-\d+"', etag)
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


# -- one at a time ----------------------------------------------------------------------------------------


def test_wait_makes_operations_single_with_a_pause_between(mirror, store):
    mirror.make({"old1": "x", "old2": "y"})
    mirror.sync()
    mirror.make({"old1": None, "old2": None, "a": "1", "b": "2", "c": "3"})
    run = mirror.sync("--wait", "0.3")
    done = sorted(
        (r for r in mirror.proxy.requests if r.kind in ("PUT", "DELETE", "DeleteObjects")),
        key=lambda r: r.started,
    )
    assert [r.kind for r in done][:5] == ["PUT"] * 3 + ["DELETE"] * 2
    for one, two in pairwise(done):  # `finished` is noted when the client may have the answer already
        assert two.started - one.answered >= 0.29
    assert run.progress["elapsed_seconds"] >= 1.2
    mirror.twice()


def test_a_cancel_during_the_pause_ends_it_at_once(mirror):
    fill(mirror.store, mirror.bucket, {})
    mirror.make({"a": "1", "b": "2"})
    process, job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "600")
    mirror.shell.wait_file(job, lambda s: s["progress"]["files_uploaded"] == 1)
    began = time.monotonic()
    mirror.shell.file(job, "cancel").touch()
    mirror.shell.wait_file(job, lambda s: s["state"] == "cancelled")
    assert time.monotonic() - began < SOON_SECONDS
    assert process.wait(20) == 3
    assert len(mirror.contents) == 1


def test_after_a_cancel_what_is_in_flight_finishes_and_nothing_starts(mirror):
    mirror.make({f"f{number:04}": "x" * 1000 for number in range(300)})
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait()
    wait_for(lambda: len(gate.held) >= 2, 20, "parallel uploads")
    mirror.shell.file(job, "cancel").touch()
    mirror.shell.wait_file(job, lambda s: s["message"].startswith("cancelling"))
    time.sleep(0.5)  # what was begun before has arrived
    seen = time.monotonic()
    gate.open()
    assert process.wait(20) == 3
    uploads = mirror.proxy.of_kind("PUT")
    assert max(request.started for request in uploads) <= seen
    assert set(mirror.contents) == {request.key for request in uploads}
    assert len(uploads) < 300
    assert mirror.shell.status(job)["progress"]["files_uploaded"] == len(uploads)
    told = [line["key"] for line in mirror.shell.report(job) if line["op"] == "upload"]
    assert sorted(told) == sorted(mirror.contents)
    check_status(mirror.shell.status(job))
    assert mirror.shell.run("resume", job).returncode == 0
    assert_same(mirror.contents, expected(mirror.folder))


def test_the_status_tells_what_is_being_done(mirror):
    mirror.make({"d/slow": "x" * 1000, "z": "1"})
    gate = Gate(mirror.proxy, lambda request: request.key == "d/slow")
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait()
    status = mirror.shell.wait_file(job, lambda s: s["current"])
    check_status(status)
    assert (status["current"][0]["op"], status["current"][0]["key"]) == ("upload", "d/slow")
    assert status["current"][0]["size"] == 1000
    assert status["phase"] == "transferring"
    assert "d/slow" in status["message"]
    gate.open()
    assert process.wait(10) == 0
