"""The folders that the dashboard offers: their sizes, whether one is empty, and how long that may take."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench import tree, wait_for
from serving import Site

from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.index.rows import count_objects
from syncworker.options.patterns import PathFilter
from syncworker.service import folder_sizes
from syncworker.service.folder_sizes import Folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree(tmp_path / "uploads", {})


def overview(found: Folders) -> dict[str, tuple[int, int]]:
    wait_for(lambda: not found.overview()["walking"], 10, "the walk to end")
    answer = found.overview()
    assert answer["complete"] is True
    return {folder["source"]: (folder["files"], folder["bytes"]) for folder in answer["folders"]}


def test_folders_are_listed_with_what_is_in_them(root: Path) -> None:
    tree(
        root, {"a": {"1": b"123", "deep": {"er": {"2": b"4567"}}}, "empty": {"sub": {}}, "file": "no folder"}
    )
    assert overview(Folders(str(root))) == {"a": (2, 7), "empty": (0, 0)}


def test_links_inside_are_followed_and_links_out_are_not(root: Path, tmp_path: Path) -> None:
    tree(tmp_path / "outside", {"secret": "12345"})
    tree(root, {"a": {"1": b"123"}, "links": {}, "outs": {}})
    (root / "links" / "folder").symlink_to(root / "a")
    (root / "links" / "file").symlink_to(root / "a" / "1")
    (root / "links" / "loop").symlink_to(root / "links")
    (root / "outs" / "folder").symlink_to(tmp_path / "outside")
    (root / "outs" / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "outs" / "nothing").symlink_to(root / "gone")
    (root / "out").symlink_to(tmp_path / "outside")
    assert overview(Folders(str(root))) == {"a": (1, 3), "links": (2, 6), "outs": (0, 0)}


def test_a_name_that_is_no_text_is_left_out_and_its_files_count(root: Path) -> None:
    os.mkdir(os.fsencode(root) + b"/\xff")
    os.makedirs(os.fsencode(root) + b"/a/\xff")
    Path(os.fsdecode(os.fsencode(root) + b"/a/\xff/\xfe")).write_bytes(b"12")
    assert overview(Folders(str(root))) == {"a": (1, 2)}


@pytest.mark.parametrize(
    "entries, source, exists, empty",
    [
        ({"a": {"1": "x"}}, "a", True, False),
        ({"a": {"b": {"c": {"1": "x"}}}}, "a", True, False),
        ({"a": {"b": {"c": {}}}}, "a", True, True),
        ({"a": {}}, "a", True, True),
        ({"a": {}}, "b", False, True),
        ({"a": "a file"}, "a", False, None),
        ({}, "", True, True),
        ({"1": "x"}, "", True, False),
    ],
)
def test_what_would_delete_a_bucket_is_known_beforehand(
    root: Path, entries: dict[str, Any], source: str, exists: bool, empty: bool | None
) -> None:
    tree(root, entries)
    found = Folders(str(root)).look(source)
    assert (found["exists"], found["empty"]) == (exists, empty)


def test_without_the_root_nothing_is_known(tmp_path: Path) -> None:
    found = Folders(str(tmp_path / "gone"))
    assert found.look("a")["empty"] is None
    assert overview(found) == {}


def test_a_disk_that_hangs_keeps_no_request(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(root, {"a": {"1": "x"}})
    released = threading.Event()
    monkeypatch.setattr(folder_sizes, "measure", lambda *_: released.wait(30))
    found = Folders(str(root))
    started = time.monotonic()
    try:
        answers = [found.overview() for _ in range(3)]
        assert [answer["walking"] for answer in answers] == [True] * 3
        assert not any(answer["complete"] for answer in answers)
        assert found.look("a")["empty"] is None
        assert time.monotonic() - started < 8
    finally:
        released.set()


def test_a_walk_that_takes_too_long_says_what_it_has(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(root, {"a": {str(number): "x" for number in range(50)}})
    monkeypatch.setattr(folder_sizes, "LOOK_SECONDS", 0)
    size = folder_sizes.Size()
    folder_sizes.measure(str(root / "a"), str(root), size, time.monotonic() - 1)
    assert size.files == 1 and not size.complete


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9")
    yield site
    site.close()


def test_the_index_names_the_bucket_and_nothing_creates_it(site: Site) -> None:
    target = "/folders?source=a&dest=bucket"
    assert site.get(target).json["bucket"] == {"dest": "bucket", "objects_known": None, "more": False}
    path = site.jobs.destination({"storage_url": "http://127.0.0.1:9", "dest": "bucket"}).index_path
    assert not os.path.exists(path)
    known = Index(path)
    for number in range(3):
        known.remember(IndexRow(str(number), 1, 1, 1, 1, "e", "", 0, "", 1))
    known.flush()
    assert site.get(target).json["bucket"]["objects_known"] == 3  # while a worker has it open
    known.close()
    assert site.get(target).json["bucket"]["objects_known"] == 3
    assert count_objects(path, 2) == 2
    Path(path).write_bytes(b"no database" * 100)
    assert site.get(target).json["bucket"]["objects_known"] is None


@pytest.mark.parametrize("query, param", [("source=..", "source"), ("dest=B", "dest"), ("dest=a..b", "dest")])
def test_what_is_no_folder_or_bucket_is_named(site: Site, query: str, param: str) -> None:
    answer = site.get(f"/folders?{query}")
    assert (answer.status, answer.problem["param"]) == (400, param)


# -- what a filter leaves ---------------------------------------------------------------------------------

FILES = {"a.txt": "12345", "b.tmp": "1", "cache": {"c.txt": "1"}, "sub": {"d.txt": "123", "e.tmp": "1"}}


def test_what_a_filter_leaves_is_counted_as_a_sync_counts_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_sizes, "FILTER_SECONDS", 30.0)  # a slow machine's
    tree(Path(site.settings.uploads_dir) / "photos", FILES)
    answer = site.get("/folders?source=photos&exclude=*.tmp&exclude=cache/")
    assert answer.json["filtered"] == {"files": 2, "bytes": 8, "complete": True}
    answer = site.get("/folders?source=photos&include=*.tmp&exclude=/b.*")
    assert answer.json["filtered"] == {"files": 1, "bytes": 1, "complete": True}
    assert site.get("/folders?exclude=*.txt").json["filtered"]["files"] == 2, "the whole root"
    assert site.get("/folders?source=photos").json["filtered"] is None
    assert site.get("/folders?source=gone&exclude=a").json["filtered"]["files"] == 0


@pytest.mark.parametrize("query", ["exclude=%5B", "include=!a"])
def test_an_invalid_pattern_is_named(site: Site, query: str) -> None:
    answer = site.get(f"/folders?source=a&{query}")
    assert (answer.status, answer.problem["param"]) == (400, query.partition("=")[0])


def test_a_preview_ends_in_time_with_its_process_and_only_one_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder whose reading never ends: the process tells nothing, as on a disk that hangs."""
    path_filter = PathFilter([], ["x"])
    tree(root, {"a": {str(number): "x" for number in range(10)}})
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    found = Folders(str(root))
    others = set(psutil.Process().children())  # the storages of other tests
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(hangs))
        answers: list[object] = []
        thread = threading.Thread(target=lambda: answers.append(found.filtered("a", path_filter)))
        started = time.monotonic()
        thread.start()
        [child] = wait_for(lambda: set(psutil.Process().children()) - others, 10, "the process that looks")
        assert found.filtered("a", path_filter) is None, "one at a time"
        thread.join()
    assert time.monotonic() - started < folder_sizes.FILTER_SECONDS + 4
    assert answers == [{"files": 0, "bytes": 0, "complete": False}]
    wait_for(lambda: not child.is_running(), 10, "its process to be killed")
    monkeypatch.setattr(folder_sizes, "FILTER_SECONDS", 30.0)  # a slow machine's
    again = wait_for(lambda: found.filtered("a", path_filter), 5, "another look")
    assert again == {"files": 10, "bytes": 10, "complete": True}
