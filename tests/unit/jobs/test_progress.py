"""The counters: they grow, add up, and are published as often as promised and no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import FileError
from syncworker.escape import escape_surrogates
from syncworker.jobs import progress as module
from syncworker.jobs.progress import Operation, Progress, UploadResult
from syncworker.jobs.status import begin
from syncworker.jobs.store import Jobs
from syncworker.model import FileEntry, Phase
from syncworker.request import Request


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module.time, "monotonic", made)
    return made


def make(folder: Path) -> Progress:
    jobs = Jobs(str(folder / "jobs"))
    jobs.prepare()
    status = jobs.create(Request("photos", "mybucket", "http://127.0.0.1:9000", 0.0))
    begin(status)
    return Progress(jobs, status)


@pytest.fixture
def progress(tmp_path: Path, clock: Clock) -> Progress:
    return make(tmp_path)


def sent(key: str, size: int) -> UploadResult:
    return UploadResult(FileEntry(key, size, 1, 2, 3, f"photos/{key}"), "e", "e", 0, 4)


def report(progress: Progress) -> list[dict[str, Any]]:
    progress.report.flush()
    path = Path(progress.jobs.file(progress.status["id"], "report.jsonl"))
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_file_is_done_in_one_way_and_they_add_up(progress: Progress) -> None:
    progress.found(4, 100)
    progress.unchanged(1, 10)
    progress.skipped("s", "vanished", 20)
    progress.uploaded(sent("u", 30), 30, 0.1)
    progress.failed("upload", "f", FileError("AccessDenied", "no"), 40)
    counts = progress.snapshot()["progress"]
    assert counts["files_done"] == counts["files_total"] == 4
    ways = ("files_unchanged", "files_skipped", "files_uploaded", "files_failed")
    assert [counts[name] for name in ways] == [1, 1, 1, 1]
    assert counts["bytes_done"] == 60, "a failed file's bytes are not done"


def test_the_report_has_a_line_for_what_changed_or_failed(progress: Progress) -> None:
    progress.unchanged(5, 10)
    progress.uploaded(sent("u", 30), 30, 0.12345)
    progress.deleted("d", 7, 0.5)
    progress.failed("upload", "f", FileError("AccessDenied", "no"), 40)
    lines = report(progress)
    assert [(line["op"], line["key"], line["size"]) for line in lines] == [
        ("upload", "u", 30),
        ("delete", "d", 7),
        ("upload", "f", 40),
    ]
    assert lines[2]["error"] == {"code": "AccessDenied", "message": "no"}
    assert "error" not in lines[0]
    progress.uploaded(sent("v", 1), 1, 0)
    assert len(report(progress)) == 4, "what is written stays"
    path = progress.jobs.file(progress.status["id"], "report.jsonl")
    assert os.stat(path).st_mode & 0o777 == 0o600
    progress.report.close()


def test_a_hundred_errors_are_shown_and_all_are_reported(progress: Progress) -> None:
    for number in range(150):
        progress.failed("upload", f"{number}", FileError("AccessDenied", "x" * 5000), 1)
    status = progress.snapshot()
    assert len(status["errors"]) == 100
    assert all(len(error["message"]) <= 300 for error in status["errors"])
    assert status["progress"]["files_failed"] == 150
    assert len(report(progress)) == 150
    progress.report.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["found", "begin", "send", "back", "end", "grown"]), st.integers(0, 100)),
    max_size=40,
)


@given(STEPS)
def test_bytes_done_never_shrink_and_never_pass_the_total(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Though a part that is sent again takes back what it had counted."""
    progress = make(tmp_path_factory.mktemp("progress"))
    flight: list[Operation] = []
    before = 0
    for step, number in steps:
        if step == "found":
            progress.found(1, number)
        elif step == "begin":
            progress.found(1, number)
            flight.append(progress.begin("upload", "k", number))
        elif step == "grown":
            progress.grown(50, number)
        elif flight and step == "send":
            flight[-1].sent = min(flight[-1].size, flight[-1].sent + number)
        elif flight and step == "back":
            flight[-1].sent = max(0, flight[-1].sent - number)
        elif flight and step == "end":
            operation = flight.pop()
            progress.end(operation)
            progress.uploaded(sent("k", operation.size), operation.size, 0.0)
        counts = progress.snapshot()["progress"]
        assert before <= counts["bytes_done"] <= counts["bytes_total"]
        assert counts["bytes_per_second"] >= 0
        assert counts["eta_seconds"] is None or counts["eta_seconds"] >= 0
        before = counts["bytes_done"]


def test_the_status_is_due_at_most_four_times_a_second_and_at_least_every_two(
    progress: Progress, clock: Clock
) -> None:
    progress.snapshot()
    assert not progress.due()
    published = []
    for tick in range(100):  # ten seconds of ticks, work going on
        clock.now += 0.1
        progress.found(1, 1)
        if progress.due():
            progress.snapshot()
            published.append(tick)
    assert len(published) <= 40
    progress.snapshot()
    quiet = 0.0
    while not progress.due():  # nothing happens
        clock.now += 0.1
        quiet += 0.1
    assert 0.5 < quiet <= 2.0


def test_a_change_of_phase_is_due_at_once(progress: Progress, clock: Clock) -> None:
    progress.snapshot()
    progress.phase(Phase.TRANSFERRING, "transferring")
    assert progress.due()
    assert progress.snapshot()["phase"] == "transferring"
    progress.phase(Phase.TRANSFERRING, "transferring")
    assert not progress.due()


def test_rate_and_remaining_time_follow_what_is_sent(progress: Progress, clock: Clock) -> None:
    progress.found(1, 10_000)
    progress.counts["scan_complete"] = True
    operation = progress.begin("upload", "k", 10_000)
    for _ in range(20):
        clock.now += 0.25
        operation.sent += 250
        counts = progress.snapshot()["progress"]
    assert counts["bytes_per_second"] == pytest.approx(1000, rel=0.01)
    assert counts["eta_seconds"] == pytest.approx(5, rel=0.02)
    clock.now += 60
    assert progress.snapshot()["progress"]["bytes_per_second"] < 1000


def test_what_is_in_flight_is_shown_oldest_first_and_never_in_excess(
    progress: Progress, clock: Clock
) -> None:
    operations = []
    for number in range(30):
        clock.now += 1
        operations.append(progress.begin("upload", f"{number:02}", 10))
    operations[0].sent = 99
    status = progress.snapshot()
    assert [entry["key"] for entry in status["current"]] == [f"{n:02}" for n in range(20)]
    assert status["current"][0] == {"op": "upload", "key": "00", "size": 10, "bytes_done": 10}
    assert status["message"] == "uploading 00"
    for operation in operations:
        progress.end(operation)
    assert progress.snapshot()["current"] == []


@pytest.mark.parametrize(
    ("key", "shown"), [("a b", "a b"), ("caf\u00e9\n", "caf\u00e9\n"), ("\udcff.txt", "\\udcff.txt")]
)
def test_a_key_is_shown_as_json_can_carry_it(progress: Progress, key: str, shown: str) -> None:
    assert escape_surrogates(key) == shown
    progress.begin("upload", key, 1)
    progress.failed("upload", key, FileError("X", "y"), 1)
    status = json.loads(progress.jobs.render(progress.snapshot()))
    assert status["current"][0]["key"] == status["errors"][0]["key"] == shown
    assert report(progress)[0]["key"] == shown
    progress.report.close()


def test_the_pauses_that_wait_asks_for_count_once_in_the_time_left(progress: Progress, clock: Clock) -> None:
    """Ten files of a megabyte, a second each, three seconds between two."""
    progress.status["wait"] = 3
    progress.found(10, 10_000_000)
    progress.counts["scan_complete"] = True
    for number in range(4):
        operation = progress.begin("upload", str(number), 1_000_000)
        clock.now += 1
        operation.sent = 1_000_000
        progress.end(operation)
        progress.uploaded(sent(str(number), 1_000_000), 1_000_000, 1.0)
        clock.now += 3
        counts = progress.snapshot()["progress"]
    assert counts["eta_seconds"] == pytest.approx(6 * (1 + 3))


def test_the_time_line_has_each_phase_and_every_byte(progress: Progress, clock: Clock) -> None:
    progress.phase(Phase.COMPARING, "comparing")
    progress.phase(Phase.TRANSFERRING, "sending")
    operation = progress.begin("upload", "a", 10_000)
    for second in range(1, 301):  # five minutes, in at most sixty steps
        clock.now += 1
        operation.sent = second * 10
        progress.snapshot()
    operation.sent -= 500  # a part is sent again: what has been seen is not taken back
    progress.snapshot()
    timeline = progress.status["timeline"]
    assert [phase["phase"] for phase in timeline["phases"]] == ["starting", "comparing", "transferring"]
    assert timeline["phases"][0]["at"] <= timeline["phases"][2]["at"]
    assert timeline["speed"]["step_seconds"] == 8
    assert len(timeline["speed"]["bytes"]) == 38
    assert set(timeline["speed"]["bytes"][1:-1]) == {80}
    assert sum(timeline["speed"]["bytes"]) == 3000
    for _ in range(100):
        progress.pause(True)
        progress.pause(False)
    phases = progress.status["timeline"]["phases"]
    assert len(phases) == 40
    assert [phases[0]["phase"], phases[-1]["phase"]] == ["starting", "transferring"]
