"""Where a call waits for a server, files in a row are asked for side by side, and nothing else changes."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from descriptors import open_below

from syncworker.folder import stat_ahead
from syncworker.folder.scan import scan
from syncworker.folder.stat_ahead import THREADS
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry, ScanItem, Unreadable


def scanned(root: Path, *, is_local: bool) -> list[ScanItem]:
    with Tree(str(root)) as tree:
        tree.is_local = is_local
        return list(scan(tree, "", lambda: False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files before, between and behind folders; links; 700 files in one folder, 40 folders in another, deeper
    than the scan keeps descriptors open."""
    root = tmp_path / "root"
    deep = root / "/".join(["m-deep"] + ["d"] * 40)
    deep.mkdir(parents=True)
    for at, level in enumerate([deep, *deep.parents][:41]):
        (level / "a").write_text("x" * at)
        (level / "z").write_text("y" * at)
    (root / "many").mkdir()
    for number in range(700):
        (root / "many" / f"{number:04d}").write_text("x" * (number % 5))
        if number % 50 == 0:
            (root / "many" / f"{number:04d}.d").mkdir()
            (root / "many" / f"{number:04d}.d" / "in").touch()
    (root / "link").symlink_to("many")
    (root / "out").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    return root


@pytest.mark.parametrize("slow_seconds", [-1.0, 3600.0], ids=["every call is slow", "every call is quick"])
@pytest.mark.parametrize("fresh_seconds", [3600.0, 0.0], ids=["fresh", "outdated at once"])
def test_the_same_items_come_in_the_same_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, slow_seconds: float, fresh_seconds: float
) -> None:
    monkeypatch.setattr(stat_ahead, "_SLOW_SECONDS", slow_seconds)
    monkeypatch.setattr(stat_ahead, "_FRESH_SECONDS", fresh_seconds)
    items = scanned(folder, is_local=False)
    assert items == scanned(folder, is_local=True)
    assert sum(isinstance(item, FileEntry) for item in items) > 1400
    assert open_below(folder) == 0


class SlowServer:
    """The calls of stat_ahead.py, each of which waits for a while. `threads`: that made one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[int] = set()
        self.together = threading.Barrier(THREADS)
        monkeypatch.setattr(stat_ahead.os, "stat", self.stat)
        monkeypatch.setattr(stat_ahead, "_SLOW_SECONDS", -1.0)

    def stat(self, name: str, **how: object) -> os.stat_result:
        thread = threading.get_ident()
        is_ours = "dir_fd" in how  # another test's thread may ask for whole paths
        if is_ours and thread != threading.main_thread().ident and thread not in self.threads:
            self.threads.add(thread)
            self.together.wait(timeout=30)  # it breaks unless as many are under way at a time
        return REAL(name, **how)  # type: ignore[arg-type]


REAL = os.stat


def test_sixteen_calls_run_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(600):
        (tmp_path / f"{number:03d}").touch()
    server = SlowServer(monkeypatch)
    assert len(scanned(tmp_path, is_local=False)) == 600
    assert len(server.threads) == THREADS


def test_on_a_local_file_system_no_thread_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(600):
        (tmp_path / f"{number:03d}").touch()
    server = SlowServer(monkeypatch)
    assert len(scanned(tmp_path, is_local=True)) == 600
    assert not server.threads


def test_a_file_whose_stat_fails_is_reported_as_without_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        (tmp_path / f"{number:03d}").touch()

    def stat(name: str, **how: object) -> os.stat_result:
        if name == "017":
            raise PermissionError(13, "Permission denied")
        return REAL(name, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(stat_ahead.os, "stat", stat)
    monkeypatch.setattr(stat_ahead, "_SLOW_SECONDS", -1.0)
    items = scanned(tmp_path, is_local=False)
    assert [item.key for item in items if isinstance(item, Unreadable)] == ["017"]
    assert len(items) == 60


def test_what_was_asked_for_long_ago_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file behind a folder whose reading has taken an hour."""
    for name in ("a", "c"):
        (tmp_path / name).write_text("old")
    (tmp_path / "b").mkdir()
    monkeypatch.setattr(stat_ahead, "_SLOW_SECONDS", -1.0)
    with Tree(str(tmp_path)) as tree:
        tree.is_local = False
        items = scan(tree, "", lambda: False)
        assert next(items).key == "a"
        hour = time.monotonic() + 3600.0
        monkeypatch.setattr(stat_ahead.time, "monotonic", lambda: hour)
        (tmp_path / "c").write_text("longer by now")
        (late,) = items
    assert isinstance(late, FileEntry)
    assert late.size == len("longer by now")
