"""The stack as its users see it: Compose in the project's folder, HTTP on the published port, the playbook.

Everything is asked from outside, through the published ports and the docker command; nothing is imported from
the project.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from tests_deploy.machine import DOCKER, DeployError, run

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback: past any proxy
Status = dict[str, Any]


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition`. Connections that fail meanwhile are part of waiting."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            value = condition()
        except OSError as error:
            last = error
        else:
            if value:
                return value
        time.sleep(0.1)
    raise DeployError(f"waited {seconds:.0f} s in vain for {what} ({last})")


class Stack:
    """One copy of the project in a folder of its own, on the daemon of `host`. `tools`: the folder of the
    programs of requirements-deploy.txt."""

    def __init__(self, folder: str, host: str, tools: str, api_port: int, minio_port: int) -> None:
        self.folder = folder
        self.uploads = os.path.join(folder, "app", "uploads")
        self.tools = tools
        self.api_port, self.minio_port = api_port, minio_port
        # Debian's docker and docker-compose come first in PATH, then the tools.
        self.env = {"DOCKER_HOST": host, "PATH": f"/usr/bin:/usr/sbin:/bin:/sbin:{tools}"}

    # -- commands -----------------------------------------------------------------------------------------

    def docker(self, *words: str, check: bool = True) -> str:
        return run([DOCKER, *words], env=self.env, cwd=self.folder, check=check)

    def compose(self, *words: str) -> str:
        return run(["/usr/bin/docker-compose", *words], env=self.env, cwd=self.folder)

    def compose_of_today(self, *words: str) -> str:
        return run([os.path.join(self.tools, "docker-compose"), *words], env=self.env, cwd=self.folder)

    def playbook(self, name: str, *words: str) -> tuple[str, int]:
        """(what it printed, how many tasks changed something)."""
        inventory = os.path.join(self.folder, "ansible", "inventory.ini")
        program = os.path.join(self.tools, "ansible-playbook")
        # Root already, and sudo would lose DOCKER_HOST.
        command = [program, "-i", inventory, os.path.join(self.folder, "ansible", name)]
        command += ["-e", "ansible_become=false", *words]
        text = run(
            command, env={**self.env, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_PIPELINING": "1"}, cwd=self.folder
        )
        changed = re.search(r"changed=(\d+)\s+unreachable=0\s+failed=0", text)
        if not changed:
            raise DeployError(f"the playbook's last line is not as expected:\n{text[-2000:]}")
        return text, int(changed[1])

    def api_container(self) -> str:
        return self.compose("ps", "-q", "api").strip()

    def settings(self) -> dict[str, str]:
        with open(os.path.join(self.folder, ".env"), encoding="utf-8") as file:
            lines = [line.strip().split("=", 1) for line in file if re.match("[A-Z]", line)]
        return dict(lines)

    def job_file(self, job_id: str) -> Status:
        """The status as it lies in the volume, whether the container runs or not; nobody looks at it on the
        way, which would have it put right."""
        archive = "/srv/jobs/" + job_id + ".json"
        target = os.path.join(self.folder, "status.json")
        self.docker("cp", f"{self.api_container()}:{archive}", target)
        with open(target, encoding="utf-8") as file:
            value: Status = json.load(file)
        os.unlink(target)
        return value

    # -- HTTP ---------------------------------------------------------------------------------------------

    def get(self, path: str, **parameters: object) -> Status:
        url = f"http://127.0.0.1:{self.api_port}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with _OPENER.open(url, timeout=10) as answer:
                value: Status = json.load(answer)
        except urllib.error.HTTPError as error:
            raise DeployError(f"{url}: {error.code} {error.read().decode(errors='replace')}") from error
        return value

    def wait_healthy(self) -> None:
        wait_for("the API to answer", lambda: self.get("/healthz")["status"] == "ok")

    def job(self, job_id: str) -> Status:
        return self.get("/get", id=job_id)

    def wait_done(self, job_id: str) -> Status:
        final = ("done", "failed", "cancelled", "interrupted")

        def ended() -> Status | None:
            status = self.job(job_id)
            return status if status["state"] in final else None

        status: Status = wait_for(f"job {job_id} to end", ended, 120)
        if status["state"] != "done":
            raise DeployError(f"job {job_id} should be done, and is {status['state']}: {status['error']}")
        return status

    def sync(self, source: str, bucket: str, **parameters: object) -> Status:
        return self.wait_done(self.get("/sync", source=source, dest=bucket, **parameters)["id"])

    def check_equal(self, source: str, bucket: str) -> None:
        """rclone, through the store's published port, finds no difference between folder and bucket."""
        keys = self.settings()
        env = {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "Other",
            "RCLONE_CONFIG_S_ENDPOINT": f"http://127.0.0.1:{self.minio_port}",
            "RCLONE_CONFIG_S_ACCESS_KEY_ID": keys["MINIO_ACCESS_KEY"],
            "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": keys["MINIO_SECRET_KEY"],
        }
        program = os.path.join(self.tools, "rclone")
        run([program, "check", os.path.join(self.uploads, source), f"s:{bucket}"], env=env)
