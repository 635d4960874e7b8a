"""Scheduler and members as on several machines, here on one: certificates, deaths, who is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from bench import Shell, contents, expected, tree, wait_for
from stores import Store, free_ports

FILES = {f"n/{n}": 20_000 for n in range(1500)}


# With a certificate of ours, at our scheduler: a worker of Dask that has no program of ours.
STRANGER = """
import asyncio, distributed, sys
from distributed.security import Security

class Worker(distributed.Worker):
    def start_http_server(self, *_, **__): ...

async def main(address, ca, cert, key):
    files = {"tls_ca_file": ca, "tls_worker_cert": cert, "tls_worker_key": key}
    security = Security(require_encryption=True, **files)
    worker = await Worker(address, protocol="tls", security=security, host="127.0.0.1", name="a stranger")
    await worker.finished()

asyncio.run(main(*sys.argv[1:]))
"""


class Machines:
    """A scheduler and members that a shell's jobs are sent by."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.shell = shell
        made = shell.run("cluster", "keys", str(folder), "head")
        assert made.returncode == 0, made.stderr
        self.port = free_ports(1)[0]
        self.address = f"tls://127.0.0.1:{self.port}"
        self.folder = folder
        shell.environment |= {
            "CLUSTER": self.address,
            "CLUSTER_MIN_FILES": "0",
            "CLUSTER_TLS_CA": str(folder / "ca.pem"),
            "CLUSTER_TLS_CERT": str(folder / "head.pem"),
            "CLUSTER_TLS_KEY": str(folder / "head.key"),
        }
        self.scheduler = self.start_scheduler()
        self.members = [self.start_member() for _ in range(2)]
        wait_for(lambda: len(self.status()) == 2, 60, "two members")

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        return self.shell.spawn("cluster", "scheduler", "--bind", "127.0.0.1", "--port", str(self.port))

    def start_member(self) -> subprocess.Popen[bytes]:
        return self.shell.spawn("cluster", "worker", self.address, "--bind", "127.0.0.1")

    def start_stranger(self, folder: Path) -> subprocess.Popen[bytes]:
        files = [self.shell.environment[f"CLUSTER_TLS_{name}"] for name in ("CA", "CERT", "KEY")]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}
        argv = [sys.executable, "-P", "-c", STRANGER, self.address, *files]
        return subprocess.Popen(argv, cwd=folder, env=environment)

    def status(self) -> list[dict[str, object]]:
        run = self.shell.run("cluster", "status", "--json")
        return list(json.loads(run.stdout)["members"]) if run.returncode == 0 else []

    def wait_for_work(self, job: str) -> None:
        def has_begun() -> bool:
            with contextlib.suppress(FileNotFoundError):
                cluster = self.shell.status(job)["cluster"] or {}
                return sum(worker["in_flight"] for worker in cluster.get("workers", [])) > 0
            return False

        wait_for(has_begun, 60, "a member at work")


@pytest.fixture
def machines(make_shell: Callable[..., Shell], juicefs: Store, tmp_path: Path) -> Iterator[Machines]:
    found = Machines(make_shell(juicefs), tmp_path / "keys")
    yield found
    for process in [*found.members, found.scheduler]:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_files_go_by_members_whose_keys_are_their_own_and_strangers_are_refused(
    machines: Machines, juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    shell = machines.shell
    folder = tree(shell.uploads / "photos", {f"f{n}": f"{n}" for n in range(600)})
    shell.environment["CLUSTER_KEYS"] = "own"
    stranger = machines.start_stranger(tmp_path)
    wait_for(lambda: len(machines.status()) == 3, 60, "a stranger")
    run = shell.sync(bucket)
    assert contents(juicefs, bucket) == expected(folder)
    workers = {worker["name"]: worker for worker in run.status["cluster"]["workers"]}
    assert sum(worker["files_done"] for worker in workers.values()) == 600
    why = "it runs another program (ModuleNotFoundError)"
    assert workers["a stranger"]["reason"] == why
    assert {member["name"]: member["refused"] for member in machines.status()}["a stranger"] == why
    stranger.kill()
    wait_for(lambda: [m["refused"] for m in machines.status()] == [None, None], 60, "the end of the stranger")

    for path in (tmp_path / "keys").glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600
    with socket.create_connection(("127.0.0.1", machines.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    context = ssl.create_default_context(cafile=str(tmp_path / "keys" / "ca.pem"))
    context.check_hostname = False
    with (
        pytest.raises((ssl.SSLError, ConnectionResetError)),
        socket.create_connection(("127.0.0.1", machines.port)) as bare,
        context.wrap_socket(bare) as nobody,  # without a certificate
    ):
        nobody.settimeout(10)
        if not nobody.recv(1):
            raise ConnectionResetError
    listening = [
        connection.laddr.port
        for process in (machines.scheduler, *machines.members)
        for connection in psutil.Process(process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 3  # each its own protocol, and no page

    shell.run("cluster", "keys", str(tmp_path / "others"), "head")
    shell.environment |= {
        name: value.replace("/keys/", "/others/")
        for name, value in shell.environment.items()
        if "_TLS_" in name
    }
    assert "cannot be reached" in shell.run("cluster", "status").stderr
    os.chmod(tmp_path / "others" / "head.key", 0o644)
    assert "can be read by other users" in shell.run("cluster", "status").stderr
    os.chmod(tmp_path / "others" / "head.key", 0o600)
    os.chmod(tmp_path / "others" / "ca.pem", 0o666)  # any authority could be written there
    assert "can be written by other users" in shell.run("cluster", "status").stderr


@pytest.mark.long
def test_a_frozen_member_and_a_scheduler_that_comes_back_cost_no_file(
    machines: Machines, juicefs: Store, bucket: str
) -> None:
    shell = machines.shell
    folder = tree(shell.uploads / "photos", FILES)
    process, job = shell.begin(bucket)
    machines.wait_for_work(job)
    psutil.Process(machines.members[0].pid).suspend()
    assert process.wait(100) == 0, shell.log(job)
    assert contents(juicefs, bucket) == expected(folder)
    assert shell.status(job)["progress"]["files_uploaded"] == len(FILES)
    psutil.Process(machines.members[0].pid).resume()

    folder = tree(shell.uploads / "photos", {f"m/{n}": 20_000 for n in range(1500)})
    process, job = shell.begin(bucket)
    machines.wait_for_work(job)
    machines.scheduler.kill()
    machines.scheduler.wait()
    machines.scheduler = machines.start_scheduler()
    assert [member.wait(10) for member in machines.members] == [1, 1]  # by themselves, and restarted
    machines.members = [machines.start_member() for _ in range(2)]
    assert process.wait(150) == 0, shell.log(job)
    status = shell.status(job)
    assert status["attempt"] == 1
    assert status["progress"]["files_uploaded"] == 1500
    assert contents(juicefs, bucket) == expected(folder)
    uploads = [line["key"] for line in shell.report(job) if line["op"] == "upload"]
    assert len(uploads) == len(set(uploads)) == 1500


def test_a_member_that_sees_other_files_than_the_job_costs_none_of_them(
    machines: Machines, juicefs: Store, bucket: str, tmp_path: Path
) -> None:
    """A disk that is not mounted there, a name that its NFS still takes for missing, an old copy."""
    shell = machines.shell
    folder = tree(shell.uploads / "photos", {f"f{n:03}": f"{n}" for n in range(300)})
    there = tmp_path / "there"
    shutil.copytree(folder, there / "photos", copy_function=os.link)
    (there / "photos" / "f000").unlink()
    (there / "photos" / "f001").unlink()
    (there / "photos" / "f001").write_text("an old copy")
    (there / "photos" / "f002").unlink()
    (there / "photos" / "f002").mkdir()
    for member in machines.members:
        member.kill()
        member.wait()
    own, shell.environment["UPLOADS_DIR"] = shell.environment["UPLOADS_DIR"], str(there)
    machines.members = [machines.start_member()]
    shell.environment["UPLOADS_DIR"] = own
    wait_for(lambda: len(machines.status()) == 1, 60, "the other member")
    run = shell.sync(bucket)
    assert sum(worker["files_done"] for worker in run.status["cluster"]["workers"]) > 0
    assert contents(juicefs, bucket) == expected(folder)
    progress = run.progress
    assert (progress["files_uploaded"], progress["files_done"], progress["files_skipped"]) == (300, 300, 0)
    assert (progress["bytes_total"], progress["bytes_done"]) == (790, 790)
    run = shell.sync(bucket)
    assert run.progress["files_unchanged"] == 300


@pytest.mark.long
def test_a_job_that_is_paused_keeps_no_other_job_waiting(
    machines: Machines, juicefs: Store, bucket: str
) -> None:
    shell = machines.shell
    paused = tree(shell.uploads / "photos", FILES)
    other = tree(shell.uploads / "other", {f"n/{n}": f"{n}" for n in range(300)})
    process, job = shell.begin(bucket)
    machines.wait_for_work(job)
    shell.file(job, "pause").touch()
    wait_for(lambda: shell.status(job)["phase"] == "paused", 30, "the pause")
    run = shell.sync(f"{bucket}-2", "other", timeout=60)
    assert sum(worker["files_done"] for worker in run.status["cluster"]["workers"]) == 300
    assert contents(juicefs, f"{bucket}-2") == expected(other)
    assert shell.status(job)["phase"] == "paused"
    shell.file(job, "pause").unlink()
    assert process.wait(60) == 0, shell.log(job)
    assert contents(juicefs, bucket) == expected(paused)
