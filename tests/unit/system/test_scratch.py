"""Folders that end with their process, or with the next one's beginning."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncworker.system.scratch import Scratch, leave_with_owner, remove_ownerless

MADE = "from syncworker.system.scratch import Scratch; print(Scratch('member').path, flush=True); input()"


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A process that has made a folder, with a file in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", MADE],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    (Path(process.stdout.readline().strip()) / "deep").mkdir()
    yield process
    process.kill()
    process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def test_a_folder_stays_while_its_owner_lives_and_goes_when_it_was_killed(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    left = os.listdir(tmp_path)
    with Scratch("cluster") as scratch:
        assert os.stat(scratch.path).st_mode & 0o777 == 0o700
        assert sorted(os.listdir(tmp_path)) == sorted([*left, os.path.basename(scratch.path)])
        kill(owner)
        with Scratch("scheduler") as other:
            assert sorted(os.listdir(tmp_path)) == sorted(
                os.path.basename(each.path) for each in (scratch, other)
            )
    assert os.listdir(tmp_path) == []


def test_what_is_not_ours_stays(
    owner: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill(owner)
    [left] = tmp_path.iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    (tmp_path / "s3-sync-member-link").symlink_to(elsewhere)
    (tmp_path / "s3-sync-other").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: os.getuid() + 1)
        remove_ownerless(str(tmp_path))
    assert left.exists()
    remove_ownerless(str(tmp_path))
    remove_ownerless(str(tmp_path / "missing"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "elsewhere",
        "s3-sync-member-link",
        "s3-sync-other",
    }
    assert os.listdir(elsewhere) == ["file"]


def test_a_child_removes_the_folder_of_its_parent_only_when_that_has_ended(
    owner: subprocess.Popen[str], tmp_path: Path
) -> None:
    [folder] = tmp_path.iterdir()
    leave_with_owner(str(folder))
    assert folder.exists()
    kill(owner)
    leave_with_owner(str(folder))
    assert not folder.exists()
    leave_with_owner(str(tmp_path))
    assert tmp_path.exists()
