"""A job waits for members of an earlier one that may still write to its destination."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from syncworker.jobs.destination import Destination
from syncworker.system import durable_files, processes
from syncworker.worker import late_writers

ELSEWHERE = {"machine": "another", "pid": 1, "started": 1.0}


def destination(jobs: Path, prefix: str = "") -> Destination:
    (jobs / ".dest").mkdir(exist_ok=True)
    status: Any = {"storage_url": "http://127.0.0.1:9000", "dest": "photos", "options": {"prefix": prefix}}
    return Destination(str(jobs), status)


def waits(jobs: Path, prefix: str = "", *, at_most: float = 0.2) -> bool:
    """Whether it waits so many seconds; then it is asked to stop."""
    began = time.monotonic()

    def check() -> None:
        if time.monotonic() - began > at_most:
            raise InterruptedError

    try:
        asyncio.run(late_writers.wait(str(jobs), destination(jobs, prefix), check))
    except InterruptedError:
        return True
    return False


def test_without_earlier_members_nothing_waits(tmp_path: Path) -> None:
    assert not waits(tmp_path)


def test_members_of_another_machine_are_waited_for_until_their_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_writers.note(destination(tmp_path), [ELSEWHERE])
    assert waits(tmp_path)
    monkeypatch.setattr(late_writers, "LATE_SECONDS", 0.05)
    assert not waits(tmp_path, at_most=10.0)
    assert not list((tmp_path / ".dest").glob("*.members"))


def test_a_clock_that_was_set_back_does_not_prolong_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_writers.note(destination(tmp_path), [ELSEWHERE])
    path = destination(tmp_path).members_path
    about = durable_files.read_json(path) or {}
    durable_files.replace_json(path, about | {"at": time.time() + 1e6}, durable=False)
    monkeypatch.setattr(late_writers, "LATE_SECONDS", 0.05)
    assert not waits(tmp_path, at_most=10.0)


def test_a_clock_that_was_set_forward_does_not_shorten_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_writers.note(destination(tmp_path), [ELSEWHERE])
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert waits(tmp_path)


def test_a_member_of_another_machine_or_container_of_the_same_name_may_live(tmp_path: Path) -> None:
    """Whatever process has its number here, or none."""
    member = {"host": processes.host(), "machine": "another", "pid": 1 << 22, "started": 1.0}
    late_writers.note(destination(tmp_path), [member])
    assert waits(tmp_path)


def test_members_here_are_waited_for_while_they_live(tmp_path: Path) -> None:
    (pid, started), here = processes.me(), processes.machine()
    late_writers.note(destination(tmp_path), [{"machine": here, "pid": pid, "started": started}])
    assert waits(tmp_path)
    late_writers.note(destination(tmp_path), [{"machine": here, "pid": pid, "started": 1.0}])
    assert not waits(tmp_path)


@pytest.mark.parametrize(
    ("of", "mine", "does"), [("a/", "", True), ("a/", "a/b/", True), ("a/", "b/", False)]
)
def test_a_job_on_an_overlapping_prefix_waits_too(tmp_path: Path, of: str, mine: str, does: bool) -> None:
    late_writers.note(destination(tmp_path, of), [ELSEWHERE])
    assert waits(tmp_path, mine) == does


def test_the_note_is_removed_when_no_member_is_left(tmp_path: Path) -> None:
    late_writers.note(destination(tmp_path), [ELSEWHERE])
    late_writers.note(destination(tmp_path), [])
    assert not waits(tmp_path)
