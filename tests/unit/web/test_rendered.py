"""Answers that are kept: never older than a job's file or its worker's death, and the same bytes as anew."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import wait_for

from syncworker.jobs.ids import Conflict, NoSuchJob
from syncworker.jobs.record import Status
from syncworker.jobs.status import begin, recorded_state
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.request import Request, RequestKeys
from syncworker.system import durable_files, folder_events, mount_table
from syncworker.system.folder_events import FolderEvents
from syncworker.web.problem_details import to_json
from syncworker.web.rendered import Packed, Statuses, listed

URL = "http://127.0.0.1:9000"


@pytest.fixture(params=["told", "listed"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Jobs:
    """With the kernel telling what changes, and without."""
    found = Jobs(str(tmp_path / "jobs"))
    found.prepare()
    if request.param == "told":
        found.catalog.follow(FolderEvents(found.path).take)
    return found


def made(jobs: Jobs, number: int = 0, **more: Any) -> Status:
    return jobs.create(Request("photos", f"bucket-{number}", URL, 0.0, **more))


@contextlib.contextmanager
def working(jobs: Jobs, status: Status) -> Iterator[None]:
    with jobs.lock(status["id"]) as lock:
        assert lock.acquire(1.0)
        begin(status)
        jobs.write(status, durable=False)
        yield


def shown(statuses: Statuses) -> list[dict[str, Any]]:
    body = listed(statuses.active())
    value = json.loads(body)
    assert body == to_json(value), "the bytes that to_json would have made"
    assert value["count"] == len(value["jobs"])
    jobs: list[dict[str, Any]] = value["jobs"]
    return jobs


def test_each_write_shows_at_once(jobs: Jobs) -> None:
    statuses = Statuses(jobs)
    other = Jobs(jobs.path)  # another process's view: it tells this one nothing
    status = made(jobs)
    with working(other, status):
        for number in range(300):
            status["progress"]["files_done"] = (
                number % 10
            )  # of the same size, often within one tick of the clock
            other.write(status, durable=False)
            [one] = shown(statuses)
            assert one["progress"]["files_done"] == number % 10
            assert json.loads(statuses.one(status["id"]).body) == one


def test_a_write_in_place_a_sentinel_and_a_removal_show_at_once(jobs: Jobs) -> None:
    statuses = Statuses(jobs)
    status = made(jobs)
    job_id = status["id"]
    with working(jobs, status):
        path = Path(jobs.file(job_id, "json"))
        for word in ("one", "two"):
            shown(statuses)
            path.write_text(json.dumps(status | {"message": word}))
            assert shown(statuses)[0]["message"] == word
        for sentinel, field in (("cancel", "cancel_requested"), ("pause", "pause_requested")):
            assert not shown(statuses)[0][field]
            Path(jobs.file(job_id, sentinel)).touch()
            assert shown(statuses)[0][field]
            os.remove(jobs.file(job_id, sentinel))
            assert not shown(statuses)[0][field]
        os.remove(path)
        assert shown(statuses) == []
        with pytest.raises(NoSuchJob):
            statuses.one(job_id)


def test_the_death_of_a_worker_shows_in_the_next_answer(jobs: Jobs) -> None:
    statuses = Statuses(jobs)
    status = made(jobs)
    with working(jobs, status):
        assert [one["state"] for one in shown(statuses)] == ["running"]
        assert json.loads(statuses.one(status["id"]).body)["state"] == "running"
    assert shown(statuses) == []
    assert json.loads(statuses.one(status["id"]).body)["state"] == "interrupted"
    assert statuses.one(status["id"]).state is State.INTERRUPTED


def test_a_lock_that_is_no_file_makes_a_job_unreadable_at_once(jobs: Jobs) -> None:
    statuses = Statuses(jobs)
    job_id = made(jobs)["id"]
    assert len(shown(statuses)) == 1
    os.remove(jobs.file(job_id, "lock"))
    os.mkdir(jobs.file(job_id, "lock"))
    with pytest.raises(NoSuchJob):
        statuses.one(job_id)


def test_a_cached_answer_contains_no_key(jobs: Jobs) -> None:
    keys = ("AKID-OF-THE-REQUEST", "secret-of-the-request", "token-of-the-request")
    statuses = Statuses(jobs)
    status = made(jobs, keys=RequestKeys(*keys))
    for _ in range(2):
        for body in (statuses.one(status["id"]).body, listed(statuses.active())):
            assert b"of-the-request" not in body and b"OF-THE-REQUEST" not in body


def test_what_is_kept_is_what_is_observed_whatever_happens(jobs: Jobs) -> None:
    """Random lives of jobs: after each step every answer equals one that nothing was kept for."""
    chance = random.Random(20261129)
    statuses, other = Statuses(jobs, most_bytes=20_000), Jobs(jobs.path)
    there: list[str] = []
    held: dict[str, tuple[Status, Any]] = {}
    for step in range(250):
        act = chance.choice(["make", "begin", "write", "end", "die", "cancel", "pause", "resume", "delete"])
        job_id = chance.choice(there) if there else ""
        if act == "make" or not job_id:
            there.append(made(other, step)["id"])
        elif act == "begin" and job_id not in held and len(held) < 5:
            status = other.read(job_id)
            lock = other.lock(job_id)
            if status and recorded_state(status) is State.QUEUED and lock.acquire():
                begin(status)
                other.write(status, durable=False)
                held[job_id] = (status, lock)
        elif act in ("write", "end", "die") and job_id in held:
            status, lock = held[job_id]
            if act == "write":
                status["message"] = str(step)
                other.write(status, durable=False)
            else:
                if act == "end":
                    other.finish(status, chance.choice([State.DONE, State.FAILED]), None, "ended")
                held.pop(job_id)
                lock.release()
        elif act in ("cancel", "pause"):
            Path(other.file(job_id, act)).touch()
        elif act == "resume" and job_id not in held:
            # One of another process shows within two seconds where nothing is told.
            with contextlib.suppress(Conflict):
                (other if jobs.catalog.is_followed else jobs).prepare_resume(job_id)
        elif act == "delete" and job_id not in held:
            other.delete(job_id)
            there.remove(job_id)
        anew = Jobs(jobs.path)
        for one in there:
            assert json.loads(statuses.one(one).body) == anew.observe(one), (step, act)
        assert shown(statuses) == anew.active()
        page = json.loads(listed(statuses.page(there), ',\n  "next": null'))
        assert page["jobs"] == [anew.observe(one) for one in there]
    for _, lock in held.values():
        lock.release()


def test_an_answer_after_a_write_has_it_while_others_ask_too(jobs: Jobs) -> None:
    statuses, status = Statuses(jobs), made(jobs)
    stop = threading.Event()
    wrong: list[str] = []

    def ask() -> None:
        last = -1
        while not stop.is_set():
            [one] = json.loads(listed(statuses.active()))["jobs"]
            if one["progress"]["files_done"] < last:
                wrong.append(f"{one['progress']['files_done']} after {last}")
            last = one["progress"]["files_done"]

    with working(jobs, status):
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(200):
            status["progress"]["files_done"] = number
            jobs.write(status, durable=False)
            if shown(statuses)[0]["progress"]["files_done"] != number:
                wrong.append(f"not {number}")
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_a_status_is_read_once_for_each_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    jobs.catalog.follow(FolderEvents(jobs.path).take)
    statuses = Statuses(jobs)
    status = made(jobs)
    with working(jobs, status):
        shown(statuses)
        reads: list[str] = []
        listings: list[Any] = []
        read, listdir = durable_files.read_json, os.listdir
        monkeypatch.setattr(durable_files, "read_json", lambda path: reads.append(path) or read(path))
        monkeypatch.setattr(os, "listdir", lambda path: listings.append(path) or listdir(path))
        for _ in range(50):
            shown(statuses)
        assert (reads, listings) == ([], [])
        jobs.write(status, durable=False)
        for _ in range(50):
            shown(statuses)
        assert reads == [jobs.file(status["id"], "json")] * 2  # for the catalog, and for the answer
        assert listings == []


# -- the kernel's word -----------------------------------------------------------------------------------


def test_more_changes_than_the_kernel_keeps_are_no_less_seen(tmp_path: Path) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    events = FolderEvents(jobs.path)
    jobs.catalog.follow(events.take)
    jobs.entries()
    status = made(jobs)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [os.path.join(jobs.path, name) for name in ("a", "b")]
    for number in range(most):  # two by turns: the kernel counts the same event twice in a row once
        os.close(os.open(names[number % 2], os.O_CREAT | os.O_WRONLY, 0o600))
    later = made(jobs, 1)
    assert set(jobs.entries()) == {status["id"], later["id"]}
    assert not events.is_lost


def test_a_folder_that_is_another_one_is_listed_from_then_on(tmp_path: Path) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    jobs.catalog.follow(FolderEvents(jobs.path).take)
    first = made(jobs)["id"]
    assert set(jobs.entries()) == {first}
    os.rename(jobs.path, tmp_path / "old")
    jobs.prepare()
    assert set(jobs.entries()) == set()
    second = made(jobs)["id"]
    assert set(jobs.entries()) == {second}
    shutil.rmtree(jobs.path)
    jobs.prepare()
    assert set(jobs.entries()) == set()


def test_a_file_system_that_reports_no_changes_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder_events.open_events(str(tmp_path)) is not None
    assert folder_events.open_events(str(tmp_path / "none")) is None
    network = [
        mount_table.Mount(1, 0, 0, "/", "/", "ext4"),
        mount_table.Mount(2, 1, 0, "/", str(tmp_path), "nfs4"),
    ]
    monkeypatch.setattr(mount_table, "read", lambda: network)
    assert folder_events.open_events(str(tmp_path)) is None


def test_what_was_there_before_is_listed_however_short_ago_the_machine_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    status = made(jobs)
    monkeypatch.setattr("syncworker.jobs.status_cache.time.monotonic", lambda: 3.0)
    jobs = Jobs(jobs.path)
    jobs.catalog.follow(FolderEvents(jobs.path).take)
    assert set(jobs.entries()) == {status["id"]}


def test_of_a_live_job_the_stamp_alone_is_not_trusted(tmp_path: Path) -> None:
    """Written in place, with the size and the times that it had, while the kernel could tell nothing."""
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    jobs.catalog.follow(lambda: None)
    statuses, status = Statuses(jobs), made(jobs)
    with working(jobs, status):
        shown(statuses)
        path = jobs.file(status["id"], "json")
        before, body = os.stat(path), Path(path).read_bytes()
        other = body.replace(b'"starting"', b'"paused.."')
        assert other != body
        with open(path, "r+b") as file:
            file.write(other)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert b"paused.." in listed(statuses.active())


def test_a_change_without_an_event_shows_within_seconds(tmp_path: Path) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    jobs.catalog.follow(set)  # never a name
    jobs.entries()
    status = made(jobs)
    wait_for(lambda: status["id"] in jobs.entries(), 20, "the listing once in a while")


# -- packed ----------------------------------------------------------------------------------------------


def test_packed_answers_are_kept_by_their_bytes_and_few_of_them() -> None:
    packed = Packed(most=2)
    bodies = [bytes([number]) * 5000 for number in range(4)]
    for body in bodies * 2:
        assert gzip.decompress(packed.of(body)) == body
    kept = packed.of(bodies[-1])
    assert packed.of(bytes(bodies[-1])) is kept
