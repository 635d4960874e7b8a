"""Helpers for the tests of the server's parts: settings without the machine's, the routes behind a real
waitress, requests as raw bytes, and a stand-in for the worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import server
from syncworker import settings
from syncworker.history.ledger import Ledger
from syncworker.jobs import status as job_status
from syncworker.jobs import store
from syncworker.model import State
from syncworker.service.supervisor import Supervisor
from syncworker.settings import Settings
from syncworker.web import http_server, middleware

PROJECT = Path(__file__).resolve().parents[2]
KEYS = {"MINIO_ACCESS_KEY": "AKIDTEST", "MINIO_SECRET_KEY": "secret-of-the-tests"}

# Takes the lock, says `running`, and ends `done` when the file `finish` appears, `cancelled` on the
# sentinel, `interrupted` when it is told to stop.
FAKE_WORKER = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from syncworker.jobs import status as job_status, store as jobs
from syncworker.model import State
directory, job_id, finish = jobs.Jobs(sys.argv[2]), sys.argv[3], sys.argv[4]
lock = directory.lock(job_id)
if not lock.acquire(timeout_seconds=1):
    sys.exit(2)
status = directory.read(job_id)
job_status.begin(status)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
directory.write(status, durable=True)
while not os.path.exists(finish) and not directory.is_cancelled(job_id) and not told:
    time.sleep(0.01)
state = State.CANCELLED if directory.is_cancelled(job_id) else State.DONE
if told:
    state = State.INTERRUPTED
directory.finish(status, state, {"code": "Stopped", "message": "SIGTERM"} if told else None, str(state))
"""


def load(base: Path, **environ: str) -> Settings:
    """Settings from these values and nothing else."""
    values = {"UPLOADS_DIR": str(base / "uploads"), "JOBS_DIR": str(base / "jobs"), **KEYS}
    values |= {"STORAGE_DIR": str(base / "storage"), "MIRRORS_FILE": str(base / "mirrors.toml")}
    (base / "uploads").mkdir(exist_ok=True)
    return settings.load({**values, **environ}, str(base / "no.env"))


class Workers:
    """Spawns fake workers, and ends what is left of them."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.finish = base / "finish"
        self.started: list[str] = []
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, job_id: str) -> subprocess.Popen[bytes]:
        arguments = [str(PROJECT), str(self.base / "jobs"), job_id, str(self.finish)]
        process = subprocess.Popen(
            [sys.executable, "-c", FAKE_WORKER, *arguments],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        self.started.append(job_id)
        self.processes[job_id] = process
        return process

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


class Site:
    """The routes behind guard and waitress on a free port, with a supervisor whose thread does not run: jobs
    stay queued until a test takes them."""

    def __init__(self, base: Path, **environ: str) -> None:
        token = environ.get("API_TOKEN")
        self.settings = load(base, **environ)
        self.jobs = store.Jobs(self.settings.jobs_dir)
        self.jobs.prepare()
        self.supervisor = Supervisor(self.settings, self.jobs, Workers(base).spawn)
        ledger, keeper = Ledger(self.jobs), server.make_keeper(self.settings, self.supervisor)
        self.app = server.make_app(self.settings, self.supervisor, ledger, keeper, token_needed=bool(token))
        self.http = http_server.Server("127.0.0.1", 0)
        self.port = self.http.port
        guard = middleware.Guard(self.app, self.settings, token)
        self._thread = threading.Thread(target=self.http.run, args=(guard, lambda: True), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.http.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def raw(self, data: bytes, timeout: float = 10) -> Answer:
        """Sends bytes, reads to the end of the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return Answer(received)

    def ask(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Answer:
        """One request; header names with `_` for `-`, `Host` is localhost unless given."""
        fields = {"Host": f"localhost:{self.port}", "Connection": "close"}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, target: str, **headers: str) -> Answer:
        return self.ask("GET", target, **headers)

    def form(self, target: str, body: bytes) -> Answer:
        return self.ask("POST", target, body, Content_Type="application/x-www-form-urlencoded")

    def json(self, target: str, document: Any) -> Answer:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("POST", target, body, Content_Type="application/json")

    def submit(self, dest: str = "bucket", **parameters: str) -> str:
        query = "&".join(
            f"{name}={value}" for name, value in {"source": "", "dest": dest, **parameters}.items()
        )
        answer = self.get(f"/sync?{query}")
        assert answer.status == 202, answer
        job_id: str = answer.json["id"]
        return job_id

    def waiting(self, dest: str = "bucket") -> str:
        """A job that waits for its plan of one line to be approved."""
        job_id = self.submit(dest)
        line = {"op": "upload", "key": "a", "size": None, "etag": None, "modified": None, "reason": "new"}
        data = (json.dumps(line) + "\n").encode()
        Path(self.jobs.file(job_id, "plan.jsonl")).write_bytes(data)
        with self.jobs.lock(job_id) as lock:
            assert lock.acquire()
            status = self.jobs.read(job_id)
            assert status is not None
            status["plan"] = {"etag": hashlib.sha256(data).hexdigest(), "lines": 1, "approved_at": None}
            self.jobs.finish(status, State.WAITING, None, "planned")
        return job_id

    @contextlib.contextmanager
    def running(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Plays the worker of a job: holds its lock, says `running`."""
        with self.jobs.lock(job_id) as lock:
            assert lock.acquire(1)
            status = self.jobs.read(job_id)
            assert status is not None
            job_status.begin(status)
            self.jobs.write(status, durable=False)
            yield status


class Answer:
    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1]) if first else 0
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            self.headers[name.lower()] = value

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", self
        found: dict[str, Any] = self.json
        assert found["status"] == self.status, self
        assert found["detail"] and found["title"] and found["type"], self
        assert b"Traceback" not in self.body, self
        return found

    def __repr__(self) -> str:
        return f"{self.status} {self.headers} {self.body[:2000]!r}"


def write_finished(directory: Path, count: int) -> list[str]:
    """Status files of jobs that are done, as many as asked for; their ids."""
    status = {"version": 1, "state": "done", "source": "a", "dest": "bucket", "storage_url": "http://a"}
    status |= {
        "errors": [],
        "progress": dict(job_status.PROGRESS),
        "auto_resume": True,
        "cancel_requested": False,
    }
    ids = []
    for number in range(count):
        ids.append(f"20260101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}-{number:08x}")
        (directory / f"{ids[-1]}.lock").touch(0o600)
        (directory / f"{ids[-1]}.log").touch(0o600)
        (directory / f"{ids[-1]}.report.jsonl").touch(0o600)
        (directory / f"{ids[-1]}.json").write_text(json.dumps(status | {"id": ids[-1]}, indent=2))
    os.sync()
    return ids
