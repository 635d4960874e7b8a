"""Nothing is opened outside the uploads root, whatever is linked or swapped on the way."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from descriptors import open_below

from syncworker.errors import FatalError
from syncworker.folder.symlinks import resolve
from syncworker.folder.uploads_root import CHANGED, OUTSIDE, VANISHED, Tree
from syncworker.paths import PROJECT


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open(tmp_path):
    yield
    assert open_below(tmp_path) == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """root/a/b/f holds "inside"; outside/f, outside/b/f hold "secret"."""
    for folder, text in (("root/a/b", "inside"), ("outside/b", "secret"), ("outside", "secret")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "f").write_text(text)
    return tmp_path / "root"


def read(tree: Tree, path: str) -> str:
    fd, _ = tree.open_file(path)
    with open(fd) as file:
        return file.read()


def refusal(call, *args) -> int:
    with pytest.raises(OSError) as caught:
        call(*args)
    return caught.value.errno


def test_a_file_is_opened_for_reading_and_not_inherited_by_child_processes(root):
    with Tree(str(root)) as tree:
        fd = tree.open_file("a/b/f")[0]
        try:
            assert os.read(fd, 100) == b"inside"
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)


def test_a_name_that_is_no_utf8_can_be_opened(root):
    path = os.fsdecode(b"a/bad\xff")
    (root / path).write_text("odd")
    with Tree(str(root)) as tree:
        assert read(tree, path) == "odd"


@pytest.mark.parametrize(
    "path",
    [
        "../outside/f",
        "a/../../outside/f",
        "a/../a/b/f",
        "/etc/passwd",
        "/a/b/f",
        "/a",
        "a//b/f",
        "a/./b/f",
        "a/b/",
        ".",
        "..",
    ],
)
def test_a_path_that_is_not_plainly_below_the_root_is_refused(root, path):
    with Tree(str(root)) as tree:
        assert refusal(tree.open_file, path) == OUTSIDE
        assert refusal(tree.open_dir, path) == OUTSIDE
        assert refusal(tree.lstat, path) == OUTSIDE


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/f"])
@pytest.mark.parametrize("inside", [False, True], ids=["leading out", "leading to the very same file"])
def test_a_symlink_swapped_in_at_any_name_of_the_path_is_refused(root, link, inside):
    with Tree(str(root)) as tree:
        assert read(tree, "a/b/f") == "inside"  # the directories are remembered now
        moved = root / "moved" if inside else root.parent / "moved"
        (root / link).rename(moved)
        swapped_in = {"a": "outside", "a/b": "outside/b", "a/b/f": "outside/f"}[link]
        (root / link).symlink_to(moved if inside else root.parent / swapped_in)
        if inside and link != "a/b/f":
            # The remembered directory is still the one that the path leads to, and it is in the root.
            assert read(tree, "a/b/f") == "inside"
        else:
            assert refusal(tree.open_file, "a/b/f") in CHANGED
        with Tree(str(root)) as anew:
            assert refusal(anew.open_file, "a/b/f") in CHANGED


def test_a_directory_replaced_by_another_is_not_read_from_memory(root):
    with Tree(str(root)) as tree:
        assert read(tree, "a/b/f") == "inside"
        (root / "a").rename(root / "old")
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/f").write_text("new")
        assert read(tree, "a/b/f") == "new"


def test_a_reader_never_gets_out_while_a_directory_and_a_symlink_are_swapped_all_the_time(root):
    (root.parent / "link").symlink_to(root.parent / "outside")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            (root / "a").rename(root.parent / "real")
            (root.parent / "link").rename(root / "a")
            (root / "a").rename(root.parent / "link")
            (root.parent / "real").rename(root / "a")

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = {"inside": 0, "refused": 0}
    try:
        with Tree(str(root)) as tree:
            while min(seen.values()) < 20 or sum(seen.values()) < 2000:
                try:
                    seen[read(tree, "a/b/f")] += 1
                except OSError as error:
                    assert error.errno in VANISHED | CHANGED
                    seen["refused"] += 1
    finally:
        stop.set()
        swapper.join()
    assert set(seen) == {"inside", "refused"}


def make_directory(path):
    path.mkdir()


def make_link(path):
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("make", "number"),
    [(make_directory, errno.EISDIR), (os.mkfifo, errno.ENXIO), (make_link, errno.ELOOP)],
)
def test_what_is_no_regular_file_is_not_opened_as_one(root, make, number):
    make(root / "a/odd")
    with Tree(str(root)) as tree:
        assert refusal(tree.open_file, "a/odd") == number
    assert number in CHANGED


@pytest.mark.parametrize("path", ["missing", "a/missing", "missing/f", "a/b/f/x"])
def test_a_removed_path_is_missing_and_has_no_stat(root, path):
    with Tree(str(root)) as tree:
        assert refusal(tree.open_file, path) in VANISHED
        assert refusal(tree.open_dir, path) in VANISHED
        assert tree.lstat(path) is None


def test_lstat_tells_a_link_from_its_target_and_knows_the_root(root):
    (root / "link").symlink_to("a")
    with Tree(str(root)) as tree:
        assert stat.S_ISLNK(tree.lstat("link").st_mode)
        assert tree.lstat("a/b/f").st_size == len("inside")
        assert tree.lstat("").st_ino == root.stat().st_ino
        root.rename(root.parent / "gone")
        assert tree.lstat("") is None


def test_a_directory_is_opened_to_read_its_names(root):
    with Tree(str(root)) as tree:
        for path, names in (("", ["a"]), ("a", ["b"]), ("a/b", ["f"])):
            fd = tree.open_dir(path)
            try:
                assert os.listdir(fd) == names
            finally:
                os.close(fd)
        assert refusal(tree.open_dir, "a/b/f") == errno.ENOTDIR


@pytest.mark.parametrize(
    ("link", "target", "leads_to"),
    [
        ("l", "a/b/f", "a/b/f"),
        ("l", "./a//b/", "a/b"),
        ("a/b/l", "..", "a"),
        ("a/b/l", "../..", ""),
        ("a/b/l", "../../a/b/f", "a/b/f"),
        ("l", "{root}/a/b/f", "a/b/f"),
        ("l", "/{root}/a/b", "a/b"),
        ("l", "{alias}/a/b/f", "a/b/f"),
        ("l", "../root/a/b", "a/b"),
        ("l", "../alias/a/b", "a/b"),
        ("l", "{root}", ""),
        ("l", "to_a/b", "a/b"),
        ("l", "{alias}/to_a/b/f", "a/b/f"),
        ("l", "missing", errno.ENOENT),
        ("l", "{root}/missing", errno.ENOENT),
        ("l", "a/b/f/x", errno.ENOTDIR),
        ("l", "l", errno.ELOOP),
        ("l", "{root}/l", errno.ELOOP),
        ("l", "../alias/l/x", errno.ELOOP),
        ("l", "..", OUTSIDE),
        ("l", "../outside/f", OUTSIDE),
        ("l", "../../../../../../../../../etc/passwd", OUTSIDE),
        ("l", "/etc/passwd", OUTSIDE),
        ("l", "/missing/entirely", OUTSIDE),
        ("l", "../root.and/more", OUTSIDE),
        ("l", "to_outside/f", OUTSIDE),
        ("l", "to_a/../../outside/f", OUTSIDE),
    ],
)
def test_a_symlink_is_resolved_to_a_path_in_the_root_or_refused(root, link, target, leads_to):
    alias = root.parent / "alias"
    alias.symlink_to("root")
    (root / "to_a").symlink_to("a")
    (root / "to_outside").symlink_to(root.parent / "outside")
    (root / link).symlink_to(target.format(root=root, alias=alias))
    base, _, name = link.rpartition("/")
    for opened_as in (root, alias):
        with Tree(str(opened_as)) as tree:
            if isinstance(leads_to, int):
                assert refusal(resolve, tree, link) == leads_to
                assert refusal(resolve, tree, name, base) == leads_to
            else:
                path, info = resolve(tree, link)
                assert (path, info.st_ino) == (leads_to, (root / leads_to).stat().st_ino)
                assert resolve(tree, name, base)[0] == leads_to


def test_a_chain_of_links_as_long_as_the_kernel_follows_is_followed_and_no_longer(root):
    (root / "l0").symlink_to("a")
    for i in range(1, 42):
        (root / f"l{i}").symlink_to(f"l{i - 1}")
    with Tree(str(root)) as tree:
        assert (root / "l39").is_dir()
        assert resolve(tree, "l39")[0] == "a"
        assert refusal(os.stat, root / "l40") == errno.ELOOP
        assert refusal(resolve, tree, "l40") == errno.ELOOP


def test_many_threads_read_more_directories_than_are_remembered(root):
    paths = [f"d{i % 10}/e{i}/f" for i in range(200)]
    for path in paths:
        (root / path).parent.mkdir(parents=True)
        (root / path).write_text(path)
    with Tree(str(root)) as tree, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: read(tree, path), paths * 10)) == paths * 10
        assert 1 < open_below(root) <= 1 + 64


def test_a_path_longer_than_the_kernel_takes_in_one_call_is_walked(root):
    name, depth = "n" * 200, 25
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)
    path = "/".join([name] * depth + ["f"])
    assert refusal(os.stat, root / path) == errno.ENAMETOOLONG
    with Tree(str(root)) as tree:
        assert read(tree, path) == ""
        assert resolve(tree, path)[0] == path


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, "UploadsRootMissing"),
        (lambda path: path.write_text("a file"), "UploadsRootMissing"),
        (lambda path: path.symlink_to("nowhere"), "UploadsRootMissing"),
        (lambda path: path.symlink_to(path.name), "UploadsRootUnreadable"),
    ],
)
def test_without_an_uploads_root_nothing_can_be_done(tmp_path, make, code):
    make(tmp_path / "uploads")
    with pytest.raises(FatalError) as caught:
        Tree(str(tmp_path / "uploads"))
    assert caught.value.code == code
    assert "uploads" in caught.value.message


def test_a_closed_tree_opens_nothing(root):
    with Tree(str(root)) as tree:
        read(tree, "a/b/f")
    with pytest.raises(ValueError):
        tree.open_file("a/b/f")
    tree.close()


def test_where_file_names_are_not_read_as_utf8_the_tree_refuses_to_start(root):
    program = "import sys; from syncworker.folder.uploads_root import Tree; Tree(sys.argv[1])"
    setting = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(root)],
        env={**os.environ, **setting},
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "PYTHONUTF8=1" in done.stderr


def test_a_directory_that_was_looked_up_lately_is_the_former_one_for_that_time_only(root: Path) -> None:
    def text(lately: float) -> str:
        fd, _ = tree.open_file("a/b/f", lately)
        with open(fd) as file:
            return file.read()

    with Tree(str(root)) as tree:
        assert text(60.0) == "inside"
        (root / "a/b").rename(root / "a/old")
        (root / "a/b").mkdir()
        (root / "a/b/f").write_text("new")
        assert text(60.0) == "inside"
        assert text(0.0) == "new"  # who does not say so gets what the path names now
        assert text(60.0) == "new"
        (root / "a/b").rename(root / "a/away")
        assert refusal(tree.open_file, "a/b/f", 0.0) in VANISHED
        assert refusal(tree.open_file, "a/b/f", 60.0) in VANISHED  # it has just been seen to be gone
        (root / "a/away").rename(root / "a/b")
        assert text(60.0) == "new"
        (root / "a/b/f").unlink()
        (root / "a/b").rmdir()
        assert refusal(tree.open_file, "a/b/f", 60.0) in VANISHED
        (root / "a/b").symlink_to(root / "../outside/b")
        assert refusal(tree.open_file, "a/b/f", 60.0) in VANISHED
        assert refusal(tree.open_file, "a/b/f", 0.0) in CHANGED
        assert refusal(tree.open_file, "a/b/f", 60.0) in CHANGED


def test_lately_is_counted_from_before_a_walk_that_takes_long(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_walk(path: str) -> int:
        fd = walk(path)
        (root / "a/b").rename(root / "a/old")
        (root / "a/b").mkdir()
        (root / "a/b/f").write_text("new")
        time.sleep(0.2)
        return fd

    with Tree(str(root)) as tree:
        walk = tree.open_name
        monkeypatch.setattr(tree, "open_name", slow_walk)
        assert read(tree, "a/b/f") == "inside"
        monkeypatch.setattr(tree, "open_name", walk)
        fd, info = tree.open_file("a/b/f", 0.1)
        os.close(fd)
        assert info.st_size == len("new")
