"""One job on several processes of this machine, for real: Dask, certificates, a storage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from bench import PROJECT, Mirror, Shell, assert_same, expected, tree, wait_for
from proxy import Request
from stores import Store, list_keys, list_uploads

from syncworker.cluster.member import Sealed
from syncworker.cluster.protocol import BATCH_FILES, WINDOW

SMALL = {f"d{n % 7}/f{n:04d}": f"content {n}" for n in range(900)}


def environment(**more: str) -> dict[str, str]:
    return {"CLUSTER": "local:2", "CLUSTER_MIN_FILES": "0", **more}


@pytest.fixture
def clustered(make_shell: Callable[..., Shell], juicefs: Store) -> Shell:
    return make_shell(juicefs, **environment())


def test_a_folder_goes_by_two_processes_and_the_second_time_nothing_goes(
    clustered: Shell, juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    folder = tree(clustered.uploads / "photos", SMALL)
    clustered.environment["TMPDIR"] = str(tmp_path)
    run = clustered.sync(bucket)
    assert os.listdir(tmp_path) == []  # nothing that others could have put there, nothing left
    assert listed(juicefs, bucket) == sums(folder)
    progress = run.status["progress"]
    assert progress["files_uploaded"] == progress["files_done"] == progress["files_total"] == len(SMALL)
    assert progress["bytes_done"] == progress["bytes_total"] == progress["bytes_uploaded"]
    assert sum(worker["files_done"] for worker in run.status["cluster"]["workers"]) == len(SMALL)
    assert len({line["key"] for line in clustered.report(run.status["id"]) if line["op"] == "upload"}) == 900
    assert run.status["metrics"]["requests"]["PutObject 200"] == len(SMALL)  # whichever process sent them
    again = clustered.sync(bucket).status
    assert again["progress"]["files_unchanged"] == len(SMALL)
    assert again["progress"]["files_uploaded"] == 0  # though some are read again: they were young
    assert not [name for name in os.listdir(clustered.jobs / ".dest") if name.endswith(".members")]


def sums(folder: Path) -> dict[str, str]:
    return {key: hashlib.md5(body).hexdigest() for key, body in expected(folder).items()}


def listed(store: Store, bucket: str) -> dict[str, str]:
    """Key and ETag of each object: the MD5 of what this store was given, and has checked."""
    return {key: str(found["ETag"]).strip('"') for key, found in list_keys(store.client(), bucket).items()}


def members_of(shell: Shell) -> list[psutil.Process]:
    """The living members of its jobs."""
    found = []
    for process in shell.workers():
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie by now
            found += [process] if "cluster" in process.cmdline() else []
    return found


def at_work(shell: Shell, job: str) -> list[int]:
    """The process ids of members that have a file in flight, by the job's status."""
    with contextlib.suppress(FileNotFoundError):
        members = (shell.status(job)["cluster"] or {}).get("workers", [])
        return [member["pid"] for member in members if member["in_flight"]]
    return []


def test_a_member_that_is_killed_costs_nothing_but_its_batches(mirror: Mirror) -> None:
    """One that is at work: one that is only starting has nothing. No file arrives before its death."""
    mirror.shell.environment |= environment()
    mirror.make({"old": "goes"})
    mirror.sync()
    mirror.make({"old": None, **{f"n/{n}": 5_000 for n in range(600)}})
    go_on = threading.Event()

    def hold(request: Request) -> None:
        if request.kind == "PUT":
            go_on.wait(90)

    mirror.proxy.on_request(hold)
    process, job = mirror.shell.begin(mirror.bucket)
    psutil.Process(wait_for(lambda: at_work(mirror.shell, job), 60, "a member at work")[0]).kill()
    go_on.set()
    assert process.wait(90) == 0, mirror.shell.log(job)
    assert_same(mirror.contents, expected(mirror.folder))
    status = mirror.shell.status(job)
    assert status["cluster"]["lost"] == 1
    assert 0 < status["cluster"]["resent"] <= WINDOW * BATCH_FILES
    assert status["progress"]["files_uploaded"] == 600
    assert status["progress"]["objects_deleted"] == 1
    uploads = [line["key"] for line in mirror.shell.report(job) if line["op"] == "upload"]
    assert len(uploads) == len(set(uploads)) == 600
    assert not members_of(mirror.shell)


def test_a_job_that_is_killed_leaves_no_member_and_no_folder_and_is_resumed(
    clustered: Shell, juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    clustered.environment["TMPDIR"] = str(tmp_path)
    folder = tree(clustered.uploads / "photos", {f"n/{n}": 20_000 for n in range(1500)})
    process, job = clustered.begin(bucket)
    took: list[float] = []  # a busy machine makes some of them late, not one of three earlier than it is
    while not took or (min(took) > 4 and len(took) < 3):
        if took:
            process = clustered.spawn("resume", job, "--quiet")
        wait_for(lambda: members_of(clustered), 60, "members")
        wait_for(lambda: list((clustered.jobs / ".dest").glob("*.members")), 60, "the note of members")
        process.kill()
        killed = time.monotonic()
        process.wait()
        wait_for(lambda: not members_of(clustered) and not os.listdir(tmp_path), 30, "the end of the members")
        took.append(time.monotonic() - killed)
    assert min(took) <= 4, took
    resumed = clustered.run("resume", job, "--quiet", timeout=90)
    assert resumed.returncode == 0, resumed.stderr
    assert listed(juicefs, bucket) == sums(folder)
    assert not list((clustered.jobs / ".dest").glob("*.members"))


def numbers(mirror: Mirror) -> set[int | None]:
    """Of the parts that were begun: what a storage does with a part is tried with the first one alone."""
    return {request.part for request in mirror.proxy.of_kind("UploadPart")}


@pytest.mark.long
@pytest.mark.parametrize("dies", [False, True], ids=["all live", "a member dies"])
def test_a_large_file_goes_by_all_of_them_and_is_completed_once(mirror: Mirror, *, dies: bool) -> None:
    """The small files come first: by the time that the large one is sent, members are there. Its later parts
    wait until a member, which has some of them, is dead."""
    mirror.shell.environment |= environment()
    mirror.make({**{f"a/{n}": "x" for n in range(300)}, "large": 96 << 20})
    go_on = threading.Event()

    def hold(request: Request) -> None:
        if request.kind == "UploadPart" and (request.part or 0) > 3:
            go_on.wait(90)

    mirror.proxy.on_request(hold)
    process, job = mirror.shell.begin(mirror.bucket)
    # Two at a time are the job's process's own.
    wait_for(lambda: len(numbers(mirror)) >= 6, 60, "parts on their way")
    if dies:
        psutil.Process(wait_for(lambda: at_work(mirror.shell, job), 60, "a member at work")[0]).kill()
    go_on.set()
    assert process.wait(90) == 0, mirror.shell.log(job)
    assert_same(mirror.contents, expected(mirror.folder))
    assert not list_uploads(mirror.store.client(), mirror.bucket)
    assert mirror.proxy.kinds()["CompleteMultipartUpload"] == 1
    status = mirror.shell.status(job)
    assert sum(worker["bytes_done"] for worker in status["cluster"]["workers"]) > 300 + (8 << 20)
    progress = status["progress"]
    assert progress["files_uploaded"] == 301
    assert progress["bytes_uploaded"] == progress["bytes_done"] == progress["bytes_total"] == 300 + (96 << 20)
    assert mirror.sync().progress["files_uploaded"] == 0


def test_a_job_that_is_killed_with_its_members_leaves_a_folder_that_the_next_one_removes(
    mirror: Mirror, tmp_path: Path
) -> None:
    shell = mirror.shell
    shell.environment |= environment(TMPDIR=str(tmp_path))
    mirror.make(SMALL)
    go_on = threading.Event()

    def hold(request: Request) -> None:
        if request.kind == "PUT":  # so that the job does not end before its members are there
            go_on.wait(90)

    mirror.proxy.on_request(hold)
    process, job = shell.begin(mirror.bucket)
    members = wait_for(lambda: len(found := members_of(shell)) == 2 and found, 60, "members")
    for each in members:
        each.suspend()  # so that they cannot tidy up
    process.kill()
    process.wait()
    for each in members:
        each.kill()
    go_on.set()
    assert os.listdir(tmp_path)
    assert shell.run("resume", job, "--quiet", timeout=90).returncode == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("is_there", [False, True], ids=["new", "changed"])
def test_a_large_file_that_is_all_there_is_goes_by_members_too(mirror: Mirror, *, is_there: bool) -> None:
    """Its later parts wait until members have some: two at a time are the job's process's own."""
    if is_there:
        mirror.make({"large": 64 << 20})
        mirror.sync()
    mirror.shell.environment |= environment()
    mirror.make({"large": 64 << 20})
    go_on = threading.Event()

    def hold(request: Request) -> None:
        if request.kind == "UploadPart" and (request.part or 0) > 2:
            go_on.wait(90)

    mirror.proxy.reset()
    mirror.proxy.on_request(hold)
    process, job = mirror.shell.begin(mirror.bucket)
    wait_for(lambda: len(numbers(mirror)) >= 5, 60, "parts of members on their way")
    go_on.set()
    assert process.wait(90) == 0, mirror.shell.log(job)
    assert sum(worker["bytes_done"] for worker in mirror.shell.status(job)["cluster"]["workers"]) > 0
    assert_same(mirror.contents, expected(mirror.folder))
    assert mirror.proxy.kinds()["CompleteMultipartUpload"] == 1


def test_a_cancel_reaches_the_members(clustered: Shell, bucket: str) -> None:
    tree(clustered.uploads / "photos", {f"n/{n}": 20_000 for n in range(3000)})
    process, job = clustered.begin(bucket)
    wait_for(lambda: list((clustered.jobs / ".dest").glob("*.members")), 60, "the note of members")
    clustered.file(job, "cancel").touch()
    assert process.wait(30) == 3
    assert clustered.status(job)["state"] == "cancelled"
    assert not members_of(clustered)
    assert not list((clustered.jobs / ".dest").glob("*.members"))


def test_keys_are_in_no_argument_no_environment_of_ours_and_no_output(
    make_shell: Callable[..., Shell], juicefs: Store, bucket: str
) -> None:
    """Those that a job was given with its request: its members hear them, and nothing else has them."""
    shell = make_shell(juicefs, **environment(MINIO_ACCESS_KEY="other", MINIO_SECRET_KEY="otherother"))
    shell.environment |= {"SYNC_ACCESS_KEY": juicefs.access_key, "SYNC_SECRET_KEY": juicefs.secret_key}
    tree(shell.uploads / "photos", SMALL)
    run = shell.sync(bucket, "photos", "--storage-url", juicefs.url)
    assert run.status["cluster"]["workers"]
    secret = juicefs.secret_key
    assert secret not in run.out + run.err + json.dumps(run.status)
    assert repr(Sealed(secret.encode())) == "<request>"


def test_without_a_cluster_none_of_it_is_imported(make_shell: Callable[..., Shell], bucket: str) -> None:
    code = (
        "import sys; from syncworker.shell.cli import main; status = main(sys.argv[1:]);"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('dask', 'distributed', 'tornado')"
        " or m.startswith('syncworker.cluster'))); sys.exit(status)"
    )
    shell = make_shell(None)
    run = subprocess.run(
        [sys.executable, "-c", code, "list"],
        cwd=PROJECT, env=shell.environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("tcp://127.0.0.1:8786", "use tls://"),
        ("local:0", "must be local:N"),
        ("tls://host", "must be local:N"),
        ("tls://host:8786", "needs CLUSTER_TLS_CA"),
    ],
)
def test_a_cluster_that_would_be_open_to_others_is_refused(
    make_shell: Callable[..., Shell], value: str, says: str
) -> None:
    run = make_shell(None, CLUSTER=value).run("list")
    assert run.returncode == 2
    assert says in run.stderr
