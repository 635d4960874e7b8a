"""CONTRACT §4, as somebody at a shell sees it: commands, exit statuses, files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat

import pytest
from bench import Gate, contents, exists, expected, fill, tree, wait_for
from shapes import check_report, check_status

UNKNOWN = "20200101T000000-00000000"


@pytest.fixture
def photos(shell):
    tree(shell.uploads, {"photos": {"a": "1", "b": "22", "d/c": "333"}})
    return expected(shell.uploads / "photos")


def begin_long(shell, bucket):
    """A job in the foreground of another terminal: one file is uploaded, then it waits for an hour."""
    fill(shell.store, bucket, {})
    process, job = shell.begin(bucket, "photos", "--wait", "3600")
    shell.wait_file(job, lambda s: s["progress"]["files_uploaded"] == 1)
    return process, job


def test_start_syncs_without_a_server_and_exits_0(shell, photos, juicefs, bucket):
    run = shell.start(bucket)
    assert run.exit_status == 0, run
    check_status(run.status)
    assert (run.status["state"], run.status["attempt"], run.status["dest"]) == ("done", 1, bucket)
    assert contents(juicefs, bucket) == photos
    check_report(shell.report(run.status["id"]))
    assert "\x1b" not in run.out + run.err, "plain lines when there is no terminal"
    assert "Traceback" not in run.out + run.err


def test_start_takes_a_wait_in_decimals(shell, photos, bucket):
    run = shell.start(bucket, "photos", "--wait", "0.25")
    assert run.exit_status == 0
    assert run.status["wait"] == pytest.approx(0.25)
    assert run.progress["elapsed_seconds"] >= 0.5


def test_the_files_of_a_job_are_these_and_private(shell, photos, bucket):
    run = shell.sync(bucket)
    job = run.status["id"]
    names = {path.name for path in shell.jobs.glob(f"{job}*")}
    assert {f"{job}.json", f"{job}.lock", f"{job}.report.jsonl"} <= names
    suffixes = ("json", "cancel", "lock", "report.jsonl", "secret", "log")
    assert names <= {f"{job}.{suffix}" for suffix in suffixes}
    assert stat.S_IMODE(shell.file(job, "json").stat().st_mode) == 0o600
    for path in shell.jobs.rglob("*"):
        assert not path.is_file() or shell.store.secret_key.encode() not in path.read_bytes(), path


def test_a_failed_job_exits_1_and_says_why(shell, photos, juicefs, bucket):
    shell.environment["MINIO_SECRET_KEY"] = "not-the-secret-of-this-store"
    run = shell.start(bucket)
    assert run.exit_status == 1
    assert run.status["state"] == "failed"
    check_status(run.status)
    assert run.status["error"]["message"] in run.out + run.err
    assert "Traceback" not in run.out + run.err
    assert not exists(juicefs, bucket)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["start", "--source"],
        ["start", "--source", "photos", "--dest", "somebucket", "--nonsense"],
        ["start", "--source", "photos", "--dest", "a/b"],
        ["start", "--source", "photos", "--dest", "somebucket", "--wait", "-1"],
        ["start", "--source", "photos", "--dest", "somebucket", "--wait", "x"],
        ["start", "--source", "/etc", "--dest", "somebucket"],
        ["start", "--source", "../x", "--dest", "somebucket"],
        ["run", "x"],
        ["run", UNKNOWN],
        ["resume", "../x"],
        ["resume", UNKNOWN],
    ],
    ids=" ".join,
)
def test_what_is_wrong_or_refused_exits_2_and_makes_no_job(shell, photos, arguments):
    result = shell.run(*arguments)
    assert result.returncode == 2, result
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr
    assert shell.ids() == []


@pytest.mark.parametrize(("command", "job"), [("cancel", UNKNOWN), ("show", UNKNOWN), ("cancel", "../x")])
def test_a_job_that_does_not_exist_cannot_be_cancelled_or_shown(shell, command, job):
    result = shell.run(command, job)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert not list(shell.base.rglob("*.cancel"))


def test_wrong_settings_are_named(shell, photos):
    shell.environment["KEEP_JOBS"] = "x"
    result = shell.run("start", "--source", "photos", "--dest", "somebucket")
    assert result.returncode == 2
    assert "KEEP_JOBS" in result.stderr


def test_cancel_ends_a_job_with_3_and_resume_brings_it_to_its_end(shell, photos, make_proxy, juicefs, bucket):
    fill(juicefs, bucket, {"old": b"x"})
    proxy = make_proxy(juicefs)
    shell.environment["STORAGE_URL"] = proxy.url
    gate = Gate(proxy, lambda request: request.kind == "PUT" and request.key == "b")
    process, job = shell.begin(bucket, "photos", "--wait", "0.7")
    gate.wait()
    assert shell.run("cancel", job).returncode == 0
    assert shell.file(job, "cancel").read_bytes() == b""
    gate.open()
    assert process.wait(20) == 3
    status = shell.status(job)
    check_status(status)
    assert (status["state"], status["cancel_requested"]) == ("cancelled", True)
    assert "old" in contents(juicefs, bucket)
    result = shell.run("resume", job)
    assert result.returncode == 0, result
    status = shell.status(job)
    assert (status["state"], status["attempt"], status["cancel_requested"]) == ("done", 2, False)
    assert not shell.file(job, "cancel").exists()
    assert contents(juicefs, bucket) == photos
    assert shell.run("resume", job).returncode == 2, "a done job is not resumed"


def test_touching_the_sentinel_is_all_that_cancel_does(shell, photos, bucket):
    process, job = begin_long(shell, bucket)
    shell.file(job, "cancel").touch()
    assert process.wait(20) == 3
    assert shell.status(job)["state"] == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_with_4_and_resume_goes_on(shell, photos, juicefs, bucket, number):
    fill(juicefs, bucket, {})
    process, job = shell.begin(bucket, "photos", "--wait", "2")
    status = shell.wait_file(job, lambda s: s["progress"]["files_uploaded"] >= 1)
    assert status["pid"] == process.pid, "start works in its own process"
    os.kill(status["pid"], number)
    assert process.wait(20) == 4
    status = shell.status(job)
    check_status(status)
    assert status["state"] == "interrupted"
    assert shell.run("resume", job).returncode == 0
    status = shell.status(job)
    assert (status["state"], status["attempt"]) == ("done", 2)
    assert contents(juicefs, bucket) == photos


def test_a_killed_job_is_found_interrupted_by_whoever_looks(shell, photos, juicefs, bucket):
    for look in (["list", "--all"], ["show"]):
        process, job = begin_long(shell, bucket)
        process.kill()
        process.wait()
        assert shell.status(job)["state"] == "running", "nobody has looked yet"
        result = shell.run(*look, *([job] if look == ["show"] else []))
        assert result.returncode == 0, result
        assert "interrupted" in result.stdout
        status = shell.status(job)
        check_status(status)
        assert status["state"] == "interrupted"
        juicefs.remove_bucket(bucket)


def test_a_killed_job_with_its_sentinel_is_found_cancelled(make_proxy, shell, photos, juicefs, bucket):
    proxy = make_proxy(juicefs)
    shell.environment["STORAGE_URL"] = proxy.url
    gate = Gate(proxy, lambda request: request.kind == "PUT")
    process, job = shell.begin(bucket)
    gate.wait()
    shell.file(job, "cancel").touch()
    process.kill()
    process.wait()
    gate.drop()
    assert "cancelled" in shell.run("show", job).stdout
    assert shell.status(job)["state"] == "cancelled"
    assert shell.run("resume", job).returncode == 0
    assert contents(juicefs, bucket) == photos


def test_a_busy_destination_is_refused_with_the_id_of_the_other_job(shell, photos, bucket):
    process, job = begin_long(shell, bucket)
    before = shell.ids()
    run = shell.start(bucket)
    assert run.exit_status == 2
    assert job in run.out + run.err
    assert [j for j in shell.ids() if j not in before and shell.status(j)["state"] == "done"] == []
    assert process.poll() is None, "the first one goes on"


def test_a_running_job_is_not_resumed_and_not_run_twice(shell, photos, bucket):
    process, job = begin_long(shell, bucket)
    before = shell.status(job)
    for command in ("resume", "run"):
        result = shell.run(command, job)
        assert result.returncode == 2, (command, result)
        assert "Traceback" not in result.stderr
    after = shell.status(job)
    for name in ("state", "pid", "attempt", "pid_started_at"):
        assert after[name] == before[name]
    assert process.poll() is None


def test_a_sentinel_is_obeyed_by_run_and_removed_only_by_resume(shell, photos, juicefs, bucket):
    process, job = begin_long(shell, bucket)
    process.kill()
    process.wait()
    shell.file(job, "cancel").touch()
    assert shell.run("run", job).returncode in (2, 3)
    assert shell.file(job, "cancel").exists()
    wait_for(lambda: "cancelled" in shell.run("show", job).stdout)
    assert shell.status(job)["state"] == "cancelled"
    assert len(contents(juicefs, bucket)) == 1, "nothing was done"


def test_list_and_show_name_the_jobs(shell, photos, bucket):
    done = shell.sync(bucket).status["id"]
    tree(shell.uploads, {"photos": {"new": "1", "new2": "2"}})
    process, job = begin_long(shell, bucket)
    listed = shell.run("list")
    assert listed.returncode == 0
    assert job in listed.stdout
    everything = shell.run("list", "--all").stdout
    assert job in everything
    line = next(line for line in everything.splitlines() if done in line)
    assert "done" in line
    shown = shell.run("show", job)
    assert shown.returncode == 0
    assert job in shown.stdout
    assert bucket in shown.stdout
    assert process.poll() is None


def test_show_follow_ends_with_its_job(shell, photos, bucket):
    process, job = shell.begin(bucket, "photos", "--wait", "0.5")
    follower = shell.spawn("show", job, "--follow")
    assert process.wait(20) == 0
    follower.wait(20)
    assert "done" in (shell.base / f"shell{shell._count}.out").read_text()


def test_list_of_nothing_is_no_error(shell):
    assert shell.run("list").returncode == 0
    assert shell.run("list", "--all").returncode == 0


def test_ids_sort_by_time(shell, photos, bucket):
    made = [shell.sync(bucket).status["id"] for _ in range(3)]
    stamps = [job.split("-")[0] for job in made]
    assert stamps == sorted(stamps)
    for job in made:
        created = re.sub(r"[-:]|\.\d+Z", "", shell.status(job)["created_at"])
        assert job.startswith(created)


def test_a_missing_uploads_root_fails_the_job_and_deletes_nothing(shell, photos, juicefs, bucket):
    shell.sync(bucket)
    shutil.rmtree(shell.uploads)
    run = shell.start(bucket)
    assert run.exit_status == 1
    assert run.status["state"] == "failed"
    assert contents(juicefs, bucket) == photos
