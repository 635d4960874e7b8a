"""A mirror below a key prefix: the rest of the bucket is neither listed nor touched: others have it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, Mirror, Service, contents, expected, fill, tree
from proxy import Request
from stores import Store

OUTSIDE = {"a": b"1", "vm1.txt": b"2", "vm1": b"3", "vm10/x": b"4", "vm/y": b"5", "z/vm1/q": b"6"}
FOLDER = {"x.txt": "x", "deep/y.txt": "y", "naïve & co/+%2F.txt": "z", "empty": "", "big": 9 << 20}


def outside(store: Store) -> dict[str, bytes]:
    """What a store holds besides; one that is a file system cannot hold `vm1` beside `vm1/…`."""
    return {key: body for key, body in OUTSIDE.items() if key != "vm1" or store.name in ("moto", "seaweedfs")}


def below(prefix: str, objects: dict[str, bytes]) -> dict[str, bytes]:
    return {prefix + key: body for key, body in objects.items()}


def assert_within(requests: list[Request], prefix: str) -> None:
    """Every request names the bucket alone, or something below the prefix."""
    for request in requests:
        if request.key:
            assert request.key.startswith(prefix), request
            assert request.key != prefix, request
        elif request.kind == "DeleteObjects":
            for key in re.findall("<Key>(.*?)</Key>", request.body.decode()):
                assert key.startswith(prefix), request
        elif request.method == "GET" and request.kind != "GetBucketVersioning":
            assert request.query["prefix"].startswith(prefix), request
        else:
            assert request.kind in ("CreateBucket", "HeadBucket"), request


def start(mirror: Mirror, *more: str) -> Any:
    mirror.proxy.reset()
    run = mirror.shell.sync(mirror.bucket, "photos", "--prefix", "vm1", *more)
    assert_within(list(mirror.proxy.requests), "vm1/")
    return run


def test_the_mirror_is_what_lies_below_the_prefix(mirror: Mirror, store: Store) -> None:
    fill(
        store,
        mirror.bucket,
        outside(store) | below("vm1/", {"old/1": b"1", "old/2": b"2", "x.txt": b"other"}),
    )
    mirror.make(FOLDER)
    run = start(mirror)
    assert mirror.contents == outside(store) | below("vm1/", expected(mirror.folder))
    assert run.status["options"] == {"prefix": "vm1/"}
    assert run.status["message"] == "everything below vm1/ equals the folder"
    assert (run.progress["files_uploaded"], run.progress["objects_deleted"]) == (5, 2)
    reported = {(line["op"], line["key"]) for line in mirror.shell.report(run.status["id"])}
    assert {("upload", "vm1/x.txt"), ("delete", "vm1/old/1")} <= reported
    assert all(key.startswith("vm1/") for _, key in reported)
    again = start(mirror)
    assert set(mirror.proxy.kinds()) <= {"LIST", "HeadBucket"}, mirror.proxy.kinds()
    assert again.progress["files_unchanged"] == 5
    (mirror.folder / "deep" / "y.txt").unlink()
    (mirror.folder / "x.txt").write_text("w")
    start(mirror)
    assert mirror.contents == outside(store) | below("vm1/", expected(mirror.folder))


@pytest.mark.parametrize("missing", [True, False])
def test_an_empty_folder_empties_the_mirror_and_leaves_the_bucket(
    mirror: Mirror, store: Store, missing: bool
) -> None:
    fill(store, mirror.bucket, outside(store) | below("vm1/", {f"{n}": b"1" for n in range(30)}))
    if not missing:
        mirror.make({})
    start(mirror)
    assert mirror.contents == outside(store)


def test_an_object_that_is_the_prefix_itself_is_left_alone(mirror: Mirror) -> None:
    """As consoles make it, to show a folder."""
    mirror.shell.environment["STORAGE_URL"] = mirror.proxy.url
    fill(mirror.store, mirror.bucket, {"vm1/x": b"old"})
    mirror.store.client().put_object(Bucket=mirror.bucket, Key="vm1/", Body=b"")
    mirror.make({"y": "1"})
    start(mirror)
    start(mirror)
    assert mirror.contents == {"vm1/y": b"1"}
    if mirror.store.name in ("moto", "seaweedfs"):
        assert mirror.store.client().head_object(Bucket=mirror.bucket, Key="vm1/")["ContentLength"] == 0


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_only_current_objects_go_not_their_versions(mirror: Mirror, store: Store) -> None:
    client = store.client()
    fill(store, mirror.bucket, {})
    client.put_bucket_versioning(Bucket=mirror.bucket, VersioningConfiguration={"Status": "Enabled"})
    fill(store, mirror.bucket, below("vm1/", {"x": b"1"}))
    start(mirror)
    assert mirror.contents == {}
    versions = client.list_object_versions(Bucket=mirror.bucket)
    assert [version["Key"] for version in versions["Versions"]] == ["vm1/x"]


def test_a_key_is_too_long_with_its_prefix(mirror: Mirror) -> None:
    folder = "d" * 250 + "/" + "e" * 250
    mirror.make({f"{folder}/{'f' * 100}": "1", "ok": "2"})
    run = mirror.start("--prefix", "p" * 200 + "/" + "q" * 250)
    assert run.status["state"] == "failed"
    assert run.status["errors"][0]["code"] == "KeyTooLong"
    assert "has 1054 bytes" in run.status["errors"][0]["message"]


# -- who may run beside whom ------------------------------------------------------------------------------

PAIRS = [
    ("a/", "b/", True),
    ("a/", "ab/", True),
    ("a/", "a/b/", False),
    ("a/b/", "a/", False),
    ("a", "a/", False),
    ("", "a/", False),
    ("a/b", "", False),
    ("a/b/", "a/c/", True),
]


@pytest.mark.parametrize(("first", "second", "may"), PAIRS)
def test_jobs_run_side_by_side_when_neither_prefix_contains_the_other(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, first: str, second: str, may: bool
) -> None:
    service = make_service(juicefs)
    tree(service.uploads / "photos", {"x": "1", "y": "2"})
    job = service.sync(bucket, wait="600", prefix=first)
    reply = service.get("/sync", source="photos", dest=bucket, prefix=second)
    if may:
        assert reply.status == 202, reply
        assert service.wait_state(reply.json()["id"])["state"] == "done"
        assert service.show(job)["state"] in ("queued", "running")
    else:
        assert (reply.status, reply.problem["job"]) == (409, job)
    service.post("/cancel", id=job)
    service.wait_state(job)
    again = service.get("/sync", source="photos", dest=bucket, prefix=second)
    assert again.status == 202
    service.wait_state(again.json()["id"])
    assert (service.get("/resume", id=job).status == 202) or not may


@pytest.mark.parametrize(("first", "second", "may"), PAIRS)
def test_workers_of_other_job_directories_meet_the_same_rule(
    mirror: Mirror, tmp_path: Path, first: str, second: str, may: bool
) -> None:
    """By lock files alone: a status of another host's making is not believed, a lock is."""
    from syncworker.jobs.store import Jobs

    jobs = Jobs(str(tmp_path))
    jobs.prepare()
    one, two = (
        {"storage_url": "http://a", "dest": "bucket", "options": {"prefix": f"{p.rstrip('/')}/"} if p else {}}
        for p in (first, second)
    )
    with jobs.destination(one).lock() as held, jobs.destination(two).lock() as wanted:
        assert held.acquire()
        assert wanted.acquire() == may
        held.release()
        if not may:
            assert wanted.acquire()


def test_a_shell_is_refused_while_a_job_runs_around_its_prefix(mirror: Mirror) -> None:
    mirror.make({"x": "1", "y": "2"})
    running, _ = mirror.shell.begin(mirror.bucket, "photos", "--wait", "600")
    refused = mirror.shell.run("start", "--source", "photos", "--dest", mirror.bucket, "--prefix", "a/b")
    assert refused.returncode == 2, refused
    running.terminate()
    assert running.wait(20) == 4


def test_two_prefixes_have_an_index_each(mirror: Mirror) -> None:
    mirror.make({"x": "1"})
    mirror.shell.sync(mirror.bucket, "photos", "--prefix", "a")
    mirror.shell.sync(mirror.bucket, "photos", "--prefix", "b")
    mirror.shell.sync(mirror.bucket, "photos", "--prefix", "a")
    assert mirror.contents == {"a/x": b"1", "b/x": b"1"}
    assert len(list((mirror.shell.jobs / ".index").glob("*.sqlite"))) == 2


# -- what a prefix may be ---------------------------------------------------------------------------------

BAD = ["/a", "a//b", "a//", "/", "..", "a/../b", ".", "a/./b", "a\tb", "a\x7f", "a\x85", "é" * 450, "x" * 900]


@pytest.mark.parametrize("prefix", BAD)
def test_what_is_no_prefix_is_refused(service: Service, prefix: str) -> None:
    pair = {"source": "", "dest": "bucket", "prefix": prefix}
    for answer in (
        service.get("/sync", **pair),
        service.post("/sync", **pair),
        service.post_json("/sync", pair),
    ):
        assert (answer.status, answer.problem["param"]) == (400, "prefix"), answer
    command = [
        sys.executable,
        "-m",
        "syncworker",
        "start",
        "--source=",
        "--dest=bucket",
        f"--prefix={prefix}",
    ]
    done = subprocess.run(command, cwd=PROJECT, env=service.environment, capture_output=True, check=False)
    assert done.returncode == 2, done
    assert service.ids() == []


def test_the_longest_prefix_is_taken_and_the_empty_one_means_none(service: Service, bucket: str) -> None:
    tree(service.uploads / "photos", {"x": "1"})
    longest = "/".join(["x" * 248] * 3 + ["y" * 152])
    assert len(longest) == 899
    status = service.done(bucket, prefix=longest)
    assert status["options"] == {"prefix": f"{longest}/"}
    assert service.store is not None
    assert contents(service.store, bucket) == {f"{longest}/x": b"1"}
    assert service.done(f"{bucket}-2"[:63], prefix="")["options"] == {}
