"""The test bench: folders, buckets, the server and the shell as a user has them.

Everything here is black-box: folders are made and read with `os`, buckets with boto3, the project is
started as `server.py` and `python -m syncworker` with an environment of its own, and spoken to by HTTP, by
files and by signals. Nothing of the project is imported.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import psutil
from proxy import Answer, Cut, RecordingProxy, Request, s3_error
from stores import (
    Store,
    bucket_exists,
    die_with_parent,
    die_with_parent_obeying_permissions,
    free_ports,
    list_keys,
    minimal_environment,
    stop_group,
)

__all__ = ["Answer", "Cut", "Gate", "RecordingProxy", "Request", "Service", "Shell", "s3_error"]

PROJECT = Path(__file__).resolve().parents[2]
ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
FINAL = ("done", "failed", "cancelled", "interrupted", "waiting")
Tree = Mapping[str, Any]
T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout: float = 20, what: str = "") -> T:
    """The first true value of `condition`; AssertionError after `timeout`. Asks a hundred times a second, or
    less often where an answer takes long: others need the processors more."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        asked = time.monotonic()
        value = condition()
        if value:
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what or condition}; last: {value!r}")
        pause.wait(min(max(0.01, 3 * (now - asked)), 0.1))


# -- folders and buckets ----------------------------------------------------------------------------------


def tree(path: Path, entries: Tree) -> Path:
    """Make a folder from a dict: str or bytes is a file's content, a dict a folder, None removes what is
    there, an int is a file of so many random bytes. Keys may contain `/`."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in entries.items():
        target = Path(os.path.join(path, name))  # not `path / name`: a name like "a//b" stays what it is
        if content is None:
            remove(target)
        elif isinstance(content, Mapping):
            tree(target, content)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            data = os.urandom(content) if isinstance(content, int) else content
            target.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in list(path.iterdir()):
            remove(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def expected(path: Path) -> dict[str, bytes]:
    """What the bucket must hold: every regular file below `path` (symlinks left out), key by key."""
    found = {}
    for folder, _folders, files in os.walk(path):
        for name in files:
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink():
                found[file.relative_to(path).as_posix()] = file.read_bytes()
    return found


def contents(store: Store, bucket: str) -> dict[str, bytes]:
    """What the bucket does hold, read by boto3; the folder markers of some stores are left out."""
    client = store.client()
    keys = [key for key in list_keys(client, bucket) if not key.endswith("/")]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def exists(store: Store, bucket: str) -> bool:
    return bucket_exists(store.client(), bucket)


def fill(store: Store, bucket: str, objects: Mapping[str, bytes]) -> None:
    """Make the bucket if need be, and put these objects there, as a stranger would."""
    client = store.client()
    if not exists(store, bucket):
        client.create_bucket(Bucket=bucket)
    for key, body in objects.items():
        client.put_object(Bucket=bucket, Key=key, Body=body)


@contextlib.contextmanager
def another_process(program: str, argument: str) -> Iterator[None]:
    """A Python program that prints `held` once it holds something, and keeps it until its input ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", program, argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=die_with_parent,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.communicate(timeout=10)


class Gate:
    """A hook that holds the requests it is told to, until they are let through or dropped.

    `arrived` is set when the first one is held. What is still held at the end of the test is dropped: a
    request of a dead client must not reach the server later."""

    def __init__(self, proxy: RecordingProxy, matches: Callable[[Request], bool]) -> None:
        self.arrived = threading.Event()
        self._matches = matches
        self._decided = threading.Event()
        self._drop = False
        self.held: list[Request] = []
        proxy.on_request(self)

    def __call__(self, request: Request) -> Cut | None:
        if self._decided.is_set() or not self._matches(request):
            return None
        self.held.append(request)
        self.arrived.set()
        self._decided.wait(120)
        return Cut() if self._drop or not self._decided.is_set() else None

    def wait(self, timeout: float = 20) -> None:
        assert self.arrived.wait(timeout), "the request to be held never came"

    def open(self) -> None:
        """Let them through, now and later."""
        self._decided.set()

    def drop(self) -> None:
        """Cut the held ones; later ones pass."""
        self._drop = True
        self._decided.set()


# -- the project's processes ------------------------------------------------------------------------------


class Jobs:
    """A jobs directory and an uploads root, as the shell and the server of one user share them."""

    def __init__(self, base: Path, store: Store | None, **environment: str) -> None:
        self.base, self.store = base, store
        self.uploads, self.jobs, self.home = base / "uploads", base / "jobs", base / "home"
        for folder in (self.uploads, self.home):
            folder.mkdir(exist_ok=True)
        settings = {
            "UPLOADS_DIR": str(self.uploads),
            "JOBS_DIR": str(self.jobs),
            "MIRRORS_FILE": str(base / "mirrors.toml"),
            "API_HOST": "127.0.0.1",
            "API_TOKEN": "",
            "AWS_REGION": "us-east-1",
            "MAX_RUNNING_JOBS": "4",
            "AUTO_RESUME": "1",
            "BUCKET_DELETE": "allow",
            "STORAGE_PATIENCE": "3",  # what stays away is given up soon
        }
        if store is not None:
            settings |= {"STORAGE_URL": store.url, "MINIO_ACCESS_KEY": store.access_key}
            settings |= {"MINIO_SECRET_KEY": store.secret_key}
        self.environment = minimal_environment(self.home, **{**settings, **environment})
        self.tampered = False  # a test that writes statuses of its own says so: they are no worker's
        self._processes: list[subprocess.Popen[bytes]] = []

    def share(self, other: Jobs) -> None:
        """Use the folders of another: a shell beside a server."""
        self.uploads, self.jobs = other.uploads, other.jobs
        self.environment |= {"UPLOADS_DIR": str(self.uploads), "JOBS_DIR": str(self.jobs)}

    def popen(self, *arguments: str, name: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a Python of ours in the project's folder, in its own group; its output goes to files."""
        with (self.base / f"{name}.out").open("ab") as out, (self.base / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=die_with_parent_obeying_permissions,
                **options,
            )
        self._processes.append(process)
        return process

    # -- the files under jobs/ ----------------------------------------------------------------------------

    def ids(self) -> list[str]:
        if not self.jobs.is_dir():
            return []
        return sorted(p.stem for p in self.jobs.glob("*.json") if ID.fullmatch(p.stem))

    def file(self, job: str, suffix: str) -> Path:
        return self.jobs / f"{job}.{suffix}"

    def status(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file(job, "json").read_bytes())
        return found

    def report(self, job: str) -> list[dict[str, Any]]:
        path = self.file(job, "report.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_file(
        self, job: str, condition: Callable[[dict[str, Any]], Any], timeout: float = 20
    ) -> dict[str, Any]:
        """The first status on the disk for which the condition is true."""
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            with contextlib.suppress(FileNotFoundError):
                last = self.status(job)
                return bool(condition(last))
            return False

        try:
            wait_for(look, timeout, f"a status of {job}")
        except AssertionError as error:
            raise AssertionError(f"{error}; last status: {json.dumps(last)}\n{self.log(job)}") from None
        return last

    def log(self, job: str) -> str:
        path = self.file(job, "log")
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def workers(self) -> list[psutil.Process]:
        """The living processes `syncworker run|start|resume` of this jobs directory, by their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                if process.environ().get("JOBS_DIR") == str(self.jobs) and "syncworker" in process.cmdline():
                    found.append(process)
        return found

    def stores(self) -> list[psutil.Process]:
        """The living embedded stores: their data is below STORAGE_DIR, by default a folder of this one."""
        found, storage = [], self.environment.get("STORAGE_DIR") or f"{self.base}/storage"
        for process in psutil.process_iter(["cwd"]):  # juicefs cuts off the end of its command line
            if process.info["cwd"] == os.path.realpath(storage):
                found.append(process)
        return found

    def close(self) -> None:
        """End everything that was started from here, workers and stores that outlive their server too."""
        for started in self._processes:
            if started.poll() is None:
                stop_group(started)
        for process in [*self.workers(), *self.stores()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def peak_bytes(pid: int) -> int:
    """The highest resident memory of a process so far. Raises OSError or IndexError once it has ended."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) << 10


@dataclass(frozen=True, slots=True)
class Run:
    """What a shell command did: its exit status, its output, and the status of the job it was about."""

    exit_status: int
    out: str
    err: str
    status: dict[str, Any]

    @property
    def progress(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status["progress"]
        return found


class Shell(Jobs):
    """`python -m syncworker …` with a jobs directory of its own."""

    _count = 0

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command and do not wait for it."""
        self._count += 1
        return self.popen("-m", "syncworker", *arguments, name=f"shell{self._count}")

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "syncworker", *arguments],
            cwd=PROJECT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent_obeying_permissions,
            timeout=timeout,
            check=False,
        )

    def start(self, dest: str, source: str = "photos", *more: str, timeout: float = 60) -> Run:
        """`start`, to its end, whatever that is."""
        before = set(self.ids())
        result = self.run("start", "--source", source, "--dest", dest, *more, timeout=timeout)
        new = [job for job in self.ids() if job not in before]
        status = self.status(new[-1]) if new else {}
        return Run(result.returncode, result.stdout, result.stderr, status)

    def sync(self, dest: str, source: str = "photos", *more: str, timeout: float = 60) -> Run:
        """`start` that must end `done`."""
        run = self.start(dest, source, *more, timeout=timeout)
        detail = f"{json.dumps(run.status)}\n{run.out[-2000:]}\n{run.err[-2000:]}"
        assert run.exit_status == 0, f"exit status {run.exit_status}: {detail}"
        assert run.status["state"] == "done", detail
        return run

    def begin(self, dest: str, source: str = "photos", *more: str) -> tuple[subprocess.Popen[bytes], str]:
        """`start` in the background: its process and the id of its job."""
        before = set(self.ids())
        process = self.spawn("start", "--source", source, "--dest", dest, *more)
        new = wait_for(lambda: set(self.ids()) - before, 20, "the job's status file")
        return process, new.pop()


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The body of an error, which must be a problem document."""
        assert self.headers["content-type"].split(";")[0] == "application/problem+json", self
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status, self
        return found


class Service(Jobs):
    """`server.py` on a port of its own, and a client of its HTTP."""

    def __init__(self, base: Path, store: Store | None, **environment: str) -> None:
        super().__init__(base, store, **environment)
        self.port = int(self.environment.setdefault("API_PORT", str(free_ports(1)[0])))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start `server.py` and do not wait until it answers."""
        self.process = self.popen("server.py", name="server")
        return self.process

    def start(self, timeout: float = 20) -> None:
        process = self.spawn()

        def answers() -> bool:
            assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.output()}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.get("/healthz").status == 200
            return False

        wait_for(answers, timeout, f"/healthz; the server said:\n{self.output()}")

    def output(self) -> str:
        files = [self.base / "server.out", self.base / "server.err"]
        return "".join(f.read_text(errors="replace")[-3000:] for f in files if f.exists())

    def kill(self) -> None:
        """SIGKILL to the server alone; its workers live in sessions of their own."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, timeout: float = 15) -> int:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout)

    def restart(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.start()

    # -- HTTP -------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """One request on a connection of its own; parameters go into the query."""
        if parameters:
            path += "?" + urlencode(
                list(parameters.items() if isinstance(parameters, Mapping) else parameters)
            )
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, fields, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **parameters: Any) -> Reply:
        return self.request("GET", path, parameters)

    def post(self, path: str, **parameters: Any) -> Reply:
        """A form."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.request("POST", path, headers=form, body=urlencode(parameters).encode())

    def post_json(self, path: str, document: Any) -> Reply:
        body = json.dumps(document).encode()
        return self.request("POST", path, headers={"Content-Type": "application/json"}, body=body)

    def sync(self, dest: str, source: str = "photos", **parameters: Any) -> str:
        """Ask for a sync; the id of the job."""
        reply = self.get("/sync", source=source, dest=dest, **parameters)
        assert reply.status == 202, reply
        job: str = reply.json()["id"]
        return job

    def show(self, job: str) -> dict[str, Any]:
        reply = self.get("/get", id=job)
        assert reply.status == 200, reply
        found: dict[str, Any] = reply.json()
        return found

    def wait_state(
        self, job: str, states: str | Iterable[str] = FINAL, timeout: float = 30
    ) -> dict[str, Any]:
        """The job's status by HTTP, as soon as its state is one of these."""
        wanted = (states,) if isinstance(states, str) else tuple(states)
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = self.show(job)
            return last["state"] in wanted

        try:
            wait_for(look, timeout, f"state {wanted}")
        except AssertionError as error:
            detail = f"{json.dumps(last)}\n{self.log(job)}\n{self.output()}"
            raise AssertionError(f"{error}\n{detail}") from None
        return last

    def done(self, dest: str, source: str = "photos", **parameters: Any) -> dict[str, Any]:
        """A sync that must end `done`; its status."""
        status = self.wait_state(self.sync(dest, source, **parameters))
        assert status["state"] == "done", f"{json.dumps(status)}\n{self.log(status['id'])}"
        return status


class Mirror:
    """A folder, a bucket, a shell that syncs them, and the proxy between, which saw every request."""

    def __init__(self, shell: Shell, store: Store, proxy: RecordingProxy, bucket: str) -> None:
        self.shell, self.store, self.proxy, self.bucket = shell, store, proxy, bucket
        self.folder = shell.uploads / "photos"
        shell.environment["STORAGE_URL"] = proxy.url

    def make(self, entries: Tree) -> None:
        tree(self.folder, entries)

    @property
    def contents(self) -> dict[str, bytes]:
        return contents(self.store, self.bucket)

    @property
    def exists(self) -> bool:
        return exists(self.store, self.bucket)

    def start(self, *more: str, timeout: float = 60) -> Run:
        """One sync, however it ends; the proxy remembers its requests only."""
        self.proxy.reset()
        return self.shell.start(self.bucket, "photos", *more, timeout=timeout)

    def sync(self, *more: str, timeout: float = 60) -> Run:
        """One sync that must end `done`, with the bucket equal to the folder."""
        self.proxy.reset()
        run = self.shell.sync(self.bucket, "photos", *more, timeout=timeout)
        assert_same(self.contents, expected(self.folder))
        return run

    def twice(self) -> Run:
        """A sync, and a second one that must find nothing to do: it may list, and send nothing else."""
        run = self.sync()
        sent = list(self.proxy.requests)
        again = self.sync()
        assert set(self.proxy.kinds()) <= {"LIST"}, self.proxy.kinds()
        assert again.progress["files_uploaded"] == again.progress["objects_deleted"] == 0, again.progress
        assert self.shell.report(again.status["id"]) == []
        with self.proxy._lock:
            self.proxy._requests[:] = sent
        return run


def assert_same(found: Mapping[str, bytes], wanted: Mapping[str, bytes]) -> None:
    """Equal, or a message that names the keys and leaves out the bytes."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [key for key in wanted.keys() & found.keys() if wanted[key] != found[key]]
    assert (missing, extra, other) == ([], [], []), f"missing {missing}, extra {extra}, other {other}"
