"""`make demo`: one sync of real files through HTTP, watched to its end, then checked by another program.

It does what a user would: starts the server (or uses the one that runs), copies the standard library of the
running Python into the uploads folder, asks for `/sync`, prints the status until the job has ended, and has
`rclone check` compare folder and bucket. Exit status 0 only when the job is `done` and rclone finds no
difference. What it started, it ends; the copied files and the bucket stay to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, PROJECT)

from syncworker import settings  # noqa: E402 - the project's folder is not a package that is installed
from syncworker.service import api_token  # noqa: E402
from syncworker.settings import Settings  # noqa: E402

SOURCE, BUCKET = "demo", "demo"
START_SECONDS = 30.0
NAME = "s3-sync-api"
# No proxy of the environment stands between two programs of one machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def call(base: str, path: str, token: str | None, **form: str) -> dict[str, Any]:
    """One request: a POST with a form when there are parameters, else a GET."""
    data = "&".join(f"{name}={value}" for name, value in form.items()).encode() if form else None
    request = urllib.request.Request(base + path, data=data)  # noqa: S310 - our own http:// address
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with _OPENER.open(request, timeout=10) as answer:
            value = json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            detail = json.load(error).get("detail", "")
        except ValueError:
            detail = "not an answer of this project's server"
        raise DemoError(f"{path} was answered with {error.code}: {detail}") from error
    if not isinstance(value, dict):
        raise DemoError(f"{path} was not answered by this project's server")
    return value


def is_served(base: str) -> bool:
    try:
        return call(base, "/healthz", None).get("service") == NAME
    except (OSError, ValueError, DemoError):
        return False


def is_ready(base: str) -> bool:
    return is_served(base) and call(base, "/healthz", None)["storage"] in ("up", "external")


def start_server(base: str) -> subprocess.Popen[bytes] | None:
    """The server, started and ready; None when one runs already."""
    if is_served(base):
        print(f"using the server that runs on {base}")
        return None
    log = tempfile.TemporaryFile()  # noqa: SIM115 - the access log, which would drown the status lines
    program = os.path.join(PROJECT, "server.py")
    server = subprocess.Popen([sys.executable, program], stdin=subprocess.DEVNULL, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    while not is_ready(base):
        if server.poll() is not None:
            log.seek(0)
            raise DemoError(f"the server has not started:\n{log.read().decode(errors='replace')}")
        if time.monotonic() > deadline:
            stop_server(server)
            raise DemoError(f"the server has not answered on {base} after {START_SECONDS:.0f} s")
        time.sleep(0.1)
    return server


def stop_server(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    server.wait(timeout=30)


def copy_sample(folder: str) -> None:
    """The standard library of this Python: thousands of small files."""
    library = os.path.dirname(os.__file__)
    leave_out = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "config-*")
    shutil.copytree(library, folder, ignore=leave_out, dirs_exist_ok=True)
    count = sum(len(names) for _, _, names in os.walk(folder))
    print(f"sample:  {count} files in {folder}")


def line_of(status: dict[str, Any]) -> str:
    progress = status["progress"]
    done, seconds = progress["bytes_done"] / 1e6, progress["elapsed_seconds"]
    files = f"{progress['files_done']:6}/{progress['files_total']} files"
    what = f"{status['state']:9} {status['phase'] or '':12}"
    return f"{what} {files} {done:8.1f} MB {seconds:5.1f} s  {status['message']}"


def watch(base: str, token: str | None, job_id: str) -> dict[str, Any]:
    """Prints the status whenever it changes; returns the last."""
    shown = ""
    while True:
        status = call(base, f"/get?id={job_id}", token)
        line = line_of(status)
        if line != shown:
            print(line, flush=True)
            shown = line
        if status["state"] in ("done", "failed", "cancelled", "interrupted"):
            return status
        time.sleep(0.25)


def check(config: Settings, folder: str) -> bool:
    """Whether `rclone check` finds folder and bucket equal. The keys go by the environment: command lines can
    be read by everybody on the machine."""
    program = os.path.join(os.path.dirname(sys.executable), "rclone")
    environment = {
        **os.environ,
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "Other",
        "RCLONE_CONFIG_STORE_ENDPOINT": config.default_storage_url,
        "RCLONE_CONFIG_STORE_REGION": config.aws_region,
    }
    if config.minio_access_key and config.minio_secret_key:
        environment["RCLONE_CONFIG_STORE_ACCESS_KEY_ID"] = config.minio_access_key
        environment["RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY"] = config.minio_secret_key
    else:
        environment["RCLONE_CONFIG_STORE_ENV_AUTH"] = "true"
    print(f"rclone check {folder} store:{BUCKET}", flush=True)
    done = subprocess.run([program, "check", folder, f"store:{BUCKET}"], env=environment, check=False)
    return done.returncode == 0


def main() -> int:
    config = settings.load()
    token = api_token.load(config, PROJECT)
    base = f"http://localhost:{config.api_port}"
    folder = os.path.join(config.uploads_dir, SOURCE)
    server = start_server(base)
    try:
        copy_sample(folder)
        job_id = call(base, "/sync", token, source=SOURCE, dest=BUCKET)["id"]
        status = watch(base, token, job_id)
        equal = status["state"] == "done" and check(settings.load(), folder)
    finally:
        if server is not None:
            stop_server(server)
    print("demo: done, and rclone finds no difference" if equal else "demo: FAILED")
    return 0 if equal else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        sys.exit(f"demo: {error}")
