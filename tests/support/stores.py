"""Four real S3 servers, started from the packages of the virtual environment, for the tests to write to.

Each server runs in its own process group, on free ports of 127.0.0.1, with its data in a directory of its
own, and dies with the process that started it (PR_SET_PDEATHSIG), however that ends. *Ready* means that a
PUT and a GET have succeeded: SeaweedFS answers on its port long before it can store anything.

What each server can and cannot do is written down as flags, measured against these very versions; a test
asks for a flag and never for a name. The boto3 client here belongs to the tests: nothing of the project is
imported.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ACCESS_KEY = "AKIDTESTBENCH0001"
SECRET_KEY = "secret-of-the-test-bench-0123456789"
READY_SECONDS = 60
_PORTS = range(20_000, 32_000)
_given: set[int] = set()  # ports that this process has asked for
_given_lock = threading.Lock()
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_NOT_XML = re.compile(
    "[\x00-\x08\x0b-\x1f\ufffe\uffff]"
)  # what XML 1.0 cannot carry (and CR, which it rewrites)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when the one that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_with_parent_obeying_permissions() -> None:
    """The same, for a process that must meet the file modes that a user meets: root reads what it may not."""
    die_with_parent()
    if os.geteuid() == 0:
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # what `exec` gives root is cut down to this


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, all different: of those that Linux gives to no connection of its own
    accord (`ip_local_port_range` begins at 32768), so that they stay free until they are used, and while
    their server is started again: none is given twice soon, and processes of tests side by side have each
    their own."""
    mine, of_all = _turn()
    with contextlib.ExitStack() as stack, _given_lock:
        ports: list[int] = []
        if len(_given) > len(_PORTS) // of_all // 2:  # a long run: the first ones are forgotten servers'
            _given.clear()
        own = [port for port in _PORTS if port % of_all == mine and port not in _given]
        for port in random.sample(own, len(own)):
            if len(ports) == count:
                break
            with contextlib.suppress(OSError):  # taken
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
        _given.update(ports)
        return ports


def _turn() -> tuple[int, int]:
    """Which of how many processes of pytest-xdist this is."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(worker.removeprefix("gw")), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def minimal_environment(home: Path, **more: str) -> dict[str, str]:
    """PATH, HOME and what is asked for: no `AWS_*`, proxy or locale of the machine reaches a child."""
    path = os.pathsep.join([str(BIN), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", **more}


def stop_group(process: subprocess.Popen[bytes], sig: int = signal.SIGKILL) -> None:
    """End a process that was started as the leader of its own group, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, sig)
    process.wait(timeout=30)


@dataclass
class Store:
    """One S3 server. `start` is what the class of servers differs in: a function of the store that returns
    the command line, its environment and its working folder, and may prepare the folder first."""

    name: str
    command: Callable[[Store], tuple[list[str], dict[str, str]]]
    ports_needed: int = 1
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY

    versioning: bool = False  # PutBucketVersioning, delete markers, ListObjectVersions
    byte_order: bool = True  # lists keys in the order of their bytes
    nested_keys: bool = True  # holds `x` beside `x/y`
    missing_bucket_is_error: bool = (
        True  # else a PUT makes the bucket, and a listing of a missing one is empty
    )
    checks_content_md5: bool = True  # refuses a body that is not what Content-MD5 says
    checks_signature: bool = True
    multipart_survives_restart: bool = True
    objects_survive_restart: bool = True
    composite_etag: bool = True  # a multipart object's ETag is MD5-of-MD5s with -N
    delete_objects_needs_md5: bool = False
    names_deleted: bool = True  # the answer to DeleteObjects has the keys that were deleted
    cannot_hold: Callable[[str], bool] = lambda _key: False  # keys that it refuses or stores as another

    directory: Path = field(default=Path(), repr=False)
    ports: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _client: Any = field(default=None, repr=False)
    _client_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def pids(self) -> list[int]:
        return [self.process.pid] if self.process else []

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    # -- life -------------------------------------------------------------------------------------------

    def start(self, directory: Path | None = None) -> None:
        """Start it, on the ports and the data it had before, if any, and wait until it is ready."""
        if directory is not None:
            self.directory = directory
        if not self.ports:
            self.ports = free_ports(self.ports_needed)
        command, environment = self.command(self)
        log = self.directory / "server.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=minimal_environment(self.directory, **environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to the server and its children, at once."""
        if self.process is not None:
            stop_group(self.process)

    def restart(self) -> None:
        """SIGKILL, then start it again on its data and its ports."""
        self.kill()
        self.start()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        client = self.new_client(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
        problem: Exception | None = None
        while time.monotonic() < deadline:
            if not self.alive:
                break
            try:
                name = f"ready-{uuid.uuid4().hex[:12]}"
                client.create_bucket(Bucket=name)
                client.put_object(Bucket=name, Key="probe", Body=b"ready")
                if client.get_object(Bucket=name, Key="probe")["Body"].read() == b"ready":
                    empty_bucket(client, name)
                    client.delete_bucket(Bucket=name)
                    return
            except Exception as error:  # whatever a half-started server answers
                problem = error
            threading.Event().wait(0.05)
        tail = (self.directory / "server.log").read_bytes()[-4000:].decode(errors="replace")
        raise RuntimeError(f"{self.name} is not ready: {problem!r}; its log ends:\n{tail}")

    def remove_bucket(self, bucket: str) -> None:
        """Remove a bucket with all that is in it, whatever state a test has left it in."""
        client = self.client()
        if not bucket_exists(client, bucket):
            return
        for left in range(4, -1, -1):  # a job of the test may be ending, and write until then
            try:
                empty_bucket(client, bucket, versioning=self.versioning)
                client.delete_bucket(Bucket=bucket)
                return
            except (RuntimeError, client.exceptions.ClientError):
                folder = self.directory / "data" / bucket
                if self.name == "rclone" and folder.is_dir():  # it lists things that were never stored
                    shutil.rmtree(folder)
                    return
                if not left:
                    raise
                threading.Event().wait(1)

    # -- the tests' own view -------------------------------------------------------------------------------

    def client(self) -> Any:
        """The shared boto3 client (thread-safe)."""
        with self._client_lock:
            if self._client is None:
                self._client = self.new_client()
            return self._client

    def new_client(self, endpoint: str | None = None, **settings: Any) -> Any:
        import boto3
        from botocore.config import Config

        config = {
            "s3": {"addressing_style": "path"},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "connect_timeout": 5,
            "read_timeout": 30,
            "retries": {"total_max_attempts": 5, "mode": "standard"},
            "max_pool_connections": 20,
            **settings,
        }
        client = boto3.session.Session(
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key, region_name="us-east-1"
        ).client("s3", endpoint_url=endpoint or self.url, config=Config(**config))
        client.meta.events.register("before-sign.s3.DeleteObjects", _add_content_md5)
        return client


def _add_content_md5(request: Any, **_kwargs: Any) -> None:
    request.headers["Content-MD5"] = base64.b64encode(hashlib.md5(request.body).digest()).decode()


def bucket_exists(client: Any, bucket: str) -> bool:
    """By the list of buckets: SeaweedFS answers a HEAD of a bucket from a cache, and makes one on PUT."""
    return bucket in [b["Name"] for b in client.list_buckets()["Buckets"]]


def list_keys(client: Any, bucket: str) -> dict[str, dict[str, Any]]:
    """Every object of a bucket by its key, folder markers included."""
    found: dict[str, dict[str, Any]] = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        found.update({item["Key"]: item for item in page.get("Contents", [])})
    return found


def list_uploads(client: Any, bucket: str) -> list[dict[str, Any]]:
    """The unfinished multipart uploads of a bucket; rclone says NoSuchUpload when there are none."""
    try:
        return client.list_multipart_uploads(Bucket=bucket).get("Uploads") or []
    except client.exceptions.NoSuchUpload:
        return []


def delete_keys(client: Any, bucket: str, keys: Iterable[str]) -> None:
    batch: list[str] = []
    for key in keys:
        if _NOT_XML.search(key) or key.endswith("/"):
            client.delete_object(Bucket=bucket, Key=key)
        else:
            batch.append(key)
    for start in range(0, len(batch), 500):
        part = [{"Key": key} for key in batch[start : start + 500]]
        client.delete_objects(Bucket=bucket, Delete={"Objects": part, "Quiet": True})


def empty_bucket(client: Any, bucket: str, *, versioning: bool = False) -> None:
    """Remove every object, version, delete marker and unfinished upload."""
    # Versions go one by one: only where there are any.
    versioning = versioning and "Status" in client.get_bucket_versioning(Bucket=bucket)
    for _round in range(10):
        uploads = list_uploads(client, bucket)
        for upload in uploads:
            with contextlib.suppress(client.exceptions.NoSuchUpload):
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        if versioning:
            for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
                    client.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
        keys = sorted(list_keys(client, bucket), key=lambda key: (-key.count("/"), key))
        delete_keys(client, bucket, keys)
        if not keys and not uploads:
            return
    raise RuntimeError(f"bucket {bucket} does not become empty: {keys[:10]}")


# -- the four ------------------------------------------------------------------------------------------------


def _juicefs(store: Store) -> tuple[list[str], dict[str, str]]:
    folder = store.directory
    meta, program = f"badger://{folder}/meta", str(BIN / "juicefs")
    if not (folder / "meta").exists():
        command = [program, "--no-agent", "format", "--storage", "file", "--bucket", f"{folder}/obj"]
        command += ["--trash-days", "0", "--no-update", meta, "jfs"]
        subprocess.run(
            command,
            env=minimal_environment(folder),
            check=True,
            capture_output=True,
            timeout=60,
        )
    command = [program, "--no-agent", "gateway", "--multi-buckets", "--keep-etag", "--object-meta"]
    command += ["--no-usage-report", "--log", f"{folder}/gateway.log", "--cache-dir", f"{folder}/cache"]
    command += ["--metrics", "127.0.0.1:0", meta, f"127.0.0.1:{store.port}"]
    return command, {"MINIO_ROOT_USER": store.access_key, "MINIO_ROOT_PASSWORD": store.secret_key}


def _seaweedfs(store: Store) -> tuple[list[str], dict[str, str]]:
    folder = store.directory
    (folder / "data").mkdir(exist_ok=True)
    (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\ncopy_2 = 1\ncopy_other = 1\n")
    credentials = [{"accessKey": store.access_key, "secretKey": store.secret_key}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "tests", "credentials": credentials, "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = store.ports
    command = [str(BIN / "weed"), "server", f"-dir={folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-master.telemetry=false", f"-master.port={master}", f"-master.port.grpc={master_grpc}"]
    command += [
        "-master.electionTimeout=1s",
        "-master.heartbeatInterval=50ms",
        "-master.volumeSizeLimitMB=64",
    ]
    command += [f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", "-volume.max=2000"]
    command += ["-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"]
    command += [f"-filer.localSocket={folder}/filer.sock"]
    command += ["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [f"-s3.config={folder}/s3.json", "-s3.allowDeleteBucketNotEmpty=false"]
    return command, {}


def _moto(store: Store) -> tuple[list[str], dict[str, str]]:
    return [str(BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(store.port)], {}


def _rclone(store: Store) -> tuple[list[str], dict[str, str]]:
    (store.directory / "data").mkdir(exist_ok=True)
    command = [
        str(BIN / "rclone"),
        "serve",
        "s3",
        "--config",
        "/dev/null",
        "--addr",
        f"127.0.0.1:{store.port}",
    ]
    command += ["--auth-key", f"{store.access_key},{store.secret_key}", "--vfs-cache-mode", "off"]
    return [*command, str(store.directory / "data")], {}


def _is_path_like(key: str) -> bool:
    """Not a plain path below a folder: an empty, `.` or `..` segment, or one over 255 bytes."""
    segments = key.split("/")
    return any(s in ("", ".", "..") or len(s.encode()) > 255 for s in segments)


def all_stores() -> dict[str, Store]:
    stores = [
        Store(
            "juicefs",
            _juicefs,
            nested_keys=False,
            delete_objects_needs_md5=True,
            names_deleted=False,
            cannot_hold=_is_path_like,
        ),
        Store(
            "seaweedfs",
            _seaweedfs,
            ports_needed=8,
            versioning=True,
            byte_order=False,
            missing_bucket_is_error=False,
            cannot_hold=lambda key: "\\" in key or _is_path_like(key),
        ),
        Store(
            "moto",
            _moto,
            versioning=True,
            checks_content_md5=False,
            checks_signature=False,
            multipart_survives_restart=False,
            objects_survive_restart=False,
            cannot_hold=lambda key: "\n" in key,
        ),
        Store(
            "rclone",
            _rclone,
            nested_keys=False,
            multipart_survives_restart=False,
            composite_etag=False,
            cannot_hold=_is_path_like,
        ),
    ]
    return {store.name: store for store in stores}
