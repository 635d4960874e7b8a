"""Network namespaces as machines: a member that only the storage still hears, and one that it does not."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import PROJECT, RecordingProxy, Shell, contents, expected, tree, wait_for
from proxy import Request
from stores import Store, die_with_parent, free_ports

FILES = 2000


def command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


class Machine:
    """A namespace with a wire of its own to this machine."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name, self.wire = f"member{os.getpid()}", f"wire{os.getpid()}"
        self.here, self.there = f"10.99.{number}.1", f"10.99.{number}.2"

    def __enter__(self) -> Machine:
        command("ip", "netns", "add", self.name)
        command("ip", "link", "add", self.wire, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        command("ip", "address", "add", f"{self.here}/24", "dev", self.wire)
        command("ip", "link", "set", self.wire, "up")
        self.run("ip", "address", "add", f"{self.there}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False)
        subprocess.run(["ip", "link", "delete", self.wire], check=False, capture_output=True)

    def run(self, *words: str) -> None:
        command("ip", "netns", "exec", self.name, *words)

    def cut(self, port: int) -> None:
        """Nothing goes to this port any more, nothing comes from it."""
        self.run("iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP")
        self.run("iptables", "-A", "INPUT", "-p", "tcp", "--sport", str(port), "-j", "DROP")

    def keep_only(self, port: int) -> None:
        """Nothing comes or goes but what is of this port."""
        self.run("iptables", "-A", "OUTPUT", "-p", "tcp", "!", "--dport", str(port), "-j", "DROP")
        self.run("iptables", "-A", "INPUT", "-p", "tcp", "!", "--sport", str(port), "-j", "DROP")


class Watched(RecordingProxy):
    """The storage, at an address that both machines reach. `seen`: of each request who made it, its kind, and
    when it came."""

    def __init__(self, store: Store, host: str) -> None:
        self.host, self._thread = host, threading.local()
        self.seen: list[tuple[str, str, float]] = []
        super().__init__(store)
        self.url = f"http://{host}:{self.port}"
        self.on_request(self.note)

    def listen(self) -> None:
        self._refuses = False
        self._listener = socket.create_server((self.host, self.port), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._thread.peer = sock.getpeername()[0]
        super()._serve(sock)

    def note(self, request: Request) -> None:
        self.seen.append((self._thread.peer, request.kind, time.monotonic()))
        if request.kind == "PUT":
            time.sleep(0.2)  # there is something left when the wire is cut


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as found:
        yield found


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_heard", [True, False], ids=["by the storage alone", "by all but the storage"])
def test_a_member_that_is_cut_off_costs_nothing_and_ends_before_the_first_deletion(
    make_shell: Callable[..., Shell],
    juicefs: Store,
    bucket: str,
    machine: Machine,
    tmp_path: Path,
    *,
    is_heard: bool,
) -> None:
    store = Watched(juicefs, machine.here)
    shell = make_shell(juicefs)
    folder = tree(shell.uploads / "photos", {"old": "goes"})
    shell.sync(bucket)
    made = shell.run("cluster", "keys", str(tmp_path / "keys"), "head")
    assert made.returncode == 0, made.stderr
    port = free_ports(1)[0]
    scheduler = f"tls://{machine.here}:{port}"
    files = {name: str(tmp_path / "keys" / file) for name, file in KEYS.items()}
    shell.environment |= {"CLUSTER": scheduler, "CLUSTER_MIN_FILES": "0", "STORAGE_URL": store.url, **files}
    shell.environment["STORAGE_TIMEOUT"] = "5"
    started = [shell.spawn("cluster", "scheduler", "--bind", machine.here, "--port", str(port))]
    started += [shell.spawn("cluster", "worker", scheduler, "--bind", machine.here)]
    inside = ["ip", "netns", "exec", machine.name, sys.executable, "-m", "syncworker", "cluster", "worker"]
    started += [
        subprocess.Popen(
            [*inside, scheduler, "--bind", machine.there],
            cwd=PROJECT, env=shell.environment, preexec_fn=die_with_parent,
        )
    ]  # fmt: skip
    try:
        wait_for(lambda: members(shell) == [None, None], 90, "two members")
        tree(folder, {"old": None, **{f"n/{n}": f"content {n}" for n in range(FILES)}})
        process, job = shell.begin(bucket)

        def by_the_other() -> int:
            return sum(peer == machine.there and kind == "PUT" for peer, kind, _ in list(store.seen))

        wait_for(lambda: by_the_other() > 20, 90, "requests of the other machine")
        (machine.keep_only if is_heard else machine.cut)(store.port)
        assert process.wait(150) == 0, shell.log(job)
    finally:
        for each in started:
            each.kill()
            each.wait()
        store.close()
    assert contents(juicefs, bucket) == expected(folder)
    assert shell.status(job)["cluster"]["lost"] == is_heard
    last = max(at for peer, kind, at in store.seen if peer == machine.there and kind == "PUT")
    first = min(at for _, kind, at in store.seen if kind in ("DELETE", "DeleteObjects"))
    assert last < first


KEYS = {"CLUSTER_TLS_CA": "ca.pem", "CLUSTER_TLS_CERT": "head.pem", "CLUSTER_TLS_KEY": "head.key"}


def members(shell: Shell) -> list[object]:
    """Why each is not taken; None: it is."""
    run = shell.run("cluster", "status", "--json")
    return [each["refused"] for each in json.loads(run.stdout)["members"]] if run.returncode == 0 else []
