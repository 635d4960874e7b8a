"""What a killed process has left in the job directory: keys above all, and nothing that is somebody's."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from serving import Site

from syncworker.jobs import cleanup
from syncworker.jobs.status import timestamp
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.request import Request, RequestKeys
from syncworker.system import durable_files

GONE = "20260101T000000-00000001"


@pytest.fixture
def directory(tmp_path: Path) -> Jobs:
    made = Jobs(str(tmp_path / "jobs"))
    made.prepare()
    return made


def job(directory: Jobs, dest: str, state: State | None = None) -> str:
    """A job with keys of its own, ended so, its worker killed before it could remove them."""
    status = directory.create(Request("a", dest, "http://127.0.0.1:9", 0.0, RequestKeys("access", "secret")))
    if state is not None:
        directory.finish(status, state, None, str(state))
        durable_files.replace_json(directory.file(status["id"], "secret"), {"access_key": "a"}, durable=False)
    job_id: str = status["id"]
    return job_id


def names(directory: Jobs) -> set[str]:
    return {name for name in os.listdir(directory.path) if name[:1] != "." or name.startswith(".self")}


def test_the_keys_of_what_has_ended_go_and_those_that_are_needed_stay(directory: Jobs) -> None:
    keeps = {job(directory, "queued"), job(directory, "interrupted-one", State.INTERRUPTED)}
    keeps.add(job(directory, "failed-one", State.FAILED))
    loses = {job(directory, "done-one", State.DONE), job(directory, "cancelled-one", State.CANCELLED)}
    cleanup.clear(directory)
    assert {name for name in names(directory) if "secret" in name} == {f"{name}.secret" for name in keeps}
    assert {name for name in names(directory) if name.endswith(".json")} == {
        f"{name}.json" for name in keeps | loses
    }


@pytest.mark.parametrize(
    ("state", "days", "auto_resume", "kept"),
    [
        (State.FAILED, 6.9, True, True),
        (State.FAILED, 7.1, True, False),
        (State.INTERRUPTED, 7.1, False, False),
        (State.INTERRUPTED, 7.1, True, True),  # the next server goes on with it by itself
        (State.QUEUED, 30, True, True),
    ],
)
def test_keys_are_removed_after_a_week_without_a_resume(
    directory: Jobs, state: State, days: float, auto_resume: bool, kept: bool
) -> None:
    job_id = job(directory, "one", None if state is State.QUEUED else state)
    status = directory.read(job_id) or {}
    status["auto_resume"] = auto_resume
    if state is not State.QUEUED:
        status["finished_at"] = timestamp(datetime.now(UTC) - timedelta(days=days))
    directory.write(status, durable=False)
    cleanup.drop_old_keys(directory)
    assert os.path.exists(directory.file(job_id, "secret")) is kept
    assert directory.read(job_id) is not None


def test_a_job_that_failed_a_week_ago_is_resumed_with_keys_that_are_given(tmp_path: Path) -> None:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    try:
        keys = "access_key=access&secret_key=secret"
        asked = site.form("/sync", f"source=&dest=bucket&storage_url=http://127.0.0.1:10&{keys}".encode())
        job_id = asked.json["id"]
        with site.running(job_id) as status:
            site.jobs.finish(status, State.FAILED, {"code": "X", "message": "x"}, "x")
        status["finished_at"] = timestamp(datetime.now(UTC) - timedelta(days=8))
        site.jobs.write(status, durable=False)
        assert os.path.exists(site.jobs.file(job_id, "secret"))
        site.supervisor.tick()
        assert not os.path.exists(site.jobs.file(job_id, "secret"))
        answer = site.get(f"/resume?id={job_id}")
        assert (answer.status, answer.problem["param"]) == (400, "access_key")
        assert site.form("/resume", f"id={job_id}&{keys}".encode()).status == 202
        assert os.path.exists(site.jobs.file(job_id, "secret"))
    finally:
        site.close()


def test_a_look_at_a_job_that_has_ended_removes_its_keys(directory: Jobs) -> None:
    job_id = job(directory, "done-one", State.DONE)
    with directory.lock(job_id) as lock:
        assert lock.acquire()
        directory.observe(job_id)
        assert os.path.exists(directory.file(job_id, "secret")), "its worker lives, and will remove them"
    directory.observe(job_id)
    assert not os.path.exists(directory.file(job_id, "secret"))


def test_what_belongs_to_no_job_goes_and_what_is_no_jobs_stays(directory: Jobs) -> None:
    mine = job(directory, "queued")
    for suffix in ("lock", "secret", "secret.tmp", "json.tmp", "log"):
        Path(directory.file(GONE, suffix)).write_text("x")
    Path(directory.file(mine, "secret.tmp")).write_text("x")
    for name in ("notes.txt", f"{GONE}.notes", ".self-test-1", ".self-test-999999999"):
        Path(directory.path, name).write_text("x")
    cleanup.clear(directory)
    assert names(directory) == {
        *(f"{mine}.{suffix}" for suffix in ("json", "lock", "secret")),
        "notes.txt",
        f"{GONE}.notes",
        ".self-test-1",  # process 1 lives
    }


def test_nothing_is_removed_while_another_process_creates_a_job(directory: Jobs) -> None:
    Path(directory.file(GONE, "secret")).write_text("x")
    with directory.creation_lock() as lock:
        assert lock.acquire()
        cleanup.clear(directory)
        assert names(directory) == {f"{GONE}.secret"}
    cleanup.clear(directory)
    assert names(directory) == set()


def test_what_cannot_be_removed_is_no_reason_to_stop(directory: Jobs) -> None:
    os.mkdir(directory.file(GONE, "secret"))
    Path(directory.file(GONE, "lock")).write_text("")
    cleanup.clear(directory)
    assert names(directory) == {f"{GONE}.secret"}


def test_a_job_that_could_not_be_written_leaves_no_key(
    directory: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory, "write", full)
    with pytest.raises(OSError, match="No space"):
        job(directory, "full")
    assert names(directory) == set()
