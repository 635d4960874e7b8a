"""Jobs that were never run: status files as a worker would write them, a stand-in for the worker, a terminal.

The stand-in keeps the worker's side of the protocol (lock, status, sentinel) and touches no S3, so that what
is tested with it is the shell alone.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

from bench import wait_for
from stores import die_with_parent, minimal_environment

from syncworker.jobs.record import Status
from syncworker.jobs.store import Jobs
from syncworker.model import State
from syncworker.paths import PROJECT
from syncworker.request import Request

HOSTILE = "evil\x1b]0;owned\x07\x1b[31m[bold red]\n:smile:\u202egpj.\udcff\r\x9b2J"
URL = "http://127.0.0.1:9000"

STAND_IN = """
import os, sys, time, types
from syncworker.jobs import store as protocol
from syncworker.jobs.status import begin
from syncworker.model import State

def run_job(settings, jobs, job_id, on_status=None, elsewhere=None):
    if os.environ["STAND_IN"] == "ctrl-c":
        raise KeyboardInterrupt
    end = State(os.environ["STAND_IN"])
    with jobs.lock(job_id) as lock:
        if not lock.acquire(1.0):
            raise protocol.Conflict("JobRunning", f"another worker runs job {job_id}", job_id)
        status = jobs.read(job_id)
        begin(status)
        status["phase"] = "transferring"
        step = 0
        while step < 3 or not os.path.exists(os.path.join(jobs.path, "go")):
            step += 1
            status["progress"].update(files_total=5000, files_done=step, bytes_total=5 << 20,
                                      bytes_done=step << 10, bytes_per_second=2048.0, eta_seconds=9.0)
            status["current"] = [{"op": "upload", "key": os.environ["KEY"], "size": 5000, "bytes_done": step}]
            jobs.write(status, durable=False)
            if on_status:
                on_status(status)
            if jobs.is_cancelled(job_id):
                end = State.CANCELLED
                break
            time.sleep(0.01)
        error = {"code": "FilesFailed", "message": "1 of 5000 files failed"} if end is State.FAILED else None
        if error:
            status["progress"]["files_failed"] = 1
            status["errors"] = [{"time": "", "op": "upload", "key": os.environ["KEY"], "code": "AccessDenied",
                                 "message": "the store refuses " + os.environ["KEY"]}]
        jobs.finish(status, end, error, end.value)
    return end

module = types.ModuleType("syncworker.worker.worker")
module.run_job = run_job
sys.modules["syncworker.worker.worker"] = module
from syncworker.shell.cli import main
sys.exit(main(sys.argv[1:]))
"""

HOLDER = """
import sys
from syncworker.system.durable_files import Lock
lock = Lock(sys.argv[1])
print(lock.acquire(1.0), flush=True)
sys.stdin.read()
"""


def _as_from_a_terminal() -> None:
    """A test run in the background is deaf to SIGINT, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


class Desk:
    """A jobs directory of its own, and commands that are run in it."""

    def __init__(self, base: Path) -> None:
        self.jobs = Jobs(str(base / "jobs"))
        self.uploads = base / "uploads"
        self.uploads.mkdir()
        self.environment = minimal_environment(
            base,
            JOBS_DIR=self.jobs.path,
            UPLOADS_DIR=str(self.uploads),
            STORAGE_URL=URL,
            STAND_IN="done",
            KEY="a.jpg",
            TERM="xterm-256color",
        )
        self._started: list[subprocess.Popen[Any]] = []

    def make(self, state: str = "queued", dest: str = "mybucket", **fields: Any) -> Status:
        """A job in a state; `progress` is merged, other fields are replaced."""
        self.jobs.prepare()
        status = self.jobs.create(Request(fields.pop("source", "photos"), dest, URL, 0.0))
        status["progress"].update(fields.pop("progress", {}))
        if state == "running":
            status.update(phase="transferring", pid=4711, started_at=status["created_at"])
        status.update(fields)
        if state in ("done", "failed", "cancelled", "interrupted"):
            current = status["current"]
            self.jobs.finish(status, State(state), status["error"], state)
            status["current"] = current
        else:
            status["state"] = state
            self.jobs.write(status, durable=False)
        return status

    def popen(self, *arguments: str, stand_in: bool = False, **options: Any) -> subprocess.Popen[Any]:
        command = ["-c", STAND_IN] if stand_in else ["-m", "syncworker"]
        process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=PROJECT,
            env=options.pop("env", self.environment),
            preexec_fn=options.pop("preexec_fn", _as_from_a_terminal),
            **{"stdin": subprocess.DEVNULL, **options},
        )
        self._started.append(process)
        return process

    def run(
        self, *arguments: str, text: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end, its output as text."""
        process = self.popen(
            *arguments,
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            text=True,
        )
        out, err = process.communicate(text or "", timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def hold(self, job_id: str) -> subprocess.Popen[Any]:
        """A process that holds a job's lock, as a living worker does, until its stdin is closed."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, self.jobs.file(job_id, "lock")],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        return process

    def wait_for_job(self) -> list[str]:
        """The ids of the first jobs that a command has made."""

        def ids() -> list[str]:
            return self.jobs.ids() if os.path.isdir(self.jobs.path) else []

        return wait_for(ids, 20, "a job")

    def go(self) -> None:
        """Lets the stand-in come to its end."""
        self.jobs.prepare()
        Path(self.jobs.path, "go").touch()

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None and not stream.closed:
                    stream.close()


class Terminal:
    """The user's side of a pseudo-terminal."""

    def __init__(self, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns)
        self.text = ""
        self._bytes = b""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def read(self, until: str | None = None, seconds: float = 30.0) -> str:
        """All that is on the screen until a text appears, or until the last writer has closed it."""
        deadline = time.monotonic() + seconds
        while until is None or until not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not on the screen after {seconds} s: {until!r} in {self.text[-500:]!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:  # EIO: the last writer has gone
                data = b""
            if not data:
                assert until is None, f"the terminal was closed without {until!r}: {self.text[-500:]!r}"
                break
            self._bytes += data
            self.text = self._bytes.decode("utf-8", "replace")
        return self.text

    def read_new(self, until: str) -> str:
        """As `read`, forgetting what was on the screen before."""
        self.text, self._bytes = "", b""
        return self.read(until)

    def leave_to(self, process: subprocess.Popen[Any]) -> None:
        """Only the process has the terminal open now, so that its end is an end of file here."""
        assert process.pid > 0
        os.close(self.slave)
        self.slave = -1

    def close(self) -> None:
        os.close(self.master)
        if self.slave >= 0:
            os.close(self.slave)


def without_escapes(text: str) -> str:
    """A screen's text without the control sequences that draw it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
