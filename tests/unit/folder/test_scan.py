"""The scan: the order, what is sent, skipped or unreadable, and what is never taken for empty."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from descriptors import open_below
from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.errors import FatalError, Stopped
from syncworker.folder import scan as scan_module
from syncworker.folder.scan import SourceMissing, read_ahead, scan
from syncworker.folder.uploads_root import Tree
from syncworker.model import FileEntry, Skip, Unreadable
from syncworker.paths import PROJECT

OUTSIDE, DANGLING, LOOP = "symlink_outside", "symlink_dangling", "symlink_loop"


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open(tmp_path):
    yield
    assert open_below(tmp_path) == 0


@pytest.fixture
def root(tmp_path: Path):
    path = tmp_path / "root"
    path.mkdir()
    yield path
    # The deep trees are too deep for Python's own removal.
    subprocess.run(["rm", "-rf", str(path)], check=True)


def never() -> bool:
    return False


def scanned(root, source: str = "") -> list:
    with Tree(str(root)) as tree:
        return list(scan(tree, source, never))


def files(items) -> list[str]:
    return [item.key for item in items if isinstance(item, FileEntry)]


def others(items) -> dict[str, str]:
    """What is no file: the key and the reason or code."""
    return {item.key: item[1] for item in items if not isinstance(item, FileEntry)}


def write(path, text: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        os.close(os.open(f"{folder}/{i:04}", os.O_WRONLY | os.O_CREAT))


def make_chain(root: Path, name: str, depth: int, *, beside: str = "", last: str = "f") -> None:
    """Directories in directories, `depth` of them, deeper than a path in one string can be."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        if beside:
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(last, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


# --- the order ---

CHARACTERS = "!-.0Aa~\x01\n\\é\u0301\ud7ff\ue000\ufffd\uffff\U0001f600\U0010ffff"
names = st.text(CHARACTERS, min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
trees = st.recursive(st.none(), lambda below: st.dictionaries(names, below, max_size=6), max_leaves=40)
folders = st.dictionaries(names, trees, max_size=8)


def make(folder: str, content: dict) -> None:
    for name, below in content.items():
        if below is None:
            Path(folder, name).write_text(name)
        else:
            Path(folder, name).mkdir()
            make(f"{folder}/{name}", below)


def keys_of(content: dict, prefix: str = "") -> list[str]:
    keys = []
    for name, below in content.items():
        keys += [prefix + name] if below is None else keys_of(below, f"{prefix}{name}/")
    return keys


@settings(max_examples=80, deadline=None)
@given(content=folders)
def test_the_files_of_any_tree_come_in_the_order_of_their_keys_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        make(folder, content)
        items = scanned(folder)
        assert open_below(Path(folder)) == 0
    assert [item.key.encode() for item in items] == sorted(key.encode() for key in keys_of(content))
    assert all(isinstance(item, FileEntry) and item.path == item.key for item in items)


def test_a_directory_sorts_as_its_name_and_a_slash(root):
    keys = ["a!", "a-b", "a.txt", "a/", "a/x", "a0", "a\ufffd", "a\U0001f600", "b"]
    for key in keys:
        if not key.endswith("/"):
            write(root / key)
    assert files(scanned(root)) == [key for key in keys if not key.endswith("/")]


def test_both_normal_forms_of_a_name_are_two_files(root):
    write(root / "\u00e9")
    write(root / "e\u0301")
    assert files(scanned(root)) == ["e\u0301", "\u00e9"]


def test_an_entry_has_the_values_of_stat(root):
    write(root / "photos/2024/a.jpg", "12345")
    info = (root / "photos/2024/a.jpg").stat()
    assert scanned(root, "photos") == [
        FileEntry("2024/a.jpg", 5, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, "photos/2024/a.jpg")
    ]


def test_empty_directories_yield_nothing(root):
    (root / "a/b/c").mkdir(parents=True)
    assert scanned(root) == []


def test_each_file_costs_one_stat_and_each_directory_none(root, monkeypatch):
    for i in range(50):
        write(root / f"d{i % 5}" / f"f{i}")
    calls = []
    real = os.stat
    with Tree(str(root)) as tree, monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *args, **options: calls.append(args) or real(*args, **options))
        assert len(list(scan(tree, "", never))) == 50
    assert len(calls) == 50 + 1  # whether the source is still there


# --- the source ---


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", ["here", "in/to/f", "to_in/to/f", "to_to/f"]),
        ("in", ["to/f"]),
        ("in/to", ["f"]),
        ("in//./to/", ["f"]),
        ("to_in", ["to/f"]),
        ("to_in/to", ["f"]),
        ("to_to", ["f"]),
        ("missing", SourceMissing("SourceMissing", "")),
        ("in/missing/x", SourceMissing("SourceMissing", "")),
        ("to_in/missing", SourceMissing("SourceMissing", "")),
        ("here", FatalError("SourceNotADirectory", "")),
        ("here/x", FatalError("SourceNotADirectory", "")),
        ("in/to/f", FatalError("SourceNotADirectory", "")),
        ("to_nothing", FatalError("SourceDangling", "")),
        ("to_nothing/x", FatalError("SourceDangling", "")),
        ("to_etc", FatalError("SourceOutsideRoot", "")),
        ("to_etc/missing", FatalError("SourceOutsideRoot", "")),
        ("..", FatalError("SourceOutsideRoot", "")),
        ("in/../../root", FatalError("SourceOutsideRoot", "")),
        ("in/../in/to", ["f"]),
        ("in/../..", FatalError("SourceOutsideRoot", "")),
    ],
)
def test_the_source_is_found_inside_the_root_or_the_error_says_why_not(root, source, found):
    write(root / "in/to/f")
    write(root / "here")
    for name, target in {
        "to_in": "in",
        "to_to": root / "in/to",
        "to_nothing": "no",
        "to_etc": "/etc",
    }.items():
        (root / name).symlink_to(target)
    if isinstance(found, list):
        assert files(scanned(root, source)) == found
        return
    with pytest.raises(type(found)) as caught:
        scanned(root, source)
    assert caught.value.code == found.code
    assert source.split("/")[0] in caught.value.message


def test_a_source_that_is_a_link_in_a_circle_is_unreadable_and_not_missing(root):
    (root / "l").symlink_to("l")
    (item,) = scanned(root, "l")
    assert (item.key, item.code, item.is_directory) == ("", "ELOOP", True)


@pytest.mark.parametrize("source", ["", "photos"])
@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_source_that_vanishes_during_the_scan_is_never_an_empty_one(root, source, replaced):
    write(root / "photos/a/f")
    folder = root / source if source else root
    with Tree(str(root)) as tree:
        items = scan(tree, source, never)
        assert next(items).key == ("a/f" if source else "photos/a/f")
        folder.rename(root.parent / "moved")
        if replaced:
            folder.mkdir()
        with pytest.raises(FatalError) as caught:
            list(items)
    assert caught.value.code == "SourceVanished"


def test_a_source_removed_while_it_is_opened_is_vanished(root, monkeypatch):
    (root / "photos").mkdir()
    real = os.scandir

    def late(fd):
        (root / "photos").rmdir()
        return real(fd)

    monkeypatch.setattr(os, "scandir", late)
    with pytest.raises(FatalError) as caught:
        scanned(root, "photos")
    assert caught.value.code == "SourceVanished"


def test_a_source_removed_after_it_was_found_is_vanished(root):
    (root / "photos").mkdir()
    with Tree(str(root)) as tree, pytest.raises(FatalError) as caught:
        list(scan(tree, "photos", lambda: (root / "photos").rmdir()))
    assert caught.value.code == "SourceVanished"


# --- symlinks ---


@pytest.mark.parametrize(
    ("link", "target", "items"),
    [
        ("l", "d/f", {"l": "d/f"}),
        ("l", "{root}/d/f", {"l": "d/f"}),
        ("l", "d", {"l/e/g": "d/e/g", "l/f": "d/f"}),
        ("l", "{root}/d/", {"l/e/g": "d/e/g", "l/f": "d/f"}),
        ("d/e/l", "../f", {"d/e/l": "d/f"}),
        ("d/l", "e", {"d/l/g": "d/e/g"}),
        ("l", "../root/d/e", {"l/g": "d/e/g"}),
        ("l", "chain", {"l/g": "d/e/g"}),
        ("l", ".", {"l": LOOP}),
        ("l", "{root}", {"l": LOOP}),
        ("d/e/l", "..", {"d/e/l": LOOP}),
        ("d/e/l", "../..", {"d/e/l": LOOP}),
        ("l", "l", {"l": LOOP}),
        ("l", "missing", {"l": DANGLING}),
        ("l", "d/f/x", {"l": DANGLING}),
        ("l", "..", {"l": OUTSIDE}),
        ("l", "../outside", {"l": OUTSIDE}),
        ("l", "../outside/f", {"l": OUTSIDE}),
        ("l", "/etc/passwd", {"l": OUTSIDE}),
        ("l", "to_outside/f", {"l": OUTSIDE}),
        ("l", "/dev/zero", {"l": OUTSIDE}),
        ("l", "pipe", {"l": "fifo"}),
    ],
)
def test_a_symlink_is_followed_inside_the_root_and_skipped_otherwise(root, link, target, items):
    write(root / "d/f")
    write(root / "d/e/g")
    write(root.parent / "outside/f")
    (root / "chain").symlink_to("d/e")
    (root / "to_outside").symlink_to("../outside")
    os.mkfifo(root / "pipe")
    before = {item.key: item[-1] for item in scanned(root)}
    (root / link).symlink_to(target.format(root=root))
    after = {item.key: item[-1] for item in scanned(root)}
    new = {key: what for key, what in after.items() if key not in before}
    if link.startswith("d/"):  # `chain` leads there too
        new = {key: what for key, what in new.items() if key.startswith("d/")}
    assert new == items


def test_a_link_to_a_directory_sorts_as_a_directory(root):
    write(root / "d/f")
    write(root / "l.x")
    write(root / "l0")
    (root / "l").symlink_to("d")
    assert files(scanned(root)) == ["d/f", "l.x", "l/f", "l0"]


def test_a_link_that_is_cut_or_leads_to_a_file_sorts_as_a_file(root):
    for name in ("d/f", "d/l.x", "d/l0"):
        write(root / name)
    (root / "d/l").symlink_to("..")
    (root / "d/k").symlink_to("f")
    write(root / "d/k.x")
    keys = [item.key for item in scanned(root)]
    assert keys == ["d/f", "d/k", "d/k.x", "d/l", "d/l.x", "d/l0"]


def test_two_directories_that_link_to_each_other_are_cut_where_the_branch_closes(root):
    (root / "a").mkdir()
    (root / "b").mkdir()
    (root / "a/to_b").symlink_to("../b")
    (root / "b/to_a").symlink_to("../a")
    write(root / "a/f")
    write(root / "b/g")
    items = scanned(root)
    assert files(items) == ["a/f", "a/to_b/g", "b/g", "b/to_a/f"]
    assert others(items) == {"a/to_b/to_a": LOOP, "b/to_a/to_b": LOOP}


def test_a_source_deep_in_the_root_may_link_above_itself_and_still_ends(root):
    write(root / "a/b/f")
    (root / "a/b/up").symlink_to("../..")
    items = scanned(root, "a/b")
    assert files(items) == ["f"]
    assert others(items) == {"up/a/b": LOOP}


def test_a_chain_of_linked_directories_deeper_than_those_kept_open_comes_back_by_the_paths(root):
    for i in range(60):
        write(root / f"d{i:02}/z")
        (root / f"d{i:02}/l").symlink_to(f"../d{i + 1:02}")
    items = scanned(root, "d00")
    assert files(items) == ["l/" * i + "z" for i in range(59, -1, -1)]
    assert others(items) == {"l/" * 59 + "l": DANGLING}


# --- what is no file, or has no key ---


def test_sockets_fifos_and_devices_are_skipped_and_never_opened(root):
    os.mkfifo(root / "pipe")  # opening it would wait for a writer without end
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "sock"))
        write(root / "file")
        items = scanned(root)
    assert files(items) == ["file"]
    assert others(items) == {"pipe": "fifo", "sock": "socket"}


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_a_device_is_skipped(root, monkeypatch, kind):
    """Making one takes root: `stat` says so instead, and the directory tells no types."""
    write(root / "device")
    hide_types(monkeypatch)
    real = os.stat

    def lie(path, **options):
        info = real(path, **options)
        return os.stat_result((kind | 0o600, *info[1:])) if path == "device" else info

    with Tree(str(root)) as tree, monkeypatch.context() as patch:
        patch.setattr(os, "stat", lie)
        assert list(scan(tree, "", never)) == [Skip("device", "device")]


def test_names_that_are_no_utf8_are_unreadable_with_a_printable_key(root):
    for name in (b"bad\xff", b"\xc3\x28", b"\xed\xa0\x80", b"l\xfe"):
        (root / os.fsdecode(name)).write_text("x")
    write(root / os.fsdecode(b"dir\xff") / "f")
    write(root / "ok/\u00e9")
    (root / os.fsdecode(b"link\xff")).symlink_to("ok")
    os.mkfifo(root / os.fsdecode(b"pipe\xff"))
    items = scanned(root)
    assert files(items) == ["ok/\u00e9"]
    assert others(items) == {
        "\\xc3(": "NameNotUTF8",
        "\\xed\\xa0\\x80": "NameNotUTF8",
        "bad\\xff": "NameNotUTF8",
        "dir\\xff/": "NameNotUTF8",
        "l\\xfe": "NameNotUTF8",
        "link\\xff/": "NameNotUTF8",
        "pipe\\xff": "fifo",
    }
    assert [item.key for item in items] == sorted(item.key for item in items)
    assert all(item.is_directory == item.key.endswith("/") for item in items if isinstance(item, Unreadable))
    json.dumps(items, ensure_ascii=False).encode()  # valid Unicode everywhere


def test_a_file_whose_name_looks_escaped_is_sent(root):
    write(root / "bad\\xff")
    (root / os.fsdecode(b"bad\xff")).write_text("x")
    items = scanned(root)
    assert files(items) == ["bad\\xff"]
    assert others(items) == {"bad\\xff": "NameNotUTF8"}


def test_a_key_of_1024_bytes_is_sent_and_a_longer_one_is_unreadable(root):
    folder = root / "/".join(["é" * 100] * 5)  # five of 201 bytes with the slash
    for name in ("a" * 19, "b" * 20, "é" * 10):
        write(folder / name)
    (folder / "link").symlink_to("a" * 19)
    (folder / ("l" * 30)).symlink_to("a" * 19)
    items = scanned(root)
    assert [len(key.encode()) for key in files(items)] == [1024, 1009]
    assert [len(key.encode()) for key in others(items)] == [1025, 1035, 1025]
    assert set(others(items).values()) == {"KeyTooLong"}


# --- depth ---


def test_500_levels_with_files_on_the_way_back_keep_few_descriptors_open(root):
    make_chain(root, "d", 500, beside="z")
    most = 0
    keys = []
    with Tree(str(root)) as tree:
        for item in scan(tree, "", never):
            keys.append(item.key)
            most = max(most, open_below(root))
    assert keys == ["d/" * 500 + "f"] + ["d/" * i + "z" for i in range(499, -1, -1)]
    assert len(keys[0]) == 1001
    assert most <= 1 + 64 + 33


def test_below_the_longest_key_each_file_is_unreadable_and_far_below_the_whole_directory(root):
    make_chain(root, "d" * 50, 100, beside="z")
    items = scanned(root)
    unreadable = [item for item in items if isinstance(item, Unreadable)]
    assert len(files(items)) == 21  # 20 levels of 51 bytes, and the name, fit
    assert {item.code for item in unreadable} == {"KeyTooLong"}
    assert [len(item.key) for item in unreadable if item.is_directory] == [81 * 51]
    assert len(unreadable) == 1 + 80 - 20


# --- what cannot be read ---

CHILD = """
import json, os, resource, sys
from syncworker.folder.scan import scan
from syncworker.folder.uploads_root import Tree
root, source, limit = sys.argv[1:]
with Tree(root) as tree:
    if os.geteuid() == 0:  # whom no mode keeps out
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    if limit != "no":
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + int(limit), spare + int(limit)))
    items = [[type(item).__name__, *item] for item in scan(tree, source, lambda: False)]
print(json.dumps(items))
"""


def scanned_by_a_user(root: Path, source: str, modes: dict[str, int], limit: str = "no") -> dict[str, list]:
    """Scan in a process to which permissions and limits apply, whoever runs the tests; by key."""
    if os.geteuid() == 0:
        for folder, _, names_ in os.walk(root):
            for path in [folder, *(f"{folder}/{name}" for name in names_)]:
                os.chown(path, 65534, 65534, follow_symlinks=False)
    try:
        for path, mode in modes.items():
            (root / path).chmod(mode)
        child = [sys.executable, "-c", CHILD, str(root), source, limit]
        done = subprocess.run(child, cwd=PROJECT, capture_output=True, text=True, check=False)
    finally:
        for path in modes:
            (root / path).chmod(0o700)
    assert done.returncode == 0, done.stderr
    return {item[1]: [item[0], *item[2:]] for item in json.loads(done.stdout)}


def test_a_directory_that_may_not_be_opened_is_unreadable_and_the_rest_is_scanned(root):
    for name in ("a/f", "b/f", "b/c/f", "d/f"):
        write(root / "s" / name)
    found = scanned_by_a_user(root, "s", {"s/b": 0o000})
    assert [found["a/f"][0], found["d/f"][0]] == ["FileEntry", "FileEntry"]
    assert set(found) == {"a/f", "b/", "d/f"}
    kind, code, message, is_directory = found["b/"]
    assert (kind, code, is_directory) == ("Unreadable", "EACCES", True)
    assert "b/" in message
    assert "allow" in message


def test_a_source_that_may_not_be_opened_is_unreadable_and_not_empty(root):
    write(root / "s/f")
    found = scanned_by_a_user(root, "s", {"s": 0o000})
    assert {key: item[:2] + item[3:] for key, item in found.items()} == {"": ["Unreadable", "EACCES", True]}


def test_a_source_below_a_directory_that_may_not_be_searched_is_unreadable_and_not_missing(root):
    write(root / "up/s/f")
    found = scanned_by_a_user(root, "up/s", {"up": 0o000})
    assert {key: item[:2] + item[3:] for key, item in found.items()} == {"": ["Unreadable", "EACCES", True]}


def test_a_source_below_a_directory_that_may_be_searched_but_not_listed_is_scanned(root):
    write(root / "up/s/f")
    assert set(scanned_by_a_user(root, "up/s", {"up": 0o111})) == {"f"}


def test_files_in_a_directory_that_may_be_listed_but_not_searched_are_unreadable_one_by_one(root):
    write(root / "s/a/f")
    write(root / "s/a/sub/g")
    found = scanned_by_a_user(root, "s", {"s/a": 0o444})
    assert {key: (item[0], item[1], item[3]) for key, item in found.items()} == {
        "a/f": ("Unreadable", "EACCES", False),
        "a/sub/": ("Unreadable", "EACCES", True),
    }


def test_a_link_into_an_unreadable_directory_makes_nothing_count_as_gone(root):
    write(root / "dark/f")
    write(root / "s/a")
    (root / "s/l").symlink_to("../dark/f")
    found = scanned_by_a_user(root, "s", {"dark": 0o000})
    assert {key: item[0] for key, item in found.items()} == {
        "a": "FileEntry",
        "l": "Unreadable",
        "l/": "Unreadable",
    }


@pytest.mark.parametrize(("spare", "keys"), [("0", {""}), ("2", {"a/"}), ("1", {""})])
def test_running_out_of_descriptors_is_unreadable_and_never_empty(root, spare, keys):
    write(root / "s/a/f")
    found = scanned_by_a_user(root, "s", {}, limit=spare)
    assert set(found) == keys
    ((kind, code, message, is_directory),) = found.values()
    assert (kind, code, is_directory) == ("Unreadable", "EMFILE", True)
    assert "ulimit" in message


class Listing:
    """What os.scandir returns, changed by the test."""

    def __init__(self, real, change):
        self.real, self.change = real, change

    def __enter__(self):
        return self.change(self.real)

    def __exit__(self, *exc):
        self.real.close()


def change_listings(monkeypatch, change) -> None:
    real = os.scandir
    monkeypatch.setattr(
        os,
        "scandir",
        lambda fd: Listing(real(fd), lambda entries: change(os.readlink(f"/proc/self/fd/{fd}"), entries)),
    )


def hide_types(monkeypatch) -> None:
    """As on a file system that answers DT_UNKNOWN, when the stat for the type fails too."""

    class Untyped:
        def __init__(self, name):
            self.name = name

        def is_file(self, *, follow_symlinks):
            return False

        is_dir = is_file

    change_listings(monkeypatch, lambda folder, entries: (Untyped(entry.name) for entry in entries))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize(("source", "key"), [("", "b/"), ("b", "")])
def test_a_directory_that_fails_while_its_names_are_read_is_unreadable(
    root, monkeypatch, number, source, key
):
    for name in ("a/f", "b/f", "b/g", "c/f"):
        write(root / name)

    def fail_in_b(folder, entries):
        yield next(entries)
        if folder.endswith("/b"):
            raise OSError(number, os.strerror(number))
        yield from entries

    change_listings(monkeypatch, fail_in_b)
    items = scanned(root, source)
    assert files(items) == ([] if source else ["a/f", "c/f"])
    assert others(items) == {key: errno.errorcode[number]}
    assert all(item.is_directory for item in items if isinstance(item, Unreadable))


def test_a_file_whose_stat_fails_is_unreadable(root, monkeypatch):
    for name in "abc":
        write(root / name)
    real = os.stat

    def fail(path, **options):
        if path == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, **options)

    with Tree(str(root)) as tree, monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        items = list(scan(tree, "", never))
    assert files(items) == ["a", "c"]
    assert others(items) == {"b": "EIO"}


def test_a_file_system_without_entry_types_is_scanned(root, monkeypatch):
    for name in ("a.x", "a/f", "a/b/f", "c"):
        write(root / name)
    (root / "l").symlink_to("a")
    os.mkfifo(root / "p")
    expected = scanned(root)
    hide_types(monkeypatch)
    assert scanned(root) == expected


def test_a_name_that_is_listed_twice_is_one_entry(root, monkeypatch):
    for name in ("a/f", "b", "c/d/f"):
        write(root / name)
    (root / "l").symlink_to("a")
    (root / "k").symlink_to("b")
    expected = scanned(root)
    change_listings(monkeypatch, lambda folder, entries: (entry for entry in entries for _ in range(2)))
    assert scanned(root) == expected


@pytest.mark.parametrize("target", ["d", "f"])
def test_a_name_that_is_listed_as_itself_and_as_the_link_that_it_was_is_one_entry(root, monkeypatch, target):
    """The link is read first, then replaced, then its name is listed again."""
    write(root / "a/d/g")
    write(root / "a/f")
    (root / "l").symlink_to(f"a/{target}")
    new = root / "new"
    if target == "d":
        write(new / "h")
    else:
        write(new)

    def replace_and_repeat(folder, entries):
        kept = sorted(entries, key=lambda entry: entry.name)
        for entry in kept:
            if entry.name == "l":
                yield entry
                (root / "l").unlink()
                new.rename(root / "l")
                with os.scandir(root) as again:
                    yield from [other for other in again if other.name == "l"]
            elif entry.name != "new":
                yield entry

    real = os.scandir
    depth = []

    def listing(fd):
        if depth or not isinstance(fd, int):
            return real(fd)
        depth.append(fd)
        return Listing(real(fd), lambda entries: replace_and_repeat("", entries))

    monkeypatch.setattr(os, "scandir", listing)
    assert files(scanned(root)) == ["a/d/g", "a/f", "l/h" if target == "d" else "l"]


def test_a_link_to_an_unreadable_directory_is_unreadable_too_and_no_loop(root, monkeypatch):
    write(root / "b/f")
    (root / "l").symlink_to("b")

    def fail_in_b(folder, entries):
        if folder.endswith("/b"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield from entries

    change_listings(monkeypatch, fail_in_b)
    assert others(scanned(root)) == {"b/": "EIO", "l/": "EIO"}


# --- the tree changes while it is scanned ---


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def to_directory(path: Path) -> None:
    remove(path)
    write(path / "new")


def to_file(path: Path) -> None:
    remove(path)
    write(path)


def to_link(path: Path) -> None:
    remove(path)
    path.symlink_to("/etc")


def to_fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "change", "item"),
    [
        ("b/f", remove, Skip("b/f", "vanished")),
        ("b/f", to_fifo, Skip("b/f", "fifo")),
        ("b/f", to_directory, ("b/f/", "ChangedWhileScanning", True)),
        ("b/f", to_link, ("b/f", "ChangedWhileScanning", False)),
        ("b/d", remove, Skip("b/d", "vanished")),
        ("b/d", to_file, ("b/d/", "ENOTDIR", True)),
        ("b/d", to_link, ("b/d/", "ENOTDIR", True)),
    ],
)
def test_what_changes_between_its_name_and_its_stat_is_seen_as_it_is_or_as_unknown(root, name, change, item):
    for file in ("b/a/f", "b/d/g", "b/f", "b/z"):
        write(root / file)
    with Tree(str(root)) as tree:
        items = scan(tree, "", never)
        assert next(items).key == "b/a/f"  # the names of b are read now
        change(root / name)
        rest = list(items)
    seen = [one for one in rest if not isinstance(one, FileEntry)]
    if isinstance(item, Skip):
        assert seen == [item]
    else:
        assert [(one.key, one.code, one.is_directory) for one in seen] == [item]
    assert files(rest)[-1] == "b/z"


def test_a_directory_swapped_for_a_link_after_the_scan_does_not_lead_the_reader_out(root):
    write(root / "d/f")
    write(root.parent / "outside/f", "secret")
    with Tree(str(root)) as tree:
        (entry,) = scan(tree, "", never)
        (root / "d").rename(root / "moved")
        (root / "d").symlink_to(root.parent / "outside")
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ELOOP):
            tree.open_file(entry.path)


def test_a_linked_file_swapped_after_the_scan_does_not_lead_the_reader_out(root):
    write(root / "d/f")
    write(root.parent / "secret")
    (root / "l").symlink_to("d/f")
    with Tree(str(root)) as tree:
        entry = list(scan(tree, "", never))[-1]
        assert (entry.key, entry.path) == ("l", "d/f")
        to_link(root / "d/f")
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ELOOP):
            tree.open_file(entry.path)


@pytest.mark.parametrize(
    ("again", "kind"), [(True, Unreadable), (False, Skip)], ids=["made again", "not made again"]
)
def test_a_branch_moved_away_below_the_scan_is_unknown_or_gone_and_its_parents_are_scanned(root, again, kind):
    make_chain(root, "d", 50, beside="z")
    ninth, tenth = root / "/".join("d" * 9), root / "/".join("d" * 10)
    with Tree(str(root)) as tree:
        items = scan(tree, "", never)
        assert next(items).key == "d/" * 50 + "f"
        tenth.rename(root.parent / "tenth")
        ninth.rename(root.parent / "ninth")
        if again:
            ninth.mkdir()
        rest = list(items)
    (odd,) = (item for item in rest if not isinstance(item, FileEntry))
    assert isinstance(odd, kind)
    assert odd.key.rstrip("/") == "/".join("d" * 9)
    assert files(rest) == ["d/" * i + "z" for i in range(49, 9, -1)] + [
        "d/" * i + "z" for i in range(8, -1, -1)
    ]
    shutil.rmtree(root.parent / "tenth")


def test_scans_of_a_tree_in_motion_end_in_order_and_without_an_error(root):
    for i in range(20):
        write(root / f"d{i % 4}/e{i}/f")
    stop = threading.Event()

    def move():
        while not stop.is_set():
            write(root / "d1/e1/new/f")
            (root / "d1/e1").rename(root / "d2/e1")
            (root / "d2/e1/f").rename(root / "d2/e1/g")
            (root / "d0/l").symlink_to("../d2/e1")
            (root / "d2/e1/g").rename(root / "d2/e1/f")
            (root / "d2/e1").rename(root / "d1/e1")
            shutil.rmtree(root / "d1/e1/new")
            (root / "d0/l").unlink()

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(200):
            keys = files(scanned(root))
            assert keys == sorted(set(keys))
            assert {f"d3/e{i}/f" for i in (3, 7, 11, 15, 19)} <= set(keys)
    finally:
        stop.set()
        mover.join()


# --- stopping, and what it costs ---


def test_whether_to_stop_is_asked_for_each_directory_and_each_thousand_files(root):
    fill(root / "big", 2500)
    for name in ("a/f", "b/f", "c/f"):
        write(root / name)
    asked = []
    with Tree(str(root)) as tree:
        assert len(list(scan(tree, "", lambda: bool(asked.append(1))))) == 2503
    assert len(asked) == 5 + 2 + 2  # directories; 1,000 names read; 1,000 files yielded


@pytest.mark.parametrize("after", range(5))
def test_a_stop_ends_the_scan_which_closes_what_it_opened(root, after):
    fill(root / "a", 2100)
    answers = iter([False] * after + [True])
    with Tree(str(root)) as tree, pytest.raises(Stopped):
        list(scan(tree, "", lambda: next(answers)))


def test_a_scan_that_is_abandoned_closes_what_it_opened(root):
    write(root / "a/b/c/f")
    with Tree(str(root)) as tree:
        items = scan(tree, "", never)
        next(items)
        opened = open_below(root)
        del items
        assert open_below(root) == opened - 4  # a, b, c and the root once more


def test_ten_times_the_directories_take_no_more_memory(root):
    peaks = []
    for count in (3, 30):
        for i in range(count):
            fill(root / f"s{count}/d{i:02}", 300)
        with Tree(str(root)) as tree:
            tracemalloc.start()
            assert sum(1 for _ in scan(tree, f"s{count}", never)) == count * 300
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_reading_ahead_gives_the_same_items_and_reads_only_so_many_before_the_first(monkeypatch):
    monkeypatch.setattr(scan_module, "_AHEAD_ITEMS", 100)
    read = []

    def items():
        for i in range(1000):
            read.append(i)
            yield i
        raise FatalError("SourceVanished", "the folder was removed")

    given = []
    ahead = read_ahead(items())
    with pytest.raises(FatalError, match="removed"):
        for item in ahead:
            given.append(item)
            assert len(read) == max(100, len(given))
    assert given == list(range(1000))


def test_reading_ahead_does_not_wait_long_for_a_slow_folder(monkeypatch):
    monkeypatch.setattr(scan_module.time, "monotonic", iter(x / 25 for x in range(1000)).__next__)
    read = []
    ahead = read_ahead(iter(lambda: read.append(1) or len(read), 1000))
    assert next(ahead) == 1
    assert 1 < len(read) < 10
