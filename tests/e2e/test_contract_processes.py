"""CONTRACT §1, the processes: what is left after `kill -9` of anything at any moment, and who finds it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import threading
import time
from collections import Counter
from datetime import datetime

import psutil
import pytest
from bench import FINAL, Gate, assert_same, contents, exists, expected, fill, remove, tree, wait_for
from shapes import GROWING, check_report, check_status
from stores import list_uploads

MIB = 1 << 20
NOTICED_SECONDS = 1.5  # of a second, the rest for who asks


@pytest.fixture
def proxy(juicefs, make_proxy):
    return make_proxy(juicefs)


@pytest.fixture
def server(make_service, juicefs, proxy):
    """A server that reaches its store through the proxy, and three files."""
    service = make_service(juicefs, STORAGE_URL=proxy.url)
    tree(service.uploads, {"photos": {"a": "1", "b": "22", "d/c": "333"}})
    return service


@pytest.fixture
def files(server):
    return expected(server.uploads / "photos")


def is_locked(path):
    """Whether a process holds this lock: asked with a shared lock, given back at once."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def held_job(service, proxy, bucket, matches=lambda request: request.kind == "PUT", **parameters):
    """A job whose first such request is held: (id, gate, status)."""
    gate = Gate(proxy, matches)
    job = service.sync(bucket, **parameters)
    gate.wait()
    return job, gate, service.wait_file(job, lambda s: s["state"] == "running")


def has_ended(worker):
    try:
        return worker.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# -- the files --------------------------------------------------------------------------------------------


def test_a_worker_is_one_process_in_its_own_session_that_holds_its_lock(server, proxy, files, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    worker = psutil.Process(status["pid"])
    assert worker.cmdline()[-2:] == ["run", job]
    assert status["pid_started_at"] == pytest.approx(worker.create_time(), abs=0.05)
    assert os.getsid(worker.pid) == worker.pid != os.getsid(server.process.pid)
    assert {os.sched_getscheduler(thread.id) for thread in worker.threads()} == {os.SCHED_BATCH}
    assert os.sched_getscheduler(server.process.pid) == os.sched_getscheduler(0)
    assert is_locked(server.file(job, "lock"))
    gate.open()
    assert server.wait_state(job)["state"] == "done"
    wait_for(lambda: has_ended(worker))
    assert not is_locked(server.file(job, "lock"))


def test_a_status_read_in_a_tight_loop_is_always_whole_and_never_goes_back(shell, juicefs, bucket):
    tree(shell.uploads, {"photos": {f"d{n % 9}/f{n:04}": "x" * (n * 7 % 900) for n in range(700)}})
    process, job = shell.begin(bucket)
    path = shell.file(job, "json")
    reads, inodes, updates = 0, set(), []
    last = None
    while process.poll() is None:
        raw = path.read_bytes()
        reads += 1
        status = json.loads(raw)  # torn JSON fails here
        inodes.add(os.stat(path).st_ino)
        if last is not None and status["attempt"] == last["attempt"]:
            for name in GROWING:
                assert status["progress"][name] >= last["progress"][name], name
        if last is None or status["updated_at"] != last["updated_at"]:
            check_status(status)
            updates.append((datetime.fromisoformat(status["updated_at"]), status["state"], status["phase"]))
        last = status
    assert reads > 50
    last = shell.status(job)
    assert last["state"] == "done"
    seconds = (updates[-1][0] - updates[0][0]).total_seconds()
    changes = len({(state, phase) for _time, state, phase in updates})
    assert len(updates) <= 4 * seconds + changes + 3, "at most four times a second between changes of state"
    assert not [p.name for p in shell.jobs.iterdir() if "tmp" in p.name.lower()]


def test_a_status_is_renewed_every_two_seconds_while_nothing_happens(server, proxy, files, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    seen = [datetime.fromisoformat(status["updated_at"])]

    def look():
        """For four seconds. What the machine holds up once, it does not hold up for ever."""
        now = datetime.fromisoformat(server.status(job)["updated_at"])
        if now != seen[-1]:
            seen.append(now)
            if (now - seen[-2]).total_seconds() > 2.3:
                del seen[:-1]
        return (now - seen[0]).total_seconds() > 4.5

    wait_for(look, 40, "the status to be renewed every two seconds")
    gate.open()
    server.wait_state(job)


def test_a_report_is_whole_lines_at_every_moment(shell, bucket):
    tree(shell.uploads, {"photos": {f"f{n:04}": "x" for n in range(300)}})
    process, job = shell.begin(bucket)
    path = shell.file(job, "report.jsonl")
    while process.poll() is None:
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")[0]
            check_report([json.loads(line) for line in whole.splitlines()])
    report = shell.report(job)
    assert Counter(line["op"] for line in report) == {"create_bucket": 1, "upload": 300}
    body = hashlib.md5(b"x").hexdigest()
    assert {line["etag"].strip('"') for line in report if line["op"] == "upload"} == {body}


# -- kill -9 of the worker --------------------------------------------------------------------------------

MOMENTS = {
    "before the listing": lambda r: r.kind == "LIST",
    "while the bucket is made": lambda r: r.kind == "CreateBucket",
    "in the first upload": lambda r: r.kind == "PUT",
    "in a small file in the middle": lambda r: r.kind == "PUT" and r.key == "m05",
    "at the beginning of a large file": lambda r: r.kind == "CreateMultipartUpload",
    "within a large file": lambda r: r.kind == "UploadPart" and r.part == 2,
    "at the end of a large file": lambda r: r.kind == "CompleteMultipartUpload",
    "while it deletes": lambda r: r.kind in ("DeleteObjects", "DELETE"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_killed_at_any_moment_is_noticed_and_resumed_to_the_same_bucket(
    server, proxy, juicefs, bucket, moment
):
    small = {f"m{number:02}": f"{number}" for number in range(10)}
    tree(server.uploads, {"photos": {**small, "big": 20 * MIB}})
    if moment != "while the bucket is made":
        fill(juicefs, bucket, {"old1": b"x", "old2": b"y", "m03": b"stale"})
    job, gate, status = held_job(server, proxy, bucket, MOMENTS[moment])
    os.kill(status["pid"], signal.SIGKILL)
    status = server.wait_state(job)
    gate.drop()
    check_status(status)
    assert (status["state"], status["attempt"]) == ("interrupted", 1)
    assert server.status(job)["state"] == "interrupted"
    assert server.get("/runnings").json()["count"] == 0
    assert server.get("/resume", id=job).status == 202
    status = server.wait_state(job)
    assert (status["state"], status["attempt"], status["id"]) == ("done", 2, job)
    assert_same(contents(juicefs, bucket), expected(server.uploads / "photos"))
    assert list_uploads(juicefs.client(), bucket) == []
    again = server.done(bucket)
    assert (again["progress"]["files_uploaded"], again["progress"]["objects_deleted"]) == (0, 0)


@pytest.mark.parametrize("is_adopted", [False, True], ids=["its own", "adopted"])
def test_the_server_notices_the_death_of_a_worker_within_a_second(server, proxy, files, bucket, is_adopted):
    """The quickest of five counts: a busy machine is late now and then, a server that looks seldom always."""
    took = []
    while len(took) < 5 and min(took, default=NOTICED_SECONDS) >= NOTICED_SECONDS:
        job, gate, status = held_job(server, proxy, bucket)
        if is_adopted:
            server.restart()
        os.kill(status["pid"], signal.SIGKILL)
        began = time.monotonic()
        assert server.wait_state(job)["state"] == "interrupted"
        took.append(time.monotonic() - began)
        gate.drop()
    assert min(took) < NOTICED_SECONDS, took


@pytest.mark.parametrize("kind", ["DELETE", "DeleteObjects", "DeleteBucket", "ListMultipartUploads"])
def test_a_worker_killed_while_it_deletes_the_bucket_is_resumed_to_no_bucket(
    server, proxy, juicefs, bucket, kind
):
    fill(juicefs, bucket, {"a": b"1", "d/b": b"2"})
    matches = (lambda r: r.kind in ("DELETE", "DeleteObjects")) if kind.startswith("DELETE") else None
    matches = matches or (lambda r: r.kind == kind or (kind == "DeleteObjects" and r.kind == "DELETE"))
    job, gate, status = held_job(server, proxy, bucket, matches, source="missing")
    assert status["phase"] in ("deleting_bucket", "starting", "comparing")
    os.kill(status["pid"], signal.SIGKILL)
    assert server.wait_state(job)["state"] == "interrupted"
    gate.drop()
    assert server.get("/resume", id=job).status == 202
    assert server.wait_state(job)["state"] == "done"
    assert not exists(juicefs, bucket)


def test_a_killed_worker_with_its_sentinel_is_cancelled(server, proxy, files, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    server.get("/cancel", id=job)
    os.kill(status["pid"], signal.SIGKILL)
    status = server.wait_state(job)
    gate.drop()
    assert status["state"] == "cancelled"
    check_status(status)


@pytest.mark.timeout(120)
def test_a_large_upload_killed_in_the_middle_goes_on_where_it_was(server, proxy, juicefs, bucket):
    """200 MB in parts, killed after two thirds: of what the store has, at most two parts are sent again."""
    size = 200_000_000
    tree(server.uploads, {"large": {"movie": os.urandom(size)}})
    done = []
    gate = Gate(proxy, lambda r: r.kind == "UploadPart" and len(done) * part_bytes > size * 0.6)
    part_bytes = 1

    def count(request):
        nonlocal part_bytes
        finished = [r for r in proxy.requests if r.kind == "UploadPart" and r.status == 200 and r.finished]
        done[:] = finished
        part_bytes = max([r.body_bytes for r in finished], default=1)

    proxy._hooks.insert(0, count)
    job = server.sync(bucket, source="large")
    gate.wait(60)
    status = server.wait_file(job, lambda s: s["state"] == "running")
    os.kill(status["pid"], signal.SIGKILL)
    assert server.wait_state(job)["state"] == "interrupted"
    gate.drop()
    wait_for(lambda: all(request.finished for request in proxy.requests))
    stored = {r.part: r.body_bytes for r in proxy.of_kind("UploadPart") if r.status == 200}
    part_bytes = max(stored.values())
    assert sum(stored.values()) > size * 0.5
    assert part_bytes >= 8 * MIB
    proxy.reset()
    assert server.get("/resume", id=job).status == 202
    status = server.wait_state(job, timeout=60)
    assert status["state"] == "done"
    again = {part: sent for (_key, part), sent in proxy.bytes_sent().items() if part in stored}
    assert len(again) <= 2, f"of {len(stored)} stored parts were sent again: {sorted(again)}"
    total = sum(sent for (_key, part), sent in proxy.bytes_sent().items() if part is not None)
    assert total <= size - sum(stored.values()) + 2 * part_bytes
    assert status["progress"]["bytes_resumed"] >= sum(stored.values()) - 2 * part_bytes
    assert status["progress"]["bytes_resumed"] + status["progress"]["bytes_uploaded"] == size
    assert_same(contents(juicefs, bucket), expected(server.uploads / "large"))
    assert list_uploads(juicefs.client(), bucket) == []


def test_parts_of_a_file_that_changed_meanwhile_are_not_kept(server, proxy, juicefs, bucket):
    tree(server.uploads, {"large": {"movie": 40 * MIB}})
    job, gate, status = held_job(
        server, proxy, bucket, lambda r: r.kind == "UploadPart" and r.part == 4, source="large"
    )
    os.kill(status["pid"], signal.SIGKILL)
    server.wait_state(job, "interrupted")
    gate.drop()
    tree(server.uploads, {"large": {"movie": 40 * MIB}})
    server.get("/resume", id=job)
    assert server.wait_state(job)["state"] == "done"
    assert_same(contents(juicefs, bucket), expected(server.uploads / "large"))
    assert list_uploads(juicefs.client(), bucket) == []


def test_an_upload_left_behind_by_a_killed_job_of_a_file_that_is_gone_is_removed(
    server, proxy, juicefs, bucket
):
    tree(server.uploads, {"large": {"movie": 40 * MIB, "keep": "1"}})
    job, gate, status = held_job(
        server, proxy, bucket, lambda r: r.kind == "UploadPart" and r.part == 3, source="large"
    )
    os.kill(status["pid"], signal.SIGKILL)
    server.wait_state(job, "interrupted")
    gate.drop()
    (server.uploads / "large" / "movie").unlink()
    assert server.get("/resume", id=job).status == 202
    assert server.wait_state(job)["state"] == "done"
    assert contents(juicefs, bucket) == {"keep": b"1"}
    assert list_uploads(juicefs.client(), bucket) == []


# -- TERM, STOP, two workers ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_told_to_stop_finishes_what_is_in_flight(server, proxy, juicefs, bucket, number):
    tree(server.uploads, {"photos": {f"f{n:03}": "x" for n in range(200)}})
    job, gate, status = held_job(server, proxy, bucket)
    os.kill(status["pid"], number)
    wait_for(lambda: len(gate.held) > 0)
    held = {request.key for request in gate.held}
    threading.Timer(0.3, gate.open).start()
    status = server.wait_state(job, timeout=10)
    check_status(status)
    assert status["state"] == "interrupted"
    assert held <= set(contents(juicefs, bucket))
    assert len(contents(juicefs, bucket)) < 200
    assert server.get("/resume", id=job).status == 202
    assert server.wait_state(job)["state"] == "done"
    assert_same(contents(juicefs, bucket), expected(server.uploads / "photos"))


def test_a_stopped_worker_is_still_running_and_goes_on(server, proxy, files, juicefs, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    os.kill(status["pid"], signal.SIGSTOP)
    gate.open()
    wait_for(lambda: psutil.Process(status["pid"]).status() == psutil.STATUS_STOPPED)
    stopped = server.status(job)["updated_at"]
    looks = [server.show(job)["state"] for _ in range(20)]
    threading.Event().wait(2.5)  # longer than the server's and the status's own clocks
    assert {*looks, server.show(job)["state"]} == {"running"}
    assert server.status(job)["updated_at"] == stopped
    assert server.get("/sync", source="photos", dest=bucket).status == 409
    os.kill(status["pid"], signal.SIGCONT)
    assert server.wait_state(job)["state"] == "done"
    assert contents(juicefs, bucket) == files


def test_two_workers_of_one_job_are_impossible(server, make_shell, proxy, files, juicefs, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    shell = make_shell(juicefs, STORAGE_URL=proxy.url)
    shell.share(server)
    seconds = [shell.spawn("run", job) for _ in range(3)]
    assert [process.wait(15) for process in seconds] == [2, 2, 2]
    now = server.status(job)
    assert (now["state"], now["pid"], now["attempt"]) == ("running", status["pid"], 1)
    gate.open()
    assert server.wait_state(job)["state"] == "done"
    assert Counter(r.key for r in proxy.of_kind("PUT")) == Counter(list(files))


def test_of_many_resumes_at_once_one_wins(server, proxy, files, juicefs, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    os.kill(status["pid"], signal.SIGKILL)
    server.wait_state(job, "interrupted")
    gate.drop()
    gate2 = Gate(proxy, lambda r: r.kind == "PUT")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.get("/resume", id=job).status))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [202] + [409] * 5
    gate2.open()
    assert server.wait_state(job)["attempt"] == 2
    assert contents(juicefs, bucket) == files


def test_of_many_syncs_to_one_destination_at_once_one_wins(server, proxy, files, bucket):
    gate = Gate(proxy, lambda r: r.kind == "PUT")
    answers = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(server.get("/sync", source="photos", dest=bucket).status)
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [202] + [409] * 5
    gate.open()
    assert server.wait_state(server.ids()[0])["state"] == "done"


def test_a_shell_and_a_server_keep_off_each_others_destination(
    server, make_shell, proxy, files, juicefs, make_bucket
):
    shell = make_shell(juicefs, STORAGE_URL=proxy.url)
    shell.share(server)
    bucket = make_bucket(juicefs)
    job, gate, _status = held_job(server, proxy, bucket)
    run = shell.start(bucket)
    assert run.exit_status == 2
    assert job in run.out + run.err
    gate.open()
    server.wait_state(job)
    second = make_bucket(juicefs)
    gate = Gate(proxy, lambda r: r.kind == "PUT" and r.bucket == second)
    process, other = shell.begin(second)
    gate.wait()
    reply = server.get("/sync", source="photos", dest=second)
    assert (reply.status, reply.problem["job"]) == (409, other)
    assert server.show(other)["state"] == "running", "the server shows jobs of a shell"
    assert server.get("/cancel", id=other).status == 202
    gate.open()
    assert process.wait(10) in (0, 3)


# -- kill -9 of the server --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_a_worker_outlives_its_server_and_is_found_again(server, proxy, files, juicefs, bucket, how):
    job, gate, status = held_job(server, proxy, bucket)
    getattr(server, how)()
    worker = psutil.Process(status["pid"])
    assert worker.is_running()
    server.start()
    shown = server.show(job)
    assert (shown["state"], shown["pid"], shown["attempt"]) == ("running", status["pid"], 1)
    assert [j["id"] for j in server.get("/runnings").json()["jobs"]] == [job]
    assert server.get("/sync", source="photos", dest=bucket).status == 409
    gate.open()
    status = server.wait_state(job)
    assert (status["state"], status["attempt"]) == ("done", 1)
    assert contents(juicefs, bucket) == files


def test_a_job_that_ended_while_there_was_no_server_is_shown_as_it_ended(server, proxy, files, bucket):
    job, gate, _status = held_job(server, proxy, bucket)
    server.kill()
    gate.open()
    server.wait_file(job, lambda s: s["state"] == "done")
    server.start()
    assert server.show(job)["state"] == "done"


def test_an_adopted_worker_is_cancelled_and_its_death_is_noticed(server, proxy, files, juicefs, make_bucket):
    bucket = make_bucket(juicefs)
    fill(juicefs, bucket, {})
    cancelled = server.sync(bucket, wait=3600)
    server.wait_file(cancelled, lambda s: s["progress"]["files_uploaded"] == 1)
    killed, gate, status = held_job(
        server, proxy, other := make_bucket(juicefs), lambda r: r.kind == "PUT" and r.bucket == other
    )
    server.restart()
    assert server.get("/cancel", id=cancelled).status == 202
    assert server.wait_state(cancelled)["state"] == "cancelled"
    os.kill(status["pid"], signal.SIGKILL)
    assert server.wait_state(killed)["state"] == "interrupted"
    gate.drop()


def test_a_job_whose_worker_died_with_the_server_is_resumed_by_the_next_one(
    server, proxy, files, juicefs, bucket
):
    job, gate, status = held_job(server, proxy, bucket)
    server.kill()
    os.kill(status["pid"], signal.SIGKILL)
    wait_for(lambda: not is_locked(server.file(job, "lock")))
    gate.drop()
    assert server.status(job)["state"] == "running", "nobody has looked yet"
    server.start()
    status = server.wait_state(job, "done")
    assert status["attempt"] == 2
    assert contents(juicefs, bucket) == files


def test_auto_resume_can_be_switched_off(server, proxy, files, bucket):
    job, gate, status = held_job(server, proxy, bucket)
    server.kill()
    os.kill(status["pid"], signal.SIGKILL)
    gate.drop()
    server.environment["AUTO_RESUME"] = "0"
    server.start()
    assert server.show(job)["state"] == "interrupted"
    assert server.get("/runnings").json()["count"] == 0
    assert server.show(job)["attempt"] == 1
    assert server.get("/resume", id=job).status == 202
    assert server.wait_state(job)["state"] == "done"


def test_what_somebody_interrupted_or_cancelled_is_not_resumed_by_the_next_server(
    server, proxy, files, juicefs, make_bucket
):
    names = [make_bucket(juicefs) for _ in range(3)]
    gate = Gate(proxy, lambda r: r.kind == "PUT")
    jobs = [server.sync(name) for name in names]
    status = [server.wait_file(job, lambda s: s["phase"] == "transferring") for job in jobs]
    os.kill(status[0]["pid"], signal.SIGKILL)  # by hand, while the server lives
    assert server.wait_state(jobs[0])["state"] == "interrupted"
    server.file(jobs[1], "cancel").touch()
    server.kill()
    os.kill(status[1]["pid"], signal.SIGKILL)  # with its sentinel
    os.kill(status[2]["pid"], signal.SIGKILL)  # with its server
    gate.drop()
    server.start()
    assert server.wait_state(jobs[2], "done")["attempt"] == 2
    assert server.show(jobs[0])["state"] == "interrupted"
    assert server.show(jobs[1])["state"] == "cancelled"


def test_queued_jobs_outlive_the_server(make_service, juicefs, make_bucket):
    service = make_service(juicefs, MAX_RUNNING_JOBS="1")
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}})
    first, second = make_bucket(juicefs), make_bucket(juicefs)
    fill(juicefs, first, {})
    running = service.sync(first, wait=3600)
    service.wait_file(running, lambda s: s["progress"]["files_uploaded"] == 1)
    queued = service.sync(second)
    assert service.show(queued)["state"] == "queued"
    service.kill()
    service.start()
    assert service.show(queued)["state"] == "queued", "the adopted worker counts"
    service.get("/cancel", id=running)
    assert service.wait_state(queued)["state"] == "done"
    assert contents(juicefs, second) == {"a": b"1", "b": b"2"}


def test_no_more_than_the_set_number_of_jobs_run_at_once(make_service, juicefs, make_bucket):
    service = make_service(juicefs, MAX_RUNNING_JOBS="2")
    tree(service.uploads, {"photos": {"a": "1", "b": "2", "c": "3"}})
    jobs = [service.sync(make_bucket(juicefs), wait=0.1) for _ in range(5)]
    most = 0

    def look():
        nonlocal most
        first, second = ([service.status(job)["state"] for job in jobs] for _ in range(2))
        # Who runs at both looks has run between them; during one look, one may follow another.
        most = max(most, sum(pair == ("running", "running") for pair in zip(first, second, strict=True)))
        return all(state in FINAL for state in second)

    wait_for(look, 40)
    assert most == 2
    assert {service.show(job)["state"] for job in jobs} == {"done"}


def test_a_server_killed_right_after_its_answer_has_kept_the_job(server, proxy, files, juicefs, bucket):
    job = server.sync(bucket)
    server.kill()
    server.start()
    assert server.wait_state(job)["state"] == "done"
    assert contents(juicefs, bucket) == files


def test_a_status_with_another_process_under_its_pid_harms_nobody(server, proxy, files, bucket):
    """The recorded pid is somebody else's by now: no signal goes there, and the job is interrupted."""
    job, gate, status = held_job(server, proxy, bucket)
    server.kill()
    os.kill(status["pid"], signal.SIGKILL)
    gate.drop()
    wait_for(lambda: not is_locked(server.file(job, "lock")))
    bystander = server.popen("-c", "import time; time.sleep(600)", name="bystander")
    server.file(job, "json").write_text(json.dumps({**server.status(job), "pid": bystander.pid}))
    server.environment["AUTO_RESUME"] = "0"
    server.start()
    assert server.show(job)["state"] == "interrupted"
    server.get("/cancel", id=job)
    assert bystander.poll() is None


def test_rubbish_in_the_jobs_folder_is_no_reason_to_stop(server, proxy, files, juicefs, bucket):
    job = server.done(bucket)["id"]
    server.kill()
    (server.jobs / "20200101T000000-00000001.json").write_text('{"state": "runn')
    (server.jobs / "20200101T000000-00000002.json").write_bytes(b"")
    (server.jobs / "notes.txt").write_text("mine")
    server.start()
    assert job in [j["id"] for j in server.get("/jobs").json()["jobs"]]
    assert server.get("/runnings").json()["count"] == 0
    assert server.get("/get", id="20200101T000000-00000001").status in (404, 500)
    assert server.done(bucket)["state"] == "done"
    assert (server.jobs / "notes.txt").exists()


def test_a_store_that_dies_in_the_middle_and_comes_back_loses_nothing(stores, make_shell, make_bucket):
    store = stores.get("rclone")
    bucket, shell = make_bucket(store), make_shell(store)
    fill(store, bucket, {"old": b"x"})
    tree(shell.uploads, {"photos": {f"f{n:03}": "x" * n for n in range(60)}})
    process, job = shell.begin(bucket, "photos", "--wait", "0.02")
    shell.wait_file(job, lambda s: s["progress"]["files_uploaded"] >= 5)
    store.restart()
    status = process.wait(90)
    if status != 0:
        assert shell.status(job)["state"] == "failed"
        assert "old" in contents(store, bucket)
        assert shell.run("resume", job, timeout=90).returncode == 0
    assert_same(contents(store, bucket), expected(shell.uploads / "photos"))
    remove(shell.uploads / "photos")
