"""The disk of the job directory: full, read-only, gone while a job runs; and the index, harmed in each way.

The disks are real ones of memory, mounted by the tests (as root). The bucket never loses anything by it, and
the job says what is wrong, or does without.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Gate, another_process, assert_same, contents, expected, fill, tree
from truth import check_truth

_LIBC = ctypes.CDLL(None, use_errno=True)
_READ_ONLY, _REMOUNT, _DETACH = 1, 32, 2


class Disk:
    """A small disk of memory at `path`, until it is taken away."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        self._mount(0, f"size={size},mode=700")

    def _mount(self, flags: int, options: str) -> None:
        made = _LIBC.mount(b"none", os.fsencode(self.path), b"tmpfs", flags, options.encode())
        assert made == 0, f"mount: {os.strerror(ctypes.get_errno())} (these tests need root)"

    def fill(self, but: int = 0) -> Path:
        """Takes all space but so many bytes; the file to remove to have it back."""
        filler = self.path / "filler"
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - but)
        return filler

    def read_only(self, on: bool = True) -> None:
        self._mount(_REMOUNT | (_READ_ONLY if on else 0), "")

    def take_away(self) -> None:
        _LIBC.umount2(os.fsencode(self.path), _DETACH)


@pytest.fixture
def site(make_shell, make_proxy, juicefs, bucket) -> Iterator[tuple]:
    """A shell whose job directory is a disk of its own, a proxy, and a bucket with something old in it."""
    proxy = make_proxy(juicefs)
    shell = make_shell(juicefs, STORAGE_URL=proxy.url)
    disk = Disk(shell.jobs, "2m")
    tree(shell.uploads, {"photos": {f"f{n:03}": f"{n}" for n in range(50)}, "other": {"x": "1"}})
    fill(juicefs, bucket, {"old": b"x"})
    try:
        yield shell, disk, proxy
    finally:
        shell.close()
        disk.take_away()


def test_a_disk_that_gets_full_fails_the_job_which_says_so_and_is_resumed(site, juicefs, bucket):
    shell, disk, proxy = site
    process, job = slow_job(shell, proxy, bucket)
    filler = disk.fill()
    assert process.wait(60) == 1, "failed, and not refused"
    status = shell.status(job)
    assert (status["state"], status["error"]["code"]) == ("failed", "LocalError")
    assert "no space" in status["error"]["message"]
    assert "old" in contents(juicefs, bucket), "nothing is deleted by a job that failed"
    filler.unlink()
    assert shell.run("resume", job).returncode == 0
    assert_same(contents(juicefs, bucket), expected(shell.uploads / "photos"))
    check_truth(shell.jobs)


def test_a_disk_that_is_full_when_all_is_done_still_has_room_for_the_last_word(site, juicefs, bucket):
    """What fails is the report, and the status says so: `done`, because the bucket equals the folder."""
    shell, disk, proxy = site
    gate = Gate(proxy, lambda r: r.kind in ("DELETE", "DeleteObjects"))
    process, job = shell.begin(bucket)
    gate.wait()
    before = shell.status(job)
    disk.fill()
    gate.open()
    assert process.wait(60) in (0, 1)
    status = shell.status(job)
    assert status["state"] in ("done", "failed"), "the end is told, though the disk is full"
    assert status["updated_at"] > before["updated_at"]
    if status["state"] == "done":
        assert_same(contents(juicefs, bucket), expected(shell.uploads / "photos"))
    else:
        assert "no space" in status["error"]["message"]


def test_a_disk_that_gets_full_while_a_deletion_waits_for_its_answer_is_what_the_status_names(site, bucket):
    """The job closes its connections then: the request that is lost by it is not what went wrong."""
    shell, disk, proxy = site
    gate = Gate(proxy, lambda r: r.kind in ("DELETE", "DeleteObjects"))
    process, job = shell.begin(bucket)
    try:
        gate.wait()
        disk.fill()
        assert process.wait(60) == 1
    finally:
        gate.open()
    error = shell.status(job)["error"]
    assert error["code"] == "LocalError", error
    assert "no space" in error["message"]


def test_a_full_disk_takes_no_new_job_and_the_server_says_why(make_service, juicefs, bucket):
    service = make_service(juicefs, start=False)
    disk = Disk(service.jobs, "2m")
    try:
        tree(service.uploads, {"photos": {"a": "1"}})
        service.start()
        done = service.done(bucket)["id"]
        filler = disk.fill()
        reply = service.get("/sync", source="photos", dest=bucket)
        assert reply.status == 500
        assert "No space left" in reply.problem["detail"]
        assert service.show(done)["state"] == "done"
        assert service.get("/runnings").json()["count"] == 0
        assert service.get("/healthz").status == 200
        filler.unlink()
        assert service.done(bucket)["state"] == "done"
    finally:
        service.close()
        disk.take_away()


def test_a_read_only_disk_refuses_a_job_in_a_sentence_and_shows_the_old_ones(site, bucket):
    shell, disk, _proxy = site
    job = shell.sync(bucket).status["id"]
    disk.read_only()
    refused = shell.run("start", "--source", "photos", "--dest", bucket)
    assert refused.returncode == 2
    assert "Read-only file system" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert "done" in shell.run("show", job).stdout
    assert shell.run("list", "--all").returncode == 0
    disk.read_only(False)
    shell.sync(bucket)


def test_a_server_with_a_read_only_job_directory_does_not_start_and_says_why(make_service, juicefs):
    service = make_service(juicefs, start=False)
    disk = Disk(service.jobs, "2m")
    try:
        disk.read_only()
        assert service.spawn().wait(20) == 2
        assert "Read-only file system" in service.output()
    finally:
        disk.take_away()


def removed(disk: Disk) -> None:
    for path in disk.path.rglob("*"):
        if not path.is_dir():
            path.unlink()


def taken_away(disk: Disk) -> None:
    disk.take_away()


def closed(disk: Disk) -> None:
    disk.path.chmod(0o500)


@pytest.mark.parametrize("harm", [removed, taken_away, closed])
def test_a_job_whose_directory_is_gone_deletes_nothing_and_ends_and_another_one_mends_it(
    site, juicefs, bucket, harm
):
    shell, disk, proxy = site
    shell.tampered = harm is not closed  # its report begins in the middle
    process, job = slow_job(shell, proxy, bucket)
    harm(disk)
    status = process.wait(60)
    assert status in (0, 1, 2), "it ends by itself"
    found = contents(juicefs, bucket)
    wanted = expected(shell.uploads / "photos")
    assert all(found[key] == wanted.get(key, b"x") for key in found), "no wrong byte"
    if status == 0:
        assert_same(found, wanted)
    else:
        assert "old" in found, "nothing was deleted"
    disk.path.chmod(0o700)
    shell.sync(bucket)
    assert_same(contents(juicefs, bucket), wanted)
    if harm is closed:
        assert shell.status(job)["state"] in ("failed", "interrupted", "done")


def slow_job(shell, proxy, bucket):
    """A job in its tenth of fifty files, that needs seconds to its end: the status is due many times."""
    gate = Gate(proxy, lambda r: r.kind == "PUT" and r.key == "f010")
    process, job = shell.begin(bucket, "photos", "--wait", "0.05")
    gate.wait()
    gate.open()
    return process, job


# -- the index ---------------------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def corrupted(path: Path) -> None:
    """Pages in the middle are rubbish, the head is whole."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.execute("DROP TABLE facts")
    db.close()


@pytest.mark.parametrize("harm", [corrupted, cut, newer])
def test_a_harmed_index_costs_no_byte_and_is_whole_after_the_job(mirror, harm):
    mirror.make({**{f"f{n:03}": f"{n}" for n in range(300)}, "sub/large": 9 << 20})
    mirror.twice()
    (path,) = (mirror.shell.jobs / ".index").glob("*.sqlite")
    harm(path)
    run = mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}, "what the bucket has is found by reading, and not sent"
    assert run.progress["files_unchanged"] == 301
    mirror.make({"f000": "changed", "f299": None})
    mirror.twice()


def test_an_index_that_another_process_keeps_locked_is_done_without(mirror):
    mirror.make({f"f{n:03}": f"{n}" for n in range(20)})
    mirror.twice()
    (path,) = (mirror.shell.jobs / ".index").glob("*.sqlite")
    with another_process(HOLDER, str(path)):
        mirror.make({"f000": "changed", "f019": None})
        mirror.sync()
        assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["f000"]
    mirror.twice()
