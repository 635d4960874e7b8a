"""Every state of a job and every action on it, over HTTP, by file and from a shell: the answer or the exit
status, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from serving import Site
from stores import Store

from syncworker.jobs.status import recorded_state
from syncworker.model import State
from syncworker.shell import cli
from syncworker.system import durable_files

ENDED = (State.DONE, State.FAILED, State.CANCELLED, State.INTERRUPTED)
# State, action -> (HTTP status, the state that follows). `touch` makes an empty file of the job by hand.
TABLE = {
    (State.QUEUED, "cancel"): (202, "cancelled"),
    (State.QUEUED, "resume"): (409, "queued"),
    (State.QUEUED, "approve"): (409, "queued"),
    (State.QUEUED, "pause"): (202, "queued"),
    (State.QUEUED, "continue"): (202, "queued"),
    (State.QUEUED, "plan"): (404, "queued"),
    (State.QUEUED, "limit"): (200, "queued"),
    (State.QUEUED, "touch cancel"): (200, "cancelled"),
    (State.QUEUED, "touch pause"): (200, "queued"),
    (State.RUNNING, "cancel"): (202, "running"),
    (State.RUNNING, "resume"): (409, "running"),
    (State.RUNNING, "approve"): (409, "running"),
    (State.RUNNING, "pause"): (202, "running"),
    (State.RUNNING, "continue"): (202, "running"),
    (State.RUNNING, "plan"): (404, "running"),
    (State.RUNNING, "limit"): (200, "running"),
    (State.RUNNING, "touch cancel"): (200, "running"),
    (State.RUNNING, "touch pause"): (200, "running"),
    (State.WAITING, "cancel"): (202, "cancelled"),
    (State.WAITING, "resume"): (409, "waiting"),
    (State.WAITING, "approve"): (202, "queued"),
    (State.WAITING, "pause"): (409, "waiting"),
    (State.WAITING, "continue"): (409, "waiting"),
    (State.WAITING, "plan"): (200, "waiting"),
    (State.WAITING, "limit"): (409, "waiting"),
    (State.WAITING, "touch cancel"): (200, "cancelled"),
    (State.WAITING, "touch pause"): (200, "waiting"),
    (State.DONE, "resume"): (409, "done"),
    **{(state, "resume"): (202, "queued") for state in (State.FAILED, State.CANCELLED, State.INTERRUPTED)},
    **{
        (state, action): (404 if action == "plan" else 409, state.value)
        for state in ENDED
        for action in ("cancel", "approve", "pause", "continue", "plan", "limit")
    },
    **{(state, f"touch {name}"): (200, state.value) for state in ENDED for name in ("cancel", "pause")},
    **{(state, "touch bandwidth"): (200, state.value) for state in State},
}
ASKED = ("cancel", "resume", "approve", "pause", "continue", "plan", "limit")
ACTIONS = (*ASKED, "touch cancel", "touch pause", "touch bandwidth")
# The same from a shell, where it is not 0 for an answer of 2xx and 2 for one of 4xx, and the same state: what
# goes on there is carried out there.
SHELL = {
    (State.FAILED, "resume"): (0, "done"),
    (State.CANCELLED, "resume"): (0, "done"),
    (State.INTERRUPTED, "resume"): (0, "done"),
    (State.WAITING, "approve"): (0, "done"),
}


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


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING], ids=str)
def test_a_paused_job_answers_as_one_that_is_not(site: Site, state: State, action: str) -> None:
    """And stays paused, but where it is continued or ends."""
    code, following = TABLE[state, action]
    job_id = job_in(site, state)
    with site.running(job_id) if state is State.RUNNING else nullcontext():
        durable_files.touch(site.jobs.file(job_id, "pause"))
        _act(site, job_id, action, code)
        shown = site.get(f"/get?id={job_id}").json
        assert shown["state"] == following
        stays = action != "continue" and following in ("queued", "running")
        assert Path(site.jobs.file(job_id, "pause")).exists() == stays
        assert shown["pause_requested"] == stays


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


@pytest.mark.parametrize(
    "state, action", [(state, action) for state, action in TABLE if action in ASKED], ids=str
)
def test_the_exit_status_and_what_follows_are_those_of_the_table(
    tmp_path: Path, juicefs: Store, monkeypatch: pytest.MonkeyPatch, state: State, action: str
) -> None:
    keys = {"MINIO_ACCESS_KEY": juicefs.access_key, "MINIO_SECRET_KEY": juicefs.secret_key}
    site = Site(tmp_path, STORAGE_URL=juicefs.url, **keys)
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STORAGE_URL", juicefs.url)
    monkeypatch.setenv("UPLOADS_DIR", site.settings.uploads_dir)
    monkeypatch.setenv("JOBS_DIR", site.settings.jobs_dir)
    code, following = TABLE[state, action]
    wanted = SHELL.get((state, action), (0 if code < 300 else 2, following))
    command = [action, "JOB", *(["1M"] if action == "limit" else [])]
    try:
        job_id = job_in(site, state)
        command[1] = job_id
        if state is State.RUNNING:
            with site.running(job_id):
                found = cli.main(command), site.jobs.observe(job_id)["state"]
        else:
            found = cli.main(command), site.jobs.observe(job_id)["state"]
        assert found == wanted
        if action == "limit" and not wanted[0]:
            assert Path(site.jobs.file(job_id, "bandwidth")).read_text() == "1M\n"
    finally:
        site.close()


def _act(site: Site, job_id: str, action: str, code: int) -> None:
    word, _, name = action.partition(" ")
    if word == "touch":
        durable_files.touch(site.jobs.file(job_id, name))
        return
    answer = site.get(f"/{action}?id={job_id}" + ("&bandwidth=1M" if action == "limit" else ""))
    assert answer.status == code, answer
    if action == "limit" and code == 200:
        assert answer.json == {"bandwidth": 1 << 20, "all_jobs": None}


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
