"""The deployment, for real: a Docker daemon, the playbook, a sync, deaths and rebirths of the container.

Run as root by `make test-deploy`, from the project's folder, on Debian. Each step prints what it shows; the
first fault ends it with status 1. Everything it starts or makes is in one temporary folder and is gone at the
end, Debian packages and their configuration excepted; what a killed one has left, the next one removes.
It needs Debian's packages and PyPI, no registry of images: the images that the project names are made here,
under those names.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from tests_deploy import machine
from tests_deploy.machine import DeployError, run
from tests_deploy.stack import PROJECT, Stack
from tests_deploy.steps import IMAGES, show, steps
from tests_deploy.workspace import workspace


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def copy_project(target: str) -> None:
    """What a fresh clone would hold, with what is not committed yet."""
    names = run(["git", "-C", PROJECT, "ls-files", "-z", "-co", "--exclude-standard"]).split("\0")
    for name in filter(None, names):
        source = os.path.join(PROJECT, name)
        if os.path.isfile(source):  # one that is deleted and not committed is listed too
            os.makedirs(os.path.dirname(os.path.join(target, name)), exist_ok=True)
            shutil.copy2(source, os.path.join(target, name))


def stop(number: int, _frame: object) -> None:
    """A signal ends the test like a fault does, so that nothing is left behind."""
    raise DeployError(f"ended by {signal.Signals(number).name}")


def main() -> int:
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    started = time.monotonic()
    tools = os.path.dirname(os.path.abspath(sys.executable))
    try:
        machine.check_rights()
        print("== Debian's packages and a Docker daemon", flush=True)
        machine.install_packages()
        with workspace() as folder:
            in_a_daemon(folder, tools, started)
    except (DeployError, OSError) as error:
        print(f"test-deploy: FAILED: {error}", file=sys.stderr)
        return 1
    print(f"test-deploy: all is well, after {time.monotonic() - started:.0f} s")
    return 0


def in_a_daemon(folder: str, tools: str, started: float) -> None:
    docker_folder = os.path.join(folder, "docker")
    with machine.containers_may_talk(), machine.docker_daemon(docker_folder) as host:
        show(True, "the daemon answers")
        api_port, minio_port, console_port = free_ports(3)
        stack = Stack(os.path.join(folder, "project"), host, tools, api_port, minio_port)
        copy_project(stack.folder)
        with open(os.path.join(stack.folder, ".env"), "w", encoding="utf-8") as file:
            file.write(
                f"API_PORT={api_port}\nMINIO_PORT={minio_port}\nMINIO_CONSOLE_PORT={console_port}\n"
                f"BUILD_NETWORK=host\nCOMPOSE_PROJECT_NAME=testdeploy\n"
            )
        for name, step in steps(stack, folder):
            print(f"== {name} ({time.monotonic() - started:.0f} s)", flush=True)
            try:
                step()
            except BaseException:
                if name != IMAGES:  # before it there are no containers
                    print(logs_of(stack), flush=True)
                raise


def logs_of(stack: Stack) -> str:
    """What the containers said, for whoever looks for the fault."""
    try:
        return stack.compose("logs", "--no-color", "--tail", "40")
    except (DeployError, subprocess.SubprocessError) as error:
        return f"(no logs: {error})"


if __name__ == "__main__":
    sys.exit(main())
