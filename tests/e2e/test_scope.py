"""Jobs that look at changed folders only, on a real store: what guards a whole job guards them, and what they
did not list stays. Each with and without a prefix."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Mirror, tree
from disks import mount, unmount, unmount_all

from syncworker.jobs.store import Jobs
from syncworker.options import table
from syncworker.request import Request

TREE = {
    "d": {"a": 1, "b": 2, "c": 3, "deep": {"e": 4}},
    "e": {"x": 5, "y": 6},
    "f": {f"{n}": n for n in range(14)},
}
ALIEN = b"of another hand"


class Scoped:
    """A folder that is in the bucket, objects of another hand around it, and jobs of some of its folders."""

    def __init__(self, mirror: Mirror, prefix: str) -> None:
        self.mirror, self.prefix = mirror, prefix
        self.folder, self.shell, self.proxy = mirror.folder, mirror.shell, mirror.proxy
        mirror.make(TREE)
        self.whole()
        self.aliens = {"e/alien", "d-1", f"{prefix}e/alien"} | ({"d/alien"} if prefix else set())
        for key in self.aliens:
            mirror.store.client().put_object(Bucket=mirror.bucket, Key=key, Body=ALIEN)

    def whole(self) -> None:
        more = ["--prefix", self.prefix] if self.prefix else []
        self.shell.sync(self.mirror.bucket, "photos", *more)

    def job(self, *scope: str, wanted: int = 0, settle: bool = True, **asked: str) -> dict[str, Any]:
        """As a watched mirror makes it, when it is quiet, and the server spawns it; its status at its end."""
        if settle:
            self.settle(*self.folder.rglob("*"))
        if self.prefix:
            asked["prefix"] = self.prefix
        request = Request(
            "photos", self.mirror.bucket, self.proxy.url, 0.0, options=table.parse(asked), scope=scope
        )
        job: str = Jobs(str(self.shell.jobs)).create(request)["id"]
        self.proxy.reset()
        done = self.shell.run("run", job)
        assert done.returncode == wanted, (done, self.shell.status(job))
        return self.shell.status(job)

    def settle(self, *paths: Path) -> None:
        """What was written right now was written three seconds ago."""
        moment = time.time() - 3
        for path in paths:
            if path.is_file() and path.stat().st_mtime > moment:
                os.utime(path, (moment, moment))

    def keys(self) -> set[str]:
        """Those of the mirror, relative to its prefix; those of others are there."""
        found = self.mirror.contents
        assert {key for key, body in found.items() if body == ALIEN} >= self.aliens, (
            "what was not listed stays"
        )
        return {key.removeprefix(self.prefix) for key in found.keys() - self.aliens}

    def listed(self) -> set[str]:
        asked = (request.query.get("prefix", "") for request in self.proxy.requests if request.kind == "LIST")
        return {prefix for prefix in asked if prefix.endswith("/") or not prefix}

    def deletes_nothing(self) -> bool:
        return not {"DELETE", "DeleteObjects"} & set(self.proxy.kinds())


@pytest.fixture(params=["", "p/q/"], ids=["no prefix", "prefix"])
def scoped(mirror: Mirror, request: pytest.FixtureRequest) -> Iterator[Scoped]:
    yield Scoped(mirror, request.param)
    unmount_all(mirror.shell.uploads)


def test_it_lists_and_deletes_below_its_folders_alone(scoped: Scoped) -> None:
    before = scoped.keys()
    tree(scoped.folder, {"d": {"a": None, "new": 1}, "e": {"x": None}})
    status = scoped.job("d")
    assert scoped.listed() == {f"{scoped.prefix}d/"}
    assert scoped.keys() == before - {"d/a"} | {"d/new"}, "e is another job's"
    assert (status["progress"]["objects_deleted"], status["progress"]["files_total"]) == (1, 4)
    for path in (scoped.shell.jobs / ".index").glob("*"):
        path.unlink()
    scoped.job("d", "e")
    assert scoped.listed() == {f"{scoped.prefix}d/", f"{scoped.prefix}e/"}, (
        "how large the rest is, nobody knows"
    )
    scoped.aliens.discard(f"{scoped.prefix}e/alien")
    assert scoped.keys() == before - {"d/a", "e/x"} | {"d/new"}


def with_disk(scoped: Scoped) -> Path:
    """d/disk is a disk, whose files are in the bucket."""
    disk = scoped.folder / "d" / "disk"
    disk.mkdir()
    mount(disk)
    tree(disk, {"on": 1, "the": {"disk": 2}})
    scoped.job("d")
    assert {"d/disk/on", "d/disk/the/disk"} <= scoped.keys()
    return disk


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_a_disk_that_is_not_mounted_keeps_what_is_below_it(scoped: Scoped, left: str) -> None:
    """Only jobs of a scope have seen it: they remember it as others do."""
    disk = with_disk(scoped)
    unmount(disk)
    if left == "nothing":
        disk.rmdir()
    tree(scoped.folder, {"d": {"a": None, "new": 1}, "e": {"x": None}})
    before = scoped.keys()
    for folders in (("d",), ("d/disk",), ("d/disk/the",), ("d", "e"), ("",)):
        status = scoped.job(*folders, wanted=1)
        assert status["error"]["code"] == "DiskNotMounted", (folders, status["error"])
        assert scoped.deletes_nothing()
    assert scoped.keys() == before | {"d/new"}, "what is there goes up"
    disk.mkdir(exist_ok=True)
    mount(disk)
    tree(disk, {"on": 1, "the": {"disk": 2}})
    scoped.job("d")
    assert scoped.keys() == before - {"d/a"} | {"d/new"}


def test_a_folder_beside_a_missing_disk_goes_on(scoped: Scoped) -> None:
    disk = with_disk(scoped)
    before = scoped.keys()
    unmount(disk)
    tree(scoped.folder, {"e": {"x": None, "new": 1}})
    scoped.job("e")
    scoped.aliens.discard(f"{scoped.prefix}e/alien")
    assert scoped.keys() == before - {"e/x"} | {"e/new"}
    status = scoped.job("d", wanted=1)
    assert status["error"]["code"] == "DiskNotMounted", "the job beside it has not made it forgotten"
    assert scoped.keys() == before - {"e/x"} | {"e/new"}


@pytest.mark.parametrize(
    ("limit", "goes"), [("2", False), ("3", True), ("14%", False), ("15%", True), ("none", True)]
)
def test_max_delete_counts_what_goes_and_a_percentage_counts_all_that_is_known(
    scoped: Scoped, limit: str, goes: bool
) -> None:
    """Three of twenty objects go, three of the four that are listed."""
    before = scoped.keys()
    assert len(before) == 20
    tree(scoped.folder, {"d": {"a": None, "b": None, "c": None}, "e": {"x": None}})
    status = scoped.job("d", wanted=0 if goes else 5, max_delete=limit)
    gone = {"d/a", "d/b", "d/c"}
    if goes:
        assert scoped.keys() == before - gone
        return
    assert (status["error"]["code"], status["plan"]["lines"]) == ("TooManyDeletes", 3)
    assert scoped.deletes_nothing()
    assert scoped.keys() == before
    approved = scoped.shell.run("approve", status["id"])
    assert approved.returncode == 0, approved
    assert scoped.shell.status(status["id"])["scope"] == ["d"]
    assert scoped.keys() == before - gone, "e/x is in no plan, and in no scope"


def test_an_unreadable_folder_in_it_deletes_nothing_and_one_beside_it_is_not_its_business(
    scoped: Scoped,
) -> None:
    before = scoped.keys()
    closed = scoped.folder / "d" / "deep"
    closed.chmod(0)
    try:
        tree(scoped.folder, {"d": {"a": None, "new": 1}, "e": {"x": None}})
        status = scoped.job("d", wanted=1)
        assert status["error"]["code"] == "FilesFailed"
        assert [error["key"] for error in status["errors"]] == [f"{scoped.prefix}d/deep/"]
        assert scoped.deletes_nothing()
        assert scoped.keys() == before | {"d/new"}
        status = scoped.job("d/deep", wanted=1)
        assert scoped.deletes_nothing()
        scoped.job("e")
        scoped.aliens.discard(f"{scoped.prefix}e/alien")
        assert scoped.keys() == before - {"e/x"} | {"d/new"}
    finally:
        closed.chmod(0o755)


def test_a_file_that_is_being_written_is_left_for_the_next_job(scoped: Scoped) -> None:
    before = scoped.keys()
    tree(scoped.folder, {"d": {"a": "changed", "b": "changed", "new": "not yet", "c": None, "ahead": "1"}})
    scoped.settle(scoped.folder / "d" / "b", scoped.folder / "d" / "deep" / "e")
    os.utime(scoped.folder / "d" / "ahead", (time.time() + 86_400,) * 2)  # that would be for a day
    ended = threading.Event()

    def write_on() -> None:
        """Whenever the job looks at the two, their last byte has just come."""
        while not ended.wait(0.2):
            for name in ("a", "new"):
                os.utime(scoped.folder / "d" / name)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        status = scoped.job("d", settle=False, verify="1")
    finally:
        ended.set()
        writer.join()
    assert status["skipped"] == {"being_written": 2}
    assert scoped.keys() == before - {"d/c"} | {"d/ahead"}
    assert scoped.mirror.contents[f"{scoped.prefix}d/b"] == b"changed"
    assert scoped.mirror.contents[f"{scoped.prefix}d/a"] != b"changed"
    assert scoped.job("d")["skipped"] == {}
    assert scoped.keys() == before - {"d/c"} | {"d/ahead", "d/new"}
    assert scoped.mirror.contents[f"{scoped.prefix}d/a"] == b"changed"
    scoped.mirror.make({"d": {"a": "and now"}})
    scoped.whole()
    assert scoped.mirror.contents[f"{scoped.prefix}d/a"] == b"and now", "a job of all of it leaves nothing"


@pytest.mark.parametrize("how", ["1", "deep"])
def test_verify_looks_at_its_folders_alone(scoped: Scoped, how: str) -> None:
    tree(scoped.folder, {"d": {"a": None, "new": 1}})
    status = scoped.job("d", verify=how)
    assert scoped.listed() == {f"{scoped.prefix}d/"}
    assert status["progress"]["objects_verified"] == status["progress"]["files_total"] == 4
    alien = f"{scoped.prefix}d/alien"

    def meddle(request: Any) -> None:
        if request.kind == "LIST" and request.query.get("prefix") == f"{scoped.prefix}d/":
            scoped.mirror.store.client().put_object(Bucket=scoped.mirror.bucket, Key=alien, Body=ALIEN)

    tree(scoped.folder, {"d": {"new": "changed"}})
    scoped.proxy.on_request(meddle)
    status = scoped.job("d", wanted=1, verify=how)
    scoped.proxy.clear_hooks()
    assert status["error"]["code"] == "VerifyFailed"
    assert {error["key"] for error in status["errors"]} == {alien}, "those of e are not looked at"


def test_a_folder_that_is_gone_takes_its_objects_along_and_no_bucket(scoped: Scoped, mirror: Mirror) -> None:
    before = scoped.keys()
    gone = {key for key in before if key.startswith("d/")}
    tree(scoped.folder, {"d": None})
    scoped.job("d")
    assert scoped.keys() == before - gone
    tree(scoped.folder, {"e": None, "f": None})
    scoped.job("")
    assert mirror.exists
    scoped.aliens -= set() if scoped.prefix else {"e/alien", "d-1"}
    scoped.aliens.discard(f"{scoped.prefix}e/alien")
    assert scoped.keys() == set()
