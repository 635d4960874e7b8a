"""The folder moves while it is read: files change under the reader's hands, and the whole of it goes away.

A source that disappears after its job began fails the job: it must never read as "empty, delete the bucket".
Disks are real mounts here, taken away with `umount -l` as the kernel does it when one is pulled out.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Gate, Mirror, expected, fill, tree
from disks import mount, unmount

KEPT = {"a": "kept", "d/b": "kept too", "d/e/c": "and this"}
NEW = {"n1": "new", "d/n2": "new", "z/n3": "new"}
GONE = {"gone": b"1", "d/gone": b"2"}


@pytest.fixture
def disk(mirror: Mirror) -> Iterator[Path]:
    """The mirror's folder is a disk of its own."""
    mirror.folder.mkdir(parents=True)
    mount(mirror.folder)
    yield mirror.folder
    while os.path.ismount(mirror.folder):
        unmount(mirror.folder)


# -- the whole of it --------------------------------------------------------------------------------------


def unmounted(folder: Path) -> None:
    unmount(folder)


def removed(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # its files; a mount point itself stays, busy
    unmount(folder)
    folder.rmdir()


def emptied_by_another_folder(folder: Path) -> None:
    unmount(folder)
    folder.rmdir()
    folder.mkdir()


def replaced_by_another_folder(folder: Path) -> None:
    unmount(folder)
    tree(folder, {"other": "file", "a": "of another folder"})


LOSSES = [unmounted, removed, emptied_by_another_folder, replaced_by_another_folder]
MOMENTS = {
    "the bucket is looked at": lambda request: request.kind == "LIST",
    "a file is sent": lambda request: request.kind == "PUT",
    "the last file is sent": lambda request: request.key == "z/n3",
}


@pytest.mark.parametrize(
    ("loss", "moment", "deletions"),
    [
        *((loss, "a file is sent", True) for loss in LOSSES),
        *((unmounted, moment, deletions) for moment in MOMENTS for deletions in (True, False)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_source_that_goes_away_fails_the_job_and_deletes_nothing(
    loss: Callable[[Path], None], moment: str, deletions: bool, mirror: Mirror, disk: Path
) -> None:
    tree(disk, KEPT)
    mirror.sync()
    before = mirror.contents
    if deletions:
        fill(mirror.store, mirror.bucket, GONE)
        before |= GONE
    tree(disk, NEW)
    status = sync_while(mirror, MOMENTS[moment], lambda: loss(disk))
    assert status["state"] == "failed", status
    assert re.search("is its disk mounted|removed or replaced", status["error"]["message"]), status
    found = mirror.contents
    assert before.keys() <= found.keys()
    assert found.keys() <= before.keys() | NEW.keys() | {"other"}
    shutil.rmtree(disk, ignore_errors=True)
    disk.mkdir()
    mount(disk)
    tree(disk, KEPT | NEW)
    mirror.sync()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_source_that_goes_away_during_the_deletions_keeps_what_had_a_file(
    loss: Callable[[Path], None], mirror: Mirror, disk: Path
) -> None:
    """It goes between two deletions. What follows may only be what had no file."""
    tree(disk, KEPT)
    fill(mirror.store, mirror.bucket, {f"gone{number}": b"" for number in range(4)})
    deleted = itertools.count(1)
    status = sync_while(
        mirror,
        lambda request: request.kind == "DELETE" and next(deleted) == 2,
        lambda: loss(disk),
        "--wait",
        "0.05",
    )
    found = mirror.contents
    assert {key: body.encode() for key, body in KEPT.items()}.items() <= found.items()
    assert status["state"] == "failed" or found.keys() == KEPT.keys(), status


def test_a_source_that_goes_away_while_a_large_file_is_sent_fails_the_job(mirror: Mirror) -> None:
    mirror.make({"large": 20 << 20, **KEPT})
    fill(mirror.store, mirror.bucket, GONE)
    away = mirror.shell.uploads / "away"
    status = sync_while(mirror, lambda request: request.part == 2, lambda: mirror.folder.rename(away))
    assert status["state"] == "failed", status
    assert mirror.contents.items() >= GONE.items()
    away.rename(mirror.folder)
    mirror.sync()


def sync_while(mirror: Mirror, matches: Callable[..., bool], act: Callable[[], None], *more: str) -> Any:
    """A sync in which something happens while a request is held; how it ended."""
    gate = Gate(mirror.proxy, matches)
    process, job = mirror.shell.begin(mirror.bucket, "photos", *more)
    gate.wait()
    act()
    gate.open()
    assert process.wait(60) in (0, 1)
    mirror.proxy.clear_hooks()
    return mirror.shell.status(job)


# -- its files --------------------------------------------------------------------------------------------

ONE_BY_ONE: dict[str, Callable[[Path], Any]] = {
    "grows": lambda file: file.write_bytes(file.read_bytes() + b"more"),
    "shrinks": lambda file: os.truncate(file, 1),
    "becomes empty": lambda file: os.truncate(file, 0),
    "is replaced": lambda file: os.replace(tree(file.parent, {"new": "another"}) / "new", file),
    "vanishes": lambda file: file.unlink(),
    "becomes a folder": lambda file: tree(file.parent, {file.name: None, f"{file.name}/in": "it"}),
    "becomes a link out of the folder": lambda file: file.unlink() or file.symlink_to("/etc/hostname"),
    "loses its folder to another name": lambda file: file.parent.rename(file.parent.with_name("renamed")),
    "gets a neighbour": lambda file: tree(file.parent, {"neighbour": "born late"}),
}


@pytest.mark.parametrize("size", [1000, 9 << 20], ids=["small", "large"])
@pytest.mark.parametrize("change", ONE_BY_ONE)
def test_a_file_that_changes_before_it_is_read_is_sent_whole_or_not(
    change: str, size: int, mirror: Mirror
) -> None:
    """It is listed, and changes while another is being sent; a second sync brings the rest."""
    mirror.make({"d/file": size})
    versions = {mirror.folder.joinpath("d/file").read_bytes()}
    mirror.make({"a": "first"})
    status = sync_while(
        mirror,
        lambda request: request.key == "a",
        lambda: ONE_BY_ONE[change](mirror.folder / "d/file"),
        "--wait",
        "0.05",
    )
    versions |= set(expected(mirror.folder).values())
    assert set(mirror.contents.values()) <= versions
    assert status["state"] == "done" or status["error"]["code"] == "FilesFailed", status
    mirror.sync()


class Mutator:
    """Changes a folder all the time, and knows every content that any file has ever had."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.contents: set[bytes] = set()
        self.changes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Mutator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            self.change()

    def body(self) -> bytes:
        self.changes += 1
        body = b"%d:" % self.changes + b"x" * self.random.choice([0, 10, 3000, 70_000])
        self.contents.add(body)
        return body

    def change(self) -> None:
        folder = self.folder / self.random.choice(["a", "b", "c"])
        file = folder / self.random.choice("123456")
        folder.mkdir(exist_ok=True)
        match self.random.randrange(6):
            case 0 | 1:
                (self.folder / "new").write_bytes(self.body())
                os.replace(self.folder / "new", file)
            case 2 if file.exists():
                self.contents.add(file.read_bytes() + b"+")
                with file.open("ab") as out:
                    out.write(b"+")
            case 3 if file.exists():
                self.contents.add(file.read_bytes()[:1])
                os.truncate(file, 1)
            case 4:
                file.unlink(missing_ok=True)
            case 5:
                shutil.rmtree(self.folder / "moved", ignore_errors=True)
                folder.rename(self.folder / "moved")


def test_no_object_is_ever_what_no_file_was_while_the_folder_never_rests(mirror: Mirror) -> None:
    mirror.folder.mkdir(parents=True)
    (mirror.folder / "rests").write_bytes(b"and rests")
    mutator = Mutator(mirror.folder, seed=4)
    mutator.contents |= {b"and rests", b""}
    for _ in range(200):
        mutator.change()
    for _ in range(6):
        with mutator:
            run = mirror.start()
        assert run.status["state"] == "done" or run.status["error"]["code"] == "FilesFailed", run.status
        foreign = {key for key, body in mirror.contents.items() if body not in mutator.contents}
        # `new` is written in place: half of it may be what somebody saw.
        assert foreign <= {"new"}, foreign
        assert mirror.contents["rests"] == b"and rests"
        mutator._thread = threading.Thread(target=mutator._run, daemon=True)
        mutator._stop = threading.Event()
    assert mutator.changes > 200
    mirror.sync()
