"""The seven things that an operator does on a bad morning, by the lines of docs/operations.md, and what else
`list` and `show` find."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, Gate, RecordingProxy, Shell, s3_error, tree, wait_for
from serving import write_finished
from stores import Store

_, AFTER = (PROJECT / "docs" / "operations.md").read_text().split("## When a job has failed\n")
LINES = {
    question.strip(): line.replace("\\|", "|")
    for question, line in re.findall(r"^\| ([^|]+) \| `((?:[^`])+)` \|$", AFTER, re.MULTILINE)
}


def say(shell: Shell, question: str, job: str, bucket: str) -> subprocess.CompletedProcess[str]:
    """The line of the docs, with this id, today and this bucket in the place of those."""
    line = LINES[question].replace("20261122T030000-9f3a61c2", job).replace("20261122T0300", job[:13])
    line = line.replace("2026-11-22", f"{job[:4]}-{job[4:6]}-{job[6:8]}").replace("mybucket", bucket)
    line = re.sub(r"^syncworker ", f"{sys.executable} -m syncworker ", line)
    return subprocess.run(
        ["bash", "-c", line], cwd=PROJECT, env=shell.environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_the_seven_things(
    make_shell: Callable[..., Shell],
    juicefs: Store,
    bucket: str,
    make_proxy: Callable[[Store], RecordingProxy],
) -> None:
    assert len(LINES) == 7
    proxy = make_proxy(juicefs)
    shell = make_shell(juicefs, STORAGE_URL=proxy.url)
    young = "is the backup of photos younger than a day?"
    tree(shell.uploads / "photos", {"a": "1", "b": "2"})
    assert say(shell, young, "20260101T000000-00000000", bucket).returncode == 1
    good = shell.sync(bucket).status["id"]
    assert say(shell, young, good, bucket).returncode == 0
    forbidden = ["no"]
    proxy.on_request(
        lambda request: (
            s3_error(403, "AccessDenied")
            if any((request.key or "").startswith(x) for x in forbidden)
            else None
        )
    )
    tree(shell.uploads / "photos", {f"no{n}": "x" for n in range(150)})
    bad = shell.start(bucket).status["id"]

    which = say(shell, "which failed?", bad, bucket).stdout
    assert bad in which and good not in which
    why = say(shell, "why?", bad, bucket)
    assert "AccessDenied" in why.stdout or "2 jobs begin with" in why.stderr  # in one minute: say more of it
    assert "AccessDenied" in shell.run("show", bad[:-1]).stdout
    since = say(shell, "since when?", bad, bucket).stdout
    assert good in since and bad not in since
    missing = shell.run("show", bad[:-1], "--errors").stdout.splitlines()
    assert len([line for line in missing if " upload no" in line]) == 150  # the status names a hundred
    forbidden.clear()
    assert say(shell, "run it again", bad, bucket).returncode == 0
    assert shell.status(bad)["state"] == "done"
    assert say(shell, "which failed?", bad, bucket).stdout == ""


def test_a_running_job_is_stopped_by_its_line(
    make_shell: Callable[..., Shell],
    juicefs: Store,
    bucket: str,
    make_proxy: Callable[[Store], RecordingProxy],
) -> None:
    proxy = make_proxy(juicefs)
    shell = make_shell(juicefs, STORAGE_URL=proxy.url)
    tree(shell.uploads / "photos", {"a": "1", "b": "2"})
    gate = Gate(proxy, lambda request: request.method == "PUT" and bool(request.key))
    process, job = shell.begin(bucket)
    gate.wait()
    assert say(shell, "stop it", job, bucket).returncode == 0
    gate.open()
    assert process.wait(20) == 3
    wait_for(lambda: shell.status(job)["state"] == "cancelled", 10, "the end")


# -- list and show ----------------------------------------------------------------------------------------


@pytest.fixture
def month(make_shell: Callable[..., Shell], juicefs: Store) -> Shell:
    """A shell with jobs of January, made by a stand-in."""
    shell = make_shell(juicefs)
    shell.tampered = True
    os.makedirs(shell.jobs, mode=0o700)
    for number, job_id in enumerate(write_finished(shell.jobs, 31)):
        path = Path(shell.file(job_id, "json"))
        status: dict[str, Any] = json.loads(path.read_text())
        new = f"202601{number + 1:02}T030000-{number:08x}"
        status |= {
            "attempt": 1,
            "wait": 0,
            "message": "",
            "created_at": None,
            "started_at": None,
            "finished_at": None,
        }
        status |= {"id": new, "source": "photos" if number % 2 else "films", "dest": f"b{number % 3}"}
        if number % 10 == 0:
            status |= {"state": "failed", "error": {"code": "DiskNotMounted", "message": "x"}}
        for old in shell.jobs.glob(f"{job_id}.*"):
            old.unlink()
        shell.file(new, "json").write_text(json.dumps(status))
        shell.file(new, "lock").touch(0o600)
    return shell


@pytest.mark.parametrize(
    ("flags", "days"),
    [
        (["--since", "2026-01-30"], [31, 30]),
        (["--since", "20260130"], [31, 30]),
        (["--until", "2026-01-02"], [2, 1]),
        (["--since", "2026-01-10T03:00:00Z", "--until", "2026-01-11T04:00:00+01:00"], [11, 10]),
        (["--dest", "b0", "--since", "2026-01-20"], [31, 28, 25, 22]),
        (["--source", "photos", "--until", "2026-01-05"], [4, 2]),
        (["--source", "photos/", "--until", "2026-01-05"], [4, 2]),
        (["--state", "failed"], [31, 21, 11, 1]),
        (["--q", "disknot", "--limit", "2"], [31, 21]),
        (["--q", "nothing-like-it"], []),
        (["--mirror", "nightly"], []),
        (["--state", "failed", "--source", "films", "--dest", "b0"], [31, 1]),
    ],
)
def test_list_finds_jobs_by_what_is_asked(month: Shell, flags: list[str], days: list[int]) -> None:
    done = month.run("list", "--json", *flags)
    answer = json.loads(done.stdout)
    assert [int(job["id"][6:8]) for job in answer["jobs"]] == days
    assert answer["count"] == len(days)
    assert (answer["next"] is not None) is ("--limit" in flags)
    table = month.run("list", *flags)
    assert [int(day) for day in re.findall(r"^202601([0-9]{2})T", table.stdout, re.MULTILINE)] == days
    assert ("that match" in table.stderr) is (not days)


def test_list_says_what_is_wrong_with_a_time(month: Shell) -> None:
    for flag in ("--since", "--until"):
        done = month.run("list", flag, "yesterday")
        assert done.returncode == 2 and f"{flag[2:]} must be a time" in done.stderr


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("20260107", 0, "20260107T030000-00000006"),
        ("20260107T03", 0, "20260107T030000-00000006"),
        ("20260107T030000-0000000", 0, "20260107T030000-00000006"),
        ("202601", 2, "31 jobs begin with 202601"),
        ("2027", 2, "no job whose id begins with 2027"),
        ("../x", 2, "id must look like"),
        ("", 2, "id must look like"),
    ],
)
def test_show_takes_the_beginning_of_an_id(month: Shell, text: str, status: int, says: str) -> None:
    done = month.run("show", text)
    assert done.returncode == status
    assert says in (done.stdout if status == 0 else done.stderr)


def test_show_errors_names_all_that_failed_or_was_skipped_and_harms_no_terminal(month: Shell) -> None:
    job = "20260107T030000-00000006"
    lines = [
        {"time": "T", "op": "upload", "key": "good", "size": 1, "etag": None, "seconds": 0.1},
        {"time": "T", "op": "upload", "key": "a\x1b[2J", "error": {"code": "EIO", "message": "bad\nline"}},
        {"time": "T", "op": "skip", "key": "pipe", "error": {"code": "fifo", "message": "not sent: fifo"}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"error": \n{"time": "T", "error": {"co'
    month.file(job, "report.jsonl").write_text(text)
    done = month.run("show", job, "--errors")
    assert done.stdout.splitlines() == [
        r"T upload a\x1b[2J: EIO, bad\nline",
        "T skip pipe: fifo, not sent: fifo",
    ]
    as_json = month.run("show", job, "--errors", "--json").stdout.splitlines()
    assert [json.loads(line) for line in as_json] == lines[1:]
    assert month.run("show", "20260108", "--errors").stdout == ""
    assert month.run("show", "20270108T030000-00000006", "--errors").returncode == 2
