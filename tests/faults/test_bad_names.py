"""Names that are not UTF-8: the file fails, and only its own folder's objects are held back."""

from __future__ import annotations

import os

import pytest
from bench import Mirror, fill

from syncworker.escape import in_bash


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        (b"d/caf\xe9.txt", {"d/gone", "d/e/gone"}),
        (b"d/e/dir\xff/file", {"d/e/gone"}),
        (b"top\xfe", {"gone", "d/gone", "d/e/gone", "f/gone"}),
    ],
)
def test_only_the_folder_of_a_name_that_is_not_utf8_is_held_back(
    mirror: Mirror, bad: bytes, kept: set[str]
) -> None:
    mirror.make({"a": "1", "d": {"b": "2", "e": {"c": "3"}}, "f": {"g": "4"}})
    gone = {"gone", "d/gone", "d/e/gone", "f/gone"}
    fill(mirror.store, mirror.bucket, dict.fromkeys(gone, b"x"))
    path = os.path.join(os.fsencode(mirror.folder), bad)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"odd")
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
    assert set(mirror.contents) == {"a", "d/b", "d/e/c", "f/g"} | kept
    assert (run.progress["objects_deleted"], run.progress["objects_kept"]) == (len(gone - kept), len(kept))
    [error] = run.status["errors"]
    named = path if os.path.isfile(path) and b"dir" not in bad else os.path.dirname(path)
    assert f"find . -inum {os.lstat(named).st_ino} " in error["message"]
    assert in_bash(os.fsdecode(os.path.relpath(named, os.fsencode(mirror.shell.uploads)))) in error["message"]
    os.rename(named, os.path.join(os.path.dirname(named), b"good"))
    mirror.sync()


def test_bash_takes_any_bytes() -> None:
    assert in_bash("a b/it's\\\udcff\u00e9\n") == r"$'a b/it\x27s\x5c\xff\xc3\xa9\x0a'"
