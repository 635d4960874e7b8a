"""The job directory: the table of states, who may write what, and what a look costs."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from bench import PROJECT, wait_for
from serving import write_finished

from syncworker.errors import UsageError
from syncworker.index.database import Index
from syncworker.jobs import cleanup, status_cache
from syncworker.jobs import status as job_status
from syncworker.jobs import store as jobs
from syncworker.jobs.ids import Conflict, NoSuchJob
from syncworker.jobs.status import effective_state
from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES, RESUMABLE_STATES, State
from syncworker.request import Request, RequestKeys
from syncworker.storage_url import earlier_destination_id
from syncworker.system import durable_files

REQUEST = Request("photos", "bucket", "http://127.0.0.1:9000", 0.0)
KEYED = Request("photos", "bucket", "http://127.0.0.1:9000", 0.5, RequestKeys("AKID", "S3CRET"))
SHAPE = {
    "version", "id", "state", "phase", "source", "dest", "storage_url", "wait", "options", "pid",
    "skipped", "mirror", "scope", "plan", "cluster",
    "pid_started_at", "host", "attempt", "created_at", "started_at", "updated_at", "finished_at",
    "cancel_requested", "progress", "current", "errors", "error", "message",
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Jobs:
    directory = Jobs(str(tmp_path / "jobs"))
    directory.prepare()
    return directory


def run(directory: Jobs, status: job_status.Status, state: State | None = None) -> None:
    """Plays a worker: begins, and ends with a state, or dies."""
    with directory.lock(status["id"]) as lock:
        assert lock.acquire(1)
        status = directory.read(status["id"]) or {}
        job_status.begin(status)
        directory.write(status, durable=False)
        if state is not None:
            directory.finish(status, state, None, str(state))


# -- the table --------------------------------------------------------------------------------------------

ROWS = [
    (State.QUEUED, False, False, State.QUEUED),
    (State.QUEUED, False, True, State.CANCELLED),
    (State.QUEUED, True, False, State.QUEUED),
    (State.QUEUED, True, True, State.QUEUED),
    (State.RUNNING, True, False, State.RUNNING),
    (State.RUNNING, True, True, State.RUNNING),
    (State.RUNNING, False, False, State.INTERRUPTED),
    (State.RUNNING, False, True, State.CANCELLED),
    *(
        (state, held, sentinel, state)
        for state in sorted(FINAL_STATES - {State.WAITING})
        for held in (0, 1)
        for sentinel in (0, 1)
    ),
    (State.WAITING, False, False, State.WAITING),
    (State.WAITING, False, True, State.CANCELLED),
    (State.WAITING, True, False, State.WAITING),
    (State.WAITING, True, True, State.WAITING),
    (None, True, False, State.RUNNING),
    (None, True, True, State.RUNNING),
    (None, False, False, State.INTERRUPTED),
    (None, False, True, State.INTERRUPTED),
]


@pytest.mark.parametrize("recorded, held, sentinel, expected", ROWS)
def test_the_state_is_what_the_table_says(
    recorded: State | None, held: bool, sentinel: bool, expected: State
) -> None:
    assert effective_state(recorded, held, sentinel) is expected


def test_the_rows_are_all_there_are() -> None:
    keys = {(recorded, bool(held), bool(sentinel)) for recorded, held, sentinel, _ in ROWS}
    assert len(keys) == len(ROWS) == (len(State) + 1) * 4


def test_the_tables_docstring_has_the_same_rows() -> None:
    said = re.findall(r"^\s*\| (?!recorded|---)(.+) \|$", effective_state.__doc__ or "", re.MULTILINE)
    expanded = []
    for row in said:
        recorded, lock, sentinel, state = (cell.strip() for cell in row.split("|"))
        for name in recorded.partition("(")[0].strip().split(", "):
            for held in {"free": [False], "held": [True], "any": [False, True]}[lock]:
                for wanted in {"no": [False], "yes": [True], "any": [False, True]}[sentinel]:
                    result = name if state == "as recorded" else state.partition(" ")[0]
                    expanded.append((None if name == "none" else State(name), held, wanted, State(result)))
    assert sorted(map(str, expanded)) == sorted(str((r, bool(h), bool(s), e)) for r, h, s, e in ROWS)


# -- creating ---------------------------------------------------------------------------------------------


def test_a_new_job_is_queued_private_and_has_the_contracts_fields(directory: Jobs) -> None:
    status = directory.create(KEYED)
    assert set(status) >= SHAPE
    assert (status["state"], status["attempt"], status["wait"]) == ("queued", 1, 0.5)
    for suffix in ("json", "lock", "secret"):
        assert stat.S_IMODE(os.stat(directory.file(status["id"], suffix)).st_mode) == 0o600
    assert "S3CRET" not in Path(directory.file(status["id"], "json")).read_text()
    assert directory.secrets.keys(status["id"]) == ("AKID", "S3CRET", None)
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o700


def test_times_are_utc_with_milliseconds(directory: Jobs) -> None:
    text = directory.create(REQUEST)["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 60


def test_ids_match_the_pattern_and_sort_by_time() -> None:
    times = [datetime(2026, 11, 22, 13, 12, 42, microsecond, UTC) for microsecond in (0, 1, 999_998, 999_999)]
    ids = [jobs.new_id(time) for time in times]
    assert ids == sorted(ids)
    assert all(status_cache.ID_PATTERN.fullmatch(job_id) for job_id in ids)


@pytest.mark.parametrize("text", ["", "x", "../x", "20261122T131242-9f3a61c2\n", "20261122T131242-9F3A61C2"])
def test_what_is_no_id_never_becomes_a_path(directory: Jobs, text: str) -> None:
    with pytest.raises(UsageError):
        directory.observe(text)


def test_of_many_processes_one_gets_the_destination(directory: Jobs) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from syncworker.jobs.store import Conflict, Jobs; from syncworker.request import Request\n"
        "sys.stdin.read()\n"
        "try: print(Jobs(sys.argv[2]).create(Request('a', 'bucket', 'http://127.0.0.1:9000', 0.0))['id'])\n"
        "except Conflict as error: print('conflict', error.job)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(PROJECT), directory.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    said = sorted((process.communicate(timeout=60)[0].strip() for process in processes), key=len)
    assert said[1:] == [f"conflict {said[0]}"] * 7


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:9000", "http://[::1]:9000", "http://127.0.0.1:9000/", "http://2130706433:9000",
        "http://0x7f.1:9000", "http://127.1:9000", "http://[::ffff:127.0.0.1]:9000", "http://localhost.:9000",
    ],
)  # fmt: skip
def test_another_spelling_of_loopback_is_the_same_destination(directory: Jobs, url: str) -> None:
    directory.create(REQUEST)
    with pytest.raises(Conflict):
        directory.create(Request("other", "bucket", url, 0.0))


def test_two_spellings_of_one_destination_share_its_lock_its_index_and_its_facts(directory: Jobs) -> None:
    one, other = (
        {"storage_url": url, "dest": "bucket"} for url in ("http://127.1:9000", "http://[::1]:9000")
    )
    assert directory.destination(one).index_path == directory.destination(other).index_path
    assert directory.destination(one).facts_path == directory.destination(other).facts_path
    with directory.destination(one).lock() as lock, directory.destination(other).lock() as second:
        assert lock.acquire() and not second.acquire()


def test_files_of_a_spelling_that_had_its_own_go_on_under_the_one_name(directory: Jobs) -> None:
    status = {"storage_url": "http://127.1:9000", "dest": "bucket"}
    name = earlier_destination_id(status["storage_url"], "bucket")
    folder = Path(directory.path)
    earlier = Index(str(folder / ".index" / f"{name}.sqlite"))
    earlier.set_fact("plain_etags", "1")
    earlier.close()
    (folder / ".dest" / f"{name}.json").write_text("{}")
    with durable_files.Lock(str(folder / ".dest" / f"{name}.lock")) as lock:
        assert lock.acquire()
        assert not directory.destination(status).adopt_files(), "a worker of the earlier version uses them"
    assert directory.destination(status).adopt_files() and directory.destination(status).adopt_files()
    index = Index(directory.destination(status).index_path)
    assert index.fact("plain_etags") == "1"
    index.close()
    assert Path(directory.destination(status).facts_path).read_text() == "{}"
    assert not list(folder.glob(f".*/{name}.[js]*"))


def test_files_of_another_spelling_never_replace_those_that_are_there(directory: Jobs) -> None:
    status = {"storage_url": "http://127.1:9000", "dest": "bucket"}
    name = earlier_destination_id(status["storage_url"], "bucket")
    for path, text in (
        (Path(directory.path, ".dest", f"{name}.json"), "old"),
        (Path(directory.path, ".index", f"{name}.sqlite"), "old"),
        (Path(directory.path, ".index", f"{name}.sqlite-wal"), "old"),
        (Path(directory.destination(status).facts_path), "new"),
        (Path(directory.destination(status).index_path), "new"),
    ):
        path.write_text(text)
    assert directory.destination(status).adopt_files()
    assert Path(directory.destination(status).facts_path).read_text() == "new"
    assert Path(directory.destination(status).index_path).read_text() == "new"
    assert not Path(directory.destination(status).index_path + "-wal").exists()


def test_an_ended_job_frees_its_destination(directory: Jobs) -> None:
    run(directory, directory.create(REQUEST))  # dies
    directory.create(REQUEST)


# -- looking ----------------------------------------------------------------------------------------------


def test_a_look_at_a_dead_workers_job_writes_interrupted(directory: Jobs) -> None:
    status = directory.create(KEYED)
    run(directory, status)
    assert directory.observe(status["id"])["state"] == "interrupted"
    stored = json.loads(Path(directory.file(status["id"], "json")).read_text())
    assert (
        stored["state"] == "interrupted" and stored["finished_at"] and stored["error"]["code"] == "WorkerDied"
    )
    assert directory.secrets.keys(status["id"]) == ("AKID", "S3CRET", None)  # a resume needs them


def test_a_dead_workers_job_with_the_sentinel_is_cancelled(directory: Jobs) -> None:
    status = directory.create(KEYED)
    durable_files.touch(directory.file(status["id"], "cancel"))
    run(directory, status)
    assert directory.observe(status["id"])["state"] == "cancelled"
    assert directory.secrets.keys(status["id"]) is None


def test_a_look_never_writes_while_a_worker_lives(directory: Jobs) -> None:
    status = directory.create(REQUEST)
    with directory.lock(status["id"]) as lock:
        assert lock.acquire()
        job_status.begin(status)
        directory.write(status, durable=False)
        before = os.stat(directory.file(status["id"], "json"))
        assert directory.observe(status["id"])["state"] == "running"
        assert os.stat(directory.file(status["id"], "json")) == before


def test_many_lookers_agree(directory: Jobs) -> None:
    status = directory.create(REQUEST)
    run(directory, status)
    states: list[str] = []
    threads = [
        threading.Thread(target=lambda: states.append(directory.observe(status["id"])["state"]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One of them writes; who does not get the lock sees what was recorded before.
    assert set(states) <= {"interrupted", "running"} and "interrupted" in states
    assert directory.observe(status["id"])["state"] == "interrupted"


# -- cancel and resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(FINAL_STATES - {State.WAITING}))
def test_an_ended_job_cannot_be_cancelled(directory: Jobs, state: State) -> None:
    status = directory.create(REQUEST)
    run(directory, status, state)
    with pytest.raises(Conflict):
        directory.cancel(status["id"])
    assert not directory.is_cancelled(status["id"])


@pytest.mark.parametrize("state", sorted(State))
def test_only_ended_jobs_that_are_not_done_can_be_resumed(directory: Jobs, state: State) -> None:
    status = directory.create(REQUEST)
    if state in FINAL_STATES:
        run(directory, status, state)
    with directory.lock(status["id"]) as lock:
        if state is State.RUNNING:
            assert lock.acquire()
            job_status.begin(status)
            directory.write(status, durable=False)
        if state in RESUMABLE_STATES:
            durable_files.touch(directory.file(status["id"], "cancel"))
            resumed = directory.prepare_resume(status["id"])
            assert (resumed["state"], resumed["attempt"]) == ("queued", 2)
            assert not directory.is_cancelled(status["id"])
            assert resumed["progress"] == job_status.PROGRESS and resumed["errors"] == []
        else:
            with pytest.raises(Conflict):
                directory.prepare_resume(status["id"])


def test_a_resume_meets_the_rule_of_one_job_a_destination(directory: Jobs) -> None:
    first = directory.create(REQUEST)
    run(directory, first)
    second = directory.create(REQUEST)
    with pytest.raises(Conflict) as caught:
        directory.prepare_resume(first["id"])
    assert caught.value.job == second["id"]


def test_a_resume_never_uncancels_a_worker_that_still_lives(directory: Jobs) -> None:
    status = directory.create(REQUEST)
    with directory.lock(status["id"]) as lock:
        assert lock.acquire()
        job_status.begin(status)
        directory.finish(status, State.CANCELLED, None, "cancelled")  # written, and not ended yet
        durable_files.touch(directory.file(status["id"], "cancel"))
        with pytest.raises(Conflict, match="not ended yet"):
            directory.prepare_resume(status["id"])
        assert directory.is_cancelled(status["id"])


# -- removing ---------------------------------------------------------------------------------------------


def test_prune_removes_the_oldest_finished_jobs_with_all_their_files(directory: Jobs) -> None:
    ids = write_finished(Path(directory.path), 10)
    active = directory.create(KEYED)["id"]
    assert cleanup.prune(directory, keep=4) == 6
    assert directory.ids() == [*ids[6:], active]
    left = {name.partition(".")[0] for name in os.listdir(directory.path)} - {""}
    assert left == {*ids[6:], active}


def test_a_job_that_is_resumed_while_old_ones_are_removed_is_kept(directory: Jobs) -> None:
    ids = write_finished(Path(directory.path), 3)
    first = Path(directory.file(ids[0], "json"))
    first.write_text(first.read_text().replace('"done"', '"failed"'))

    def resume(leaving: list[str]) -> None:
        assert leaving == ids[:2]
        directory.prepare_resume(ids[0])

    assert cleanup.prune(directory, 1, on_prune=resume) == 1
    assert directory.observe(ids[0])["state"] == "queued"
    assert directory.ids() == [ids[0], ids[2]]


def test_a_job_whose_lock_is_held_is_not_removed(directory: Jobs) -> None:
    (job_id,) = write_finished(Path(directory.path), 1)
    with directory.lock(job_id) as lock:
        assert lock.acquire()
        assert cleanup.prune(directory, keep=0) == 0
    assert cleanup.prune(directory, keep=0) == 1
    with pytest.raises(NoSuchJob):
        directory.observe(job_id)


# -- the catalog ------------------------------------------------------------------------------------------


def test_the_catalog_sees_every_change_at_once(directory: Jobs) -> None:
    """Changes of every kind, straight after one another, each followed by a look."""
    (done,) = write_finished(Path(directory.path), 1)
    for number in range(40):
        status = directory.create(Request("a", f"bucket-{number}", "http://127.0.0.1:9000", 0.0))
        assert directory.entries()[status["id"]].state is State.QUEUED
        run(directory, status, State.FAILED)
        assert directory.entries()[status["id"]].state is State.FAILED
        directory.prepare_resume(status["id"])
        assert directory.entries()[status["id"]].state is State.QUEUED
        assert not directory.entries()[status["id"]].cancelled
        durable_files.touch(directory.file(status["id"], "cancel"))
        assert directory.entries()[status["id"]].cancelled
        directory.observe(status["id"])
        assert directory.entries()[status["id"]].state is State.CANCELLED
        assert directory.delete(status["id"])
        assert set(directory.entries()) == {done}


def test_the_catalog_reads_a_status_only_when_it_changed(
    directory: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_finished(Path(directory.path), 50)
    reads: list[str] = []
    read = durable_files.read_json
    monkeypatch.setattr(durable_files, "read_json", lambda path: reads.append(path) or read(path))
    directory.entries()
    assert len(reads) == 50
    reads.clear()
    directory.entries()
    assert reads == []
    status = directory.create(REQUEST)
    reads.clear()
    directory.entries()
    assert reads == [directory.file(status["id"], "json")]


def test_a_glance_sees_new_jobs_and_resumed_ones_at_once(directory: Jobs) -> None:
    """And a job that another process resumes within two seconds."""
    write_finished(Path(directory.path), 5)
    status = directory.create(REQUEST)
    assert [job["id"] for job in directory.active()] == [status["id"]]
    run(directory, status, State.FAILED)
    assert directory.active() == []
    directory.prepare_resume(status["id"])
    assert [job["id"] for job in directory.active()] == [status["id"]]
    run(directory, status, State.FAILED)
    assert directory.active() == []
    Jobs(directory.path).prepare_resume(status["id"])
    wait_for(lambda: [job["id"] for job in directory.active()] == [status["id"]], 20)
    with pytest.raises(Conflict):
        directory.create(REQUEST)


def test_the_rule_of_one_job_a_destination_never_relies_on_a_glance(directory: Jobs) -> None:
    status = directory.create(REQUEST)
    run(directory, status, State.FAILED)
    assert directory.active() == []
    Jobs(directory.path).prepare_resume(status["id"])
    with pytest.raises(Conflict):
        directory.create(REQUEST)


def _plant(directory: Jobs, number: int, **changes: object) -> str:
    """A queued job's status with something wrong in it."""
    made = directory.create(Request("a", f"planted-{number}", "http://127.0.0.1:9", 0.0))
    os.remove(directory.file(made["id"], "json"))
    job_id = f"20260102T000000-{number:08x}"
    status = {**made, "id": job_id, **changes}
    Path(directory.file(job_id, "json")).write_text(json.dumps(status))
    return job_id


def test_a_file_that_is_no_jobs_status_disturbs_no_other_job(directory: Jobs, tmp_path: Path) -> None:
    """Its id would name files, its destination a lock; a reader that fails on one file fails for all."""
    victim = tmp_path / "victim.json"
    victim.write_text("precious")
    wrong: tuple[dict[str, object], ...] = (
        {"id": "../victim"}, {"id": "20260102T000000-ffffffff"}, {"dest": ["x"]}, {"dest": None},
        {"storage_url": "nonsense"}, {"progress": None}, {"updated_at": "soon", "auto_resume": False},
        {"state": "gone"}, {"source": 5},
    )  # fmt: skip
    planted = [_plant(directory, number, **changes) for number, changes in enumerate(wrong)]
    deep, folder, fifo, link = (f"20260103T000000-{number:08x}" for number in range(4))
    Path(directory.file(deep, "json")).write_text("[" * 100_000)
    os.mkdir(directory.file(folder, "json"))
    os.mkfifo(directory.file(fifo, "json"))
    os.symlink(victim, directory.file(link, "json"))
    locked = [_plant(directory, 100, state="running"), _plant(directory, 101, state="running")]
    os.mkdir(directory.file(locked[0], "lock"))
    os.symlink(victim, directory.file(locked[1], "lock"))
    good = directory.create(Request("a", "good-bucket", "http://127.0.0.1:9", 0.0))["id"]
    assert [status["id"] for status in directory.active()] == [good]
    for job_id in (*planted, deep, folder, fifo, link, *locked):
        for act in (directory.observe, directory.cancel, directory.prepare_resume):
            with pytest.raises(NoSuchJob):
                act(job_id)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("error", ["text", ["list"], 1])
def test_a_status_with_a_malformed_error_hides_no_other_job(tmp_path: Path, error: object) -> None:
    store = Jobs(str(tmp_path))
    store.prepare()
    odd, fine = write_finished(tmp_path, 2)
    path = tmp_path / f"{odd}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "failed", "error": error}))
    entries = store.entries()
    assert entries[odd].state is None
    assert entries[fine].state is State.DONE
