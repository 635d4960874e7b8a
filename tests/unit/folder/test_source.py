"""What the folder has under a key at this moment: asked before an object of that key is deleted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import Mirror, fill, tree
from stores import Store

from syncworker.folder.source import Source
from syncworker.folder.uploads_root import Tree


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    tree(tmp_path, {"photos": {"a": {"b": "x"}, "f": "x", "caf\u00e9": "x"}, "other": "x"})
    os.symlink("f", tmp_path / "photos" / "link")
    os.symlink("none", tmp_path / "photos" / "dangling")
    os.mkfifo(tmp_path / "photos" / "fifo")
    with Tree(str(tmp_path)) as opened:
        yield Source(opened, "photos", lambda: False)


@pytest.mark.parametrize("key", ["f", "a/b", "caf\u00e9", "link", "fifo"])
def test_what_is_there_is_not_gone(source: Source, key: str) -> None:
    assert source.has_file(key)


@pytest.mark.parametrize("key", ["a", "none", "a/none", "f/x", "none/x", "cafe\u0301", "\udcff", "dangling"])
def test_what_is_not_there_is_gone(source: Source, key: str) -> None:
    assert not source.has_file(key)


@pytest.mark.parametrize(
    "key", ["a//b", "./f", "a/../f", "a/./b", "/f", "../other", "../photos/f", "n" * 256, "a\0b", "//", "."]
)
def test_a_key_that_no_file_can_have_is_gone_though_its_path_leads_to_one(source: Source, key: str) -> None:
    assert not source.has_file(key)
    assert not source.has_folder(key)


def test_a_file_is_not_taken_away_under_its_name_with_a_slash(source: Source) -> None:
    """A store that is a file system would delete `f` for `f/`."""
    assert source.has_file("f/")
    assert not source.has_file("a/")
    assert source.has_folder("a/")


class CaseBlind(Tree):
    """As vfat, SMB or ext4 with casefold look names up: they keep a name's case, and do not mind it."""

    def _meant(self, path: str) -> str:
        found = ""
        for name in path.split("/") if path else []:
            entries = os.listdir(os.path.join(self.root, found))
            meant = name if name in entries else next((e for e in entries if e.lower() == name.lower()), name)
            found = f"{found}/{meant}" if found else meant
        return found

    def lstat(self, path: str) -> os.stat_result | None:
        return super().lstat(self._meant(path))

    def readlink(self, base: str, name: str) -> str | None:
        parent, _, own = self._meant(f"{base}/{name}" if base else name).rpartition("/")
        return super().readlink(parent, own)

    def open_dir(self, path: str) -> int:
        return super().open_dir(self._meant(path))


def test_a_name_of_another_case_is_gone_where_case_is_not_minded(tmp_path: Path) -> None:
    """The file was renamed: without this, the object of its old name stayed for ever."""
    names = {"Photo.JPG": "x", "Album": {"One.jpg": "x", "two.jpg": "x"}, "same": "x"}
    tree(tmp_path, {"photos": names})
    os.symlink("Album", tmp_path / "photos" / "Link")
    there = {"Photo.JPG", "Album/One.jpg", "Album/two.jpg", "same", "same/", "Link/One.jpg"}
    gone = {"photo.jpg", "PHOTO.JPG", "album/One.jpg", "Album/one.jpg", "Link/one.jpg", "link/One.jpg"}
    with CaseBlind(str(tmp_path)) as opened:
        source = Source(opened, "photos", lambda: False)
        assert source._may_have("photo.jpg"), "the file system finds it"
        assert source.with_files(sorted(there | gone | {"none"})) == there
        assert not source.has_file("photo.jpg")


def test_a_folder_that_cannot_be_listed_keeps_its_objects(source: Source, tmp_path: Path) -> None:
    def refuse(_path: str) -> int:
        raise PermissionError(13, "no")

    source.tree.open_dir = refuse  # type: ignore[method-assign]
    assert source.with_files(["a/b", "f", "none"]) == {"a/b", "f"}


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_objects_that_no_file_can_have_are_deleted(store: Store, mirror: Mirror) -> None:
    mirror.make({"a/b": "x", "f": "y"})
    fill(
        mirror.store,
        mirror.bucket,
        {"a//b": b"old", "f//": b"old", "n" * 300: b"old", "\u00e9" * 200: b"old"},
    )
    mirror.sync()
    assert set(mirror.contents) == {"a/b", "f"}


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
def test_a_file_from_the_far_future_is_sent_once(store: Store, mirror: Mirror) -> None:
    """Its time does not fit into SQLite's numbers in nanoseconds; before 1970 it is negative."""
    mirror.make({"late": "x", "early": "y"})
    os.utime(mirror.folder / "late", (13_000_000_000, 13_000_000_000))
    os.utime(mirror.folder / "early", (-1.5, -1.5))
    assert mirror.sync().progress["files_uploaded"] == 2
    assert mirror.sync().progress["files_uploaded"] == 0
    head = mirror.store.client().head_object(Bucket=mirror.bucket, Key="early")
    assert float(head["Metadata"]["mtime"]) == -1.5
