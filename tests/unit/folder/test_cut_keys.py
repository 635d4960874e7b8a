"""Where a listing can be cut, by the names in the folder: ascending, evenly spread, in bounded memory."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from descriptors import open_below

from syncworker.folder import cut_keys
from syncworker.folder.scan import scan
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry
from syncworker.options.patterns import PathFilter


def never() -> bool:
    return False


def cuts_of(root: Path, every: int, source: str = "", **asked) -> list[str]:
    with Tree(str(root)) as tree:
        return list(cut_keys.cut_keys(tree, source, every, **{"should_stop": never} | asked))


def keys_of(root: Path) -> list[str]:
    with Tree(str(root)) as tree:
        return [item.key for item in scan(tree, "", never) if isinstance(item, FileEntry)]


def fill(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_every_nth_key_in_the_order_of_the_keys(tmp_path: Path) -> None:
    """A directory sorts as its name and `/`: `a-b` comes before `a/b`, `a.c` too."""
    fill(tmp_path, [f"{d}/{n}" for d in ("a", "a-b", "a.c", "Z", "é") for n in range(10)] + ["a0", "b"])
    for every in (1, 3, 7):
        assert cuts_of(tmp_path, every) == keys_of(tmp_path)[every - 1 :: every]


def test_a_large_directory_is_cut_evenly_in_bounded_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cut_keys, "_KEPT", 100)
    fill(tmp_path, [f"{number:05}" for number in range(3000)])
    cuts = cuts_of(tmp_path, 300)
    assert cuts == sorted(set(cuts))
    assert 7 <= len(cuts) <= 13
    assert max(int(high) - int(low) for low, high in pairwise(cuts)) < 1500


def test_no_symlink_is_followed_and_no_excluded_folder_is_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root, ["a/1", "b/1", "c/1"])
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").touch()
    (root / "link").symlink_to(tmp_path / "outside")
    path_filter = PathFilter([], ["b/"])
    assert cuts_of(root, 1, path_filter=path_filter) == ["a/1", "c/1", "link"]


def test_what_cannot_be_read_gives_no_cut(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1", "z"])
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    assert cuts_of(tmp_path, 1) == ["a/1", "z"]
    assert cuts_of(tmp_path, 1, source="missing") == []
    assert cuts_of(tmp_path, 1, source="z") == []
    assert cuts_of(tmp_path, 1, should_stop=lambda: True) == []
    assert open_below(tmp_path) == 0
