"""Who may work for a job: what a member says of the files that it was asked about."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bench import tree
from serving import load

from syncworker.cluster.home import JobHome
from syncworker.cluster.member import Office
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry
from syncworker.system.control import Control
from syncworker.system.stop_token import StopToken


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
        return self.home.refusal(answer, 0.0, 0.0)


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


@pytest.mark.parametrize("is_there", [True, False])
def test_a_member_that_sees_another_tree_is_refused(tmp_path: Path, is_there: bool) -> None:
    root = tree(tmp_path / "here", {"a": "1", "b": "2"})
    tree(tmp_path / "uploads", {"a": "1", "b": "2"} if is_there else {})
    with Tree(str(root)) as here:
        greeted = Greeted(here, tmp_path)
        greeted.sample("a")
        greeted.sample("b")
        assert "a different folder" in (greeted.refusal(greeted.ask()) or "")
