"""The supervisor: the queue, workers that die or outlive their server, what is resumed and what is not."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench import wait_for
from serving import Workers, load, write_finished

from syncworker.errors import SyncError
from syncworker.jobs import cleanup
from syncworker.jobs.ids import Conflict
from syncworker.jobs.store import Jobs
from syncworker.request import Request
from syncworker.service import supervisor
from syncworker.service.supervisor import QueueFull, Supervisor

STORE = "http://127.0.0.1:9"


class Bench:
    """A jobs directory, fake workers, and the servers that follow one another on it."""

    def __init__(self, base: Path, **environ: str) -> None:
        self.base = base
        self.workers = Workers(base)
        self.environ = {"STORAGE_URL": STORE, "MAX_RUNNING_JOBS": "2", **environ}
        self.jobs = Jobs(str(base / "jobs"))
        self.jobs.prepare()
        self.supervisors: list[Supervisor] = []
        self.rounds_done = 0

    def serve(self, spawn: Callable[..., Any] | None = None, **options: Any) -> Supervisor:
        config = load(self.base, **self.environ)
        one = Supervisor(config, self.jobs, spawn or self.workers.spawn, **options)
        tick = one.tick

        def counted() -> None:
            tick()
            self.rounds_done += 1

        one.tick = counted
        self.supervisors.append(one)
        one.start()
        return one

    def rounds(self, one: Supervisor, count: int = 2) -> None:
        """Returns when that many whole rounds have begun and ended from now on."""
        wanted = self.rounds_done + count + 1
        wait_for(lambda: one.wake() or self.rounds_done >= wanted, 10)

    def state(self, job_id: str) -> str:
        """As it is recorded: without settling anything."""
        status = self.jobs.read(job_id)
        assert status is not None
        return str(status["state"])

    def wait(self, job_id: str, state: str, timeout: float = 20) -> None:
        wait_for(lambda: self.state(job_id) == state, timeout, f"{job_id} {state}")

    def close(self) -> None:
        for one in self.supervisors:
            one.stop()
        self.workers.close()


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**environ: str) -> Bench:
        made.append(Bench(tmp_path, **environ))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def request(dest: str, storage_url: str = STORE) -> Request:
    return Request("photos", dest, storage_url, 0.0)


def test_jobs_start_oldest_first_and_no_more_than_the_limit_run(bench: Bench) -> None:
    one = bench.serve()
    ids = [one.submit(request(f"bucket-{number}"))["id"] for number in range(5)]
    for job_id in ids[:2]:
        bench.wait(job_id, "running")
    bench.rounds(one)
    assert bench.workers.started == ids[:2]
    assert one.counts() == {"queued": 3, "running": 2}
    bench.workers.finish.touch()
    for job_id in ids:
        bench.wait(job_id, "done")
    assert bench.workers.started == ids


def test_a_destination_is_never_worked_on_by_two(bench: Bench) -> None:
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    with pytest.raises(Conflict) as caught:
        one.submit(request("bucket"))
    assert caught.value.job == job_id
    one.submit(request("bucket", "http://127.0.0.1:10"))
    wait_for(lambda: len(bench.workers.started) == 2)


def test_the_queue_is_bounded(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(MAX_QUEUED_JOBS="2", MAX_RUNNING_JOBS="1")
    one = bench.serve()
    bench.wait(one.submit(request("bucket-0"))["id"], "running")
    for number in (1, 2):
        one.submit(request(f"bucket-{number}"))
    with pytest.raises(QueueFull):
        one.submit(request("bucket-3"))


def test_a_job_whose_worker_has_been_started_does_not_wait_in_the_queue(
    make_bench: Callable[..., Bench],
) -> None:
    """Its status says `queued` until the worker has read it; this worker never does."""
    bench = make_bench(MAX_QUEUED_JOBS="1", MAX_RUNNING_JOBS="3")
    started: list[subprocess.Popen[bytes]] = []

    def spawn(job_id: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"]))
        return started[-1]

    one = bench.serve(spawn)
    try:
        for number in range(3):
            job_id = one.submit(request(f"bucket-{number}"))["id"]
            bench.rounds(one)
            assert (len(started), bench.state(job_id)) == (number + 1, "queued")
        one.submit(request("bucket-3"))
        with pytest.raises(QueueFull):
            one.submit(request("bucket-4"))
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_ended_children_are_reaped(bench: Bench) -> None:
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    pid = bench.workers.processes[job_id].pid
    bench.workers.finish.touch()
    wait_for(lambda: not psutil.pid_exists(pid), 20, "the zombie to be reaped")


def test_the_end_of_a_killed_child_is_written_down_within_a_second(bench: Bench) -> None:
    """The quickest of five counts: a busy machine is late now and then."""
    one, took = bench.serve(), [60.0]
    while min(took) >= 1 and len(took) <= 5:
        job_id = one.submit(request("bucket"))["id"]
        bench.wait(job_id, "running")
        began = time.monotonic()
        bench.workers.processes[job_id].kill()
        bench.wait(job_id, "interrupted")
        took.append(time.monotonic() - began)
    assert min(took) < 1, took


def test_a_worker_killed_while_the_server_lives_is_not_resumed_by_the_next(bench: Bench) -> None:
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    bench.workers.processes[job_id].kill()
    bench.wait(job_id, "interrupted")
    wait_for(lambda: (bench.jobs.read(job_id) or {})["auto_resume"] is False)
    one.stop()
    bench.rounds(bench.serve())
    assert bench.state(job_id) == "interrupted"
    assert bench.workers.started == [job_id]


def test_a_worker_that_died_with_its_server_is_resumed_by_the_next(bench: Bench) -> None:
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    one.stop()
    bench.workers.processes[job_id].kill()
    bench.workers.processes[job_id].wait()
    bench.serve()
    wait_for(lambda: bench.workers.started == [job_id, job_id])
    bench.wait(job_id, "running")
    assert (bench.jobs.read(job_id) or {})["attempt"] == 2


def test_a_worker_told_to_stop_is_left_alone_after_two_seconds(bench: Bench) -> None:
    job_id = bench.serve().submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    bench.workers.processes[job_id].terminate()
    bench.wait(job_id, "interrupted")
    assert (bench.jobs.read(job_id) or {})["auto_resume"] is True
    wait_for(lambda: (bench.jobs.read(job_id) or {})["auto_resume"] is False)


def test_a_worker_told_to_stop_within_two_seconds_before_its_server_is_resumed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KILLED_SECONDS", 60.0)  # on a slow machine
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    bench.workers.processes[job_id].terminate()
    bench.wait(job_id, "interrupted")
    one.stop()
    bench.serve()
    wait_for(lambda: bench.workers.started == [job_id, job_id])


def test_with_auto_resume_off_interrupted_jobs_stay(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(AUTO_RESUME="0")
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    one.stop()
    bench.workers.processes[job_id].kill()
    bench.workers.processes[job_id].wait()
    bench.rounds(bench.serve())
    assert bench.state(job_id) == "interrupted"


def test_a_worker_that_outlives_its_server_is_adopted(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(MAX_RUNNING_JOBS="1")
    one = bench.serve()
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "running")
    one.stop()
    two = bench.serve()
    waiting = two.submit(request("other"))["id"]
    bench.rounds(two)
    assert (bench.state(job_id), bench.state(waiting)) == ("running", "queued")
    bench.workers.processes[job_id].kill()
    bench.wait(job_id, "interrupted")
    bench.wait(waiting, "running")


def test_a_job_that_waited_when_the_server_ended_is_started_by_the_next(bench: Bench) -> None:
    job_id = bench.jobs.create(request("bucket"))["id"]
    bench.serve()
    bench.wait(job_id, "running")


def test_a_job_of_the_shell_is_left_to_the_shell(bench: Bench) -> None:
    one = bench.serve()
    job_id = bench.jobs.create(request("bucket"), from_shell=True)["id"]
    bench.rounds(one)
    assert bench.workers.started == []
    assert [status["id"] for status in bench.jobs.active()] == [job_id]
    with pytest.raises(Conflict):
        one.submit(request("bucket"))


def test_a_cancel_by_sentinel_alone_ends_a_queued_job(bench: Bench) -> None:
    job_id = bench.jobs.create(request("bucket"), from_shell=True)["id"]
    bench.serve()
    Path(bench.jobs.file(job_id, "cancel")).touch()
    bench.wait(job_id, "cancelled")


def test_a_worker_that_does_not_start_fails_the_job_after_three_tries(bench: Bench) -> None:
    def spawn(job_id: str) -> subprocess.Popen[bytes]:
        bench.workers.started.append(job_id)
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])

    one = bench.serve(spawn, clock=lambda: time.monotonic() * 50)
    job_id = one.submit(request("bucket"))["id"]
    bench.wait(job_id, "failed")
    status = bench.jobs.read(job_id) or {}
    assert status["error"]["code"] == "WorkerDidNotStart" and "status 7" in status["error"]["message"]
    assert bench.workers.started == [job_id] * 3


def test_a_failing_round_does_not_end_the_supervision(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench.serve()
    failures: list[int] = []

    def fail(*_: object) -> int:
        failures.append(1)
        if len(failures) < 3:
            raise OSError(28, "No space left on device")
        return 0

    monkeypatch.setattr(cleanup, "prune", fail)

    def failed_often() -> bool:
        one._pruned_all = False  # again: a round that had begun may have ended well since
        return len(failures) >= 3

    wait_for(failed_often)
    bench.wait(one.submit(request("bucket"))["id"], "running")


def test_jobs_of_an_own_store_that_is_down_wait_and_others_do_not(bench: Bench) -> None:
    up: list[bool] = []
    one = bench.serve(store_is_up=lambda: bool(up))
    own = one.submit(request("bucket"))["id"]
    foreign = one.submit(request("bucket", "http://127.0.0.1:10"))["id"]
    bench.wait(foreign, "running")
    assert bench.state(own) == "queued"
    up.append(True)
    bench.wait(own, "running")


def test_a_worker_that_has_not_taken_its_lock_yet_counts_as_one(bench: Bench) -> None:
    def spawn(job_id: str) -> subprocess.Popen[bytes]:
        bench.workers.processes[job_id] = subprocess.Popen(["sleep", "60"])
        return bench.workers.processes[job_id]

    one = bench.serve(spawn)
    assert not one.has_workers()
    one.submit(request("bucket"))
    wait_for(lambda: bench.workers.processes)
    one.stop()
    assert one.has_workers()


def test_a_request_does_not_wait_long_for_another_that_is_stuck(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = bench.serve()
    with monkeypatch.context() as patched:
        patched.setattr(supervisor, "SUBMIT_SECONDS", 0.1)
        with one._submission_slot(), pytest.raises(SyncError) as caught:
            one.submit(request("bucket"))
    assert caught.value.code == "Busy"
    one.submit(request("bucket"))


def test_only_the_newest_finished_jobs_are_kept(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(KEEP_JOBS="3")
    ids = write_finished(Path(bench.jobs.path), 500)
    active = bench.jobs.create(request("bucket"))["id"]
    bench.serve()

    def left() -> set[str]:
        return {name.partition(".")[0] for name in os.listdir(bench.jobs.path) if not name.startswith(".")}

    wait_for(lambda: left() == {*ids[-3:], active}, 20, "all but three to be removed, with all their files")
    assert bench.jobs.ids() == [*ids[-3:], active]


def test_the_start_is_quick_with_5000_finished_jobs(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(KEEP_JOBS="5000")
    write_finished(Path(bench.jobs.path), 5000)
    started, used = time.monotonic(), time.process_time()
    bench.serve()
    # What a busy machine does beside it is not its own: it needs a third of a second, and waits for nothing.
    assert time.process_time() - used < 2
    assert time.monotonic() - started < 10


def test_two_servers_do_not_share_a_jobs_directory(bench: Bench) -> None:
    right = supervisor.acquire_server_lock(bench.jobs)
    assert right is not None
    assert supervisor.acquire_server_lock(bench.jobs) is None
    right.release()
    again = supervisor.acquire_server_lock(bench.jobs)
    assert again is not None
    again.release()


def test_a_real_worker_is_in_a_session_of_its_own_without_the_token(bench: Bench) -> None:
    job_id = bench.jobs.create(request("bucket"))["id"]
    environ = {**os.environ, "API_TOKEN": "T0KEN", "JOBS_DIR": str(bench.base / "elsewhere"), "A": "b"}
    child = supervisor.spawner(bench.jobs, environ)(job_id)
    child.send_signal(signal.SIGSTOP)  # it finds no such job elsewhere, and would end before it is looked at
    try:
        seen = psutil.Process(child.pid)
        assert os.getsid(child.pid) == child.pid
        wait_for(seen.environ, 5, "the end of the exec that gives it its environment")
        assert seen.environ()["A"] == "b" and "API_TOKEN" not in seen.environ()
        assert seen.cmdline()[1:] == ["-m", "syncworker", "run", job_id]
        assert stat.S_IMODE(os.stat(bench.jobs.file(job_id, "log")).st_mode) == 0o600
    finally:
        child.kill()
        child.wait()
