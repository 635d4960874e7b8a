"""/metrics: true numbers, that outlive workers, removed jobs and the server; tallies; what the status says of
a worker's cost; and answers that are not sent again while nothing has changed."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, RecordingProxy, Service, s3_error, tree, wait_for
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from serving import Site, load, write_finished
from stores import Store

from syncworker.history import last_runs
from syncworker.history.ledger import TOTALS, Ledger
from syncworker.jobs import cleanup, store
from syncworker.jobs import status as job_status
from syncworker.jobs import totals as tally
from syncworker.model import State
from syncworker.request import Request
from syncworker.system.folder_events import FolderEvents
from syncworker.web import metrics

Numbers = dict[str, float]


def numbers(text: str) -> Numbers:
    """`name{label="value"}` -> value, labels sorted."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def scrape(service: Service) -> Numbers:
    return numbers(service.get("/metrics").body.decode())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    yield site
    site.close()


# -- tallies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, [], "x", 5, {"counts": []}]
    + [{"counts": {"a": number}} for number in ("1", True, -1, float("nan"), float("inf"), 10**400)],
)
def test_what_is_no_tally_counts_nothing(value: Any) -> None:
    assert tally.clean(value) == tally.empty()


def test_tallies_are_summed_by_name() -> None:
    total = tally.empty()
    tally.add(total, {"counts": {"a": 1}, "errors": {"AccessDenied": 2}})
    tally.add(total, {"counts": {"a": 2, "b": 0.5}, "requests": {"PutObject 200": 1}})
    assert total == {
        "counts": {"a": 3, "b": 0.5},
        "errors": {"AccessDenied": 2},
        "phase_seconds": {},
        "requests": {"PutObject 200": 1},
    }


def test_odd_names_and_too_many_of_them_count_as_other() -> None:
    """Codes come from stores: a hostile one must not make series without end."""
    total = tally.empty()
    tally.add(total, {"errors": {'a"}\n': 1, "": 1, "x" * 100: 1}})
    assert total["errors"] == {"other": 3}
    tally.add(total, {"errors": {f"Code{number}": 1 for number in range(1000)}})
    assert len(total["errors"]) == tally.NAMES_MAX
    assert sum(total["errors"].values()) == 1003


def test_a_code_that_is_known_before_is_counted_by_name_however_many_odd_ones_there_are() -> None:
    total = tally.empty()
    tally.add(total, {"errors": {f"Code{number}": 1 for number in range(1000)}})
    tally.add(total, {"errors": {"WorkerDied": 1}})
    assert total["errors"]["WorkerDied"] == 1


# -- the last runs -----------------------------------------------------------------------------------------


def ended(state: str, at: int, **more: Any) -> dict[str, Any]:
    status = {"source": "photos", "dest": "b", "storage_url": "http://s", "state": state, "options": {}}
    status |= {"finished_at": f"2026-01-01T00:{at:02}:00.000Z", "progress": dict(job_status.PROGRESS)}
    return status | {"skipped": {}, "scope": None} | more


def runs_of(*statuses: dict[str, Any]) -> last_runs.Runs:
    runs: last_runs.Runs = {}
    for found in map(last_runs.of_status, statuses):
        if found is not None:
            last_runs.add(runs, *found)
    return runs


NEW_YEAR = 1767225600.0


@pytest.mark.parametrize(
    ("statuses", "state", "ended_minute", "success_minute"),
    [
        ([ended("done", 5)], "done", 5, 5),
        ([ended("done", 5), ended("failed", 9)], "failed", 9, 5),
        ([ended("failed", 9), ended("done", 5)], "failed", 9, 5),
        ([ended("failed", 5), ended("done", 9), ended("done", 7)], "done", 9, 9),
        ([ended("done", 5), ended("done", 9, scope=["a"])], "done", 9, 5),  # a part is no mirror
        ([ended("done", 5), ended("running", 9, finished_at=None)], "done", 5, 5),
        ([ended("done", 5), ended("cancelled", 6, error={"code": "Superseded"})], "done", 5, 5),
        ([ended("done", 5), {"state": "done"}, {}, ended("done", 9, finished_at="soon")], "done", 5, 5),
    ],
)
def test_the_last_run_and_the_last_success_of_a_mirror(
    statuses: list[dict[str, Any]], state: str, ended_minute: int, success_minute: int
) -> None:
    [run] = runs_of(*statuses).values()
    assert run.state == state
    assert (run.ended_at, run.success_at) == (NEW_YEAR + 60 * ended_minute, NEW_YEAR + 60 * success_minute)


def test_a_mirror_that_never_succeeded_says_so() -> None:
    [run] = runs_of(ended("failed", 5, skipped={"fifo": 2, "vanished": 7})).values()
    assert (run.success_at, run.skipped) == (0, 2)  # what went away while it ran is not left out


def test_of_too_many_mirrors_those_are_told_that_ended_last() -> None:
    statuses = [ended("done", 1, dest=f"b{n}", finished_at=f"2026-01-{1 + n // 100:02}T01:{n % 60:02}:00Z")
                for n in range(1500)]  # fmt: skip
    found = last_runs.newest(runs_of(*statuses))
    assert len(found) == last_runs.RECORDS_MAX
    assert min(run.ended_at for run in found.values()) >= NEW_YEAR + 5 * 86400
    assert last_runs.newest(found, since=NEW_YEAR + 60 * 86400) == {}


@pytest.mark.parametrize(
    "value",
    [None, {}, [1], [[]], [["a", "b", "", "http://s", "done", 1, 2, 3, 4]]]
    + [[["a", "b", "", "http://s", "done", 1, 2, odd, 4, 5]] for odd in (-1, float("nan"), "3", None, 1e300)]
    + [[["a", None, "", "http://s", "done", 1, 2, 3, 4, 5]]],
)
def test_what_is_no_record_is_passed_over(value: Any) -> None:
    assert last_runs.of_json(value) == {}


def test_records_are_read_as_they_were_written() -> None:
    runs = runs_of(ended("done", 5), ended("failed", 9, dest="c", options={"prefix": "a/"}))
    assert last_runs.of_json(json.loads(json.dumps(last_runs.to_json(runs)))) == runs


def test_a_mirror_with_a_prefix_or_on_another_storage_has_a_series_of_its_own(site: Site) -> None:
    kinds: list[dict[str, Any]] = [{}, {"options": {"prefix": "a/"}}, {"storage_url": "https://elsewhere"}]
    kinds.append({"dest": 'odd"\\n\udcff'})
    for job_id, more in zip(write_finished(Path(site.jobs.path), 4), kinds, strict=True):
        path = Path(site.jobs.file(job_id, "json"))
        kind = ended("done", 5, storage_url="http://127.0.0.1:9") | more
        path.write_text(json.dumps(json.loads(path.read_text()) | kind))
    found = numbers(site.get("/metrics").body.decode())
    named = {name for name in found if name.startswith("syncworker_last_success")}
    start = "syncworker_last_success_timestamp_seconds{dest="
    assert named >= {
        start + '"b",source="photos"}',
        start + '"b",prefix="a/",source="photos"}',
        start + '"b",source="photos",storage="https://elsewhere"}',
    }


def test_every_code_and_every_end_begins_at_0(site: Site) -> None:
    found = numbers(site.get("/metrics").body.decode())
    codes = {name for name in found if name.startswith("syncworker_errors_total")}
    assert len(codes) > 100 and {found[name] for name in codes} == {0}
    for code in ("WorkerDied", "Stopped", "AccessDenied", "FilesFailed", "ConnectFailed", "EACCES"):
        assert f'syncworker_errors_total{{code="{code}"}}' in codes
    for state in ("done", "failed", "cancelled", "interrupted"):
        assert found[f'syncworker_attempts_ended_total{{state="{state}"}}'] == 0


def test_an_end_is_counted_once_though_it_is_written_twice(
    directory: store.Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at first."""
    status = directory.create(Request("a", "bucket", "http://s", 0.0))
    job_status.begin(status)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patch:
        patch.setattr(directory, "publish", full)
        with pytest.raises(OSError, match="full"):
            directory.finish(status, State.FAILED, {"code": "LocalError", "message": "x"}, "x")
    directory.finish(status, State.FAILED, {"code": "LocalError", "message": "x"}, "x")
    metrics_of = (directory.read(status["id"]) or {})["metrics"]
    assert metrics_of["counts"] == {"ended_failed": 1} and metrics_of["errors"] == {"LocalError": 1}


def test_a_worker_that_died_is_counted_by_whoever_goes_on_before_anybody_looked() -> None:
    status: dict[str, Any] = {"state": "running", "attempt": 1, "metrics": tally.empty()}
    job_status.renew(status, auto_resume=True)
    assert status["metrics"]["errors"] == {"WorkerDied": 1}
    assert status["metrics"]["counts"] == {"ended_interrupted": 1}
    again = dict(status, state="interrupted")
    job_status.renew(again, auto_resume=True)  # that one has been counted when it was written
    assert again["metrics"] == status["metrics"]


# -- the ledger -------------------------------------------------------------------------------------------


def put(directory: store.Jobs, job_id: str, uploaded: int) -> None:
    path = Path(directory.file(job_id, "json"))
    status = json.loads(path.read_text())
    status["metrics"] = {"counts": {"files_uploaded": uploaded}}
    directory.write(status, durable=False)


@pytest.fixture
def directory(tmp_path: Path) -> store.Jobs:
    found = store.Jobs(load(tmp_path).jobs_dir)
    found.prepare()
    return found


def uploaded(ledger: Ledger) -> float:
    return ledger.sum()["counts"].get("files_uploaded", 0)


def test_no_number_goes_down_when_jobs_are_removed_or_the_server_starts_anew(directory: store.Jobs) -> None:
    ids = write_finished(Path(directory.path), 5)
    for number, job_id in enumerate(ids):
        put(directory, job_id, 10**number)
    ledger = Ledger(directory)
    assert uploaded(ledger) == 11111
    assert cleanup.prune(directory, 3, on_prune=ledger.retire) == 2
    assert uploaded(ledger) == uploaded(Ledger(directory)) == 11111
    assert cleanup.prune(directory, 1, on_prune=ledger.retire) == 2
    assert uploaded(ledger) == uploaded(Ledger(directory)) == 11111
    put(directory, ids[4], 20000)  # resumed, and done with more
    assert uploaded(ledger) == 21111


def test_a_server_that_dies_between_the_totals_and_the_removal_counts_nothing_twice(
    directory: store.Jobs,
) -> None:
    ids = write_finished(Path(directory.path), 2)
    for job_id in ids:
        put(directory, job_id, 7)
    Ledger(directory).retire([ids[0]])  # and now it dies
    after = Ledger(directory)
    assert uploaded(after) == 14
    assert cleanup.prune(directory, 1, on_prune=after.retire) == 1
    assert uploaded(after) == uploaded(Ledger(directory)) == 14


def test_the_last_success_outlives_the_files_of_its_job(directory: store.Jobs) -> None:
    ids = write_finished(Path(directory.path), 2)
    for number, job_id in enumerate(ids):
        path = Path(directory.file(job_id, "json"))
        done = ended("done", 0, dest=f"b{number}", finished_at=job_status.timestamp())
        path.write_text(json.dumps(json.loads(path.read_text()) | done))
    ledger = Ledger(directory)
    before = ledger.last_runs()
    assert {mirror.dest for mirror in before} == {"b0", "b1"}
    cleanup.prune(directory, 1, on_prune=ledger.retire)
    assert ledger.last_runs() == before
    os.unlink(directory.file(ids[1], "json"))  # by hand
    assert ledger.last_runs() == before


def test_a_mirror_is_forgotten_90_days_after_the_last_trace_of_it(directory: store.Jobs) -> None:
    ids = write_finished(Path(directory.path), 2)
    old = (datetime.now(UTC) - timedelta(days=91)).isoformat()
    recent = (datetime.now(UTC) - timedelta(days=89)).isoformat()
    for job_id, when, dest in zip(ids, (old, recent), ("old", "recent"), strict=True):
        path = Path(directory.file(job_id, "json"))
        gone = ended("done", 1, dest=dest, finished_at=when)
        path.write_text(json.dumps(json.loads(path.read_text()) | gone))
    ledger = Ledger(directory)
    assert len(ledger.last_runs()) == 2  # its job is there
    cleanup.prune(directory, 0, on_prune=ledger.retire)
    assert [mirror.dest for mirror in Ledger(directory).last_runs()] == ["recent"]


def test_a_job_removed_by_hand_stays_counted(directory: store.Jobs) -> None:
    (job_id,) = write_finished(Path(directory.path), 1)
    put(directory, job_id, 7)
    ledger = Ledger(directory)
    assert uploaded(ledger) == 7
    os.unlink(directory.file(job_id, "json"))
    assert uploaded(ledger) == uploaded(Ledger(directory)) == 7


def test_totals_that_cannot_be_read_or_written_stop_nothing(directory: store.Jobs) -> None:
    totals = Path(directory.path, TOTALS)
    (job_id,) = write_finished(Path(directory.path), 1)
    put(directory, job_id, 7)
    for text in ("{", "[]", '{"metrics": 5, "leaving": 6}'):
        totals.write_text(text)
        assert uploaded(Ledger(directory)) == 7
    totals.unlink()
    ledger = Ledger(directory)
    totals.mkdir()  # nothing can be renamed over it
    assert cleanup.prune(directory, 0, on_prune=ledger.retire) == 1
    assert uploaded(ledger) == 7


def test_a_status_is_read_again_only_when_it_has_changed(
    directory: store.Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = write_finished(Path(directory.path), 50)
    ledger = Ledger(directory)
    ledger.sum()
    read: list[str] = []
    monkeypatch.setattr(directory, "read", lambda job_id: read.append(job_id))
    ledger.sum()
    assert read == []
    put(directory, ids[3], 1)
    ledger.sum()
    assert read == [ids[3]]


# -- the page ---------------------------------------------------------------------------------------------


def check_with_promtool(promtool: Path, text: bytes) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Debian's, unpacked beside the virtual environment: no Prometheus is installed or started."""
    found = PROJECT / ".venv" / "promtool"
    assert found.is_file(), "run `make test`, which brings promtool"
    return found


def test_promtool_has_nothing_to_say(service: Service, juicefs: Store, bucket: str, promtool: Path) -> None:
    check_with_promtool(promtool, service.get("/metrics").body)
    tree(service.uploads / "photos", {"a": "1", "b": "2"})
    service.done(bucket)
    reply = service.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    check_with_promtool(promtool, reply.body)


def test_the_numbers_are_those_of_the_sync_and_stay(
    make_service: Callable[..., Service],
    juicefs: Store,
    bucket: str,
    make_proxy: Callable[[Store], RecordingProxy],
) -> None:
    proxy = make_proxy(juicefs)
    proxy.on_request(
        lambda request: (
            s3_error(403, "AccessDenied") if request.key == "no" and request.method == "PUT" else None
        )
    )
    service = make_service(juicefs, STORAGE_URL=proxy.url, KEEP_JOBS="1")
    tree(service.uploads / "photos", {"a": "1", "b": "22", "no": "333"})
    service.wait_state(service.sync(bucket), "failed")
    found = scrape(service)
    assert found['syncworker_files_total{result="uploaded"}'] == 2
    assert found['syncworker_files_total{result="failed"}'] == 1
    assert found["syncworker_uploaded_bytes_total"] == 3
    assert found['syncworker_errors_total{code="AccessDenied"}'] == 1
    assert found['syncworker_errors_total{code="FilesFailed"}'] == 1
    assert found['syncworker_s3_requests_total{operation="PutObject",status="200"}'] == 2
    assert found['syncworker_s3_requests_total{operation="PutObject",status="403"}'] >= 1
    assert found['syncworker_phase_seconds_total{phase="transferring"}'] > 0
    assert found["syncworker_worker_cpu_seconds_total"] > 0
    assert found["syncworker_attempts_total"] == 1
    assert found['syncworker_jobs{state="failed"}'] == 1
    service.restart()
    assert grown(found, scrape(service)) == {}
    service.wait_state(service.get("/resume", id=service.ids()[0]).json()["id"], "failed")
    again = scrape(service)
    assert again["syncworker_attempts_total"] == 2
    assert again['syncworker_errors_total{code="AccessDenied"}'] == 2
    assert again['syncworker_files_total{result="uploaded"}'] == 2
    (service.uploads / "photos" / "no").unlink()
    service.done(bucket)
    wait_for(lambda: len(service.ids()) == 1, 10, "the first job's files to be removed")
    later = scrape(service)
    assert later['syncworker_jobs{state="failed"}'] == 0
    assert all(later[name] >= value for name, value in again.items() if is_ours(name)), (again, later)
    service.restart()
    assert grown(later, scrape(service)) == {}


def is_ours(name: str) -> bool:
    return name.startswith("syncworker_") and "_total" in name


def grown(before: Numbers, after: Numbers) -> Numbers:
    """What of our counters is another now."""
    return {
        name: after.get(name, 0) - before[name]
        for name in before
        if is_ours(name) and after.get(name) != before[name]
    }


def test_a_living_worker_is_measured(site: Site) -> None:
    job_id = site.submit()
    assert numbers(site.get("/metrics").body.decode())["syncworker_queue_length"] == 1
    with site.running(job_id):  # this very process plays the worker
        found = numbers(site.get("/metrics").body.decode())
    assert found["syncworker_workers"] == 1 and found["syncworker_queue_length"] == 0
    assert found["syncworker_workers_resident_memory_bytes"] > 10_000_000


def test_members_of_running_jobs_are_counted_by_state() -> None:
    workers = [{"state": "ready", "in_flight": 3}, {"state": "ready", "in_flight": 1}, {"state": "lost"}]
    cluster = {"scheduler": "local", "workers": workers, "lost": 1, "resent": 7}
    active = [{"cluster": cluster}, {"cluster": None}, {}]
    found = numbers(generate_latest(metrics._Families(metrics._clusters(active))).decode())
    assert found == {
        **{
            f'syncworker_cluster_members{{state="{state}"}}': 0
            for state in ("none", "opening", "ending", "refused")
        },
        'syncworker_cluster_members{state="ready"}': 2,
        'syncworker_cluster_members{state="lost"}': 1,
        "syncworker_cluster_files_in_flight": 4,
        "syncworker_cluster_files_resent": 7,
    }


def test_the_grafana_file_asks_for_series_that_there_are(site: Site) -> None:
    board = json.loads((PROJECT / "docs" / "grafana.json").read_text())
    asked = {target["expr"] for panel in board["panels"] for target in panel.get("targets", [])}
    named = {name for text in asked for name in re.findall(r"\b(?:syncworker|process)_[a-z0-9_]+", text)}
    there = {family.name for family in text_string_to_metric_families(site.get("/metrics").body.decode())}
    there |= {f"{name}_total" for name in there}
    assert named and named <= there, named - there
    ours = {name for name in there if name.startswith("syncworker_") and not name.endswith("_total")}
    unused = {name for name in ours if name not in named and f"{name}_total" not in named}
    assert unused <= {"syncworker_build_info", "syncworker_queue_limit", "syncworker_workers_limit"}, unused


# -- what a worker costs ------------------------------------------------------------------------------------


def test_the_status_says_what_the_worker_costs(service: Service, bucket: str) -> None:
    tree(service.uploads / "photos", {"a": "1", "b": "2"})
    job_id = service.sync(bucket, wait="0.5")
    status = service.wait_state(job_id, ("running", "done"))
    status = wait_for(lambda: _measured(service.show(job_id)))
    assert status["resources"]["rss_bytes"] > 1_000_000
    assert status["resources"]["cpu_seconds"] >= 0
    ended = service.wait_state(job_id)
    assert ended["metrics"]["counts"]["cpu_seconds"] > 0


def _measured(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if status["resources"]["rss_bytes"] else None


# -- conditional requests -----------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_sent_again(site: Site) -> None:
    job_id = site.submit()
    for target in ("/runnings", "/jobs", f"/get?id={job_id}", "/jobs?state=queued", "/openapi.json"):
        first = site.get(target)
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"x", {etag}', "*"):
            again = site.get(target, If_None_Match=known)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag), (target, known)
        assert site.get(target, If_None_Match='"x"').body == first.body
        assert site.ask("HEAD", target, If_None_Match=etag).status == 304
        assert site.ask("POST", target, If_None_Match=etag).status == 200


def test_every_change_of_a_job_changes_the_etags(site: Site) -> None:
    job_id = site.submit()
    targets = ("/runnings", "/jobs", f"/get?id={job_id}")
    seen: dict[str, set[str]] = {target: set() for target in targets}

    def look() -> None:
        for target in targets:
            etag = site.get(target).headers["etag"]
            assert etag not in seen[target], target
            seen[target].add(etag)

    look()
    with site.running(job_id) as status:
        look()
        status["progress"]["files_done"] = 5
        site.jobs.write(status, durable=False)
        look()
        site.get(f"/cancel?id={job_id}")
        look()
    look()  # the worker is gone: nobody has written that yet
    site.get(f"/resume?id={job_id}")
    look()


def test_pages_of_the_history_have_etags_of_their_own(site: Site) -> None:
    write_finished(Path(site.jobs.path), 7)
    tags = {site.get(f"/jobs?limit={limit}").headers["etag"] for limit in (1, 2, 3, 7)}
    assert len(tags) == 4
    following = site.get("/jobs?limit=3").json["next"]
    target = f"/jobs?limit=3&before={following}"
    etag = site.get(target).headers["etag"]
    assert etag not in tags and site.get(target, If_None_Match=etag).status == 304


def test_an_idle_history_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write_finished(Path(site.jobs.path), 50)
    etag = site.get("/jobs").headers["etag"]

    def fail(*_: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(site.jobs, "observe", fail)
    assert site.get("/jobs", If_None_Match=etag).status == 304


def test_errors_are_errors_whatever_the_client_knows(site: Site) -> None:
    for target, status in [
        ("/get?id=x", 400),
        ("/get?id=20260101T000000-00000000", 404),
        ("/jobs?limit=0", 400),
    ]:
        assert site.get(target, If_None_Match="*").status == status


def test_what_is_summed_step_by_step_is_what_a_new_ledger_sums(tmp_path: Path) -> None:
    """Jobs that come, work, end, go, and are removed by others: the kept sums are never another's."""
    chance = random.Random(7)
    jobs = store.Jobs(str(tmp_path / "jobs"))
    jobs.prepare()
    jobs.catalog.follow(FolderEvents(jobs.path).take)
    ledger = Ledger(jobs)
    there: list[job_status.Status] = []
    for step in range(150):
        act = chance.choice(["make", "work", "work", "end", "retire", "remove"])
        if act == "make" or not there:
            there.append(jobs.create(Request(f"f{step % 7}", f"bucket-{step}", "http://127.0.0.1:9000", 0.0)))
            continue
        status = chance.choice(there)
        if act == "work":
            tally.add(status["metrics"], {"counts": {"files_uploaded": step}, "errors": {"OddCode": 1}})
            jobs.write(status, durable=False)
        elif act == "end":
            state = chance.choice([State.DONE, State.FAILED])
            jobs.finish(status, state, None, "ended")
        else:
            if act == "retire":
                ledger.retire([status["id"]])
            jobs.delete(status["id"])
            there.remove(status)
        found = ledger.sum(), ledger.last_runs()  # which writes down what others have removed
        anew = Ledger(store.Jobs(jobs.path))
        assert found == (anew.sum(), anew.last_runs()), (step, act)
        assert ledger.last_runs() is found[1], "the same until another job ends"
