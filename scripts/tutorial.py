"""Writes the transcripts of docs/tutorial.md again: `make docs`. A test runs it and compares.

The page is the script. In its ```console blocks, each `$ ` line is typed into one bash, in order, and what comes
out replaces the lines below it. It happens in a folder of its own, with a server, a storage and ports of its own:
`localhost:5000` on the page is that server. Two lines are special: `$ make run` starts it, and `$ ID=…` takes the
id that was shown last, as a reader would copy it.
"""

# ruff: noqa: E501 - the page's lines are as long as they are

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from types import TracebackType
from typing import Self

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.path.join(PROJECT, "docs", "tutorial.md")
ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_SECONDS = 90.0
_END = "end-of-command"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


class Session:
    """One bash in a folder like a fresh clone's, with `.venv` of this project; a context manager."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._api_port, self._store_port = _free_ports()
        self._last_id = ""
        self._server: subprocess.Popen[bytes] | None = None
        os.makedirs(f"{folder}/app/uploads")
        with open(f"{folder}/app/uploads/.gitkeep", "wb"):
            pass  # as a clone has it
        os.symlink(f"{PROJECT}/.venv", f"{folder}/.venv")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "LANG": "C.UTF-8",
            "PYTHONPATH": PROJECT,
            "API_PORT": str(self._api_port),
            "MINIO_PORT": str(self._store_port),
            "UPLOADS_DIR": f"{folder}/app/uploads",
            "JOBS_DIR": f"{folder}/jobs",
            "STORAGE_DIR": f"{folder}/app/storage",
            "STORAGE_URL": "",  # whatever the `.env` of this folder says
            "API_TOKEN": "",
            "API_HOST": "",
            "ALLOWED_HOSTS": "",
            "ALLOWED_STORAGE_URLS": "",
            "BUCKET_DELETE": "",
            "MINIO_ACCESS_KEY": "tutorial",
            "MINIO_SECRET_KEY": "tutorial-secret",
        }
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel_all()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(30)
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream is not None:
                stream.close()

    def _cancel_all(self) -> None:
        """Where the page broke off, a job may be running: it must not outlive this."""
        jobs = f"{self.folder}/jobs"
        for name in os.listdir(jobs) if os.path.isdir(jobs) else []:
            if ID.fullmatch(name.removesuffix(".json")):
                with open(f"{jobs}/{name.removesuffix('.json')}.cancel", "a"):
                    pass
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and '"count": 0' not in (self._ask("/runnings") or '"count": 0'):
            time.sleep(0.1)

    def _ask(self, path: str) -> str:
        """The server's answer; "" when there is none."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://localhost:{self._api_port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def type(self, command: str) -> str:
        """What a command prints."""
        if command == "make run":
            return self._make_run()
        if command.startswith("ID="):
            command = f"ID={self._last_id}"
        words = command.replace("localhost:5000", f"localhost:{self._api_port}")
        text = self._shown(self._type(words))
        if found := ID.findall(text):
            self._last_id = found[0]
        return text

    def _type(self, command: str) -> str:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        watch = threading.Timer(COMMAND_SECONDS, os.killpg, (self._bash.pid, signal.SIGKILL))
        watch.start()
        self._bash.stdin.write(f"{command}\n_status=$?; echo {_END}; (exit $_status)\n")
        self._bash.stdin.flush()
        lines = []
        for line in self._bash.stdout:
            if line.rstrip("\n").endswith(_END):
                lines.append(line.rstrip("\n").removesuffix(_END))
                break
            lines.append(line)
        else:
            raise AssertionError(f"this did not end in {COMMAND_SECONDS:.0f} s: {command}\n{''.join(lines)}")
        watch.cancel()
        return "".join(lines)

    def _make_run(self) -> str:
        with open(f"{self.folder}/server.out", "wb") as out, open(f"{self.folder}/server.err", "wb") as err:
            self._server = subprocess.Popen(
                [sys.executable, f"{PROJECT}/server.py"], cwd=self.folder, env=self._environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        deadline = time.monotonic() + COMMAND_SECONDS
        while '"storage": "up"' not in self._ask("/healthz"):
            if self._server.poll() is not None or time.monotonic() > deadline:
                with open(f"{self.folder}/server.err", encoding="utf-8", errors="replace") as file:
                    raise AssertionError(f"the server has not started:\n{file.read()}")
            time.sleep(0.1)
        with open(f"{self.folder}/server.out", encoding="utf-8") as file:
            return self._shown(file.read())

    def _shown(self, text: str) -> str:
        """As on the reader's machine: the ports that are the default, and `…` for the project's folder."""
        text = text.replace(f":{self._api_port}", ":5000").replace(f":{self._store_port}", ":9000")
        return text.replace(self.folder, "…")


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, the lines below it)."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def render(page: str, folder: str) -> str:
    """The page with every transcript made anew."""
    with Session(folder) as session:

        def again(match: re.Match[str]) -> str:
            lines = []
            for command, _ in commands(match[1]):
                text = session.type(command)
                typed = f"ID={session._last_id}" if command.startswith("ID=") else command
                lines.append(f"$ {typed}\n{text}" + ("\n" if text and not text.endswith("\n") else ""))
            return f"```console\n{''.join(lines)}```"

        return BLOCK.sub(again, page)


if __name__ == "__main__":
    with open(TARGET, encoding="utf-8") as file:
        before = file.read()
    with tempfile.TemporaryDirectory(prefix="tutorial-") as made:
        after = render(before, os.path.realpath(made))
    with open(TARGET, "w", encoding="utf-8") as file:
        file.write(after)
