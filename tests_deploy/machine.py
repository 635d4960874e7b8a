"""What the test needs of the machine: Debian packages, a Docker daemon of its own, images without a registry.

The daemon has its own socket, data and state in a temporary folder, no default bridge and no firewall rules:
beside another daemon it changes nothing, and when it has ended nothing of it is left. Published ports are
served by its userland proxy, on loopback. One firewall rule is put in for the while: another daemon may have
forbidden what its own rules do not allow, and with it what our containers tell each other.

It does not read or change the checkout, and needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PACKAGES = ("docker.io", "docker-compose", "debootstrap", "ca-certificates")
SUITE = "bookworm"  # from the mirror that debootstrap itself knows
# What `python:3.11-slim-bookworm` has and a minimal Debian has not; curl is for the stand-in's health check.
BASE_INCLUDES = "ca-certificates,python3,python3-venv,curl"
POOL = "10.213.0.0/16"  # the addresses of its containers
FORWARD_RULE = ("FORWARD", "-s", POOL, "-d", POOL, "-j", "ACCEPT")
DAEMON_SECONDS = 60.0
PR_SET_PDEATHSIG = 1  # Linux's number
DOCKER = "/usr/bin/docker"  # Debian's: a newer client elsewhere in PATH may not know this daemon


class DeployError(Exception):
    """The test cannot go on, or has found a fault; the message says which."""


def run(
    command: list[str],
    *,
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    check: bool = True,
    timeout: float = 600.0,
) -> str:
    """Standard output and error of a command, together. DeployError with both when it fails."""
    environ = None if env is None else {**os.environ, **env}
    try:
        done = subprocess.run(
            command,
            env=environ,
            cwd=cwd,
            timeout=timeout,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"{' '.join(command[:3])}: {error}") from error
    if check and done.returncode != 0:
        raise DeployError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def check_rights() -> None:
    if os.geteuid() != 0:
        raise DeployError("run this as root: it installs packages and starts a Docker daemon")
    if not shutil.which("apt-get"):
        raise DeployError("this needs Debian or Ubuntu: apt-get is missing")


def install_packages() -> None:
    """Debian's packages, where they are missing. No service is started by their installation: on a machine
    with systemd, Debian's own daemon may be, and is left alone."""
    known = run(["dpkg-query", "-W", "-f", "${Package} ${Status}\n", *PACKAGES], check=False)
    missing = [name for name in PACKAGES if f"{name} install ok installed" not in known]
    if missing:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=quiet)
        run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], env=quiet)


@contextlib.contextmanager
def containers_may_talk() -> Iterator[None]:
    """To each other, over their own bridge, whatever the policy for forwarded packets is."""
    if not shutil.which("iptables"):  # then nobody has set a policy with it
        yield
        return
    run(["iptables", "-w", "-I", *FORWARD_RULE], check=False)
    try:
        yield
    finally:
        run(["iptables", "-w", "-D", *FORWARD_RULE], check=False)


@contextlib.contextmanager
def docker_daemon(folder: str) -> Iterator[str]:
    """Runs dockerd with everything of it in `folder`; yields its DOCKER_HOST. DeployError: it cannot run."""
    os.makedirs(folder)
    end_with_us = ctypes.CDLL(None, use_errno=True).prctl  # looked up now: not much is safe in a new process
    socket = os.path.join(folder, "docker.sock")
    log_path = os.path.join(folder, "dockerd.log")
    command = [
        "dockerd",
        f"--host=unix://{socket}",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        "--bridge=none",
        "--iptables=false",
        "--ip-forward=false",
        "--ip-masq=false",
        "--ip6tables=false",
        f"--default-address-pool=base={POOL},size=24",
    ]
    with open(log_path, "wb") as log:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: end_with_us(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - no threads yet
        )
    host = f"unix://{socket}"
    try:
        deadline = time.monotonic() + DAEMON_SECONDS
        while "Server Version" not in run([DOCKER, "info"], env={"DOCKER_HOST": host}, check=False):
            if daemon.poll() is not None or time.monotonic() > deadline:
                with open(log_path, encoding="utf-8", errors="replace") as log_text:
                    raise DeployError(f"Docker cannot run here:\n{log_text.read()[-3000:]}")
            time.sleep(0.2)
        yield host
    finally:
        remove_all(host)
        daemon.terminate()
        try:
            daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        unmount_below(folder)


def remove_all(host: str) -> None:
    """Containers and networks: the daemon would leave their processes, mounts and bridges behind."""
    env = {"DOCKER_HOST": host}
    containers = run([DOCKER, "ps", "-aq"], env=env, check=False).split()
    if containers:
        run([DOCKER, "rm", "-fv", *containers], env=env, check=False)
    run([DOCKER, "network", "prune", "-f"], env=env, check=False)


def unmount_below(folder: str) -> None:
    with open("/proc/mounts", encoding="utf-8") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in sorted((p for p in points if (p + "/").startswith(folder + "/")), reverse=True):
        run(["umount", "-l", point], check=False)


def pip_settings(certificates: str) -> str:
    """A pip.conf by which pip in an image reaches what pip reaches on this machine."""
    lines = ["[global]", f"cert = {certificates}"]
    for line in run([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        match = re.fullmatch(r"(?:global|:env:)\.(index-url|extra-index-url|proxy|trusted-host)='(.*)'", line)
        if match and "file:" not in match[2]:
            lines.append(f"{match[1]} = {match[2]}")
    return "\n".join(lines) + "\n"


def make_base_image(folder: str, host: str, name: str) -> None:
    """A minimal Debian with its own Python, under the name that the Dockerfile takes. It trusts the
    certificates that this machine trusts."""
    root = os.path.join(folder, "base")
    os.makedirs(f"{root}/etc/dpkg/dpkg.cfg.d")
    with open(f"{root}/etc/dpkg/dpkg.cfg.d/quick", "w", encoding="utf-8") as file:
        file.write("force-unsafe-io\n")  # one fsync for each file is half of the time
    run(["debootstrap", "--variant=minbase", f"--include={BASE_INCLUDES}", SUITE, root])
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    shutil.copyfile(certificates, root + certificates)
    with open(f"{root}/etc/pip.conf", "w", encoding="utf-8") as file:
        file.write(pip_settings(certificates))
    for cached in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(os.path.join(root, cached), ignore_errors=True)
    command = 'set -o pipefail; tar -C "$1" -c . | "$2" import - "$3"'
    run(["bash", "-c", command, "import", root, DOCKER, name], env={"DOCKER_HOST": host})
    shutil.rmtree(root)
