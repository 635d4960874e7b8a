"""Who may work for a job: what a member says of the files that it was asked about."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench import tree
from cluster_double import work
from serving import load

from syncworker.cluster.home import JobHome
from syncworker.cluster.member import Office
from syncworker.cluster.peers import Peer
from syncworker.cluster.protocol import Kind, Member, Record
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry
from syncworker.system import processes
from syncworker.system.control import Control
from syncworker.system.stop_token import StopToken
from syncworker.transfer.readers import ReadResult
from syncworker.worker import late_writers


class Greeted:
    """The home of a job, and an office that sees another root."""

    def __init__(self, here: Tree, there: Path) -> None:
        stop = StopToken(Control(""))
        attempt = SimpleNamespace(tree=here, progress=None, stop=stop, bucket=None)
        self.home = JobHome(cast("Any", SimpleNamespace(attempt=attempt)), *(cast("Any", None),) * 4)
        self.office = Office(load(there))
        self.tree = here

    def sample(self, path: str) -> None:
        info = self.tree.lstat(path)
        assert info is not None
        times = info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino
        self.home.samples.append(FileEntry(path, *times, path))

    def ask(self) -> dict[str, Any]:
        samples = [(f.path, f.size, f.mtime_ns, f.ctime_ns, f.inode) for f in self.home.samples]
        return self.office._look(samples)

    def refusal(self, answer: dict[str, Any]) -> str | None:
        return asyncio.run(self.home.refusal(answer, 0.0, 0.0))


def test_a_member_that_sees_the_same_files_is_accepted_though_one_file_has_gone(
    tmp_path: Path,
) -> None:
    root = tree(tmp_path / "uploads", {name: name for name in "abcdef"})
    with Tree(str(root)) as here:
        greeted = Greeted(here, tmp_path)
        for name in "abc":
            greeted.sample(name)
        (root / "a").unlink()
        answer = greeted.ask()
        greeted.sample("d")
        assert greeted.refusal(answer) is None


def test_a_slow_disk_of_the_job_holds_up_nothing_but_the_note_of_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status of the job above all. The notes come in their order: the last one says who may write."""
    written: list[int] = []

    def slowly(_: object, members: list[dict[str, Any]]) -> None:
        time.sleep(1.5 if members else 0.0)
        written.append(len(members))

    monkeypatch.setattr(late_writers, "note", slowly)

    async def main() -> float:
        home = Greeted(cast("Any", None), tmp_path).home
        peer = Peer(Member("m", "m"), 1, 0.0)
        noting = [asyncio.create_task(home.mark(leased)) for leased in ([peer], [])]
        longest, before = 0.0, time.monotonic()
        while not all(task.done() for task in noting):
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        return longest

    assert asyncio.run(main()) < 1.2
    assert written == [1, 0]


def test_a_slow_disk_of_the_job_is_no_difference_of_the_clocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "uploads", {"a": "1"})
    with Tree(str(root)) as here:
        greeted = Greeted(here, tmp_path)
        greeted.sample("a")
        (root / "a").write_text("changed")
        answer = greeted.ask()
        look = greeted.home._here

        def slowly(file: FileEntry) -> FileEntry | None:
            time.sleep(1.2)
            return look(file)

        monkeypatch.setattr(greeted.home, "_here", slowly)
        assert greeted.refusal(answer) is None


@pytest.mark.parametrize(("machine", "early"), [("this", False), ("another", True)])
def test_the_clock_of_another_machine_of_the_same_name_is_not_trusted(
    tmp_path: Path, machine: str, early: bool
) -> None:
    """Containers and clones have the same host name. Of a file that changed within the skew of their clocks
    the next sync must not believe that it was read after that."""
    found: list[ReadResult] = []

    async def handle_read(read: ReadResult) -> None:
        found.append(read)

    home = Greeted(cast("Any", None), tmp_path).home
    home.sending.handle_read = handle_read  # type: ignore[assignment,method-assign]
    home.shares = cast("Any", SimpleNamespace(suspects={}))
    peer = Peer(Member("m", "m"), 1, 0.0)
    known = processes.machine() if machine == "this" else "another"
    peer.shows = {"host": processes.host(), "machine": known}
    each = work(1)
    asyncio.run(home.settle(each, Record(Kind.SAME, each.file, digest="d", read_ns=5_000_000_000), peer))
    assert [read.read_ns for read in found] == [4_000_000_000 if early else 5_000_000_000]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_member_that_sees_another_tree_is_refused(tmp_path: Path, is_there: bool) -> None:
    root = tree(tmp_path / "here", {"a": "1", "b": "2"})
    tree(tmp_path / "uploads", {"a": "1", "b": "2"} if is_there else {})
    with Tree(str(root)) as here:
        greeted = Greeted(here, tmp_path)
        greeted.sample("a")
        greeted.sample("b")
        assert "a different folder" in (greeted.refusal(greeted.ask()) or "")
