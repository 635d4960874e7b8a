"""The embedded store: its keys, its life beside the server's, and ports that are taken."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import psutil
import pytest
from bench import PROJECT, Service, tree, wait_for
from serving import KEYS, load
from stores import free_ports

from syncworker import settings
from syncworker.errors import UsageError
from syncworker.service import embedded_store
from syncworker.service.embedded_store import Embedded


class Home:
    """A storage folder, and the servers' ends of it that follow one another."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.environ = {"MINIO_PORT": str(free_ports(1)[0])}
        self.ends: list[Embedded] = []
        self.pids: set[int] = set()

    def open(self, **environ: str) -> Embedded:
        config = load(self.base, **{**self.environ, **environ})
        self.ends.append(Embedded(config, str(self.base / "no.env")))
        return self.ends[-1]

    def start(self, **environ: str) -> Embedded:
        end = self.open(**environ)
        end.start()
        wait_for(end.is_up, 20, "the embedded store to answer")
        self.pids.add(end.pid)
        return end

    def abandon(self, end: Embedded) -> None:
        """As a server that is killed: nothing is stopped, the lock is free."""
        self.pids.add(end.pid)
        end.close(stop=False)

    def close(self) -> None:
        for end in self.ends:
            self.pids.add(end.pid)
            with contextlib.suppress(RuntimeError):  # one that was never started
                end.close(stop=True)
        for pid in self.pids - {0}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.cwd().startswith(str(self.base)):
                    process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def client(port: int | str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEYS["MINIO_ACCESS_KEY"],
        aws_secret_access_key=KEYS["MINIO_SECRET_KEY"],
        region_name="us-east-1",
        config=botocore.config.Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


# -- keys -------------------------------------------------------------------------------------------------


def made_keys(env_file: Path, **environ: str) -> list[str]:
    """What a new server has for keys, with this `.env` and these variables."""
    script = (
        "import sys; from syncworker import settings\n"
        "from syncworker.service import embedded_store as embedded\n"
        "print(*embedded.ensure_keys(settings.load(env_file=sys.argv[1]), sys.argv[1]))"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MINIO_")}
    return subprocess.run(
        [sys.executable, "-c", script, str(env_file)],
        env=bare | environ,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


@pytest.mark.parametrize("before", [None, "", "A=1\n", "# MINIO_ACCESS_KEY=x\n", "MINIO_ACCESS_KEY=\n"])
def test_keys_are_made_once_and_kept_beside_the_data_not_in_env(tmp_path: Path, before: str | None) -> None:
    env_file, storage = tmp_path / "the.env", tmp_path / "storage"
    storage.mkdir()
    if before is not None:
        env_file.write_text(before)
    asked = [made_keys(env_file, STORAGE_DIR=str(storage)) for _ in range(2)]
    assert asked[0] == asked[1]
    assert len(asked[0][0]) == 20 and len(asked[0][1]) == 40
    assert (env_file.read_text() if before is not None else None) == before
    kept = storage / "keys.env"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text().splitlines()[1:] == [
        f"MINIO_ACCESS_KEY={asked[0][0]}",
        f"MINIO_SECRET_KEY={asked[0][1]}",
    ]


def test_keys_of_an_earlier_version_in_env_are_still_used(tmp_path: Path) -> None:
    env_file, storage = tmp_path / "the.env", tmp_path / "storage"
    storage.mkdir()
    env_file.write_text("MINIO_ACCESS_KEY=EARLIER\nMINIO_SECRET_KEY=made-by-an-earlier\n")
    (storage / "keys.env").write_text("MINIO_ACCESS_KEY=LATER\nMINIO_SECRET_KEY=not-to-be-used\n")
    assert made_keys(env_file, STORAGE_DIR=str(storage)) == ["EARLIER", "made-by-an-earlier"]


def test_the_embedded_stores_keys_do_not_go_to_another_storage(tmp_path: Path) -> None:
    """STORAGE_URL is set later, and its keys in AWS_*: those that were made must not win."""
    (tmp_path / "storage").mkdir()
    made = made_keys(tmp_path / "no.env", STORAGE_DIR=str(tmp_path / "storage"))
    bare = {"MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": ""}
    environ = {"UPLOADS_DIR": str(tmp_path / "u"), "STORAGE_DIR": str(tmp_path / "storage")}
    embedded_one = settings.load(environ, str(tmp_path / "no.env"))
    assert (embedded_one.minio_access_key, embedded_one.minio_secret_key) == tuple(made)
    for other in ({"STORAGE_URL": "https://s3.example.com"}, bare):
        found = settings.load(environ | other, str(tmp_path / "no.env"))
        assert found.minio_access_key is None and found.minio_secret_key is None


def test_keys_that_are_set_are_used_and_nothing_is_written(tmp_path: Path) -> None:
    env_file = tmp_path / "the.env"
    assert embedded_store.ensure_keys(load(tmp_path), str(env_file)) == tuple(KEYS.values())
    assert not env_file.exists()


def test_keys_that_the_store_would_refuse_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8 or"):
        embedded_store.ensure_keys(load(tmp_path, MINIO_SECRET_KEY="short"), str(tmp_path / "the.env"))


# -- life -------------------------------------------------------------------------------------------------


def test_it_is_up_within_a_second_keeps_objects_and_is_restarted_when_it_dies(home: Home) -> None:
    end = home.start()
    s3 = client(home.environ["MINIO_PORT"])
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="a/b", Body=b"content")
    first = end.pid
    psutil.Process(first).kill()
    wait_for(lambda: end.pid not in (0, first) and end.is_up(), 20, "a second gateway")
    home.pids.add(end.pid)
    assert s3.get_object(Bucket="bucket", Key="a/b")["Body"].read() == b"content"


def test_a_later_server_adopts_it(home: Home) -> None:
    first = home.start()
    home.abandon(first)
    assert psutil.pid_exists(first.pid)
    second = home.start()
    assert second.pid == first.pid
    psutil.Process(second.pid).kill()
    wait_for(lambda: second.pid not in (0, first.pid) and second.is_up(), 20, "an adopted one to be replaced")


def test_it_is_adopted_even_when_its_server_died_before_it_wrote_who_it_is(home: Home) -> None:
    first = home.start()
    home.abandon(first)
    path = home.base / "storage" / "gateway.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": 0, "started_at": 0.0}))
    assert home.start().pid == first.pid


@pytest.mark.parametrize("other", [{"MINIO_SECRET_KEY": "another-secret-key"}, {"MINIO_PORT": "0"}])
def test_with_other_settings_it_is_replaced_unless_a_worker_uses_it(
    home: Home, other: dict[str, str]
) -> None:
    if "MINIO_PORT" in other:
        other = {"MINIO_PORT": str(free_ports(1)[0])}
    first = home.start()
    home.abandon(first)
    with pytest.raises(UsageError, match="jobs use it"):
        home.open(**other).start(has_workers=lambda: True)
    home.ends.pop().close(stop=False)
    assert psutil.pid_exists(first.pid)
    assert home.start(**other).pid != first.pid
    wait_for(lambda: not psutil.pid_exists(first.pid) or psutil.Process(first.pid).status() == "zombie")


def test_a_clean_stop_ends_it(home: Home) -> None:
    end = home.start()
    pid = end.pid
    end.close(stop=True)
    assert not psutil.pid_exists(pid)
    assert not end.is_up()


def test_two_servers_do_not_share_a_storage_folder(home: Home) -> None:
    home.start()
    with pytest.raises(UsageError, match="another server"):
        home.open().start()
    home.ends.pop()


def test_a_taken_port_says_by_whom_and_what_to_set(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(home.environ["MINIO_PORT"])))
        taken.listen()
        with pytest.raises(UsageError) as caught:
            home.open().start()
    assert f"pid {os.getpid()}" in str(caught.value) and "MINIO_PORT" in str(caught.value)


def test_nothing_of_the_servers_environment_reaches_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "T0KEN")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    process = psutil.Process(home.start().pid)
    assert not {"API_TOKEN", "HTTP_PROXY"} & set(process.environ())
    assert KEYS["MINIO_SECRET_KEY"] not in " ".join(process.cmdline())
    listening = {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


# -- with the server --------------------------------------------------------------------------------------


@pytest.fixture
def whole(make_service: Callable[..., Service], tmp_path: Path) -> Iterator[Service]:
    """`server.py` with an embedded store in a folder of its own, not started."""
    storage = tmp_path / "store with a space"
    service = make_service(
        None, start=False, STORAGE_DIR=str(storage), MINIO_PORT=str(free_ports(1)[0]), **KEYS
    )
    yield service
    if service.process and service.process.poll() is None:
        service.kill()
    with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(gateway(service)["pid"])
        if process.cwd() == str(storage):
            process.kill()


def gateway(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(service.environment["STORAGE_DIR"], "gateway.json").read_text())
    return found


def test_a_killed_server_leaves_worker_and_store_and_the_next_has_both(whole: Service) -> None:
    (whole.uploads / "photos").mkdir()
    for number in range(5):
        (whole.uploads / "photos" / str(number)).write_text(str(number))
    whole.start()
    job = whole.sync("bucket", wait=4)
    whole.wait_state(job, "running")
    pid = gateway(whole)["pid"]
    whole.kill()
    whole.start()
    assert gateway(whole)["pid"] == pid
    assert whole.show(job)["state"] == "running"
    assert whole.terminate() == 0  # in order, with a worker: the store must stay
    assert psutil.Process(pid).is_running()
    whole.wait_file(job, lambda status: status["state"] == "done", 60)
    whole.start()
    assert whole.show(job)["attempt"] == 1
    assert whole.terminate() == 0  # no worker: the store ends too
    wait_for(lambda: not psutil.pid_exists(pid))


def test_the_server_says_what_to_change_and_ends_with_2(whole: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(whole.environment["MINIO_PORT"])))
        taken.listen()
        assert whole.spawn().wait(20) == 2
    assert "MINIO_PORT" in whole.output() and f"pid {os.getpid()}" in whole.output()
    assert "Traceback" not in whole.output()


def test_a_taken_api_port_is_said_before_anything_is_started(whole: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", whole.port))
        taken.listen()
        assert whole.spawn().wait(20) == 2
    assert "API_PORT" in whole.output() and f"pid {os.getpid()}" in whole.output()
    assert not Path(whole.environment["STORAGE_DIR"]).exists()


@pytest.mark.parametrize(
    "environ, words",
    [
        ({"API_PORT": "x", "MINIO_PORT": "0"}, ["API_PORT", "MINIO_PORT"]),
        ({"API_HOST": "0.0.0.0"}, ["API_TOKEN"]),
        ({"API_HOST": "256.1.1.1"}, ["API_HOST"]),
        ({"API_TOKEN": "two words"}, ["API_TOKEN"]),
        ({"JOBS_DIR": "/proc/none"}, ["/proc/none"]),
    ],
)
def test_wrong_settings_end_the_server_with_2_and_a_sentence(
    whole: Service, environ: dict[str, str], words: list[str]
) -> None:
    whole.environment |= environ
    assert whole.spawn().wait(20) == 2
    assert all(word in whole.output() for word in words), whole.output()
    assert "Traceback" not in whole.output() and "two words" not in whole.output()


def test_the_server_prints_where_things_are_and_answers_with_a_token(whole: Service) -> None:
    whole.environment["API_TOKEN"] = "T0KEN-of-the-test"
    whole.start()
    printed = (whole.base / "server.out").read_text()
    assert len(printed.splitlines()) in (3, 4)
    assert f"http://localhost:{whole.port}" in printed and "T0KEN-of-the-test" not in printed
    assert whole.get("/jobs").status == 401
    connection = http.client.HTTPConnection("127.0.0.1", whole.port, timeout=10)
    connection.request("GET", "/jobs", headers={"Authorization": "Bearer T0KEN-of-the-test"})
    assert connection.getresponse().status == 200
    connection.close()
    assert whole.terminate() == 0


def test_the_store_that_nobody_needs_any_more_ends_when_its_last_job_has(
    whole: Service, tmp_path: Path
) -> None:
    """The server is started again, with STORAGE_URL, while a job still runs on the embedded storage."""
    tree(whole.uploads, {"photos": dict.fromkeys("abcdefgh", "x")})
    whole.start()
    job = whole.sync("bucket-1", wait="600")
    wait_for(lambda: whole.status(job)["progress"]["files_uploaded"] >= 1, 20, "the first file")
    pid = gateway(whole)["pid"]
    whole.terminate()
    assert psutil.pid_exists(pid), "a job uses it"
    whole.environment |= {"STORAGE_URL": "http://127.0.0.1:9", "MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": ""}
    whole.start()
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(pid).wait(3)  # a job uses it still
    whole.get("/cancel", id=job)
    assert whole.wait_state(job, timeout=20)["state"] == "cancelled"
    wait_for(lambda: not psutil.pid_exists(pid), 20, "the storage to end")
    assert whole.get("/healthz").status == 200


def test_without_a_server_the_shell_says_how_to_start_the_embedded_store(whole: Service) -> None:
    tree(whole.uploads, {"photos": {"a": "1"}})
    command = ("-m", "syncworker", "start", "--source", "photos", "--dest", "bucket-1")
    bare = {"MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": ""}
    for environment in (whole.environment, whole.environment | bare):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "the embedded storage runs only with the server: `make run`, or set STORAGE_URL" in done.stderr
        assert "storage_url" not in done.stderr
