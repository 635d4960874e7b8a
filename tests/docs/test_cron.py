"""Jobs that nobody watches: `--quiet`, old jobs that go, and docs/operations.md as cron runs it."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import PROJECT, Shell, contents, expected, tree
from fabricated import Desk
from serving import write_finished
from stores import Store

from syncworker.history.ledger import Ledger
from syncworker.service.supervisor import acquire_server_lock, is_served
from syncworker.system import durable_files

START = ("start", "--source", "photos", "--dest", "mybucket")
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
CRON_LINES = re.findall(r"^\d+ \d+ \* \* \* +(.+)$", OPERATIONS, re.MULTILINE)
CLONE = "/srv/s3-sync-api"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.go()
    yield made
    made.close()


# -- what is printed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["start", "resume"])
@pytest.mark.parametrize(("end", "code"), [("done", 0), ("failed", 1), ("cancelled", 3), ("interrupted", 4)])
def test_quiet_prints_what_went_wrong_and_nothing_else(desk: Desk, command: str, end: str, code: int) -> None:
    arguments: tuple[str, ...] = START
    if command == "resume":
        desk.environment["STAND_IN"] = "failed"
        desk.run(*START, stand_in=True)
        arguments = ("resume", *desk.jobs.ids())
    desk.environment["STAND_IN"] = end
    result = desk.run(*arguments, "--quiet", stand_in=True)
    assert (result.returncode, result.stdout) == (code, "")
    [job_id] = desk.jobs.ids()
    assert (result.stderr == "") == (end == "done")
    if end != "done":
        assert f"to go on: python -m syncworker resume {job_id}" in result.stderr


def test_quiet_json_is_the_object_alone(desk: Desk) -> None:
    result = desk.run(*START, "--quiet", "--json", stand_in=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["state"] == "done"


def test_quiet_says_what_is_refused(desk: Desk) -> None:
    result = desk.run("start", "--quiet", "--source", "../x", stand_in=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert "source" in result.stderr


# -- old jobs ---------------------------------------------------------------------------------------------


def uploaded(desk: Desk) -> float:
    return Ledger(desk.jobs).sum()["counts"].get("files_uploaded", 0)


def old_jobs(desk: Desk, count: int) -> list[str]:
    desk.jobs.prepare()
    ids = write_finished(Path(desk.jobs.path), count)
    for number, job_id in enumerate(ids):
        status = durable_files.read_json(desk.jobs.file(job_id, "json")) or {}
        status["metrics"] = {"counts": {"files_uploaded": 10**number}}
        durable_files.replace_json(desk.jobs.file(job_id, "json"), status, durable=False)
    return ids


def test_start_keeps_as_many_jobs_as_a_server_would_and_loses_no_count(desk: Desk) -> None:
    desk.environment["KEEP_JOBS"] = "3"
    ids = old_jobs(desk, 5)
    assert uploaded(desk) == 11111
    for _ in range(2):
        assert desk.run(*START, "--quiet", stand_in=True).returncode == 0
    kept = desk.jobs.ids()
    assert len(kept) == 3
    assert kept[0] == ids[-1]
    assert uploaded(desk) == 11111
    names = {path.name.partition(".")[0] for path in Path(desk.jobs.path).iterdir() if path.name[0] != "."}
    assert names - {"go"} == set(kept), "no file of another job is left"


def test_resume_does_so_too_and_keeps_the_job_it_is_about(desk: Desk) -> None:
    desk.environment["STAND_IN"] = "failed"
    desk.run(*START, stand_in=True)
    [mine] = desk.jobs.ids()
    later = []
    for number in range(3):  # newer ones
        job_id = f"29990101T000000-0000000{number}"
        status = durable_files.read_json(desk.jobs.file(mine, "json")) or {}
        durable_files.replace_json(desk.jobs.file(job_id, "json"), status | {"id": job_id}, durable=False)
        Path(desk.jobs.file(job_id, "lock")).touch(0o600)
        later.append(job_id)
    desk.environment.update(STAND_IN="done", KEEP_JOBS="1")
    assert desk.run("resume", mine, "--quiet", stand_in=True).returncode == 0
    assert desk.jobs.ids() == [mine, later[-1]]


def test_where_a_server_runs_it_removes_old_jobs_itself(desk: Desk) -> None:
    """It has the counters in memory, and would write over what a shell adds."""
    desk.environment["KEEP_JOBS"] = "1"
    ids = old_jobs(desk, 4)
    server = acquire_server_lock(desk.jobs)
    assert server is not None
    assert is_served(desk.jobs)
    desk.run(*START, "--quiet", stand_in=True)
    assert desk.jobs.ids()[:4] == ids
    server.release()
    assert not is_served(desk.jobs)
    desk.run(*START, "--quiet", stand_in=True)
    assert len(desk.jobs.ids()) == 1
    assert uploaded(desk) == 1111


def test_a_folder_that_cannot_be_tidied_fails_no_job(desk: Desk) -> None:
    desk.environment["KEEP_JOBS"] = "1"
    ids = old_jobs(desk, 2)
    Path(desk.jobs.file(ids[0], "log")).unlink()
    Path(desk.jobs.file(ids[0], "log")).mkdir()
    result = desk.run(*START, "--quiet", stand_in=True)
    assert (result.returncode, result.stdout) == (0, "")
    assert "files of old jobs could not be removed" in result.stderr


# -- the documentation ------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path: Path, juicefs: Store) -> Path:
    """A folder like a clone whose `.env` names a storage."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("syncworker", ".venv"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / ".env").write_text(
        f"STORAGE_URL={juicefs.url}\nMINIO_ACCESS_KEY={juicefs.access_key}\nMINIO_SECRET_KEY={juicefs.secret_key}\n"
    )
    tree(folder / "app" / "uploads" / "photos", {"a": "1", "b/ä": "2"})
    tree(tmp_path / "anna" / "pictures", {"c": "3"})
    return folder


def as_cron(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["env", "-i", "/bin/sh", "-c", command],
        cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "folder"), [(0, "clone/app/uploads/photos"), (1, "anna/pictures")])
def test_the_documented_cron_lines_work_without_an_environment(
    clone: Path, juicefs: Store, bucket: str, number: int, folder: str
) -> None:
    assert len(CRON_LINES) == 2
    line = CRON_LINES[number].replace(CLONE, str(clone)).replace("/home/anna", str(clone.parent / "anna"))
    line = re.sub(r"--dest \S+", f"--dest {bucket}", line)
    for _ in range(2):
        result = as_cron(line)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert contents(juicefs, bucket) == expected(clone.parent / folder) != {}
    assert len(list((clone / "jobs").glob("*.json"))) == 2
    wrong = as_cron(re.sub(r"--source \S+", "--source demmo", line))
    assert "the folder demmo does not exist" in wrong.stderr


def test_the_documented_timer_starts_the_same(clone: Path, juicefs: Store, bucket: str) -> None:
    units = [configparser.ConfigParser(strict=False, interpolation=None) for _ in range(3)]
    for unit, text in zip(units, re.findall(r"```ini\n(\[Unit].*?)```", OPERATIONS, re.DOTALL), strict=True):
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
    _, service, timer = units
    assert "OnCalendar" in timer["Timer"]
    assert service["Service"]["WorkingDirectory"] == CLONE
    command = re.sub(r"--dest \S+", f"--dest {bucket}", service["Service"]["ExecStart"])
    result = as_cron(f"cd {shlex.quote(str(clone))} && {command.replace(CLONE, str(clone))}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert contents(juicefs, bucket) == expected(clone / "app" / "uploads" / "photos")


def test_without_a_server_a_job_can_fail_for_what_it_skipped(
    make_shell: Callable[..., Shell], juicefs: Store, bucket: str
) -> None:
    shell = make_shell(juicefs, FAIL_ON_SKIPPED="1")
    tree(shell.uploads / "photos", {"a": "1"})
    (shell.uploads / "photos" / "gone").symlink_to("nowhere")
    result = shell.run("start", "--quiet", "--source", "photos", "--dest", bucket)
    assert (result.returncode, result.stdout) == (1, "")
    assert "FilesSkipped: mirrored, except for 1 skipped (1 symlink_dangling)" in result.stderr
