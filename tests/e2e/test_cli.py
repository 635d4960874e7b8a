"""The shell commands as real processes: exit status, what goes to stdout, what to stderr, what is on disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from bench import Gate, RecordingProxy, Shell, contents, fill, wait_for
from fabricated import HOSTILE, URL, Desk, Terminal, without_escapes
from stores import Store, die_with_parent

from syncworker import escape, paths
from syncworker.jobs.ids import ID_PATTERN
from syncworker.shell import cli, formats

START = ("start", "--source", "photos", "--dest", "mybucket")
UNKNOWN = "20000101T000000-00000000"
ENDS = [("done", 0), ("failed", 1), ("cancelled", 3), ("interrupted", 4)]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


# -- usage ------------------------------------------------------------------------------------------------


def test_no_command_prints_the_help_and_is_a_usage_error(desk: Desk) -> None:
    result = desk.run()
    assert result.returncode == 2
    assert "examples:" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_is_there_for_every_command_and_teaches(desk: Desk, command: str) -> None:
    result = desk.run(*filter(None, [command, "--help"]))
    assert result.returncode == 0
    assert f"usage: python -m syncworker {command}".rstrip() in result.stdout
    assert re.search(r"^examples?:\n +(eval .*)?python -m syncworker ", result.stdout, re.MULTILINE)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "--source"], "--source"),
        (["start", "--dest"], "--dest"),
        (["start", "--source", "../x", "--dest", "mybucket"], "source"),
        (["start", "--source", "/etc", "--dest", "mybucket"], "source"),
        (["start", "--source", "photos", "--dest", "My..Bucket"], "bucket name"),
        ([*START, "--wait", "-1"], "wait"),
        ([*START, "--wait", "soon"], "wait must be a number of seconds from 0 to 3600"),
        ([*START, "--storage-url", "ftp://x"], "storage_url"),
        ([*START, "--storage-url", "http://169.254.169.254"], "access_key"),
        ([*START, "--storage-url", "https://s3.example.com"], "access_key and secret_key are needed"),
        ([*START, "--stor", "x"], "unrecognized arguments"),
        (["sync"], "invalid choice"),
        (["list", "--limit", "0"], "--limit: must be a whole number from 1"),
        (["list", "--limit", "x"], "--limit: must be a whole number from 1"),
        (["list", "--state", "broken"], "invalid choice"),
        (["completion", "tcsh"], "invalid choice"),
        (["show"], "ID"),
        *(([command, "../../etc/passwd"], "id must look like")
          for command in ("show", "cancel", "resume", "run")),
        *(([command, UNKNOWN], f"there is no job {UNKNOWN}") for command in ("show", "cancel", "resume")),
    ],
)  # fmt: skip
def test_what_is_not_valid_is_refused_with_exit_status_2(desk: Desk, arguments: list[str], says: str) -> None:
    result = desk.run(*arguments, stand_in=True)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not os.path.exists(desk.jobs.path) or desk.jobs.ids() == []


@pytest.mark.parametrize("command", [["list"], ["show", UNKNOWN], [*START]])
def test_wrong_settings_are_named_with_exit_status_2(desk: Desk, command: list[str]) -> None:
    desk.environment.update(API_PORT="http", BUCKET_DELETE="perhaps")
    result = desk.run(*command, stand_in=True)
    assert result.returncode == 2
    assert "API_PORT='http': must be a whole number" in result.stderr
    assert "BUCKET_DELETE='perhaps'" in result.stderr


def test_a_jobs_directory_that_others_may_write_to_is_refused(desk: Desk) -> None:
    os.mkdir(desk.jobs.path)
    os.chmod(desk.jobs.path, 0o777)
    result = desk.run(*START, stand_in=True)
    assert result.returncode == 2
    assert "chmod 700" in result.stderr


def test_a_jobs_directory_that_cannot_be_made_is_a_message_not_a_trace(desk: Desk) -> None:
    Path(desk.jobs.path).write_text("a file")
    result = desk.run(*START, stand_in=True)
    assert result.returncode == 2
    assert desk.jobs.path in result.stderr
    assert "Traceback" not in result.stderr


# -- start, run, resume -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "exit_status"), ENDS)
@pytest.mark.parametrize("command", ["start", "run", "resume"])
def test_the_exit_status_is_the_end_of_the_job(desk: Desk, command: str, end: str, exit_status: int) -> None:
    desk.environment["STAND_IN"] = end
    arguments = START
    if command != "start":
        arguments = (command, desk.make("queued" if command == "run" else "failed")["id"])
    desk.go()
    assert desk.run(*arguments, stand_in=True).returncode == exit_status
    [status] = desk.jobs.all()
    assert status["state"] == end
    assert status["attempt"] == (2 if command == "resume" else 1)


def test_start_prints_the_id_first_then_lines_then_the_summary(desk: Desk) -> None:
    desk.go()
    result = desk.run(*START, stand_in=True)
    lines = result.stdout.splitlines()
    assert lines[0] == desk.jobs.ids()[0]
    assert ID_PATTERN.fullmatch(lines[0])
    assert lines[1].startswith("transferring: 1/5000+ files")
    assert lines[-1].startswith("done: 3/5000 files")
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_start_records_what_was_asked(desk: Desk) -> None:
    desk.go()
    desk.run("start", "--source", "", "--dest", "mybucket", "--wait", "1.5", stand_in=True)
    [status] = desk.jobs.all()
    assert (status["source"], status["dest"], status["wait"]) == ("", "mybucket", 1.5)
    assert status["storage_url"] == URL


def test_a_failed_job_says_why_and_how_to_go_on(desk: Desk) -> None:
    desk.environment["STAND_IN"] = "failed"
    desk.go()
    result = desk.run(*START, stand_in=True)
    [job_id] = desk.jobs.ids()
    assert result.stderr.splitlines() == [
        "upload a.jpg: AccessDenied: the store refuses a.jpg",
        "syncworker: FilesFailed: 1 of 5000 files failed",
        f"syncworker: to go on: python -m syncworker resume {job_id}",
    ]
    assert result.stdout.splitlines()[-1].startswith("failed: ")


def test_names_in_plain_output_are_escaped(desk: Desk) -> None:
    desk.environment.update(STAND_IN="failed", KEY=os.fsdecode(HOSTILE.encode("utf-8", "surrogateescape")))
    desk.go()
    result = desk.run(*START, stand_in=True)
    for text in (result.stdout, result.stderr):
        assert escape.escape_control(HOSTILE) in text
        assert text.replace("\n", "").isprintable()


def test_run_is_silent_and_draws_nothing(desk: Desk) -> None:
    job = desk.make("queued")
    desk.go()
    result = desk.run("run", job["id"], stand_in=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_run_imports_nothing_that_a_worker_does_not_need(desk: Desk) -> None:
    """A worker's whole life may take half a second: what its start imports is counted."""
    code = "import sys; from syncworker.shell import cli; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=paths.PROJECT, capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert (
        loaded & {"rich", "boto3", "botocore", "asyncio", "httptools", "sqlite3", "syncworker.shell.display"}
        == set()
    )
    assert "syncworker.shell.cli" in loaded


def test_start_on_a_busy_destination_is_refused_and_names_the_other_job(desk: Desk) -> None:
    other = desk.make("running")
    desk.hold(other["id"])
    result = desk.run(*START, stand_in=True)
    assert result.returncode == 2
    assert other["id"] in result.stderr
    assert desk.jobs.ids() == [other["id"]]


@pytest.mark.parametrize("command", ["run", "resume"])
def test_a_job_that_another_worker_holds_is_refused(desk: Desk, command: str) -> None:
    job = desk.make("running")
    desk.hold(job["id"])
    result = desk.run(command, job["id"], stand_in=True)
    assert result.returncode == 2
    assert job["id"] in result.stderr
    assert (desk.jobs.read(job["id"]) or {})["state"] == "running"


def test_a_done_job_is_not_resumed(desk: Desk) -> None:
    job = desk.make("done")
    result = desk.run("resume", job["id"], stand_in=True)
    assert result.returncode == 2
    assert "is done: nothing to resume" in result.stderr


def test_a_job_whose_worker_died_can_be_resumed_at_once(desk: Desk) -> None:
    job = desk.make("running")
    desk.go()
    assert desk.run("resume", job["id"], stand_in=True).returncode == 0


def test_a_missing_worker_module_leaves_no_queued_job_behind(desk: Desk) -> None:
    code = (
        "import sys; sys.modules['syncworker.worker.worker'] = None\n"
        "from syncworker.shell.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *START],
        cwd=paths.PROJECT, env=desk.environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr
    assert desk.jobs.ids() == []


def test_ctrl_c_before_the_worker_listens_leaves_no_queued_job_behind(desk: Desk) -> None:
    desk.environment["STAND_IN"] = "ctrl-c"
    result = desk.run(*START, stand_in=True)
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert [status["state"] for status in desk.jobs.all()] == ["cancelled"]


# -- keys -------------------------------------------------------------------------------------------------


def test_keys_come_from_the_environment_and_into_the_secret_file_only(desk: Desk) -> None:
    desk.environment.update(SYNC_ACCESS_KEY="AKIDOTHER", SYNC_SECRET_KEY="hunter2-hunter2", STAND_IN="failed")
    desk.go()
    result = desk.run(*START, "--storage-url", "http://127.0.0.1:9", stand_in=True)
    assert result.returncode == 1
    [job_id] = desk.jobs.ids()
    assert desk.jobs.secrets.keys(job_id) == ("AKIDOTHER", "hunter2-hunter2", None)
    assert os.stat(desk.jobs.file(job_id, "secret")).st_mode & 0o777 == 0o600
    shown = result.stdout + result.stderr + Path(desk.jobs.file(job_id, "json")).read_text()
    assert "hunter2" not in shown
    assert "AKIDOTHER" not in shown


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_keys_come_from_two_lines_of_stdin(desk: Desk, end: str) -> None:
    desk.environment["STAND_IN"] = "failed"
    desk.go()
    storage = ("--storage-url", "http://127.0.0.1:9", "--keys-from-stdin")
    result = desk.run(*START, *storage, text=f"AKIDOTHER\nhunter2{end}", stand_in=True)
    assert result.returncode == 1
    assert desk.jobs.secrets.keys(desk.jobs.ids()[0]) == ("AKIDOTHER", "hunter2", None)


def test_a_session_token_comes_from_a_third_line_or_the_environment(desk: Desk) -> None:
    desk.environment["STAND_IN"] = "failed"
    desk.go()
    storage = ("--storage-url", "http://127.0.0.1:9")
    desk.run(*START, *storage, "--keys-from-stdin", text="AKIDOTHER\nhunter2\nt0ken\n", stand_in=True)
    [job_id] = desk.jobs.ids()
    assert desk.jobs.secrets.keys(job_id) == ("AKIDOTHER", "hunter2", "t0ken")
    desk.environment.update(SYNC_ACCESS_KEY="AKID", SYNC_SECRET_KEY="s", SYNC_SESSION_TOKEN="t0ken2")
    desk.run("resume", job_id, stand_in=True)
    assert desk.jobs.secrets.keys(job_id) == ("AKID", "s", "t0ken2")


@pytest.mark.parametrize("text", ["", "AKID\n", "AKID\n\n", "a\nb\n\n", "a\nb\nc\nd\n"])
def test_stdin_without_exactly_two_keys_is_refused(desk: Desk, text: str) -> None:
    result = desk.run(*START, "--keys-from-stdin", text=text, stand_in=True)
    assert result.returncode == 2
    assert "two lines" in result.stderr
    assert not os.path.exists(desk.jobs.path)


def test_one_key_alone_is_refused(desk: Desk) -> None:
    desk.environment["SYNC_ACCESS_KEY"] = "AKIDOTHER"
    result = desk.run(*START, stand_in=True)
    assert result.returncode == 2
    assert "secret_key is missing" in result.stderr


def test_a_job_that_was_cancelled_before_its_worker_began_leaves_its_log_empty(desk: Desk) -> None:
    """Resumed, and cancelled while the worker starts: as it was asked, nothing to say."""
    job = desk.make("cancelled")
    desk.jobs.prepare_resume(job["id"])
    assert desk.jobs.cancel(job["id"])["state"] == "cancelled"
    worker = desk.run("run", job["id"])
    assert (worker.returncode, worker.stdout, worker.stderr) == (3, "", "")


def test_a_misspelt_variable_is_told_before_a_job_and_not_in_its_log(desk: Desk) -> None:
    desk.environment |= {"BUCKET_DELTE": "refuse", "STAND_IN": "done"}
    desk.go()
    result = desk.run(*START, stand_in=True)
    assert "BUCKET_DELTE: there is no such setting, do you mean BUCKET_DELETE?" in result.stderr
    assert "BUCKET_DELTE" not in desk.run("run", desk.jobs.ids()[0]).stderr


def test_a_key_on_the_command_line_is_not_taken(desk: Desk) -> None:
    result = desk.run(*START, "--secret-key", "x", stand_in=True)
    assert result.returncode == 2


def test_resume_for_another_storage_whose_keys_are_gone_asks_for_them(desk: Desk) -> None:
    """The configured keys go to the configured storage only."""
    job = desk.make("cancelled", storage_url="http://127.0.0.1:9")
    desk.go()
    refused = desk.run("resume", job["id"], stand_in=True)
    assert refused.returncode == 2
    assert "SYNC_ACCESS_KEY" in refused.stderr
    assert (desk.jobs.read(job["id"]) or {})["state"] == "cancelled"
    desk.environment["STAND_IN"] = "interrupted"
    taken = desk.run("resume", job["id"], "--keys-from-stdin", text="AKIDOTHER\nhunter2\n", stand_in=True)
    assert taken.returncode == 4
    assert desk.jobs.secrets.keys(job["id"]) == ("AKIDOTHER", "hunter2", None)


# -- cancel -----------------------------------------------------------------------------------------------


def test_cancel_of_a_queued_job_ends_it(desk: Desk) -> None:
    job = desk.make("queued")
    result = desk.run("cancel", job["id"])
    assert result.returncode == 0
    assert result.stdout == f"job {job['id']} is cancelled\n"
    assert (desk.jobs.read(job["id"]) or {})["state"] == "cancelled"


def test_cancel_of_a_running_job_leaves_the_sentinel_and_may_be_repeated(desk: Desk) -> None:
    job = desk.make("running")
    desk.hold(job["id"])
    for _ in range(2):
        result = desk.run("cancel", job["id"])
        assert result.returncode == 0
        assert "will end after the operations in flight" in result.stdout
        assert desk.jobs.is_cancelled(job["id"])
    assert "transferring, cancelling" in desk.run("list").stdout


@pytest.mark.parametrize("state", ["done", "failed", "cancelled", "interrupted"])
def test_cancel_of_an_ended_job_is_refused(desk: Desk, state: str) -> None:
    job = desk.make(state)
    result = desk.run("cancel", job["id"])
    assert result.returncode == 2
    assert f"has ended: it is {state}" in result.stderr
    assert not desk.jobs.is_cancelled(job["id"])


def test_cancel_from_a_second_terminal_ends_start_with_status_3(desk: Desk) -> None:
    running = desk.popen(*START, stand_in=True, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    job_id = running.stdout.readline().strip()
    wait_for(lambda: (desk.jobs.read(job_id) or {})["state"] == "running", 20, "the job to run")
    assert desk.run("cancel", job_id).returncode == 0
    assert running.wait(20) == 3


# -- list and show ----------------------------------------------------------------------------------------


def test_list_without_a_jobs_directory_makes_none(desk: Desk) -> None:
    result = desk.run("list")
    assert (result.returncode, result.stdout) == (0, "")
    assert "no job is queued or running" in result.stderr
    assert desk.run("list", "--json").stdout == '{\n  "count": 0,\n  "jobs": []\n}\n'
    assert not os.path.exists(desk.jobs.path)


def test_list_shows_active_jobs_oldest_first_and_all_newest_first(desk: Desk) -> None:
    ended = desk.make("done")
    first, second = desk.make("queued", "bucket-1"), desk.make("running", "bucket-2", source="")
    desk.hold(second["id"])

    def ids(*arguments: str) -> list[str]:
        result = desk.run("list", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        header, *lines = result.stdout.splitlines()
        assert header.split() == list(formats.HEADER)
        return [line.split()[0] for line in lines]

    assert ids() == [first["id"], second["id"]]
    assert ids("--all") == [second["id"], first["id"], ended["id"]]


def test_list_columns_are_aligned_when_piped_and_stay_one_line(desk: Desk) -> None:
    desk.make("failed", "bucket-1", source="日本", error={"code": "NoSuchHost", "message": "no\nsuch host"})
    desk.make("done", "bucket-2", source="b" * 60)
    lines = desk.run("list", "--all").stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].index("DEST") == lines[1].index("bucket-2")
    assert lines[2].index("bucket-1") == lines[0].index("DEST") - 2, (
        "two wide characters take two columns each"
    )
    assert "NoSuchHost: no\\nsuch host" in lines[2]


def test_list_as_json_is_what_the_routes_answer(desk: Desk) -> None:
    ended, queued = desk.make("done", "bucket-1"), desk.make("queued", "bucket-2")
    assert json.loads(desk.run("list", "--json").stdout) == {
        "count": 1,
        "jobs": [desk.jobs.read(queued["id"])],
    }
    both = [desk.jobs.read(queued["id"]), desk.jobs.read(ended["id"])]
    assert json.loads(desk.run("list", "--all", "--json").stdout) == {"count": 2, "jobs": both, "next": None}


def test_list_takes_a_limit_and_a_state(desk: Desk) -> None:
    ended = [desk.make(state, f"bucket-{state}") for state in ("done", "failed", "done", "cancelled", "done")]
    active = [desk.make("queued", f"bucket-{n}") for n in range(3)]
    done = [status["id"] for status in ended if status["state"] == "done"][::-1]

    def listed(*arguments: str) -> tuple[list[str], str | None]:
        answer = json.loads(desk.run("list", *arguments, "--json").stdout)
        assert answer["count"] == len(answer["jobs"])
        return [status["id"] for status in answer["jobs"]], answer.get("next")

    assert listed("--limit", "2") == ([status["id"] for status in active[:2]], None)
    assert listed("--state", "done") == (done, None)
    assert listed("--state", "done", "--limit", "2") == (done[:2], done[1])
    assert listed("--state", "done", "--limit", "3") == (done, None)
    assert listed("--all", "--limit", "1") == ([active[2]["id"]], active[2]["id"])
    assert listed("--state", "interrupted") == ([], None)
    table = desk.run("list", "--state", "failed").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["ID", ended[1]["id"]]
    assert desk.run("list", "--state", "interrupted").stderr == "no job is interrupted\n"


@pytest.mark.parametrize(("end", "exit_status"), ENDS)
@pytest.mark.parametrize("command", ["start", "resume"])
def test_start_and_resume_as_json_give_the_status_at_the_end_and_the_id_on_stderr(
    desk: Desk, command: str, end: str, exit_status: int
) -> None:
    desk.environment["STAND_IN"] = end
    arguments = START if command == "start" else ("resume", desk.make("failed")["id"])
    desk.go()
    result = desk.run(*arguments, "--json", stand_in=True)
    [job_id] = desk.jobs.ids()
    assert result.returncode == exit_status
    assert json.loads(result.stdout) == desk.jobs.read(job_id)
    assert json.loads(result.stdout)["state"] == end
    assert result.stderr == f"{job_id}\n"


def test_cancel_as_json_is_the_status(desk: Desk) -> None:
    queued, running = desk.make("queued", "bucket-1"), desk.make("running", "bucket-2")
    desk.hold(running["id"])
    for status, state in ((queued, "cancelled"), (running, "running")):
        answer = json.loads(desk.run("cancel", status["id"], "--json").stdout)
        assert (answer["id"], answer["state"], answer["cancel_requested"]) == (status["id"], state, True)


@pytest.mark.parametrize("command", [["list", "--all"], ["show"], ["show", "--follow"]])
def test_who_looks_finds_out_that_a_worker_died(desk: Desk, command: list[str]) -> None:
    job = desk.make("running")
    arguments = [*command, job["id"]] if command[0] == "show" else command
    result = desk.run(*arguments)
    assert "interrupted" in result.stdout
    assert (desk.jobs.read(job["id"]) or {})["state"] == "interrupted"
    assert result.returncode == (4 if "--follow" in command else 0)


def test_show_says_everything_a_person_wants_to_know(desk: Desk) -> None:
    job = desk.make(
        "running",
        progress={
            "files_total": 9,
            "files_done": 4,
            "bytes_total": 2048,
            "bytes_done": 1024,
            "objects_deleted": 2,
        },
        current=[{"op": "upload", "key": "a\tb", "size": 10, "bytes_done": 5}],
        errors=[{"op": "upload", "key": "c", "code": "AccessDenied", "message": "refused"}],
        attempt=2,
    )
    desk.hold(job["id"])
    result = desk.run("show", job["id"])
    assert result.returncode == 0
    for pattern in (
        rf"job +{job['id']}",
        r"state +running, transferring, pid 4711 on .+, attempt 2",
        rf"dest +mybucket at {URL}",
        r"files +4/9\+: ",
        r"bytes +1\.0 KiB of 2\.0 KiB\+: ",
        r"objects +2 deleted",
        r"current +upload a\\tb \(5 B of 10 B\)",
        r"errors +upload c: AccessDenied: refused",
    ):
        assert re.search(rf"^{pattern}", result.stdout, re.MULTILINE), pattern


@pytest.mark.parametrize("state", ["queued", "done", "failed", "cancelled", "interrupted"])
def test_show_as_json_is_the_status_file_with_exit_status_0(desk: Desk, state: str) -> None:
    job = desk.make(state)
    result = desk.run("show", job["id"], "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout) == json.loads(Path(desk.jobs.file(job["id"], "json")).read_text())


@pytest.mark.parametrize(("end", "exit_status"), ENDS)
@pytest.mark.parametrize("as_json", [False, True])
def test_follow_ends_with_the_job_and_its_exit_status(
    desk: Desk, end: str, exit_status: int, as_json: bool
) -> None:
    desk.environment["STAND_IN"] = end
    job = desk.make("queued")
    more = ["--json"] if as_json else []
    follower = desk.popen("show", job["id"], "--follow", *more, stdout=subprocess.PIPE, text=True)
    desk.popen("run", job["id"], stand_in=True)
    assert follower.stdout is not None
    first = "" if as_json else follower.stdout.readline()
    desk.go()
    text = first + follower.stdout.read()
    assert follower.wait(20) == exit_status
    if as_json:
        assert json.loads(text)["state"] == end
    else:
        assert text.splitlines()[-1].startswith(f"{end}: ")


def test_follow_draws_the_bar_on_a_terminal_and_ctrl_c_leaves_the_job_alone(
    desk: Desk, terminal: Terminal
) -> None:
    job = desk.make("running", progress={"files_total": 9, "files_done": 4})
    holder = desk.hold(job["id"])
    follower = desk.popen("show", job["id"], "--follow", stdout=terminal.slave, stderr=terminal.slave)
    terminal.leave_to(follower)
    terminal.read("4/9+")
    follower.send_signal(signal.SIGINT)
    screen = terminal.read()
    assert follower.wait(20) == 130
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "the cursor is given back"
    assert "Traceback" not in without_escapes(screen)
    assert holder.poll() is None
    assert (desk.jobs.read(job["id"]) or {})["state"] == "running"
    assert not desk.jobs.is_cancelled(job["id"])


# -- a stdout that is closed, full or not there -----------------------------------------------------------


def test_a_pipe_that_closes_neither_kills_nor_fails_the_job(desk: Desk) -> None:
    running = desk.popen(*START, stand_in=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stderr is not None
    job_id = running.stdout.readline().strip()
    running.stdout.readline()
    running.stdout.close()
    # The display writes a line a second: by then it has met the closed pipe twice.
    wait_for(lambda: _age(desk, job_id) > 2.5, 30, "the job to outlive its pipe")
    desk.go()
    assert running.wait(20) == 0
    assert running.stderr.read() == ""


def _age(desk: Desk, job_id: str) -> float:
    """Seconds of the job's life, as its own status file tells them."""
    status = desk.jobs.read(job_id) or {}
    if not status["started_at"]:
        return 0.0
    started, updated = (datetime.fromisoformat(status[name]) for name in ("started_at", "updated_at"))
    return (updated - started).total_seconds()


def test_a_full_device_does_not_fail_the_job(desk: Desk) -> None:
    desk.go()
    with open("/dev/full", "w") as full:
        assert desk.run(*START, stand_in=True, stdout=full).returncode == 0


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)])
def test_start_without_standard_streams_runs_the_job(desk: Desk, closed: tuple[int, ...]) -> None:
    def close() -> None:
        die_with_parent()
        for fd in closed:
            os.close(fd)

    desk.go()
    running = desk.popen(*START, stand_in=True, stdout=subprocess.DEVNULL, preexec_fn=close)
    assert running.wait(30) == 0
    [status] = desk.jobs.all()
    assert status["state"] == "done"


@pytest.mark.parametrize("arguments", [["list", "--all"], ["list", "--all", "--json"], ["show"]])
def test_a_reader_that_has_gone_ends_list_and_show_quietly(desk: Desk, arguments: list[str]) -> None:
    job = desk.make("done")
    reader, writer = os.pipe()
    os.close(reader)
    command = [*arguments, job["id"]] if arguments == ["show"] else arguments
    result = desk.run(*command, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_list_that_could_not_be_written_is_an_error(desk: Desk) -> None:
    desk.make("done")
    with open("/dev/full", "w") as full:
        result = desk.run("list", "--all", stdout=full)
    assert result.returncode == 1
    assert "cannot write to the standard output: No space left" in result.stderr


# -- with the real worker, on a real store ----------------------------------------------------------------


def _three_files(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        path = shell.uploads / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name * 1000)


def test_a_real_start_mirrors_the_folder_and_a_second_one_sends_nothing(shell: Shell, bucket: str) -> None:
    _three_files(shell)
    first = shell.run("start", "--source", "photos", "--dest", bucket)
    assert (first.returncode, first.stderr) == (0, "")
    lines = first.stdout.splitlines()
    assert lines[0] == shell.ids()[0]
    assert lines[-1].startswith("done: 3/3 files (0 unchanged, 3 uploaded), 2.9 KiB sent, 0 deleted")
    second = shell.run("start", "--source", "photos", "--dest", bucket)
    assert second.returncode == 0
    assert "done: 3/3 files (3 unchanged, 0 uploaded), 0 B sent" in second.stdout
    assert contents(shell.store, bucket) == {name: (name * 1000).encode() for name in ("a", "b", "c")}


def test_a_real_start_on_a_terminal_shows_the_bar(shell: Shell, bucket: str, terminal: Terminal) -> None:
    _three_files(shell)
    fill(shell.store, bucket, {})
    running = subprocess.Popen(
        [sys.executable, "-m", "syncworker", *START[:-1], bucket, "--wait", "600"],
        cwd=paths.PROJECT, env={**shell.environment, "TERM": "xterm-256color"}, stdin=subprocess.DEVNULL,
        stdout=terminal.slave, stderr=terminal.slave, preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        terminal.leave_to(running)
        terminal.read("1/3")
        running.send_signal(signal.SIGINT)
        assert "interrupted: 1/3" in without_escapes(terminal.read())
        assert running.wait(20) == 4
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def test_real_cancel_and_resume(
    shell: Shell, bucket: str, juicefs: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    _three_files(shell)
    proxy = make_proxy(juicefs)
    shell.environment["STORAGE_URL"] = proxy.url
    second = Gate(proxy, lambda request: request.kind == "PUT" and request.key == "b")
    running, job_id = shell.begin(bucket, "photos", "--wait", "1")
    second.wait()
    assert job_id in shell.run("list").stdout
    assert shell.run("cancel", job_id).returncode == 0
    second.open()
    assert running.wait(20) == 3
    assert shell.status(job_id)["progress"]["files_uploaded"] == 2
    assert shell.run("show", job_id, "--follow").returncode == 3
    resumed = shell.run("resume", job_id)
    assert resumed.returncode == 0, resumed.stderr
    assert shell.status(job_id)["attempt"] == 2
    assert set(contents(shell.store, bucket)) == {"a", "b", "c"}


def test_a_real_failure_says_what_is_wrong(shell: Shell, bucket: str) -> None:
    _three_files(shell)
    shell.environment["MINIO_SECRET_KEY"] = "not-the-secret-key"
    result = shell.run("start", "--source", "photos", "--dest", bucket)
    assert result.returncode == 1
    assert "syncworker: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "not-the-secret-key" not in result.stdout + result.stderr


def test_a_real_run_of_a_job_that_is_not_there_is_refused(shell: Shell) -> None:
    result = shell.run("run", UNKNOWN)
    assert result.returncode == 2
    assert UNKNOWN in result.stderr
