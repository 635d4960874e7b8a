"""What a job says when it has not mirrored all, or has deleted a bucket for a folder that is not there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Mirror, Service, Shell, contents, exists, expected, fill, tree
from stores import Store

from syncworker import ending
from syncworker.ending import Ending
from syncworker.jobs.status import PROGRESS
from syncworker.shell import formats

NOT = "the folder demmo does not exist:"
MISSING = Ending(source_exists=False, emptied=True, bucket_deleted=True)


@pytest.mark.parametrize(
    ("found", "source", "deleted", "skipped", "says"),
    [
        (Ending(), "photos", 0, {}, "the bucket equals the folder"),
        (Ending(), "", 5, {"fifo": 1}, "mirrored, except for 1 skipped (1 fifo)"),
        (
            Ending(),
            "a",
            0,
            {"fifo": 1, "symlink_outside": 748},
            "mirrored, except for 749 skipped (748 symlink_outside, 1 fifo)",
        ),
        (MISSING, "demmo", 2434, {}, f"{NOT} bucket X and its 2434 objects were deleted"),
        (MISSING, "demmo", 1, {}, f"{NOT} bucket X and its 1 object were deleted"),
        (
            Ending(False, True, False), "demmo", 0, {},
            "the folder demmo does not exist, and there is no bucket X",
        ),
        (
            Ending(True, True, True), "", 0, {},
            "the uploads folder holds no file: bucket X and its 0 objects were deleted",
        ),
        (
            Ending(True, True, False), "a", 0, {"fifo": 1},
            "the folder a holds no file, and there is no bucket X; 1 skipped (1 fifo)",
        ),
        (Ending(False), "demmo", 3, {}, f"{NOT} 3 objects deleted"),
    ],
)  # fmt: skip
def test_an_ended_sync_says_what_it_found(
    found: Ending, source: str, deleted: int, skipped: dict[str, int], says: str
) -> None:
    said = ending.message(found, source=source, dest="X", objects_deleted=deleted, skipped=skipped)
    assert said == says


def test_a_job_of_an_older_version_has_no_reasons() -> None:
    status = {"id": "x", "state": "done", "progress": {**PROGRESS, "files_skipped": 2}}
    assert ", 2 skipped, in" in formats.summary(status)


def odd(folder: Path, outside: Path) -> dict[str, int]:
    """Makes things that no bucket can hold; how many of each kind."""
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_text("not ours")
    for number in range(3):
        (folder / f"out{number}").symlink_to(outside / "secret")
    (folder / "nowhere").symlink_to("gone")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")
    here = os.getcwd()
    os.chdir(folder)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("door")
    finally:
        os.chdir(here)
    return {"symlink_outside": 3, "symlink_dangling": 1, "symlink_loop": 1, "fifo": 1, "socket": 1}


def test_what_is_skipped_is_counted_by_reason_and_no_equality_is_claimed(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2"})
    skipped = odd(mirror.shell.uploads / "photos", mirror.shell.base / "outside")
    for _ in range(2):
        run = mirror.start()
        assert run.status["skipped"] == skipped
        assert run.status["message"] == (
            "mirrored, except for 7 skipped (3 symlink_outside, 1 fifo, 1 socket, 1 symlink_dangling,"
            " 1 symlink_loop)"
        )
        assert run.progress["files_skipped"] == 7 == sum(skipped.values())
        assert "7 skipped (3 symlink_outside, " in run.out.splitlines()[-1]
        assert run.err == ""
        assert mirror.contents == {"a": b"1", "b": b"2"}
    shown = mirror.shell.run("show", run.status["id"]).stdout
    assert "7 skipped (3 symlink_outside, 1 fifo, " in shown


@pytest.mark.parametrize("value", ["0", "1"])
def test_fail_on_skipped_fails_when_all_else_is_done(
    make_shell: Callable[..., Shell], juicefs: Store, bucket: str, value: str
) -> None:
    shell = make_shell(juicefs, FAIL_ON_SKIPPED=value)
    fill(juicefs, bucket, {"old": b"x"})
    tree(shell.uploads / "photos", {"a": "1"})
    os.mkfifo(shell.uploads / "photos" / "pipe")
    run = shell.start(bucket)
    assert contents(juicefs, bucket) == {"a": b"1"}
    if value == "0":
        assert (run.exit_status, run.status["state"], run.status["error"]) == (0, "done", None)
        return
    assert (run.exit_status, run.status["state"]) == (1, "failed")
    assert run.status["error"] == {
        "code": "FilesSkipped",
        "message": "mirrored, except for 1 skipped (1 fifo): FAIL_ON_SKIPPED=1 makes that a failure",
    }
    assert "FilesSkipped" in run.err
    (shell.uploads / "photos" / "pipe").unlink()
    assert shell.run("resume", run.status["id"]).returncode == 0


def test_with_fail_on_skipped_a_folder_of_nothing_else_deletes_no_bucket(
    make_shell: Callable[..., Shell], juicefs: Store, bucket: str
) -> None:
    shell = make_shell(juicefs, FAIL_ON_SKIPPED="1")
    fill(juicefs, bucket, {"old": b"x"})
    (shell.uploads / "photos").mkdir()
    os.mkfifo(shell.uploads / "photos" / "pipe")
    run = shell.start(bucket)
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesSkipped")
    assert "nothing was deleted" in run.status["error"]["message"]
    assert contents(juicefs, bucket) == {"old": b"x"}


def test_a_mistyped_folder_deletes_the_bucket_and_says_so_where_cron_looks(
    shell: Shell, juicefs: Store, bucket: str
) -> None:
    fill(juicefs, bucket, {f"{number:02}": b"x" for number in range(12)})
    run = shell.start(bucket, "demmo")
    says = f"the folder demmo does not exist: bucket {bucket} and its 12 objects were deleted"
    assert (run.exit_status, run.status["state"], run.status["message"]) == (0, "done", says)
    assert run.err == f"syncworker: {says}\n"
    assert not exists(juicefs, bucket)
    again = shell.start(bucket, "demmo")
    says = f"the folder demmo does not exist, and there is no bucket {bucket}"
    assert (again.exit_status, again.status["message"], again.err) == (0, says, f"syncworker: {says}\n")


def test_an_emptied_folder_says_so_once(shell: Shell, juicefs: Store, bucket: str) -> None:
    fill(juicefs, bucket, {"a": b"x"})
    (shell.uploads / "photos").mkdir()
    run = shell.start(bucket)
    says = f"the folder photos holds no file: bucket {bucket} and its 1 object were deleted"
    assert (run.status["message"], run.err) == (says, f"syncworker: {says}\n")
    assert shell.start(bucket).err == ""


def test_the_server_warns_at_once_and_the_job_says_it_at_its_end(
    service: Service, juicefs: Store, bucket: str
) -> None:
    fill(juicefs, bucket, {"a": b"x"})
    answer = service.get("/sync", source="demmo", dest=bucket)
    assert answer.status == 202
    assert f"bucket {bucket} and all its objects are deleted" in answer.json()["warning"]
    status = service.wait_state(answer.json()["id"], "done")
    assert "warning" not in status
    says = f"the folder demmo does not exist: bucket {bucket} and its 1 object were deleted"
    assert status["message"] == says
    assert service.file(status["id"], "log").read_text() == f"syncworker: {says}\n"


def test_a_hostile_name_does_nothing_to_a_terminal(shell: Shell, bucket: str) -> None:
    run = shell.start(bucket, "de\x1b[2Jmo")
    assert run.exit_status == 0
    assert "\x1b" not in run.err + run.out
    assert r"de\x1b[2Jmo does not exist" in run.err
    assert expected(shell.uploads) == {}
