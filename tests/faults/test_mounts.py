"""A disk that is not mounted deletes nothing: real mounts, real jobs, real stores."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import Gate, Mirror, Run, assert_same, contents, expected, fill, remove, tree
from disks import bind, mount, unmount, unmount_all
from proxy import s3_error
from stores import Store

from syncworker.folder.scan import scan
from syncworker.folder.scan_process import scan_apart
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.jobs import cleanup
from syncworker.jobs.store import Jobs
from syncworker.model import FileEntry
from syncworker.shell import cli
from syncworker.storage_url import earlier_destination_id
from syncworker.system import mount_table
from syncworker.worker import mount_check, sync

DISK = {"b": "on the disk", "c/d": "on the disk, deeper"}


@pytest.fixture
def uploads(mirror: Mirror) -> Iterator[Path]:
    """The uploads root of a mirror, below which a test may mount disks."""
    mirror.make({"a": "stays", "old": "goes"})
    yield mirror.shell.uploads
    unmount_all(mirror.shell.uploads)


def refused(mirror: Mirror, run: Run, *named: str, code: str = "DiskNotMounted") -> dict[str, Any]:
    """The job has failed so, it says which disk and what to do, and nothing was deleted."""
    error = run.status["error"]
    assert (run.exit_status, run.status["state"], error["code"]) == (1, "failed", code), run.status
    assert all(name in error["message"] for name in (*named, "forget_mounts=1")), error
    assert not {"DELETE", "DeleteObjects"} & set(mirror.proxy.kinds()), mirror.proxy.kinds()
    return run.status


def facts(mirror: Mirror) -> Path:
    (found,) = (mirror.shell.jobs / ".dest").glob("*.json")
    assert found.stat().st_mode & 0o777 == 0o600
    return found


def mount_tmpfs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder)


def mount_bound(folder: Path) -> None:
    """A mount with the device number of its parent."""
    elsewhere = folder.parents[2] / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    bind(elsewhere, folder)
    assert folder.stat().st_dev == folder.parent.stat().st_dev


EMPTY: dict[str, str] = {}
STALE = {"stale": "a file that was there before the disk"}


@pytest.mark.parametrize("mounted", [mount_tmpfs, mount_bound])
@pytest.mark.parametrize("left", [EMPTY, STALE, None], ids=["empty", "one file", "missing"])
def test_a_disk_below_the_folder_that_is_not_mounted_fails_the_job_before_any_deletion(
    mirror: Mirror, uploads: Path, mounted: Callable[[Path], None], left: dict[str, str] | None
) -> None:
    disk = mirror.folder / "disk"
    tree(disk, left or {})
    mounted(disk)
    tree(disk, DISK)
    mirror.twice()
    before = mirror.contents
    unmount(disk)
    if left is None:
        disk.rmdir()
    mirror.make({"new": "goes up", "old": None})
    status = refused(mirror, mirror.start(), "photos/disk")
    assert_same(
        mirror.contents,
        before | {"new": b"goes up"} | {f"disk/{k}": v.encode() for k, v in (left or {}).items()},
    )
    assert status["progress"]["files_uploaded"] == 1 + len(left or {})
    refused(mirror, mirror.start(), "photos/disk")  # not once only
    disk.mkdir(exist_ok=True)
    mounted(disk)
    tree(disk, DISK)
    mirror.sync()


def test_the_process_that_scans_a_large_folder_tells_of_its_mounts(
    juicefs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path / "uploads" / "photos", {f"f{i}": str(i) for i in range(200)})
    values = {
        "UPLOADS_DIR": tmp_path / "uploads", "JOBS_DIR": tmp_path / "jobs", "STORAGE_URL": juicefs.url,
        "MINIO_ACCESS_KEY": juicefs.access_key, "MINIO_SECRET_KEY": juicefs.secret_key,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sync, "WORTH_FILES", 100)
    monkeypatch.setattr(sync, "_LONG_WAIT_US", 1 << 40)
    monkeypatch.setattr(sync.os, "sched_getaffinity", lambda _pid: {0, 1})
    used = []
    monkeypatch.setattr(sync, "scan_apart", lambda *given: used.append(1) or scan_apart(*given))
    start = ["start", "--source", "photos", "--dest", "mounts-apart", "--json"]
    assert cli.main(start) == 0
    mount_tmpfs(folder / "disk")
    try:
        tree(folder / "disk", DISK)
        assert cli.main(start) == 0
        wanted = expected(folder)
        assert used == [1]
    finally:
        unmount_all(folder)
    assert cli.main(start) == 1
    assert_same(contents(juicefs, "mounts-apart"), wanted)
    juicefs.remove_bucket("mounts-apart")


@pytest.mark.parametrize("how", [scan, scan_apart])
def test_a_mount_is_told_before_the_files_below_it(tmp_path: Path, how: Callable[..., Iterator[Any]]) -> None:
    root = tree(tmp_path / "root", {"photos": {"a": "x", "z": "x"}, "other": {"in": "x"}})
    (root / "photos" / "link").symlink_to("../other/disk/below")
    (root / "photos" / "one").symlink_to("../other/disk/file")
    try:
        for place in ("photos/disk", "photos/disk/again", "other/disk"):
            mount_tmpfs(root / place)
            tree(root / place, {"file": "x", "below": {"in": "x"}})
        told: list[tuple[str, str]] = []
        order = []
        with Tree(str(root)) as opened:
            for item in how(opened, "photos", lambda: False, on_mount=lambda *mount: told.append(mount)):
                order.append((item.key, len(told)))
    finally:
        unmount_all(root)
    below = {("photos/disk", "disk/"), ("photos/disk/again", "disk/again/")}
    assert set(told) == below | {("other/disk", "link/"), ("other/disk", "")}
    for key, count in order:
        for path, prefix in told:
            assert not key.startswith(prefix or "one") or (path, prefix) in told[:count], (key, path)


def test_a_folder_without_mounts_costs_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {f"d{i}/e/f": "x" for i in range(50)})
    (tmp_path / "link").symlink_to("d1")
    asked = []
    monkeypatch.setattr(mount_table, "is_mount_point", lambda fd: asked.append(fd))
    with Tree(str(tmp_path)) as opened:
        found = [
            item for item in scan(opened, "", lambda: False, on_mount=print) if isinstance(item, FileEntry)
        ]
    assert (len(found), asked) == (51, [])


def test_a_disk_that_the_folder_lies_on_is_remembered(mirror: Mirror, uploads: Path) -> None:
    """`media` is mounted, `media/photos` is mirrored; without the disk there is no such folder."""
    mount_tmpfs(uploads / "media")
    tree(uploads / "media" / "photos", DISK)
    mirror.shell.sync(mirror.bucket, "media/photos")
    before = mirror.contents
    unmount(uploads / "media")
    for left in ({}, {"photos": EMPTY}, {"photos": STALE}):
        tree(uploads / "media", left)
        mirror.proxy.reset()
        refused(mirror, mirror.shell.start(mirror.bucket, "media/photos"), "media")
        assert before.items() <= mirror.contents.items()
    mount_tmpfs(uploads / "media")
    tree(uploads / "media" / "photos", DISK)
    mirror.shell.sync(mirror.bucket, "media/photos")


@pytest.mark.parametrize("above", [False, True], ids=["the root", "the folder above"])
@pytest.mark.parametrize("left", [EMPTY, STALE], ids=["empty", "one file"])
def test_the_disk_of_the_uploads_root_is_remembered(
    mirror: Mirror, tmp_path: Path, above: bool, left: dict[str, str]
) -> None:
    disk = tmp_path / "disk"
    root = disk / "uploads" if above else disk
    mirror.shell.environment["UPLOADS_DIR"] = str(root)
    tree(root, left)
    try:
        mount_tmpfs(disk)
        tree(root, DISK)
        mirror.shell.sync(mirror.bucket, "")
        before = mirror.contents
        unmount(disk)
        mirror.proxy.reset()
        refused(mirror, mirror.shell.start(mirror.bucket, ""), *([str(disk)] if left else []))
        assert before.items() <= mirror.contents.items()
        mount_tmpfs(disk)
        tree(root, DISK)
        mirror.shell.sync(mirror.bucket, "")
        assert_same(mirror.contents, before)
    finally:
        unmount_all(tmp_path)


def test_what_a_link_leads_to_on_another_disk_is_kept_while_that_is_not_mounted(
    mirror: Mirror, uploads: Path
) -> None:
    mount_tmpfs(uploads / "disk")
    tree(uploads / "disk", {"album": DISK, "single": "x"})
    (mirror.folder / "album").symlink_to("../disk/album")
    (mirror.folder / "single").symlink_to("../disk/single")
    mirror.shell.sync(mirror.bucket)
    before = mirror.contents
    assert {"album/b", "single"} <= before.keys()
    unmount(uploads / "disk")
    refused(mirror, mirror.start(), "disk")
    assert_same(mirror.contents, before)


def test_a_link_that_was_removed_is_no_disk_that_is_missing(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(uploads / "disk")
    tree(uploads / "disk", {"album": DISK})
    (mirror.folder / "album").symlink_to("../disk/album")
    mirror.shell.sync(mirror.bucket)
    (mirror.folder / "album").unlink()
    mirror.sync()


def test_a_disk_that_goes_while_files_are_sent_deletes_nothing(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    mirror.make({"new": "x", "old": None, "disk/b": None})
    before = mirror.contents
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, job = mirror.shell.begin(mirror.bucket, "photos")
    gate.wait()
    unmount(mirror.folder / "disk")
    gate.open()
    assert process.wait(30) == 1
    assert mirror.shell.status(job)["error"]["code"] == "DiskNotMounted"
    assert before.items() <= mirror.contents.items()


def test_a_disk_that_goes_behind_the_walk_is_not_forgotten(mirror: Mirror, uploads: Path) -> None:
    """Nothing below it is to be deleted, because it was there: no reason to believe it gone for good."""
    disk = mirror.folder / "disk"
    mount_tmpfs(disk)
    tree(disk, DISK)
    mirror.sync()
    mirror.make({"a": "changed"})
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, job = mirror.shell.begin(mirror.bucket, "photos")
    gate.wait()
    unmount(disk)
    gate.open()
    assert process.wait(30) == 0, mirror.shell.status(job)
    before = mirror.contents
    refused(mirror, mirror.start(), "photos/disk")
    assert mirror.contents == before


def test_a_disk_is_remembered_before_its_first_file_is_sent(mirror: Mirror, uploads: Path) -> None:
    """The worker is killed as it sends; all that is left of the disk are its objects."""
    remove(mirror.folder)
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    gate = Gate(mirror.proxy, lambda request: request.kind == "PUT")
    process, _job = mirror.shell.begin(mirror.bucket, "photos", "--wait", "0.01")
    gate.wait()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    gate.open()
    unmount(mirror.folder / "disk")
    fill(mirror.store, mirror.bucket, {"disk/b": b"on the disk"})
    refused(mirror, mirror.start(), "photos/disk")
    mirror.make({"a": "x"})
    refused(mirror, mirror.start(), "photos/disk")


def test_an_unmounted_source_deletes_no_bucket_though_the_index_is_gone(
    mirror: Mirror, uploads: Path
) -> None:
    remove(mirror.folder)
    mount_tmpfs(mirror.folder)
    tree(mirror.folder, DISK)
    mirror.sync()
    before = mirror.contents
    unmount(mirror.folder)
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"no database" * 1000)):
        for path in (mirror.shell.jobs / ".index").iterdir():
            damage(path)
        refused(mirror, mirror.start(), "photos")
        assert_same(mirror.contents, before)


# -- forgetting -------------------------------------------------------------------------------------------


def test_a_disk_that_is_gone_for_good_is_forgotten_when_somebody_says_so(
    mirror: Mirror, uploads: Path
) -> None:
    mount_tmpfs(mirror.folder / "disk")
    mount_tmpfs(mirror.folder / "other")
    tree(mirror.folder, {"disk": DISK, "other": DISK})
    mirror.sync()
    unmount(mirror.folder / "disk")
    refused(mirror, mirror.start(), "photos/disk")
    run = mirror.sync("--forget-mounts")
    assert run.status["options"] == {"forget_mounts": 1}
    assert not [key for key in mirror.contents if key.startswith("disk/")]
    unmount(mirror.folder / "other")  # was mounted then: not forgotten
    refused(mirror, mirror.start(), "photos/other")


def test_a_resume_forgets_nothing(mirror: Mirror, uploads: Path) -> None:
    """The disk was mounted when somebody asked to forget those that were not."""
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    before = mirror.contents
    mirror.make({"new": "x"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.kind == "PUT" else None)
    run = mirror.start("--forget-mounts", "1")
    assert run.status["error"]["code"] == "FilesFailed", run.status
    mirror.proxy.clear_hooks()
    unmount(mirror.folder / "disk")
    mirror.proxy.reset()
    result = mirror.shell.run("resume", run.status["id"])
    status = mirror.shell.status(run.status["id"])
    assert status["options"] == {"forget_mounts": 1}
    refused(mirror, Run(result.returncode, result.stdout, result.stderr, status), "photos/disk")
    assert before.items() <= mirror.contents.items()


def test_a_done_job_that_found_nothing_to_delete_below_forgets_the_disk(
    mirror: Mirror, uploads: Path
) -> None:
    """The disk was copied to its own mount point, and taken away."""
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    unmount(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.make({"old": None})
    mirror.sync()
    remove(mirror.folder / "disk" / "c")
    mirror.sync()


def test_a_mirror_below_a_prefix_has_facts_of_its_own(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    prefix = ("--prefix", "below")
    assert mirror.start(*prefix).exit_status == 0
    before = mirror.contents
    assert before.keys() == {f"below/{key}" for key in expected(mirror.folder)}
    unmount(mirror.folder / "disk")
    refused(mirror, mirror.start(*prefix), "photos/disk")
    remove(mirror.folder)
    refused(mirror, mirror.start(*prefix), "photos/disk")
    assert_same(mirror.contents, before)
    mirror.make({"a": "stays", "old": "goes", "disk": DISK})
    assert mirror.start(*prefix).exit_status == 0
    mirror.make({"disk": {"b": None}})
    assert mirror.start(*prefix).exit_status == 0  # forgotten
    assert mirror.contents.keys() == {f"below/{key}" for key in expected(mirror.folder)}


def test_a_job_that_failed_forgets_nothing(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    unmount(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK | {"new": "x"})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.kind == "PUT" else None)
    assert mirror.start().status["error"]["code"] == "FilesFailed"
    mirror.proxy.clear_hooks()
    remove(mirror.folder / "disk")
    refused(mirror, mirror.start(), "photos/disk")


@pytest.mark.parametrize("option", [("--delete", "0"), ("--exclude", "disk/c"), ("--include", "b")])
def test_a_job_that_does_not_look_at_all_or_does_not_delete_forgets_nothing(
    mirror: Mirror, uploads: Path, option: tuple[str, str]
) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    unmount(mirror.folder / "disk")
    tree(mirror.folder / "disk", {"b": "on the disk"})
    assert mirror.start(*option).status["state"] == "done"
    refused(mirror, mirror.start(), "photos/disk")


def test_a_filter_may_leave_out_a_disk_that_is_mounted(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    mirror.make({"old": None})
    run = mirror.start("--exclude", "disk")
    assert (run.status["state"], run.progress["objects_deleted"]) == ("done", 1)
    assert "disk/b" in mirror.contents


def test_a_filter_does_not_empty_a_folder_whose_disk_is_not_mounted(mirror: Mirror, uploads: Path) -> None:
    remove(mirror.folder)
    mount_tmpfs(mirror.folder)
    tree(mirror.folder, DISK)
    mirror.sync()
    before = mirror.contents
    unmount(mirror.folder)
    refused(mirror, mirror.start("--exclude", "c"), "photos")
    assert_same(mirror.contents, before)


def test_a_disk_below_which_nothing_was_mirrored_holds_up_nothing(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    mirror.sync()
    unmount(mirror.folder / "disk")
    mirror.make({"old": None})
    mirror.sync()
    (mirror.folder / "disk").rmdir()
    mirror.make({"a": None, "b": "x"})
    mirror.sync()


def test_another_source_of_the_same_bucket_has_mounts_of_its_own(mirror: Mirror, uploads: Path) -> None:
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    unmount(mirror.folder / "disk")
    tree(uploads / "other", {"x": "y"})
    mirror.shell.sync(mirror.bucket, "other")
    assert_same(mirror.contents, {"x": b"y"})


# -- the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 2}'])
def test_a_bucket_is_not_deleted_when_what_protects_it_is_damaged(
    mirror: Mirror, uploads: Path, damage: bytes
) -> None:
    mirror.sync()
    facts(mirror).write_bytes(damage)
    mount_tmpfs(mirror.folder / "disk")  # is written down, and mends nothing
    mirror.make({"old": None, "disk": DISK})
    mirror.sync()
    before = mirror.contents
    unmount_all(uploads)
    remove(mirror.folder)
    refused(mirror, mirror.start(), ".json", code="DestinationFactsLost")
    assert_same(mirror.contents, before)
    assert mirror.start("--forget-mounts").status["state"] == "done"
    assert not mirror.exists
    mirror.make({"a": "x"})
    mirror.sync()
    remove(mirror.folder)
    assert mirror.start().status["state"] == "done"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"version": 1},
        {"version": 1, "root_device": 5, "own_disk": [], "mounts": {}, "lost": False},
        {"version": 1, "root_device": None, "own_disk": "a", "mounts": {}, "lost": False},
        {"version": 1, "root_device": None, "own_disk": [], "mounts": [], "lost": False},
        {"version": 1, "root_device": None, "own_disk": [], "mounts": {"a": ["b"]}, "lost": False},
        {"version": 1, "root_device": None, "own_disk": [], "mounts": {"a": {"b": "c"}}, "lost": False},
        {"version": 1, "root_device": None, "own_disk": [], "mounts": {"a": {"b": [1]}}, "lost": False},
        {"version": 1, "root_device": None, "own_disk": [], "mounts": {}, "lost": 0},
    ],
)
def test_what_is_not_what_was_written_is_damaged(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".*"):
        mount_check.parse(value)


def test_facts_of_an_older_version_move_out_of_the_index(mirror: Mirror, uploads: Path) -> None:
    remove(mirror.folder)
    mount_tmpfs(mirror.folder)
    tree(mirror.folder, DISK)
    mirror.sync()
    before = mirror.contents
    facts(mirror).unlink()
    (path,) = (mirror.shell.jobs / ".index").glob("*.sqlite")
    index = Index(str(path))
    for source in ("photos", "other"):
        index.set_fact(f"own_disk {source}", "1")
    index.set_fact("own_disk none", "0")
    index.set_fact("root_device", "1")
    index.close()
    unmount(mirror.folder)
    refused(mirror, mirror.start(), "photos")
    index = Index(str(path))
    assert not [name for name in index.facts() if name.startswith("own_disk") or name == "root_device"]
    index.close()
    path.unlink()
    assert json.loads(facts(mirror).read_text())["own_disk"] == ["photos", "other"][::-1]
    mirror.make(STALE)
    refused(mirror, mirror.start(), "photos")
    assert before.items() <= mirror.contents.items()
    mount(mirror.folder)
    tree(mirror.folder, DISK)
    mirror.sync()
    assert json.loads(facts(mirror).read_text())["own_disk"] == ["other"]
    unmount(mirror.folder)
    refused(mirror, mirror.start(), "photos")


def test_facts_under_two_spellings_of_the_address_are_all_kept(mirror: Mirror, uploads: Path) -> None:
    """Once each spelling had a file of its own: what only one of them knew protects under all of them."""
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    mirror.sync()
    other = mirror.proxy.url.replace("127.0.0.1", "127.1")
    path = facts(mirror)
    path.rename(path.with_name(f"{earlier_destination_id(other, mirror.bucket)}.json"))
    tree(uploads / "other", {"z": "b"})
    mirror.shell.start(mirror.bucket, "other", "--delete", "0")  # has facts, and none of this disk
    before = mirror.contents
    unmount(mirror.folder / "disk")
    mirror.shell.environment["STORAGE_URL"] = other
    for _ in range(2):
        refused(mirror, mirror.start(), "photos/disk")
        assert_same(mirror.contents, before)
        assert [each.name for each in path.parent.glob("*.json*")] == [path.name]
    mirror.shell.environment["STORAGE_URL"] = mirror.proxy.url
    refused(mirror, mirror.start(), "photos/disk")


def test_the_facts_outlive_their_jobs(mirror: Mirror) -> None:
    mirror.make({"a": "x"})
    mirror.sync()
    path = facts(mirror)
    jobs = Jobs(str(mirror.shell.jobs))
    assert cleanup.prune(jobs, 0) == 1
    assert path.exists()


def test_a_disk_that_cannot_be_written_down_is_not_mirrored(mirror: Mirror, uploads: Path) -> None:
    mirror.sync()
    Path(f"{facts(mirror)}.tmp").mkdir()
    mount_tmpfs(mirror.folder / "disk")
    tree(mirror.folder / "disk", DISK)
    run = mirror.start()
    assert run.status["error"]["code"] == "LocalError", run.status
    assert not mirror.proxy.kinds()


# -- pure, and the kernel ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "walked", "deletes", "found"),
    [
        ({}, set(), ["a"], []),
        ({"p/d": ["d/"]}, {"p/d"}, [], []),
        ({"p/d": ["d/"]}, {"p/d"}, ["a", "d", "da"], []),
        ({"p/d": ["d/"]}, {"p/d"}, ["a", "d/b"], ["p/d"]),
        ({"p/d": ["d/"]}, set(), [], ["p/d"]),
        ({"p/d": ["d/"], "p/e": ["e/"]}, {"p/d", "p/e"}, ["e/x"], ["p/e"]),
        ({"p/d": ["x/", "y/"]}, {"p/d"}, ["y/1"], ["p/d"]),
        ({"/srv": [""]}, {"/srv"}, ["y"], ["/srv"]),
    ],
)
def test_which_missing_disks_forbid_deletions(
    missing: dict[str, list[str]], walked: set[str], deletes: list[str], found: list[str]
) -> None:
    assert mount_check.blocking(missing, walked, deletes) == found


def test_a_mount_point_is_told_by_the_kernel(tmp_path: Path) -> None:
    def is_mount_point(path: Path) -> bool:
        fd = os.open(path, mount_table.NAME_DIRECTORY)
        try:
            return mount_table.is_mount_point(fd)
        finally:
            os.close(fd)

    tree(
        tmp_path,
        {"plain/in": "x", "disk": {}, "bound": {}, "itself/in": "x", "with space": {}, "hidden/in": {}},
    )
    try:
        mount(tmp_path / "disk")
        bind(tmp_path / "plain", tmp_path / "bound")
        bind(tmp_path / "itself", tmp_path / "itself")
        mount(tmp_path / "with space")
        mount(tmp_path / "hidden" / "in")
        mount(tmp_path / "hidden")
        (tmp_path / "hidden" / "in").mkdir()
        names = ["plain", "disk", "bound", "itself", "with space", "hidden", "hidden/in"]
        assert [is_mount_point(tmp_path / name) for name in names] == [
            False,
            True,
            True,
            False,
            True,
            True,
            False,
        ]
        assert mount_table.points_below(str(tmp_path)) == {
            "disk",
            "bound",
            "itself",
            "with space",
            "hidden",
            "hidden/in",
        }
        fd = os.open(tmp_path / "disk", mount_table.NAME_DIRECTORY)
        assert mount_table.point_above(fd) == str(tmp_path / "disk")
        unmount(tmp_path / "disk")
        assert mount_table.is_mount_point(fd)  # it was one
        os.close(fd)
        assert not is_mount_point(tmp_path / "disk")
        bind(tmp_path / "disk", tmp_path / "disk")
        mount(tmp_path / "disk")
        bind(tmp_path / "disk", tmp_path / "disk")
        assert is_mount_point(tmp_path / "disk")
    finally:
        unmount_all(tmp_path)
