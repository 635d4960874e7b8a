"""`make check-deploy`: the deployment's files, read by the tools made for them. Nothing is started.

Tools of PyPI come with requirements-deploy.txt; those of Debian are installed when they are missing and this
is root. A tool that is not there is a failure, never a check left out.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jinja2
import yaml

from tests_deploy.machine import DeployError, run

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOLS = os.path.dirname(os.path.abspath(sys.executable))
DEBIAN_TOOLS = {"docker-compose": "/usr/bin/docker-compose", "vagrant": "/usr/bin/vagrant"} | {
    "systemd": "/usr/bin/systemd-analyze"
}
EXPOSURE_MAX = 20  # tenths: systemd calls up to 2.0 "OK"; what is left is the network, which is its work


def tool(name: str) -> str:
    return os.path.join(TOOLS, name)


def debian_tools() -> None:
    missing = [package for package, path in DEBIAN_TOOLS.items() if not os.path.exists(path)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise DeployError(f"missing: {', '.join(missing)}: apt-get install them")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-q"], env=quiet)
    run(["apt-get", "install", "-qy", "--no-install-recommends", *missing], env=quiet)


def dockerfiles(_folder: str) -> None:
    run([tool("hadolint"), "Dockerfile", "tests_deploy/minio/Dockerfile"], cwd=PROJECT)


def scripts(_folder: str) -> None:
    run(
        [
            tool("shellcheck"),
            "docker/entrypoint.sh",
            "deploy/cluster.slurm.sh",
            "tests_deploy/minio/server.sh",
        ],
        cwd=PROJECT,
    )


def compose_file(folder: str) -> None:
    """Both generations take it; and neither does without the keys."""
    for program in (DEBIAN_TOOLS["docker-compose"], tool("docker-compose")):
        env_file = os.path.join(folder, "env")
        for text, good in (("MINIO_ACCESS_KEY=a\nMINIO_SECRET_KEY=b\n", True), ("", False)):
            with open(env_file, "w", encoding="utf-8") as file:
                file.write(text)
            command = [
                program,
                "-f",
                "docker-compose.yml",
                "--profile",
                "cluster",
                "--env-file",
                env_file,
                "config",
            ]
            said = run(command, cwd=PROJECT, check=good)
            if not good and "set it in .env" not in said:
                raise DeployError(f"{program} does not ask for the keys:\n{said}")


def playbooks(folder: str) -> None:
    """In a copy: ansible-lint leaves a cache where it works."""
    shutil.copytree(os.path.join(PROJECT, "ansible"), os.path.join(folder, "ansible"))
    shutil.copy(os.path.join(PROJECT, ".ansible-lint"), folder)
    env = {"PATH": TOOLS + ":" + os.environ["PATH"], "NO_COLOR": "1"}
    run([tool("ansible-lint"), "--strict", "ansible"], cwd=folder, env=env)


def vagrantfile(folder: str) -> None:
    """Without its provider, which needs a kernel module."""
    shutil.copy(os.path.join(PROJECT, "Vagrantfile"), folder)
    env = {"VAGRANT_HOME": os.path.join(folder, "vagrant.d"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    run([DEBIAN_TOOLS["vagrant"], "validate", "--ignore-provider"], cwd=folder, env=env)


def manifest(_folder: str) -> None:
    """By the schemas of Kubernetes; a field that they do not know is an error."""
    run([tool("kubernetes-validate"), "--strict", "deploy/cluster.kubernetes.yaml"], cwd=PROJECT)


def units(folder: str) -> None:
    """The systemd units, rendered with their roles' own defaults, for a user and a program that exist."""
    python = os.path.join(folder, ".venv", "bin", "python")
    os.makedirs(os.path.dirname(python))
    os.symlink(sys.executable, python)
    unit(folder, "service", "s3-sync-api", {})
    machine = {"cluster_scheduler": "head", "cluster_bind": "10.0.0.1"}
    for kind in ("scheduler", "worker"):
        unit(folder, "cluster", "s3-sync-cluster", machine | {"item": kind})


def unit(folder: str, name: str, unit_name: str, more: dict[str, str]) -> None:
    role = os.path.join(PROJECT, "ansible", "roles", name)
    with open(os.path.join(role, "defaults", "main.yml"), encoding="utf-8") as file:
        values = yaml.safe_load(file) | {f"{name}_user": "daemon", f"{name}_code_dir": folder} | more
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - no HTML
    with open(os.path.join(role, "templates", f"{unit_name}.service.j2"), encoding="utf-8") as file:
        text = environment.from_string(file.read()).render(values)
    text = environment.from_string(text).render(values)  # a default names another default
    path = os.path.join(folder, f"{unit_name}.service")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    said = run([DEBIAN_TOOLS["systemd"], "verify", path])
    if unit_name in said:
        raise DeployError(f"systemd-analyze verify: {said}")
    run([DEBIAN_TOOLS["systemd"], "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", path])


CHECKS = (playbooks, vagrantfile, compose_file, dockerfiles, scripts, manifest, units)  # the long ones first


def passed(check: Callable[[str], None]) -> str:
    with tempfile.TemporaryDirectory(prefix="check-deploy-") as folder:
        check(folder)
    return check.__name__


def main() -> int:
    try:
        debian_tools()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name in pool.map(passed, CHECKS):
                print(f"check-deploy: {name}: ok", flush=True)
    except (DeployError, OSError) as error:
        print(f"check-deploy: FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
