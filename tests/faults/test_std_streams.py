"""A log that cannot be written costs its lines, never an answer, a job or an exit status: every entry point
with its standard streams closed, full, and a pipe that nobody reads or that has been closed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import PROJECT, Service, Shell, contents, expected, tree, wait_for
from stores import Store, die_with_parent

from syncworker.system import std_streams

NAMES = {0: "stdin", 1: "stdout", 2: "stderr"}
# How a shell redirects a stream so that using it fails.
BROKEN = {"closed": "{fd}>&-", "full": "{fd}>/dev/full", "a closed pipe": "{fd}> >(exec true)"}
CASES = [(fd, how) for fd in (1, 2) for how in BROKEN] + [(0, "closed")]


def broken(command: list[str], cases: list[tuple[int, str]]) -> list[str]:
    redirections = " ".join("0<&-" if fd == 0 else BROKEN[how].format(fd=fd) for fd, how in cases)
    return ["bash", "-c", f'exec "$@" {redirections}', "bash", *command]


def run(shell: Shell, cases: list[tuple[int, str]], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = broken([sys.executable, "-m", "syncworker", *arguments], cases)
    return subprocess.run(
        command, cwd=PROJECT, env=shell.environment, capture_output=True, timeout=60, check=False
    )


@pytest.fixture
def photos(shell: Shell) -> Path:
    return tree(shell.uploads / "photos", {f"{n}.txt": f"{n}" for n in range(5)})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{NAMES[case[0]]} {case[1]}")
def test_start_mirrors_whatever_its_streams_are(
    shell: Shell, photos: Path, bucket: str, case: tuple[int, str]
) -> None:
    done = run(shell, [case], "start", "--source", "photos", "--dest", bucket)
    assert done.returncode == 0, done
    [job] = shell.ids()
    assert shell.status(job)["state"] == "done"
    assert contents(shell.store, bucket) == expected(photos)


@pytest.mark.parametrize("how", BROKEN)
def test_resume_and_run_end_their_job_whatever_their_streams_are(
    shell: Shell, photos: Path, bucket: str, how: str
) -> None:
    """`run` is what the server spawns; here by hand, as an operator's own supervisor does."""
    running, job = shell.begin(bucket, "photos", "--wait", "1")
    shell.wait_file(job, lambda status: status["progress"]["files_uploaded"] >= 1)
    running.terminate()
    assert running.wait(20) == 4
    everything = [(0, "closed"), (1, how), (2, how)]
    status = shell.status(job)
    assert run(shell, everything, "resume", job).returncode == 0
    assert shell.status(job)["attempt"] == status["attempt"] + 1
    assert run(shell, everything, "run", job).returncode == 2  # it has ended
    assert contents(shell.store, bucket) == expected(photos)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{NAMES[case[0]]} {case[1]}")
@pytest.mark.parametrize(
    "arguments", [["list", "--all"], ["show"], ["cancel"], ["--help"], ["completion"], ["start"]]
)
def test_no_command_ends_with_a_trace_or_status_of_pythons_own(
    shell: Shell, photos: Path, bucket: str, case: tuple[int, str], arguments: list[str]
) -> None:
    run(shell, [], "start", "--source", "photos", "--dest", bucket)
    [job] = shell.ids()
    if arguments in (["show"], ["cancel"]):
        arguments = [*arguments, job]
    elif arguments == ["start"]:
        arguments = ["start", "--source", "../out", "--dest", bucket]
    good = run(shell, [], *arguments)
    done = run(shell, [case], *arguments)
    expected = {good.returncode}
    if case[0] == 1 and case[1] != "closed" and good.stdout:
        expected = {1} if case[1] == "full" else {141, 1}  # what was asked for has not gone out
    assert done.returncode in expected, done
    assert b"Traceback" not in done.stderr, done
    assert b"Exception ignored" not in done.stderr, done


def answers(service: Service) -> bool:
    with contextlib.suppress(OSError):
        return service.get("/healthz").status == 200
    return False


@pytest.mark.parametrize("how", [*BROKEN, "a pipe that nobody reads"])
def test_a_server_whose_log_cannot_be_written_answers_and_mirrors(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, how: str
) -> None:
    service: Service = make_service(juicefs, start=False)
    photos = tree(service.uploads / "photos", {f"{n}.txt": f"{n}" for n in range(5)})
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    cases = [(1, how), (2, how)] if how in BROKEN else []
    streams = {} if how in BROKEN else {"stdout": writer, "stderr": writer}
    process = subprocess.Popen(
        broken([sys.executable, "server.py"], cases),
        cwd=PROJECT, env=service.environment, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, **streams,
    )  # fmt: skip
    try:
        wait_for(lambda: answers(service), 20, "the server to answer")
        status = service.done(bucket)
        assert contents(juicefs, bucket) == expected(photos)
        assert service.get("/get", id=status["id"]).status == 200
        assert service.get("/get", id="nonsense").status == 400
        found = service.get("/metrics").body.decode()
        [lost] = [line for line in found.splitlines() if line.startswith("syncworker_log_writes_lost_total ")]
        assert (float(lost.split()[1]) > 0) == (how != "closed"), "what is closed goes to /dev/null"
    finally:
        process.terminate()
        assert process.wait(20) == 0
        os.close(reader)
        os.close(writer)


def test_a_closed_stream_is_no_file_that_is_opened_later(tmp_path: Path) -> None:
    """Descriptor 2 would be the next file's number, and a message would be written into it."""
    program = (
        "import sys; from syncworker.system import std_streams; std_streams.secure()\n"
        f"file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "print('a message', file=sys.stderr); print('output'); sys.stderr.flush()"
    )
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_what_a_slow_reader_takes_in_time_is_whole() -> None:
    reader, writer = os.pipe()
    stream = std_streams.Stream(writer)
    text = "line\n" * 200_000
    thread = threading.Thread(target=lambda: (stream.write(text), os.close(writer)))
    thread.start()
    found = b""
    while data := os.read(reader, 65536):
        found += data
    thread.join()
    os.close(reader)
    assert (found.decode(), stream.lost) == (text, 0)


def test_a_disk_with_room_again_takes_lines_again(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    stream = std_streams.Stream(full)
    assert stream.write("lost\n") == 5
    assert stream.lost == 1
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, full)
    stream.write("kept é \udc80\n")
    assert (tmp_path / "log").read_bytes() == "kept é \\udc80\n".encode()
    assert stream.lost == 1
