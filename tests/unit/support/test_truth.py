"""What is asked of every status can fail: each rule of `truth.py` meets a status that breaks it."""

from __future__ import annotations

import copy
import json
import threading
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from bench import tree, wait_for
from truth import Watch, check_truth, lies


@pytest.fixture(scope="module")
def real(stores, tmp_path_factory):
    """A status and a report as a worker leaves them: two files sent, one object deleted."""
    from bench import Shell, fill

    store = stores.get("juicefs")
    shell = Shell(tmp_path_factory.mktemp("truth"), store)
    fill(store, "truth-of-statuses", {"old": b"x"})
    tree(shell.uploads, {"photos": {"a": "1", "b": "22"}})
    status = shell.sync("truth-of-statuses").status
    shell.close()
    store.remove_bucket("truth-of-statuses")
    return status, shell.report(status["id"])


BREAKS = [
    ("files_done is the sum", {"files_unchanged": 1}),
    ("no more files are done", {"files_total": 1}),
    ("no more bytes are done", {"bytes_total": 2}),
    ("no time is foretold before", {"scan_complete": False, "eta_seconds": 2.0}),
    ("no time is foretold of what has ended", {"eta_seconds": 0.0}),
    ("the scan of what is done", {"scan_complete": False}),
    ("all files of what is done", {"files_total": 3}),
    ("all bytes of what is done", {"bytes_done": 2}),
    ("no file of what is done has failed", {"files_failed": 1, "files_total": 3, "files_done": 3}),
    ("each upload has its line", {"files_uploaded": 1, "files_unchanged": 1}),
    ("each deletion has its line", {"objects_deleted": 2}),
]


@pytest.mark.parametrize(("rule", "change"), BREAKS)
def test_a_wrong_counter_is_found(real, rule, change):
    status, report = copy.deepcopy(real)
    assert lies(status, report) == []
    status["progress"].update(change)
    assert any(found.startswith(rule) for found in lies(status, report)), lies(status, report)


def test_what_has_ended_and_still_does_something_is_found(real):
    status, report = copy.deepcopy(real)
    status["current"] = [{"op": "upload", "key": "a", "size": 1, "bytes_done": 0}]
    assert lies(status, report) == ["nothing is in flight of what has ended"]
    status, report = copy.deepcopy(real)
    status["finished_at"] = None
    assert lies(status, report) == ["an end has its time"]


def test_a_failure_without_its_line_or_its_outcome_is_found(real):
    status, report = copy.deepcopy(real)
    status.update(state="failed", error={"code": "FilesFailed", "message": "1 of 3 files failed"})
    status["progress"].update(files_failed=1, files_total=4, files_done=3, objects_deleted=1)
    assert lies(status, report) == ["each file has an outcome", "each failure has its line"]


def test_a_lie_on_the_disk_is_found(real, tmp_path):
    status, report = copy.deepcopy(real)
    lines = "".join(json.dumps(line) + "\n" for line in report)
    (tmp_path / f"{status['id']}.report.jsonl").write_text(lines)
    path = tmp_path / f"{status['id']}.json"
    path.write_text(json.dumps(status))
    check_truth(tmp_path)
    status["progress"]["files_done"] = 7
    path.write_text(json.dumps(status))
    with pytest.raises(AssertionError, match="files_done"):
        check_truth(tmp_path)


def test_a_status_that_a_living_worker_does_not_renew_is_found(real, tmp_path):
    status = copy.deepcopy(real[0])
    old = (datetime.now(UTC) - timedelta(seconds=30)).isoformat()
    me = psutil.Process()
    status.update(state="running", pid=me.pid, pid_started_at=me.create_time(), updated_at=old)
    path = tmp_path / f"{status['id']}.json"
    path.write_text(json.dumps({**status, "pid_started_at": me.create_time() - 100}))
    watch = Watch(patience_seconds=1.0)
    try:
        watch.add(tmp_path)
        threading.Event().wait(1.2)
        assert not watch.stale, "that pid is another process's by now"
        path.write_text(json.dumps(status))
        wait_for(lambda: watch.stale, 60, "the watch to see it")
    finally:
        watch.close()
