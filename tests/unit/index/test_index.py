"""The index: a cache that may be lost, damaged or taken away at any time, and never fails a job."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from bench import another_process
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import die_with_parent_obeying_permissions

from syncworker.index.database import Index
from syncworker.index.records import IndexRow, PendingUpload
from syncworker.index.rows import Rows
from syncworker.paths import PROJECT

HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA locking_mode=EXCLUSIVE")
db.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""
UNWRITABLE = """
import sys
from syncworker.index.database import Index
from syncworker.index.records import IndexRow, PendingUpload
row = lambda key: IndexRow(key, 7, 1, 2, 3, "e", "", 0, "", 4)
index = Index(sys.argv[1])
index.remember(row("new"))
index.flush()
index.begin_upload(PendingUpload("k", "u", 8, 9))
index.set_fact("a", "b")
index.forget(["a"])
print(index.find("a"), index.upload("k"), index.fact("a"), bool(index.broken))
index.close()
"""


def row(key: str, **fields: object) -> IndexRow:
    return IndexRow(key, 7, 1, 2, 3, "e" * 32, "", 0, "", 4)._replace(**fields)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "index.sqlite")


def keep(path: str, *rows: IndexRow) -> None:
    index = Index(path)
    for each in rows:
        index.remember(each)
    index.close()
    assert index.broken is None


def read(path: str, *keys: str) -> list[IndexRow | None]:
    index = Index(path)
    found = [index.find(key) for key in keys]
    index.close()
    return found


def works(path: str) -> bool:
    """Whether an index can be opened there, and keeps what it is given."""
    keep(path, row("probe"))
    return read(path, "probe") == [row("probe")]


def test_a_row_comes_back_as_it_was_and_the_file_is_private(path: str) -> None:
    full = IndexRow("caf\u00e9\n\x01", 1 << 42, -1, 1 << 62, 5, "etag-2", "digest", 8 << 20, "modified", 9)
    keep(path, full)
    assert read(path, full.key, "other") == [full, None]
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_row_is_replaced_and_forgotten(path: str) -> None:
    keep(path, row("a"), row("b"), row("a", size=8))
    index = Index(path)
    assert index.find("a") == row("a", size=8)
    index.forget(["a", "none"])
    index.flush()
    assert index.find("a") is None
    index.clear()
    assert index.find("b") is None
    index.close()


KEYS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@settings(max_examples=50, deadline=None)
@given(rows=st.sets(KEYS, max_size=30), asked=st.sets(KEYS, max_size=30))
def test_rows_are_read_in_key_order_beside_the_scan(
    tmp_path_factory: pytest.TempPathFactory, rows: set[str], asked: set[str]
) -> None:
    path = str(tmp_path_factory.mktemp("index") / "index")
    keep(path, *(row(key) for key in rows))
    index = Index(path)
    reader = index.rows()
    for key in sorted(asked | set(list(rows)[::2])):
        assert reader.at(key) == (row(key) if key in rows else None)
        assert reader.at(key) == (row(key) if key in rows else None), "asked twice"
        assert reader.has(key) == (key in rows)
    reader.close()
    index.close()


def test_a_reader_sees_what_was_there_when_it_began_while_others_write(path: str) -> None:
    keep(path, *(row(f"{n:05}") for n in range(5000)))
    index = Index(path)
    reader = index.rows()
    seen: list[str] = []

    def look() -> None:
        seen.extend(f"{n:05}" for n in range(5000) if reader.at(f"{n:05}") == row(f"{n:05}"))

    thread = threading.Thread(target=look)
    thread.start()
    for n in range(5000):
        index.remember(row(f"{n:05}", size=8))
    thread.join()
    reader.close()
    index.close()
    assert index.broken is None
    assert len(seen) == 5000
    assert read(path, "00000") == [row("00000", size=8)]


def test_unfinished_uploads_and_facts_outlive_a_crash(path: str) -> None:
    index = Index(path)
    index.begin_upload(PendingUpload("k", "", 8, 9))
    index.begin_upload(PendingUpload("k", "id", 8, 9))
    index.begin_upload(PendingUpload("intent", "", 8, 9))
    index.set_fact("etag", "md5")
    index.set_fact("etag", "opaque")
    # Not closed: as after `kill -9`.
    other = Index(path)
    assert other.uploads() == [PendingUpload("intent", "", 8, 9), PendingUpload("k", "id", 8, 9)]
    assert other.upload("k") == PendingUpload("k", "id", 8, 9)
    assert other.upload("none") is None
    assert (other.fact("etag"), other.fact("none")) == ("opaque", None)
    other.end_upload("k")
    other.end_upload("none")
    other.clear()
    assert other.uploads() == []
    other.close()
    index.close()


def test_what_sqlite_cannot_hold_is_not_remembered_and_takes_nothing_else_with_it(path: str) -> None:
    """A file from the year 2400, an inode of 64 bits, a key that is no UTF-8: all exist."""
    index = Index(path)
    late = 13_600_000_000 * 10**9
    index.remember(row("before"))
    index.remember(row("late", mtime_ns=late))
    index.remember(row("inode", inode=2**64 - 1))
    index.remember(row("\udcff"))
    index.remember(row("after"))
    index.forget(["\udcff"])
    index.flush()
    assert index.broken is None
    found = [index.find(key) for key in ("before", "late", "inode", "\udcff", "after")]
    assert found == [row("before"), None, None, None, row("after")]
    reader = index.rows()
    assert not reader.has("\udcff")
    reader.close()
    index.close()


def test_an_older_row_does_not_stay_when_its_successor_cannot_be_kept(path: str) -> None:
    keep(path, row("k"))
    keep(path, row("k", mtime_ns=2**64))
    assert read(path, "k") == [None]


def damage_all(path: str) -> None:
    Path(path).write_bytes(b"not a database, but long enough to be looked at as one" * 100)


def truncate(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2 + 100)


def other_version(path: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")


def other_schema(path: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE objects")
        db.execute("CREATE TABLE objects (a, b)")


def a_directory(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


def a_link(path: str) -> None:
    os.rename(path, path + ".other")
    os.symlink(path + ".other", path)


def a_fifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path)


def odd_wal(path: str) -> None:
    Path(path + "-wal").write_bytes(b"\xff" * 5000)


def empty(path: str) -> None:
    os.truncate(path, 0)


def gone(path: str) -> None:
    os.unlink(path)


@pytest.mark.parametrize(
    "harm", [damage_all, truncate, other_version, other_schema, a_link, odd_wal, empty, gone, a_fifo]
)
def test_an_unusable_index_is_replaced(path: str, harm: object) -> None:
    keep(path, *(row(f"{n:04}") for n in range(2000)))
    harm(path)  # type: ignore[operator]
    assert works(path)


def test_a_link_in_its_place_is_not_followed(path: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, path)
    assert works(path)
    assert victim.read_bytes() == b"precious"
    assert not os.path.islink(path)


def test_a_job_runs_without_an_index_that_cannot_be_created(path: str, tmp_path: Path) -> None:
    os.mkdir(path)
    for place in (path, str(tmp_path / "none" / "index")):
        index = Index(place)
        assert index.broken
        index.remember(row("a"))
        index.flush()
        index.begin_upload(PendingUpload("k", "u", 8, 9))
        assert index.upload("k") == PendingUpload("k", "u", 8, 9), (
            "this run's own must be known to it all the same"
        )
        reader = index.rows()
        assert reader.at("a") is None
        reader.close()
        index.close()
    assert os.path.isdir(path)


def test_damage_in_the_middle_is_survived_and_repaired_the_next_time(path: str) -> None:
    keep(path, *(row(f"{n:05}", etag="x" * 200) for n in range(5000)))
    with open(path, "r+b") as file:
        size = file.seek(0, 2)
        for page in range(size // 4096 // 2, size // 4096 - 20):
            file.seek(page * 4096)
            file.write(b"\xa5" * 4096)
    index = Index(path)
    reader = index.rows()
    for n in range(5000):
        found = reader.at(f"{n:05}")
        assert found is None or found == row(f"{n:05}", etag="x" * 200)
        index.remember(row(f"{n:05}", size=8))
    assert os.path.getsize(path) == size, "the damage showed before it could be met in the middle"
    reader.close()
    index.close()
    fresh = Index(path)
    for n in range(5000):
        fresh.remember(row(f"{n:05}", size=9))
    fresh.close()
    assert fresh.broken is None
    assert read(path, "00000", "04999") == [row("00000", size=9), row("04999", size=9)]


def test_a_file_without_rows_or_taken_away_under_a_reader_is_no_error(path: str) -> None:
    keep(path, row("a"))
    reader = Rows(path, kind=IndexRow)
    os.unlink(path)
    assert reader.at("a") == row("a")
    reader.close()
    nothing = Rows(str(path) + ".none/x", kind=IndexRow)
    assert nothing.at("a") is None
    assert not nothing.has("a")
    nothing.close()


def test_one_that_another_process_has_locked_does_not_stop_the_job(path: str) -> None:
    keep(path, row("a"))
    with another_process(HOLDER, path):
        index = Index(path)
        index.remember(row("b"))
        index.flush()
        assert index.broken is None
        assert index.find("b") == row("b")
        index.close()


def test_a_job_runs_without_a_read_only_index_in_a_read_only_folder(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    path = str(folder / "index")
    keep(path, row("a"))
    os.chmod(path, 0o400)
    os.chmod(folder, 0o500)
    try:
        found = subprocess.run(
            [sys.executable, "-c", UNWRITABLE, path],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=30,
            preexec_fn=die_with_parent_obeying_permissions,
            check=True,
        )
    finally:
        os.chmod(folder, 0o700)
    assert found.stdout == "None PendingUpload(key='k', upload_id='u', part_size=8, size=9, md5='') b True\n"
    assert read(path, "a") == [row("a")]


def test_a_job_runs_without_an_index_on_a_full_disk(path: str) -> None:
    index = Index(path)
    index._db.execute("PRAGMA max_page_count=8")
    for n in range(3000):
        index.remember(row(f"{n:06}", etag="x" * 100))
    index.begin_upload(PendingUpload("k" * 5000, "u", 8, 9))
    index.set_fact("a" * 5000, "b" * 5000)
    index.flush()
    assert "full" in (index.broken or "")
    index.close()
    assert works(path)


def test_an_upload_that_is_remembered_is_in_a_file_that_was_made_without_waiting_for_the_disk(
    tmp_path: Path,
) -> None:
    index = Index(str(tmp_path / "new.sqlite"))
    index.begin_upload(PendingUpload("large", "id", 8 << 20, 100 << 20))
    (tmp_path / "alone.sqlite").write_bytes((tmp_path / "new.sqlite").read_bytes())  # its journal is lost
    index.close()
    alone = Index(str(tmp_path / "alone.sqlite"))
    assert [upload.upload_id for upload in alone.uploads()] == ["id"]
    alone.close()
