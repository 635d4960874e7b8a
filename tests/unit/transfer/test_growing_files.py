"""Files that are written to all the time: what they held when they were opened is sent, torn files never."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Mirror

from syncworker.folder.uploads_root import Tree
from syncworker.index.records import IndexRow
from syncworker.jobs.progress import UploadResult
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import compare
from syncworker.transfer import readers
from syncworker.transfer.upload import row_of

SIZE = 12 << 20


@contextlib.contextmanager
def writing(write: Callable[[], None]) -> Iterator[None]:
    """Calls it over and over from another thread."""
    done = threading.Event()

    def run() -> None:
        while not done.is_set():
            write()
            time.sleep(0.0005)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def appending(path: Path) -> Callable[[], None]:
    def write() -> None:
        with path.open("ab") as file:
            file.write(b"one more line\n")

    return write


def test_a_log_is_sent_as_it_was_when_it_was_opened_and_holds_back_no_deletion(mirror: Mirror) -> None:
    mirror.make({"log": SIZE, "a": "1", "gone": "2"})
    mirror.sync()
    mirror.make({"gone": None})
    with writing(appending(mirror.folder / "log")):
        run = mirror.start()
    assert run.exit_status == 0, run
    assert run.progress["files_changing"] == 1
    assert run.progress["objects_deleted"] == 1
    there = mirror.contents
    assert set(there) == {"log", "a"}
    assert len(there["log"]) > SIZE
    assert (mirror.folder / "log").read_bytes().startswith(there["log"])
    [line] = [line for line in mirror.shell.report(run.status["id"]) if line["op"] == "upload"]
    assert (line["key"], line["size"]) == ("log", len(there["log"]))
    assert line["note"].startswith("sent as it was at 20"), line
    again = mirror.sync()  # it has grown
    assert again.progress["files_uploaded"] == 1
    assert again.progress["files_changing"] == 0
    mirror.twice()


def test_a_file_whose_beginning_changes_is_refused_and_nothing_is_deleted(mirror: Mirror) -> None:
    mirror.make({"db": SIZE, "gone": "2"})
    mirror.sync()
    before = mirror.contents["db"]
    mirror.make({"gone": None})
    with (mirror.folder / "db").open("r+b", buffering=0) as file:
        turns = iter(range(10**9))

        def write() -> None:
            file.seek(0)
            file.write(next(turns).to_bytes(8, "big"))

        with writing(write):
            run = mirror.start()
    assert run.exit_status == 1
    assert [error["code"] for error in run.status["errors"]] == ["ChangedWhileReading"]
    assert mirror.contents["db"] == before
    assert "gone" in mirror.contents
    mirror.sync()


def test_a_file_that_is_cut_short_and_grows_again_is_refused(mirror: Mirror) -> None:
    path = mirror.folder / "log"
    mirror.make({"log": "begin"})

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(20):
                file.write(b"x" * 1000)
                time.sleep(0.001)

    with writing(write):
        run = mirror.start()
    assert run.exit_status in (0, 1)
    stored = mirror.contents.get("log")
    assert stored is None or set(stored) <= {ord("x")}
    if run.exit_status == 1:
        assert [error["code"] for error in run.status["errors"]] == ["ChangedWhileReading"]
    mirror.sync()


def test_what_was_sent_while_it_was_written_to_is_never_trusted_by_its_times(mirror: Mirror) -> None:
    """Its times may be those of the last writing, whose bytes were not read: the next sync hashes it."""
    path = mirror.folder / "log"
    mirror.make({"log": SIZE})
    with writing(lambda: path.touch()):
        assert mirror.start().progress["files_changing"] == 1
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


Change = Callable[[Path], None]


def put_between(monkeypatch: pytest.MonkeyPatch, path: Path, change: Change) -> None:
    """Each time that a small file has been read, it is changed before anybody looks at it again."""
    for name in ("pread", "preadv", "read"):
        real = getattr(os, name)

        def wrapped(*values: Any, real: Callable[..., Any] = real) -> Any:
            found = real(*values)
            change(path)
            return found

        monkeypatch.setattr(os, name, wrapped)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more\n")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(8))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def read_one(path: Path, row: IndexRow | None = None, there: ObjectEntry | None = None) -> readers.ReadResult:
    info = path.stat()
    file = FileEntry("log", info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, "log")
    work = compare.Candidate(file, there, row, compare.compare(file, there, row))
    with Tree(str(path.parent)) as tree:
        assert readers.read_cached(tree, work, etags_are_md5=True) is None
        return readers.read(tree, work, etags_are_md5=True, should_stop=lambda: False)


def test_a_small_log_is_read_up_to_the_size_it_was_opened_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin\n")
    put_between(monkeypatch, path, append)
    result = read_one(path)
    assert (result.outcome, result.changes) == (readers.Outcome.BODY, True)
    assert result.file.size == len(result.body) > len(b"begin\n")
    assert path.read_bytes().startswith(result.body)
    assert result.digest == hashlib.md5(result.body).hexdigest()


def test_a_small_file_that_is_only_touched_all_the_time_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"begin\n")
    put_between(monkeypatch, path, lambda path: os.utime(path, ns=(0, time.time_ns())))
    there = ObjectEntry("log", 6, hashlib.md5(b"begin\n").hexdigest(), "")
    result = read_one(path, there=there)
    assert (result.outcome, result.changes) == (readers.Outcome.SAME, True)


@pytest.mark.parametrize("change", [overwrite, cut_short])
def test_a_small_file_whose_beginning_changes_is_refused(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"x" * 1000)
    path.rename(tmp_path / "log")
    put_between(monkeypatch, tmp_path / "log", change)
    result = read_one(tmp_path / "log")
    assert result.outcome is readers.Outcome.FAILED
    assert result.error is not None
    assert result.error.code == "ChangedWhileReading"


def test_a_row_of_a_file_that_was_written_to_is_not_trusted() -> None:
    file = FileEntry("log", 7, 1, 1, 1, "log")
    now = time.time_ns()
    assert compare.is_trusted(row_of(UploadResult(file, "e", "e", 0, now)), file)
    assert not compare.is_trusted(row_of(UploadResult(file, "e", "e", 0, now, changes=True)), file)
