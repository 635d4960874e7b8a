"""`plan=1`, `max_delete`, `waiting` and approving (CONTRACT §6), on a real store, seen from outside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import Gate, Service, exists, expected, fill, tree, wait_for
from shapes import check_status

WRITES = {"PUT", "DELETE", "DeleteObjects", "CreateBucket", "DeleteBucket", "CopyObject"}
FIELDS = ["op", "key", "size", "etag", "modified", "reason"]


def plan_of(jobs, status):
    data = jobs.file(status["id"], "plan.jsonl").read_bytes()
    lines = [json.loads(line) for line in data.splitlines()]
    assert status["plan"]["etag"] == hashlib.sha256(data).hexdigest()
    assert status["plan"]["lines"] == len(lines)
    assert all(list(line) == FIELDS for line in lines)
    return [(line["op"], line["key"], line["reason"]) for line in lines]


def approve(mirror, status, *more):
    mirror.proxy.reset()
    done = mirror.shell.run("approve", status["id"], *more)
    found = mirror.shell.status(status["id"])
    check_status(found)
    return SimpleNamespace(exit_status=done.returncode, err=done.stderr, status=found)


def planned(mirror, *more, exit_status=5):
    run = mirror.start("--plan", *more)
    assert run.exit_status == exit_status, run
    assert not WRITES & set(mirror.proxy.kinds()), mirror.proxy.kinds()
    check_status(run.status)
    return run.status


def deletions(mirror):
    found = {request.key for request in mirror.proxy.of_kind("DELETE")}
    return found | {
        line["key"]
        for job in mirror.shell.ids()
        for line in mirror.shell.report(job)
        if line["op"] == "delete"
    }


# -- planning ---------------------------------------------------------------------------------------------


def test_a_plan_names_what_a_sync_would_do_and_changes_nothing(mirror, juicefs):
    mirror.make({"a": "1", "b/c": "22", "same": "s", "z": "old!"})
    mirror.sync()
    mirror.make({"a": None, "b/c": "333", "z": "new!", "é/new": "n"})
    before = mirror.contents
    index = {path: path.read_bytes() for path in mirror.shell.jobs.glob(".dest/*.json")}
    status = planned(mirror)
    assert plan_of(mirror.shell, status) == [
        ("delete", "a", "gone"),
        ("upload", "b/c", "size"),
        ("upload", "z", "content"),
        ("upload", "é/new", "new"),
    ]
    progress = status["progress"]
    assert [
        progress[n] for n in ("files_to_upload", "bytes_to_upload", "files_to_update", "objects_to_delete")
    ] == [3, 8, 0, 1]
    assert (status["state"], status["error"]) == ("waiting", None)
    assert "3 files to upload" in status["message"]
    assert mirror.contents == before
    assert index == {path: path.read_bytes() for path in mirror.shell.jobs.glob(".dest/*.json")}
    assert oct(os.stat(mirror.shell.file(status["id"], "plan.jsonl")).st_mode)[-3:] == "600"
    listed = mirror.shell.run("plan", status["id"])
    assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 6)
    as_json = mirror.shell.run("plan", status["id"], "--json").stdout
    assert as_json == mirror.shell.file(status["id"], "plan.jsonl").read_text()


def test_a_plan_of_a_bucket_that_is_missing_makes_none(mirror, juicefs):
    mirror.make({"a": "1"})
    status = planned(mirror)
    assert "will be made" in status["message"]
    assert not mirror.exists
    assert plan_of(mirror.shell, status) == [("upload", "a", "new")]
    assert approve(mirror, status).exit_status == 0
    assert set(mirror.contents) == {"a"}


def test_a_plan_with_nothing_to_do_is_done(mirror, juicefs):
    mirror.make({"a": "1"})
    mirror.sync()
    status = planned(mirror, exit_status=0)
    assert (status["state"], status["plan"]) == ("done", None)
    assert "nothing to do" in status["message"]
    assert mirror.shell.run("plan", status["id"]).returncode == 2


def test_a_plan_tells_headers_and_a_prefix(mirror, juicefs):
    mirror.make({"a.html": "1", "gone": "2"})
    assert mirror.start("--prefix", "p").exit_status == 0
    mirror.make({"gone": None})
    status = planned(mirror, "--prefix", "p", "--header", "*.html Cache-Control: no-cache")
    assert plan_of(mirror.shell, status) == [("update", "p/a.html", "headers"), ("delete", "p/gone", "gone")]
    assert status["progress"]["files_to_update"] == 1
    assert approve(mirror, status).exit_status == 0
    assert set(mirror.contents) == {"p/a.html"}


def test_what_would_fail_the_sync_fails_the_plan(mirror, juicefs):
    mirror.make({"a": "1", "closed/b": "2"})
    mirror.sync()
    (mirror.folder / "closed").chmod(0)
    try:
        run = mirror.start("--plan")
    finally:
        (mirror.folder / "closed").chmod(0o755)
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
    mirror.shell.environment["BUCKET_DELETE"] = "refuse"
    mirror.make({"a": None, "closed": None})
    run = mirror.start("--plan")
    assert (run.exit_status, run.status["error"]["code"]) == (1, "BucketDeleteRefused")


def test_a_plan_remembers_nothing_that_a_later_sync_goes_by(mirror, juicefs):
    mirror.make({"a": "1", "b": "2"})
    fill(mirror.store, mirror.bucket, {"a": b"1", "b": b"3"})
    status = planned(mirror)
    assert plan_of(mirror.shell, status) == [("upload", "b", "content")]
    import sqlite3

    for path in mirror.shell.jobs.glob(".index/*.sqlite"):
        assert sqlite3.connect(path).execute("SELECT count(*) FROM objects").fetchone() == (0,)


def test_a_bucket_deletion_is_planned_with_its_objects_and_done_only_while_the_folder_is_empty(
    mirror, juicefs
):
    mirror.make({"a": "1", "b/c": "2"})
    mirror.sync()
    mirror.make({"a": None, "b": None})
    status = planned(mirror)
    assert plan_of(mirror.shell, status)[-1] == ("delete_bucket", mirror.bucket, "gone")
    assert {key for op, key, _ in plan_of(mirror.shell, status) if op == "delete"} >= {"a", "b/c"}
    mirror.make({"b/c": "2", "new": "n"})
    run = approve(mirror, status)
    assert (run.exit_status, set(mirror.contents)) == (0, {"b/c", "new"})
    mirror.make({"b": None, "new": None})
    status = planned(mirror)
    run = approve(mirror, status)
    assert (run.exit_status, mirror.exists) == (0, False)


# -- carrying out -----------------------------------------------------------------------------------------


def test_only_what_the_plan_names_and_is_still_gone_is_deleted(mirror, juicefs):
    mirror.make({"a": "1", "b": "2", "c": "3"})
    mirror.sync()
    mirror.make({"a": None, "b": None})
    status = planned(mirror)
    mirror.make({"b": "2", "late": "l"})
    run = approve(mirror, status)
    assert (run.exit_status, run.status["attempt"]) == (0, 2)
    assert run.status["plan"]["approved_at"]
    assert set(mirror.contents) == {"b", "c", "late"}


@pytest.mark.parametrize("what", ["another file goes", "an object changes", "the folder empties"])
def test_what_outgrows_the_plan_is_deleted_only_by_a_new_one(mirror, juicefs, what):
    mirror.make({"a": "1", "b": "2", "c": "3"})
    mirror.sync()
    mirror.make({"a": None})
    status = planned(mirror)
    if what == "another file goes":
        mirror.make({"b": None})
    elif what == "an object changes":
        fill(mirror.store, mirror.bucket, {"a": b"somebody else's"})
    else:
        mirror.make({"b": None, "c": None})
    mirror.make({"new": "n"} if what != "the folder empties" else {})
    run = approve(mirror, status)
    assert (run.exit_status, run.status["error"]["code"]) == (5, "PlanOutgrown"), run.status
    assert {"a", "b", "c"} <= set(mirror.contents)
    assert not deletions(mirror)
    assert run.status["plan"]["etag"] != status["plan"]["etag"]
    old = mirror.shell.run("approve", status["id"], "--etag", status["plan"]["etag"])
    assert old.returncode == 2
    assert "replaced by a newer one" in old.stderr
    again = approve(mirror, run.status, "--etag", run.status["plan"]["etag"])
    assert again.exit_status == 0
    assert (mirror.contents if mirror.exists else {}) == expected(mirror.folder)


@pytest.mark.parametrize("harm", ["changed", "cut", "removed"])
def test_a_plan_that_is_not_what_was_written_is_not_carried_out(mirror, juicefs, harm):
    mirror.make({"a": "1", "b": "2", "c": "3"})
    mirror.sync()
    mirror.make({"a": None, "b": None})
    status = planned(mirror)
    path = mirror.shell.file(status["id"], "plan.jsonl")
    text = path.read_text()
    if harm == "removed":
        path.unlink()
    else:
        path.write_text(text.replace('"b"', '"c"') if harm == "changed" else text.splitlines(True)[0])
    run = approve(mirror, status)
    assert (run.exit_status, run.status["error"]["code"]) == (1, "PlanDamaged")
    assert set(mirror.contents) == {"a", "b", "c"}
    path.write_text(text)
    assert mirror.shell.run("resume", status["id"]).returncode == 0  # it goes on under the approved plan
    assert set(mirror.contents) == {"c"}


# -- max_delete -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, waits", [("1", True), ("2", False), ("50%", False), ("49.9%", True), ("none", False), ("0", True)]
)
def test_more_deletions_than_max_delete_wait_and_uploads_go(mirror, juicefs, limit, waits):
    mirror.make({"a": "1", "b": "2", "c": "3", "d": "4"})
    mirror.sync()
    mirror.shell.environment["MAX_DELETE"] = "1"
    mirror.make({"a": None, "b": None, "new": "n"})
    run = mirror.start("--max-delete", limit)
    check_status(run.status)
    if not waits:
        assert (run.exit_status, set(mirror.contents)) == (0, {"c", "d", "new"})
        return
    assert (run.exit_status, run.status["error"]["code"]) == (5, "TooManyDeletes"), run
    assert "2 objects are to be deleted" in run.status["message"]
    assert limit in run.status["message"]
    assert set(mirror.contents) == {"a", "b", "c", "d", "new"}
    assert plan_of(mirror.shell, run.status) == [("delete", "a", "gone"), ("delete", "b", "gone")]
    again = approve(mirror, run.status)
    assert (again.exit_status, set(mirror.contents)) == (0, {"c", "d", "new"})


def test_the_setting_may_be_a_count_and_an_option_of_zero_is_one(mirror, juicefs):
    mirror.make({"a": "1", "b": "2", "c": "3"})
    mirror.sync()
    mirror.make({"a": None, "b": None})
    mirror.shell.environment["MAX_DELETE"] = "1"
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (5, "TooManyDeletes"), run
    mirror.shell.environment["MAX_DELETE"] = "5"
    run = mirror.start("--max-delete", "0")
    assert (run.exit_status, run.status["error"]["code"]) == (5, "TooManyDeletes"), run
    assert set(mirror.contents) == {"a", "b", "c"}


def test_max_delete_counts_a_bucket_and_the_setting_holds_for_all(mirror, juicefs):
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    mirror.shell.environment["MAX_DELETE"] = "10%"
    mirror.make({"a": None, "b": None})
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (5, "TooManyDeletes")
    assert mirror.exists
    assert plan_of(mirror.shell, run.status)[-1][0] == "delete_bucket"
    assert mirror.start("--delete", "0").exit_status == 0
    assert approve(mirror, run.status).exit_status == 0
    assert not mirror.exists


@pytest.mark.parametrize("value", ["x", "-1", "101%", "1.5", "%", "10 %"])
def test_a_max_delete_that_is_none_is_refused(shell, bucket, value):
    run = shell.run("start", "--dest", bucket, f"--max-delete={value}")
    assert run.returncode == 2
    assert "max_delete" in run.stderr
    shell.environment["MAX_DELETE"] = value
    run = shell.run("list")
    assert run.returncode == 2
    assert "MAX_DELETE" in run.stderr


# -- waiting ----------------------------------------------------------------------------------------------


def waiting_job(service: Service, bucket: str) -> str:
    tree(service.uploads / "photos", {"a": "1", "b": "2"})
    service.done(bucket)
    tree(service.uploads / "photos", {"a": None})
    job = service.sync(bucket, plan="1")
    service.wait_state(job, "waiting")
    return job


def test_a_waiting_job_is_paged_approved_by_http_and_survives_a_restart(service, juicefs, bucket):
    job = waiting_job(service, bucket)
    tree(service.uploads / "photos", {"c": "3"})
    service.restart()
    assert service.show(job)["state"] == "waiting"
    page = service.get("/plan", id=job, limit="1")
    assert page.headers["content-type"].startswith("application/x-ndjson")
    assert page.headers["etag"] == f'"{service.show(job)["plan"]["etag"]}"'
    assert json.loads(page.body)["key"] == "a"
    assert (
        service.request("GET", "/plan", {"id": job}, headers={"If-None-Match": page.headers["etag"]}).status
        == 304
    )
    assert service.get("/approve", id=job, etag="0" * 64).problem["code"] == "PlanChanged"
    assert [s["id"] for s in service.get("/jobs", state="waiting").json()["jobs"]] == [job]
    assert 'syncworker_jobs{state="waiting"} 1.0' in service.get("/metrics").body.decode()
    assert service.get("/approve", id=job, etag=page.headers["etag"]).status == 202
    assert service.wait_state(job, "done")["attempt"] == 2
    assert service.get("/plan", id=job).status == 200


def test_a_waiting_job_is_cancelled_by_its_sentinel(service, juicefs, bucket):
    job = waiting_job(service, bucket)
    service.file(job, "cancel").touch()
    wait_for(lambda: service.status(job)["state"] == "cancelled", 20, "the server to see it")
    assert service.get("/approve", id=job).status == 409
    assert exists(juicefs, bucket)


def test_a_newer_job_of_the_same_aim_ends_an_older_one_that_waits(service, juicefs, bucket):
    first = waiting_job(service, bucket)
    other = service.sync(bucket, plan="1", exclude="*.tmp")
    service.wait_state(other, "waiting")
    assert service.show(first)["state"] == "waiting"
    second = service.sync(bucket, plan="1")
    service.wait_state(second, "waiting")
    ended = service.show(first)
    assert (ended["state"], ended["error"]["code"]) == ("cancelled", "Superseded")
    assert second in ended["error"]["message"]
    service.done(bucket)
    assert service.show(second)["error"]["code"] == "Superseded"
    assert service.show(other)["state"] == "waiting"


def test_a_waiting_job_is_kept_whatever_keep_jobs_says_and_its_keys_too(
    make_service, juicefs, bucket, make_bucket
):
    service = make_service(juicefs, KEEP_JOBS="1")
    keys = {
        "storage_url": f"{juicefs.url}/",
        "access_key": juicefs.access_key,
        "secret_key": juicefs.secret_key,
    }
    tree(service.uploads / "photos", {"a": "1"})
    job = service.sync(bucket, plan="1", **keys)
    service.wait_state(job, "waiting")
    assert service.file(job, "secret").exists()
    other = make_bucket(juicefs)
    first = service.done(other)["id"]
    service.done(other)
    service.done(other)
    wait_for(lambda: first not in service.ids(), 20, "an old job's files to go")
    assert service.show(job)["state"] == "waiting"
    assert service.get("/cancel", id=job).json()["state"] == "cancelled"
    assert not Path(service.file(job, "secret")).exists()


def test_a_worker_killed_at_its_deletions_goes_on_under_the_approved_plan_alone(mirror, juicefs):
    mirror.make({name: name for name in "abcdefg"})
    mirror.sync()
    mirror.make(dict.fromkeys("abcd"))
    status = planned(mirror, "--wait", "0.1")
    gate = Gate(mirror.proxy, lambda request: request.kind == "DELETE" and request.key in ("b", "c", "d"))
    worker = mirror.shell.spawn("approve", status["id"])
    gate.wait()
    worker.kill()
    worker.wait()
    gate.drop()
    mirror.make({"g": None})
    done = mirror.shell.run("resume", status["id"])
    found = mirror.shell.status(status["id"])
    assert (done.returncode, found["error"]["code"]) == (5, "PlanOutgrown"), found
    assert {"b", "c", "d", "e", "f", "g"} <= set(mirror.contents)
    assert approve(mirror, found).exit_status == 0
    assert set(mirror.contents) == {"e", "f"}


def test_an_object_that_is_overwritten_after_it_was_counted_is_not_in_the_plan_of_a_bucket(mirror, juicefs):
    mirror.make({"a": "1", "b": "22"})
    mirror.sync()
    shutil.rmtree(mirror.folder)
    status = planned(mirror)
    assert f"bucket {mirror.bucket} will be deleted" in status["message"]
    seen = []

    def hook(request):
        if "uploads" in request.query and not seen:  # the removal has begun: all was counted
            seen.append(request)
            juicefs.client().put_object(Bucket=mirror.bucket, Key="a", Body=b"of another hand")

    mirror.proxy.on_request(hook)
    run = approve(mirror, status)
    assert seen
    assert (run.status["state"], run.status["error"]["code"]) == ("waiting", "PlanOutgrown"), run.status
    assert mirror.contents["a"] == b"of another hand"


def test_what_of_a_bucket_was_deleted_before_an_object_came_is_counted_and_said(mirror, juicefs):
    mirror.make({"a": "1", "b": "22"})
    mirror.sync()
    shutil.rmtree(mirror.folder)
    status = planned(mirror)
    gone = []

    def hook(request):
        if gone and request.kind == "LIST":
            gone.clear()
            juicefs.client().put_object(Bucket=mirror.bucket, Key="c", Body=b"of another hand")
        elif request.kind == "DeleteObjects" or (request.method == "DELETE" and request.key):
            gone.append(request)

    mirror.proxy.on_request(hook)
    run = approve(mirror, status)
    assert (run.status["state"], run.status["error"]["code"]) == ("waiting", "PlanOutgrown"), run.status
    assert "2 objects of the plan were deleted before" in run.status["message"]
    assert run.status["progress"]["objects_deleted"] == 2
    assert set(mirror.contents) == {"c"}


@pytest.fixture
def flapping(mirror):
    """A file that is away when the folder is read, there when it is counted what is to go, and away again
    when that goes."""
    mirror.make({"a1": "1", "a2": "2", "z": "z", "keep": "k"})
    mirror.sync()
    mirror.make({"a1": None, "a2": None, "n": "new"})

    def hook(request):
        if request.method == "PUT" and request.key == "n":
            (mirror.folder / "z").write_bytes(b"z")
        if request.method == "DELETE" or request.kind == "DeleteObjects":
            (mirror.folder / "z").unlink(missing_ok=True)

    mirror.proxy.on_request(hook)
    return mirror


def test_a_file_that_was_there_when_it_was_counted_keeps_its_object_under_a_plan(flapping, juicefs):
    status = planned(flapping)
    flapping.make({"z": None})
    run = approve(flapping, status)
    assert run.status["state"] == "done", run.status
    assert "z" in flapping.contents
    assert run.status["progress"]["objects_deleted"] == 2


def test_a_file_that_was_there_when_it_was_counted_keeps_its_object_under_max_delete(flapping, juicefs):
    flapping.make({"z": None})
    run = flapping.start("--max-delete", "2")
    assert run.status["state"] == "done", run.status
    assert "z" in flapping.contents
    assert run.status["progress"]["objects_deleted"] == 2
