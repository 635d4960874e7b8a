"""Every state of a job and every action on it, over HTTP and by file: the answer, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Site

from syncworker.jobs.store import recorded_state
from syncworker.model import State
from syncworker.system import durable_files

# State, action -> (HTTP status, the state that follows). `touch` and `rm` are the sentinels, made by hand.
TABLE = {
    (State.QUEUED, "cancel"): (202, "cancelled"),
    (State.QUEUED, "resume"): (409, "queued"),
    (State.QUEUED, "approve"): (409, "queued"),
    (State.QUEUED, "pause"): (202, "queued"),
    (State.QUEUED, "continue"): (202, "queued"),
    (State.QUEUED, "plan"): (404, "queued"),
    (State.QUEUED, "touch cancel"): (200, "cancelled"),
    (State.QUEUED, "touch pause"): (200, "queued"),
    (State.RUNNING, "cancel"): (202, "running"),
    (State.RUNNING, "resume"): (409, "running"),
    (State.RUNNING, "approve"): (409, "running"),
    (State.RUNNING, "pause"): (202, "running"),
    (State.RUNNING, "continue"): (202, "running"),
    (State.RUNNING, "plan"): (404, "running"),
    (State.RUNNING, "touch cancel"): (200, "running"),
    (State.RUNNING, "touch pause"): (200, "running"),
    (State.WAITING, "cancel"): (202, "cancelled"),
    (State.WAITING, "resume"): (409, "waiting"),
    (State.WAITING, "approve"): (202, "queued"),
    (State.WAITING, "pause"): (409, "waiting"),
    (State.WAITING, "continue"): (409, "waiting"),
    (State.WAITING, "plan"): (200, "waiting"),
    (State.WAITING, "touch cancel"): (200, "cancelled"),
    (State.WAITING, "touch pause"): (200, "waiting"),
    (State.DONE, "resume"): (409, "done"),
    **{(state, "resume"): (202, "queued") for state in (State.FAILED, State.CANCELLED, State.INTERRUPTED)},
    **{
        (state, action): (404 if action == "plan" else 409, state.value)
        for state in (State.DONE, State.FAILED, State.CANCELLED, State.INTERRUPTED)
        for action in ("cancel", "approve", "pause", "continue", "plan")
    },
    **{
        (state, f"touch {name}"): (200, state.value)
        for state in (State.DONE, State.FAILED, State.CANCELLED, State.INTERRUPTED)
        for name in ("cancel", "pause")
    },
}
ACTIONS = ("cancel", "resume", "approve", "pause", "continue", "plan", "touch cancel", "touch pause")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def test_the_table_has_every_pair() -> None:
    assert set(TABLE) == {(state, action) for state in State for action in ACTIONS}


def job_in(site: Site, state: State) -> str:
    if state is State.WAITING:
        return site.waiting()
    job_id = site.submit()
    if state not in (State.QUEUED, State.RUNNING):
        with site.jobs.lock(job_id) as lock:
            assert lock.acquire()
            status = site.jobs.read(job_id)
            assert status is not None
            error = {"code": "FilesFailed", "message": "1 of 1"} if state is State.FAILED else None
            site.jobs.finish(status, state, error, state.value)
    return job_id


@pytest.mark.parametrize("state, action", TABLE, ids=str)
def test_the_answer_and_what_follows_are_those_of_the_table(site: Site, state: State, action: str) -> None:
    code, following = TABLE[state, action]
    job_id = job_in(site, state)
    if state is State.RUNNING:
        with site.running(job_id):
            _act(site, job_id, action, code)
            assert site.get(f"/get?id={job_id}").json["state"] == following
        return
    _act(site, job_id, action, code)
    assert site.get(f"/get?id={job_id}").json["state"] == following
    assert recorded_state(site.jobs.read(job_id)) == following


def _act(site: Site, job_id: str, action: str, code: int) -> None:
    word, _, name = action.partition(" ")
    if word == "touch":
        durable_files.touch(site.jobs.file(job_id, name))
        return
    answer = site.get(f"/{action}?id={job_id}")
    assert answer.status == code, answer


def test_an_approval_is_durable_and_only_of_the_plan_that_was_read(site: Site) -> None:
    job_id = site.waiting()
    assert site.get(f"/approve?id={job_id}&etag=other").problem["code"] == "PlanChanged"
    etag = site.get(f"/plan?id={job_id}").headers["etag"]
    approved = site.get(f"/approve?id={job_id}&etag={etag}").json
    status = site.jobs.read(job_id)
    assert status is not None
    assert status["plan"]["approved_at"] == approved["plan"]["approved_at"]
    assert (status["state"], status["attempt"]) == ("queued", 2)


def test_an_approval_while_the_bucket_is_busy_names_the_other_job(site: Site) -> None:
    job_id = site.waiting()
    other = site.submit()
    answer = site.get(f"/approve?id={job_id}")
    assert (answer.status, answer.json["job"]) == (409, other)
    assert site.get(f"/get?id={job_id}").json["state"] == "waiting"
