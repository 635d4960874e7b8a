"""Whether to go on: the sentinel and signals as one question."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench import wait_for

from syncworker.errors import Stopped
from syncworker.system.control import Control


def test_nothing_asks_to_stop(tmp_path: Path) -> None:
    control = Control(str(tmp_path / "cancel"))
    assert not control.stopping()
    control.check()
    assert control.reason is None


def test_the_sentinel_is_seen_soon_and_stays_though_it_is_removed(tmp_path: Path) -> None:
    sentinel = tmp_path / "cancel"
    control = Control(str(sentinel))
    assert not control.stopping()
    sentinel.touch()
    wait_for(control.stopping, 10, "the sentinel to be seen")
    sentinel.unlink()
    assert control.stopping()
    with pytest.raises(Stopped, match="cancelled"):
        control.check()


def test_a_sentinel_that_is_there_before_is_seen_at_once(tmp_path: Path) -> None:
    (tmp_path / "cancel").touch()
    assert Control(str(tmp_path / "cancel")).stopping()


def test_a_sentinel_that_is_a_link_to_nowhere_counts(tmp_path: Path) -> None:
    os.symlink("/nonexistent", tmp_path / "cancel")
    assert Control(str(tmp_path / "cancel")).stopping()


def test_a_signal_is_the_reason_and_the_first_reason_stays(tmp_path: Path) -> None:
    control = Control(str(tmp_path / "cancel"))
    control.stop("SIGTERM")
    control.stop("SIGINT")
    (tmp_path / "cancel").touch()
    assert control.stopping()
    assert control.reason == "SIGTERM"
    with pytest.raises(Stopped, match="SIGTERM"):
        control.check()


def test_asking_often_looks_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    exists = os.path.lexists

    def count(path: str) -> bool:
        nonlocal looks
        looks += 1
        return exists(path)

    monkeypatch.setattr("syncworker.system.control.os.path.lexists", count)
    clock = 1000.0
    monkeypatch.setattr("syncworker.system.control.time.monotonic", lambda: clock)
    control = Control(str(tmp_path / "cancel"))
    for _ in range(1000):
        clock += 0.001
        control.stopping()
    assert 30 <= looks <= 51
