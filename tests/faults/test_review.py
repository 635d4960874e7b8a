"""Found by looking for ways to lose data, to hang or to lie; each test fails without its repair."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import Answer, Gate, fill, s3_error, wait_for
from serving import PROJECT
from shapes import check_status

from syncworker.folder.scan import scan
from syncworker.folder.uploads_root import Tree, devices_in_memory, is_local
from syncworker.jobs.store import Jobs
from syncworker.model import FileEntry, State
from syncworker.plan import compare
from syncworker.plan.compare import Candidate
from syncworker.request import Request
from syncworker.system import durable_files
from syncworker.system.stop_token import StopToken
from syncworker.transfer.blocking_keys import Obstacles
from syncworker.transfer.readers import read_cached
from syncworker.worker.dispatch import Dispatch

MIB = 1 << 20
MOTO = pytest.mark.parametrize("store", ["moto"], indirect=True)


def test_an_upload_taken_up_for_another_content_does_not_carry_the_md5_of_the_first(mirror):
    """Its metadata was sent when it began; a later sync would believe it and not send the first content."""
    first, second = b"a" * (20 * MIB), b"b" * (20 * MIB)
    mirror.make({"big": b"c" * (20 * MIB)})
    mirror.sync()
    mirror.make({"big": first})
    gate = Gate(mirror.proxy, lambda r: r.kind == "UploadPart" and r.part == 2)
    process, _job = mirror.shell.begin(mirror.bucket)
    gate.wait()
    process.kill()
    process.wait(10)
    gate.drop()
    mirror.make({"big": second})
    mirror.sync()
    mirror.make({"big": first})
    mirror.sync()


def test_a_file_that_changes_between_comparing_and_sending_does_not_carry_its_old_md5(mirror):
    first, second = b"a" * (20 * MIB), b"b" * (20 * MIB)
    mirror.make({"big": b"c" * (20 * MIB)})
    mirror.sync()
    mirror.make({"big": first})

    def change(request):
        if request.kind == "HEAD":
            mirror.make({"big": second})

    mirror.proxy.on_request(change)
    mirror.sync()
    mirror.proxy.clear_hooks()
    mirror.make({"big": first})
    mirror.sync()


@MOTO
def test_an_upload_that_failed_here_clears_nothing_out_of_its_way(mirror, store):
    """An object in the way is deleted early only when it was the store that refused."""
    mirror.make({"x": "1"})
    mirror.sync()
    mirror.make({"x": None})
    mirror.make({"x/big": b"0" * (20 * MIB)})
    turns = iter(range(100))

    def change(request):
        if request.kind == "UploadPart" and request.part == 2:
            mirror.make({"x/big": bytes([next(turns)]) * (20 * MIB)})

    mirror.proxy.on_request(change)
    run = mirror.start()
    assert run.exit_status == 1
    assert [error["code"] for error in run.status["errors"]] == ["ChangedWhileReading"]
    assert not mirror.proxy.of_kind("DELETE", "DeleteObjects")
    assert mirror.contents == {"x": b"1"}


def test_a_refused_upload_is_told_at_once_and_also_when_the_job_is_cancelled(mirror):
    mirror.make({"a": "1", "b": "2", "c": "3"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.key == "a" else None)
    process, job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "30")
    mirror.shell.wait_file(job, lambda s: s["progress"]["files_failed"] == 1 and s["errors"], 10)
    assert mirror.shell.run("cancel", job).returncode == 0
    assert process.wait(10) == 3
    assert [line["error"]["code"] for line in mirror.shell.report(job) if "error" in line] == ["AccessDenied"]


def cancel_during(mirror, kind, *options):
    """A job is cancelled at once while such a request of it is held up, and ends `cancelled`."""
    gate = Gate(mirror.proxy, lambda r: r.kind == kind)
    process, job = mirror.shell.begin(mirror.bucket, "photos", *options)
    gate.wait()
    assert mirror.shell.run("cancel", "--now", job).returncode == 0
    assert process.wait(20) == 3
    assert mirror.shell.status(job)["state"] == "cancelled"
    gate.drop()


def test_a_cancel_while_the_bucket_is_being_deleted_is_no_failure(mirror):
    mirror.make({"a": "1"})
    mirror.sync()
    mirror.make({"a": None})
    cancel_during(mirror, "DeleteBucket")


def test_a_cancel_while_the_last_object_is_being_deleted_is_no_failure(mirror):
    mirror.make({"a": "1", "b": "2"})
    mirror.sync()
    mirror.make({"a": None})
    cancel_during(mirror, "DELETE", "--wait", "0.1")


def test_a_fatal_error_does_not_wait_for_what_is_tried_again(mirror):
    mirror.make({"full": b"1" * (2 * MIB), "slow": b"2" * (2 * MIB)})

    def hook(request):
        if request.kind != "PUT":
            return None
        if request.key == "slow":
            slow.set()
            return s3_error(503, "SlowDown")
        slow.wait(10)
        return s3_error(403, "QuotaExceeded")

    slow = threading.Event()
    mirror.proxy.on_request(hook)
    run = mirror.start(timeout=400)
    assert run.status["error"]["code"] == "QuotaExceeded"
    assert run.progress["elapsed_seconds"] < 20


def test_an_endless_error_code_leaves_the_status_readable(mirror):
    mirror.make({f"f{n}": "x" for n in range(120)})
    body = f"<Error><Code>{'A' * 100_000}</Code><Message>m</Message></Error>".encode()
    mirror.proxy.on_request(lambda r: Answer(400, {}, body) if r.kind == "PUT" else None)
    run = mirror.start()
    check_status(run.status)
    assert run.status["state"] == "failed"
    size = mirror.shell.file(run.status["id"], "json").stat().st_size
    assert size < 1 << 20, size


def test_a_file_that_grows_while_it_is_sent_is_counted_once(mirror):
    mirror.make({"big": b"0" * (20 * MIB)})
    sizes = iter([21, 22])

    def grow(request):
        if request.kind == "CreateMultipartUpload":
            size = next(sizes, None)
            if size is not None:
                mirror.make({"big": b"1" * (size * MIB)})

    mirror.proxy.on_request(grow)
    run = mirror.sync()
    assert run.progress["bytes_total"] == run.progress["bytes_done"] == 22 * MIB


def test_deep_keys_of_a_stranger_are_noted_in_bounded_memory():
    noted = Obstacles()
    tracemalloc.start()
    for number in range(2000):
        noted.note_remote_only(f"{number:05}/" + "d/" * 509)
    used, _peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 100 * MIB, used
    assert noted.below("00000/d")


def test_a_file_overwritten_while_a_part_is_on_its_way_is_sent_anew(mirror):
    """The store refuses the part, whose bytes are not what its MD5 says; the file is at fault."""
    mirror.make({"big": b"0" * (40 * MIB)})
    changed = []

    def overwrite(request):
        if request.part == 2 and not changed:
            changed.append(True)
            with (mirror.folder / "big").open("r+b") as file:
                file.write(b"1" * (40 * MIB))

    mirror.proxy.on_request(overwrite)
    mirror.sync()
    assert changed
    assert set(mirror.contents["big"]) == set(b"1")


SLOW_NAMES = """
import socket, threading, time
real = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if threading.current_thread() is threading.main_thread():
        return real("127.0.0.1", *rest, **options)
    time.sleep(60)
    raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
socket.getaddrinfo = getaddrinfo
"""


def test_a_name_server_that_does_not_answer_holds_up_no_cancel(mirror, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SLOW_NAMES)
    mirror.make({"a": "1"})
    mirror.shell.environment |= {"PYTHONPATH": str(tmp_path), "STORAGE_URL": "http://storage.example:9"}
    process, job = mirror.shell.begin(mirror.bucket)
    mirror.shell.wait_file(job, lambda status: status["phase"] == "comparing")
    assert mirror.shell.run("cancel", job).returncode == 0
    assert process.wait(20) == 3
    assert mirror.shell.status(job)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("mounts", "local"),
    [
        ("/ ext4", True),
        ("/ ext4, /srv/up fuse.sshfs", False),
        ("/ nfs4, /srv/up xfs", True),
        ("/ nfs4, /srv xfs", True),
        ("/ ext4, /srv/up/photos nfs4", False),
        ("/ ext4, /srv/upper nfs4", True),
        ("/ ext4, /srv/up\\040x nfs4", True),
        ("/ ext4, /srv/up ext4, /srv/up cifs", False),
        ("/ 9p", False),
        ("", False),
    ],
)
def test_only_on_disks_of_this_machine_are_files_read_in_the_loop(tmp_path, mounts, local):
    """Elsewhere a server that is away would hold up the loop, and with it the status and the cancel."""
    lines = [m.split(" ") for m in mounts.split(", ") if m]
    text = "".join(f"36 35 98:0 / {point} rw master:1 - {kind} src rw\n" for point, kind in lines)
    (tmp_path / "mountinfo").write_text(text)
    assert is_local("/srv/up", str(tmp_path / "mountinfo")) is local
    assert not is_local("/srv/up", str(tmp_path / "none"))


def test_a_file_in_memory_is_read_in_the_loop_though_the_kernel_cannot_be_asked(tmp_path):
    """tmpfs answers EOPNOTSUPP to RWF_NOWAIT: by the pool of threads, a small file costs twice as much."""
    lines = ["25 1 0:23 / / rw - ext4 src rw", "36 35 0:31 / /dev/shm rw master:1 - tmpfs src rw", "odd"]
    (tmp_path / "mountinfo").write_text("\n".join(lines[:2]))
    assert devices_in_memory(str(tmp_path / "mountinfo")) == {os.makedev(0, 31)}
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    assert devices_in_memory(str(tmp_path / "mountinfo")) == {os.makedev(0, 31)}
    assert devices_in_memory(str(tmp_path / "none")) == frozenset()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder, "a").write_bytes(b"body")
        with Tree(folder) as tree:
            entry = next(item for item in scan(tree, "", lambda: False) if isinstance(item, FileEntry))
            work = Candidate(entry, None, None, compare.Decision(compare.Verdict.UPLOAD, compare.Reason.NEW))
            found = read_cached(tree, work, True)
    assert found is not None
    assert found.body == b"body"


FULL_DISK = """
import resource, sys
from syncworker.errors import FileError
from syncworker.jobs.store import Jobs
from syncworker.jobs.progress import Progress
from syncworker.plan.compare import Candidate; from syncworker.transfer.readers import read_cached
from syncworker.folder.scan import scan
from syncworker.folder.source import Source
from syncworker.request import Request
jobs = Jobs(sys.argv[1])
jobs.prepare()
status = jobs.create(Request("photos", "mybucket", "http://127.0.0.1:9", 0.0))
progress = Progress(jobs, status)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
progress.failed("upload", "a", FileError("Code", "why"))
progress.report.flush()
for number in range(20):
    progress.failed("upload", f"b{number}", FileError("Code", "why"))
try:
    progress.report.flush()
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(open(jobs.file(status["id"], "report.jsonl")).read(), end="-\\n")
    progress.report.close()
    print(open(jobs.file(status["id"], "report.jsonl")).read(), end="")
"""


def test_a_full_disk_leaves_whole_lines_in_the_report_and_none_twice(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "jobs")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    before, after = found.stdout.split("-\n")
    assert [json.loads(line)["key"] for line in before.splitlines()] == ["a"]
    assert [json.loads(line)["key"] for line in after.splitlines()] == ["a", *(f"b{n}" for n in range(20))]


def test_a_job_whose_worker_died_of_a_full_disk_is_shown_as_interrupted(tmp_path, monkeypatch):
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    status = jobs.create(Request("photos", "mybucket", "http://127.0.0.1:9", 0.0))
    status["state"] = State.RUNNING.value
    jobs.write(status, durable=False)

    def full(*_values, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(durable_files, "replace_bytes", full)
        assert [shown["state"] for shown in jobs.all()] == ["interrupted"]
        assert jobs.active() == []
    assert jobs.observe(status["id"])["state"] == "interrupted"
    assert Jobs(jobs.path).read(status["id"])["state"] == "interrupted"


def test_what_is_sent_after_a_pause_is_the_file_as_it_is_by_then(mirror):
    mirror.make({"a": "1", "b": "old", "c": "gone", "d": b"0" * (9 * MIB)})
    process, job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "2")
    mirror.shell.wait_file(job, lambda s: s["progress"]["files_uploaded"] == 1, 20)
    mirror.make({"b": "younger", "c": None, "d": ""})
    assert process.wait(60) == 0
    assert mirror.contents == {"a": b"1", "b": b"younger", "d": b""}
    progress = mirror.shell.status(job)["progress"]
    assert (progress["files_uploaded"], progress["files_skipped"]) == (3, 1)
    assert progress["bytes_done"] == progress["bytes_total"]
    assert mirror.sync().progress["files_unchanged"] == 3


def test_after_a_fatal_error_no_further_part_of_a_large_file_is_sent(mirror):
    mirror.make({"large": b"1" * (100 * MIB), "small": "2"})
    refused = threading.Event()

    def refuse(request):
        if request.kind != "PUT" or request.key != "small":
            return None
        gate.arrived.wait(20)
        refused.set()
        return s3_error(403, "QuotaExceeded")

    gate = Gate(mirror.proxy, lambda r: r.kind == "UploadPart")
    mirror.proxy.on_request(refuse)
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait()
    assert refused.wait(20)
    wait_for(lambda: all(request.finished for request in mirror.proxy.of_kind("PUT")), 20, "its answer")
    gate.open()
    assert process.wait(30) == 1
    assert mirror.shell.status(job)["error"]["code"] == "QuotaExceeded"
    assert len(mirror.proxy.of_kind("UploadPart")) <= 6


@MOTO
def test_a_head_that_fails_for_ever_is_no_reason_to_send_nothing(mirror, store):
    mirror.make({"a": "new content", "b": "x"})
    fill(store, mirror.bucket, {"a": b"old content"})
    mirror.proxy.on_request(lambda r: Answer(500, {}, b"") if r.kind == "HEAD" and r.key == "a" else None)
    assert mirror.sync().progress["files_uploaded"] == 2
    assert mirror.proxy.of_kind("HEAD")


class Given(Dispatch):
    """Hands out what the test says that the planner has found."""

    def __init__(self, *batches):
        self.given, self.handed_out = batches, []
        self.stop = StopToken(SimpleNamespace(stopping=lambda: False))
        self.wait_seconds, self.obstacles = 0.0, Obstacles()
        self.plans, self.is_after_changes = SimpleNamespace(is_plan=False), False
        self.sending, self.elsewhere = SimpleNamespace(open_lanes=lambda: self), None

    async def put(self, group):
        self.handed_out.append([work.file.key for work in group])

    async def finish(self):
        self.is_finished = True

    def dispatch(self):
        async def all_of_it():
            events = asyncio.Queue()
            self.planning = SimpleNamespace(events=events)
            for batch in (*self.given, None):
                events.put_nowait(batch)
            await self.run()
            assert events.empty() and self.is_finished

        asyncio.run(all_of_it())


def to_send(key, size):
    new = compare.Decision(compare.Verdict.UPLOAD, compare.Reason.NEW)
    return "work", Candidate(FileEntry(key, size, 1, 1, 1, key), None, None, new)


def test_a_file_that_is_long_to_read_holds_up_no_other():
    given = Given([to_send("a", 10), to_send("b", 8 * MIB + 1), to_send("c", 10)])
    given.dispatch()
    assert given.handed_out == [["b"], ["a", "c"]]


def test_a_disk_full_of_reports_ends_the_job_and_not_the_listening():
    given = Given([("skip", None), to_send("a", 1)], [to_send("b", 1)])
    full = OSError(errno.ENOSPC, "full")
    given.progress = SimpleNamespace(found=lambda *_: (_ for _ in ()).throw(full))
    given.dispatch()
    assert given.stop.fatal is full
    assert not given.handed_out
