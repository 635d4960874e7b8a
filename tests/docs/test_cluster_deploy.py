"""What keeps scheduler and members running: each file calls what there is, by names that there are, and
agrees with the others. `make check-deploy` has them read by the tools made for them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from bench import PROJECT, wait_for

from syncworker import settings
from syncworker.cluster.commands import PORT
from syncworker.shell import arguments

KUBERNETES = PROJECT / "deploy" / "cluster.kubernetes.yaml"
SLURM = PROJECT / "deploy" / "cluster.slurm.sh"
COMPOSE = PROJECT / "docker-compose.yml"
ROLE = PROJECT / "ansible" / "roles" / "cluster"
TLS = {"CLUSTER_TLS_CA", "CLUSTER_TLS_CERT", "CLUSTER_TLS_KEY"}


def unit(kind: str) -> str:
    """A systemd unit as the role writes it."""
    values = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    values |= {"item": kind, "cluster_scheduler": "head", "cluster_bind": "10.0.0.2"}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    text = (ROLE / "templates" / "s3-sync-cluster.service.j2").read_text()
    for _ in range(2):  # a default names another default
        text = environment.from_string(text).render(values)
    return text


def resources(kind: str) -> dict[str, Any]:
    found = [each for each in yaml.safe_load_all(KUBERNETES.read_text()) if each["kind"] == kind]
    return {each["metadata"]["name"]: each["spec"] for each in found}


def pods() -> dict[str, Any]:
    return {name: spec["template"]["spec"] for name, spec in resources("Deployment").items()}


def services() -> dict[str, Any]:
    return {
        name: service
        for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items()
        if name.startswith("cluster-")
    }


def commands() -> dict[str, list[str]]:
    """Each command line that starts a scheduler or a member, by where it stands."""
    found = {f"kubernetes {name}": pod["containers"][0]["command"] for name, pod in pods().items()}
    found |= {f"compose {name}": service["command"] for name, service in services().items()}
    for kind in ("scheduler", "worker"):
        [line] = re.findall(r"^ExecStart=(.*)$", unit(kind), re.MULTILINE)
        found[f"systemd {kind}"] = line.split()
    for number, line in enumerate(
        re.findall(
            r"python -m syncworker cluster (?!status).*", (PROJECT / "docs" / "cluster.md").read_text()
        )
    ):
        found[f"docs {number}"] = shlex.split(line)
    return {where: command[command.index("syncworker") + 1 :] for where, command in found.items()}


def test_all_of_them_were_found() -> None:
    assert len(commands()) >= 9


@pytest.mark.parametrize("where", sorted(commands()))
def test_a_command_is_one_that_there_is_and_speaks_tls_to_the_port_of_the_scheduler(where: str) -> None:
    asked = arguments.parser().parse_args(commands()[where])
    assert asked.command == "cluster"
    if asked.verb == "worker":
        [address] = asked.values
        assert re.fullmatch(rf"tls://[^:/]+:{PORT}", address)
    elif asked.verb == "scheduler":
        assert asked.port in (PORT, None)
        assert asked.bind  # else nobody but this machine reaches it


def test_settings_are_those_that_there_are_and_certificates_are_always_named() -> None:
    known = {setting.name for setting in settings.TABLE}
    named = [set(service["environment"]) for service in services().values()]
    named += [{each["name"] for each in pod["containers"][0]["env"]} for pod in pods().values()]
    others = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    named += [
        set(re.findall(r"^Environment=([A-Z_]+)=", unit(kind), re.MULTILINE)) - others
        for kind in ("scheduler", "worker")
    ]
    assert len(named) == 6
    for names in named:
        assert TLS <= names <= known


def test_on_kubernetes_there_is_one_scheduler_one_port_and_a_key_for_its_user_alone() -> None:
    [service] = resources("Service").values()
    [port] = service["ports"]
    deployments = resources("Deployment")
    scheduler = deployments["s3-sync-scheduler"]
    assert port["port"] == port["targetPort"] == PORT
    assert scheduler["replicas"] == 1
    assert service["selector"] == scheduler["template"]["metadata"]["labels"]
    assert "tls://s3-sync-scheduler:8786" in pods()["s3-sync-member"]["containers"][0]["command"]
    for name, pod in pods().items():
        ports = [each["containerPort"] for each in pod["containers"][0].get("ports", [])]
        assert ports == ([PORT] if name == "s3-sync-scheduler" else [])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        [keys] = pod["initContainers"]
        assert keys["command"][:3] == ["install", "-m", "0400"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["keys"]["emptyDir"]["medium"] == "Memory"
        for container in (*pod["containers"], keys):
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_compose_starts_a_cluster_only_by_its_profile_from_an_image_that_has_its_packages() -> None:
    assert len(services()) == 2
    for service in services().values():
        assert service["profiles"] == ["cluster"]
        assert "ports" not in service  # within the network of the project
    assert services()["cluster-scheduler"]["build"]["args"]["CLUSTER"] == 1
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert "ARG CLUSTER=0" in dockerfile
    assert "COPY requirements.txt requirements-cluster.txt" in dockerfile
    assert "!requirements-cluster.txt" in (PROJECT / ".dockerignore").read_text()


def test_on_slurm_a_member_that_has_ended_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "python").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 1\n')
    for name in ("srun", "python"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SYNC_PYTHON": str(tmp_path / "python")}
    calls = tmp_path / "calls"
    process = subprocess.Popen([SLURM, f"tls://10.0.0.1:{PORT}"], env=environment)
    try:
        wait_for(lambda: calls.exists() and len(calls.read_text().splitlines()) >= 2, 30, "a second start")
    finally:
        process.terminate()
    assert process.wait(30) == 0
    called = calls.read_text().splitlines()[0].split()
    assert called[:2] == ["-m", "syncworker"]
    assert arguments.parser().parse_args(called[2:]).verb == "worker"
    done = subprocess.run([SLURM], env=environment, capture_output=True, text=True, check=False)
    assert "the address of the scheduler" in done.stderr
