"""The scan in a process of its own says what the scan says, or that it cannot say it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from bench import contents, expected, tree, wait_for
from stores import Store

from syncworker.errors import FatalError, Stopped, SyncError
from syncworker.folder import scan_process
from syncworker.folder.scan import scan
from syncworker.folder.scan_process import scan_apart
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.index.rows import IndexRow
from syncworker.model import ScanItem
from syncworker.shell import cli
from syncworker.worker import sync


def never() -> bool:
    return False


def children() -> list[psutil.Process]:
    """The living processes that scan for this one."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and "syncworker.folder.scan_process" in child.cmdline():
                found.append(child)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Files, and everything that is none."""
    chance = random.Random(7)
    path = tmp_path / "uploads"
    for i in range(2500):
        file = path / "photos" / f"d{chance.randrange(40)}" / f"f {i} \u00e9"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * chance.randrange(3))
    os.symlink("d1", path / "photos" / "linked")
    os.symlink("none", path / "photos" / "dangling")
    os.symlink("/etc", path / "photos" / "outside")
    os.mkfifo(path / "photos" / "fifo")
    (path / os.fsdecode(b"photos/not utf-8 \xff")).write_text("x")
    (path / "photos" / ("k" * 250) / ("l" * 250) / ("m" * 250) / ("n" * 250)).mkdir(parents=True)
    (path / "photos" / ("k" * 250) / ("l" * 250) / ("m" * 250) / ("n" * 250) / ("o" * 30)).write_text("x")
    return path


@pytest.mark.parametrize(
    ("files", "waited", "cores", "takes"),
    [
        (20, None, {0, 1}, scan_apart),
        (20, "0", {0, 1}, scan_apart),
        (20, "11", {0, 1}, scan_apart),
        (20, "12", {0, 1}, scan),  # the listing takes longer than reading the folder in this process
        (20, "-3", {0, 1}, scan_apart),
        (20, "nan", {0, 1}, scan_apart),
        (20, "0", {0}, scan),
        (19, "0", {0, 1}, scan),
    ],
)
def test_a_process_of_its_own_scans_a_large_folder_unless_the_listing_is_slow(
    files: int,
    waited: str | None,
    cores: set[int],
    takes: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sync, "WORTH_FILES", 20)
    monkeypatch.setattr(sync.os, "sched_getaffinity", lambda _pid: cores)
    index = Index(str(tmp_path / "index.sqlite3"))
    for number in range(files):
        index.remember(IndexRow(f"f{number}", 7, 1, 2, 3, "e" * 32, "", 0, "", 4))
    index.flush()
    if waited is not None:
        index.set_fact("waited", waited)
    with Tree(str(tmp_path)) as opened:
        assert sync._best_scan(index, opened) is takes
    index.close()


@pytest.mark.parametrize("source", ["photos", "", "photos/d3"])
def test_another_process_finds_the_same(root: Path, source: str) -> None:
    with Tree(str(root)) as opened:
        found = list(scan_apart(opened, source, never))
        assert found == list(scan(opened, source, never))
        assert [type(item) for item in found] == [type(item) for item in scan(opened, source, never)]
    assert len(found) > 20
    assert children() == []


@pytest.mark.parametrize("source", ["none", "photos/fifo", "photos/outside", "photos/dangling"])
def test_another_process_fails_alike(root: Path, source: str) -> None:
    def outcome(how: Callable[..., Iterator[ScanItem]]) -> tuple[type, str, str]:
        with Tree(str(root)) as opened, pytest.raises(SyncError) as caught:
            list(how(opened, source, never))
        return type(caught.value), caught.value.code, caught.value.message

    assert outcome(scan_apart) == outcome(scan)


def test_a_scan_whose_process_dies_is_no_whole_scan(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_process, "_PIPE_BYTES", 4096)  # so that it cannot have told everything
    with Tree(str(root)) as opened:
        items = scan_apart(opened, "photos", never)
        next(items)
        (child,) = children()
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(FatalError) as caught:
            list(items)
    assert caught.value.code == "ScanFailed"


def test_a_stop_ends_the_scan_and_its_process(root: Path) -> None:
    told = False
    with Tree(str(root)) as opened:
        items = scan_apart(opened, "photos", lambda: told)
        next(items)
        told = True
        with pytest.raises(Stopped):
            list(items)
    assert children() == []


def test_a_reader_that_stops_early_leaves_no_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_process, "_PIPE_BYTES", 4096)  # it cannot write all of it beforehand, and end
    with Tree(str(root)) as opened:
        items = scan_apart(opened, "photos", never)
        next(items)
        assert len(children()) == 1
        del items
        wait_for(lambda: not children(), 10)


def test_a_root_that_was_replaced_is_not_read(root: Path) -> None:
    with Tree(str(root)) as opened:
        root.rename(root.parent / "before")
        tree(root, {"photos": {"other": "x"}})
        with pytest.raises(FatalError) as caught:
            list(scan_apart(opened, "photos", never))
    assert caught.value.code == "SourceVanished"


def test_the_process_knows_no_key_and_hears_no_signal_to_the_job(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_SECRET_KEY", "canary-secret")
    monkeypatch.setattr(scan_process, "_PIPE_BYTES", 4096)
    with Tree(str(root)) as opened:
        items = scan_apart(opened, "photos", never)
        next(items)
        (child,) = children()
        assert "canary-secret" not in Path(f"/proc/{child.pid}/environ").read_text()
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert len(list(items)) > 2000


def test_no_module_of_the_current_folder_is_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tree(tmp_path / "here", {name: f"open({str(tmp_path / 'ran')!r}, 'w')" for name in ("struct.py",)})
    monkeypatch.chdir(here)
    with Tree(str(root)) as opened:
        assert list(scan_apart(opened, "photos", never)) == list(scan(opened, "photos", never))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("why", ["no program", "ends at once", "no larger pipe"])
def test_a_process_that_cannot_be_had_is_done_without(
    root: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no larger pipe":
        monkeypatch.setattr(scan_process, "_PIPE_BYTES", 1 << 30)  # more than anybody but root may have
    else:
        monkeypatch.setattr("sys.executable", "/bin/false" if why == "ends at once" else "/nonexistent")
    with Tree(str(root)) as opened:
        assert list(scan_apart(opened, "photos", never)) == list(scan(opened, "photos", never))
    assert children() == []


def test_a_process_that_is_ended_together_with_the_job_is_no_failure(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_process, "_PIPE_BYTES", 4096)
    asked = 0

    def told() -> bool:  # the signal to the job comes a moment after the other
        nonlocal asked
        asked += not children()
        return asked > 3

    with Tree(str(root)) as opened:
        items = scan_apart(opened, "photos", told)
        next(items)
        (child,) = children()
        os.kill(child.pid, signal.SIGTERM)
        with pytest.raises(Stopped):
            list(items)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_large_folder_is_scanned_apart_from_the_second_sync_on(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "uploads" / "photos", {f"d{i % 7}": {f"f{i}": str(i)} for i in range(7)})
    for i in range(200):
        (folder / f"d{i % 7}" / f"g{i}").write_text(str(i))
    values = {
        "UPLOADS_DIR": tmp_path / "uploads", "JOBS_DIR": tmp_path / "jobs", "STORAGE_URL": store.url,
        "MINIO_ACCESS_KEY": store.access_key, "MINIO_SECRET_KEY": store.secret_key,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sync, "WORTH_FILES", 100)
    monkeypatch.setattr(sync, "_LONG_WAIT_US", 1 << 40)
    used = []
    monkeypatch.setattr(sync, "scan_apart", lambda *given: used.append(1) or scan_apart(*given))
    start = ["start", "--source", "photos", "--dest", "apart", "--json"]
    assert cli.main(start) == 0
    assert not used
    for change in ("changed", "gone"):
        (folder / "d1" / "g1").write_text("changed") if change == "changed" else (
            folder / "d1" / "g1"
        ).unlink()
        assert cli.main(start) == 0
        assert contents(store, "apart") == expected(folder)
    assert len(used) == (2 if len(os.sched_getaffinity(0)) > 1 else 0)
