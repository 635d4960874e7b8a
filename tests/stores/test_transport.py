"""What every S3 user expects to work, on real servers: https, proxies, profiles, temporary keys, a region."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import select
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench import (
    Answer,
    Mirror,
    RecordingProxy,
    Request,
    Run,
    Shell,
    contents,
    expected,
    s3_error,
    tree,
    wait_for,
)
from stores import ACCESS_KEY, BIN, SECRET_KEY, Store
from toxics import Toxic

from syncworker.errors import FatalError, RetryError
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Chain, Given
from syncworker.s3.request import S3Request, Target
from syncworker.wire import resolver
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool

NO_KEYS = {"MINIO_ACCESS_KEY": "", "MINIO_SECRET_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
FILES = {"a.txt": "alpha", "b c/\u00e9.bin": 3000, "large.bin": (9 << 20) + 1}


class HttpsStore(Store):
    """rclone's S3 server with a certificate of its own making."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def new_client(self, endpoint: str | None = None, **settings: Any) -> Any:
        import boto3
        from botocore.config import Config

        session = boto3.session.Session(self.access_key, self.secret_key, region_name="us-east-1")
        config = Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required", **settings
        )
        return session.client(
            "s3", endpoint_url=self.url, verify=str(self.directory / "cert.pem"), config=config
        )


def make_certificate(folder: Path) -> Path:
    """A key, and a certificate for this machine's own names that is its own authority."""
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=storage of the tests"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=30,
    )
    return folder / "cert.pem"


def _https_command(store: Store) -> tuple[list[str], dict[str, str]]:
    (store.directory / "data").mkdir(exist_ok=True)
    command = [str(BIN / "rclone"), "serve", "s3", "--config", "/dev/null", "--vfs-cache-mode", "off"]
    command += ["--addr", f"127.0.0.1:{store.port}", "--auth-key", f"{store.access_key},{store.secret_key}"]
    return [*command, "--cert", "cert.pem", "--key", "key.pem", str(store.directory / "data")], {}


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsStore]:
    folder = tmp_path_factory.mktemp("https")
    make_certificate(folder)
    store = HttpsStore("rclone", _https_command, nested_keys=False, composite_etag=False)
    store.start(folder)
    yield store
    store.kill()


class ForwardProxy:
    """An HTTP proxy as companies have them: `CONNECT` and absolute targets. Remembers the heads."""

    def __init__(self, status: str = "") -> None:
        self._status = status  # what CONNECT is answered with, instead of a connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                more = client.recv(65536)
                if not more:
                    return
                data += more
            head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
            self.heads.append(head)
            method, target, _ = head.split("\r\n")[0].split(" ", 2)
            if self._status:
                client.sendall(f"HTTP/1.1 {self._status}\r\nContent-Length: 4\r\n\r\nsorry"[:-1].encode())
                return
            authority = target if method == "CONNECT" else target.split("/")[2]
            host, _, port = authority.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    server.sendall(data)
                _pipe(client, server)

    def close(self) -> None:
        self._listener.close()


def _pipe(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [], 60)
        if not ready:
            return
        for source in ready:
            data = source.recv(1 << 18)
            if not data:
                return
            (other if source is one else one).sendall(data)


@pytest.fixture
def forward() -> Iterator[ForwardProxy]:
    proxy = ForwardProxy()
    yield proxy
    proxy.close()


MakeShell = Callable[..., Shell]


def job(
    make_shell: MakeShell, store: Store, url: str = "", files: Any = None, **environment: str
) -> tuple[Run, Shell, str]:
    """One sync of a small folder into a new bucket."""
    shell = make_shell(store, **{"STORAGE_URL": url or store.url, **environment})
    tree(shell.uploads / "photos", files or FILES)
    bucket = f"t-{uuid.uuid4().hex[:12]}"
    return shell.start(bucket), shell, bucket


def succeeds(run: Run, shell: Shell, store: Store, bucket: str) -> None:
    assert run.status["state"] == "done", f"{json.dumps(run.status)}\n{run.err}"
    assert contents(store, bucket) == expected(shell.uploads / "photos")
    store.remove_bucket(bucket)


def secrets_nowhere(shell: Shell, *secrets: str) -> None:
    """No secret in any file below the jobs folder."""
    for path in shell.jobs.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in data, path


# -- https


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_https_with_an_authority_of_ones_own(make_shell: MakeShell, https: HttpsStore, host: str) -> None:
    url = https.url.replace("localhost", host)
    run, shell, bucket = job(make_shell, https, url, AWS_CA_BUNDLE=str(https.directory / "cert.pem"))
    succeeds(run, shell, https, bucket)


def test_a_certificate_of_an_unknown_authority_ends_the_job_with_what_to_do(
    make_shell: MakeShell, https: HttpsStore, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path)
    for environment in ({}, {"AWS_CA_BUNDLE": str(other)}):
        run, _, _ = job(make_shell, https, **environment)
        assert (run.exit_status, run.status["state"]) == (1, "failed")
        assert run.status["error"]["code"] == "TlsError"
        assert "AWS_CA_BUNDLE" in run.status["error"]["message"]


def test_a_certificate_for_another_host_ends_the_job(make_shell: MakeShell, https: HttpsStore) -> None:
    url = https.url.replace("localhost", "127.0.0.2")
    listener = socket.create_server(("127.0.0.2", https.port))
    thread = threading.Thread(target=_relay, args=(listener, https.port), daemon=True)
    thread.start()
    try:
        run, _, _ = job(make_shell, https, url, AWS_CA_BUNDLE=str(https.directory / "cert.pem"))
    finally:
        listener.close()
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "TlsError"


def test_the_watchdog_lives_through_a_tls_connection_that_is_lost_while_it_looks(tmp_path: Path) -> None:
    """Between the loss of the socket and the moment at which the connection is told of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = make_certificate(tmp_path)
    context.load_cert_chain(certificate, tmp_path / "key.pem")

    async def run() -> str:
        server = await asyncio.start_server(lambda r, w: r.read(), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        place = Endpoint.of(f"https://127.0.0.1:{port}", "us-east-1")
        # Not `async with server`: from 3.12 on that waits for the other end, which hears of no loss.
        async with ConnectionPool(place, str(certificate)) as pool:
            task = asyncio.create_task(pool.exchange("127.0.0.1", "GET", b"GET / HTTP/1.1\r\n\r\n"))
            while not pool._all:
                await asyncio.sleep(0.01)
            (connection,) = pool._all
            connection.transport._ssl_protocol.connection_lost(ConnectionResetError())  # type: ignore[union-attr]
            connection.check(asyncio.get_running_loop().time())
            with pytest.raises(RetryError) as caught:
                await task
            server.close()
            return caught.value.code

    assert asyncio.run(asyncio.wait_for(run(), 20)) == "ConnectionLost"


def _relay(listener: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                _pipe(client, server)


def test_an_authority_file_that_is_not_there_ends_the_job_with_its_name(
    make_shell: MakeShell, https: HttpsStore
) -> None:
    run, _, _ = job(make_shell, https, AWS_CA_BUNDLE="/nonexistent/ca.pem")
    assert run.status["state"] == "failed"
    assert "/nonexistent/ca.pem" in run.status["error"]["message"]


def test_http_to_a_port_that_speaks_https_ends_the_job(make_shell: MakeShell, https: HttpsStore) -> None:
    run, _, _ = job(make_shell, https, f"http://localhost:{https.port}")
    assert run.status["state"] == "failed"
    assert "400" in run.status["error"]["message"]


# -- proxies


def test_http_goes_through_the_proxy_that_the_environment_names(
    make_shell: MakeShell, juicefs: Store, forward: ForwardProxy
) -> None:
    run, shell, bucket = job(make_shell, juicefs, HTTP_PROXY=f"http://user:pa%20ss@{forward.url[7:]}")
    succeeds(run, shell, juicefs, bucket)
    assert forward.heads
    word = base64.b64encode(b"user:pa ss").decode()
    for head in forward.heads:
        assert re.match(rf"(PUT|GET|POST|HEAD) {juicefs.url}/", head), head
        assert f"proxy-authorization: Basic {word}" in head
    secrets_nowhere(shell, "pa%20ss", "pa ss", word)


def test_https_goes_through_the_proxy_by_connect(
    make_shell: MakeShell, https: HttpsStore, forward: ForwardProxy
) -> None:
    ca = str(https.directory / "cert.pem")
    run, shell, bucket = job(make_shell, https, HTTPS_PROXY=forward.url, AWS_CA_BUNDLE=ca)
    succeeds(run, shell, https, bucket)
    assert forward.heads
    assert {head.split("\r\n")[0] for head in forward.heads} == {f"CONNECT localhost:{https.port} HTTP/1.1"}


@pytest.mark.parametrize("no_proxy", ["example.com,127.0.0.1"])
def test_no_proxy_goes_directly(
    make_shell: MakeShell, juicefs: Store, forward: ForwardProxy, no_proxy: str
) -> None:
    run, shell, bucket = job(make_shell, juicefs, HTTP_PROXY=forward.url, NO_PROXY=no_proxy)
    succeeds(run, shell, juicefs, bucket)
    assert forward.heads == []


def test_a_proxy_that_refuses_ends_the_job_with_its_answer(make_shell: MakeShell, https: HttpsStore) -> None:
    refusing = ForwardProxy("407 Proxy Authentication Required")
    ca = str(https.directory / "cert.pem")
    try:
        run, _, _ = job(make_shell, https, HTTPS_PROXY=refusing.url, AWS_CA_BUNDLE=ca)
    finally:
        refusing.close()
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "ProxyRefused"
    assert "407" in run.status["error"]["message"]


def test_a_proxy_that_is_down_is_named_and_not_the_storage(make_shell: MakeShell, juicefs: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    run, shell, _ = job(make_shell, juicefs, ALL_PROXY=f"http://me:pa%20ss@127.0.0.1:{port}")
    error = run.status["error"]
    assert error["code"] == "ProxyUnreachable", error
    assert f"the proxy 127.0.0.1:{port} (ALL_PROXY)" in error["message"]
    assert "storage" not in error["message"]
    secrets_nowhere(shell, "pa%20ss", "pa ss")


def test_a_proxy_that_wants_a_password_is_named_over_plain_http(
    make_shell: MakeShell, juicefs: Store, make_server: Callable[[bytes], int]
) -> None:
    port = make_server(b"HTTP/1.1 407 Wanted\r\nContent-Length: 0\r\n\r\n")
    run, shell, _ = job(make_shell, juicefs, http_proxy=f"http://me:pa%20ss@127.0.0.1:{port}")
    error = run.status["error"]
    assert error["code"] == "ProxyRefused", error
    assert f"the proxy 127.0.0.1:{port} (http_proxy)" in error["message"]
    assert "407" in error["message"]
    secrets_nowhere(shell, "pa%20ss", "pa ss")


def test_a_proxy_that_cannot_be_spoken_to_is_told_at_the_servers_start(
    make_service: Callable[..., Any], juicefs: Store
) -> None:
    service = make_service(juicefs, start=False, ALL_PROXY="socks5://me:secret@127.0.0.1:1080")
    assert service.spawn().wait(20) == 2
    assert "ALL_PROXY names a socks5 proxy" in service.output()
    assert "secret" not in service.output()


# -- what is no storage


@pytest.fixture
def make_server() -> Iterator[Callable[[bytes], int]]:
    """The port of a server that answers every request with these bytes."""
    listeners: list[socket.socket] = []

    def make(answer: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve(client: socket.socket) -> None:
            with client, contextlib.suppress(OSError):
                while client.recv(65536):
                    client.sendall(answer)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return int(listener.getsockname()[1])

    yield make
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_what_is_no_s3_storage_is_told_so(
    make_shell: MakeShell, juicefs: Store, make_server: Callable[[bytes], int], answer: bytes
) -> None:
    url = f"http://127.0.0.1:{make_server(answer)}"
    run, _, _ = job(make_shell, juicefs, url)
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "NoStorage"
    assert f"No S3 storage answers at {url}: " in run.status["error"]["message"]


# -- certificates


def certificate(
    folder: Path, name: str = "localhost", begins: float = -1, ends: float = 1, bits: int = 2048
) -> ssl.SSLContext:
    """A server's side with a certificate that is self-signed and lasts from so many days to so many."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, bits)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "storage of the tests")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now + timedelta(days=begins)).not_valid_after(now + timedelta(days=ends))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(encoded)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@pytest.mark.parametrize(
    ("made", "host", "trusted", "sentence", "cure"),
    [
        ({"begins": -9, "ends": -1}, "localhost", True, "has expired", "renew it"),
        ({"begins": 1, "ends": 9}, "localhost", True, "is not valid yet", "clock"),
        ({"name": "other.example"}, "localhost", True, "is for another name", "storage_url"),
        ({}, "127.0.0.1", True, "is for another address", "storage_url"),
        ({}, "localhost", False, "is self-signed", "AWS_CA_BUNDLE"),
        ({"bits": 1024}, "localhost", True, "a key that is too weak", "longer key"),
    ],
)
def test_each_fault_of_a_certificate_has_its_sentence_and_its_cure(
    tmp_path: Path, made: dict[str, Any], host: str, trusted: bool, sentence: str, cure: str
) -> None:
    context = certificate(tmp_path, **made)

    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: r.read(), "127.0.0.1", 0, ssl=context)
        place = Endpoint.of(f"https://{host}:{server.sockets[0].getsockname()[1]}", "us-east-1")
        authority = str(tmp_path / "cert.pem") if trusted else None
        async with server, ConnectionPool(place, authority, use_proxies=False) as pool:
            if "bits" in made:  # the system's own level may allow it
                assert pool.tls is not None
                pool.tls.set_ciphers("DEFAULT:@SECLEVEL=2")
            await pool.exchange(host, "GET", b"GET / HTTP/1.1\r\n\r\n")

    with pytest.raises(FatalError) as caught:
        asyncio.run(asyncio.wait_for(run(), 20))
    assert caught.value.code == "TlsError"
    assert sentence in caught.value.message
    assert cure in caught.value.message
    assert ("AWS_CA_BUNDLE" in caught.value.message) == (not trusted)


@pytest.mark.parametrize("profile", ["", "offsite"])
def test_the_authority_may_be_named_in_the_configuration_of_aws(
    make_shell: MakeShell, https: HttpsStore, tmp_path: Path, profile: str
) -> None:
    section = f"profile {profile}" if profile else "default"
    config = tmp_path / "config"
    config.write_text(f"[{section}]\nregion = us-east-1\nca_bundle = {https.directory / 'cert.pem'}\n")
    environment = {"AWS_CONFIG_FILE": str(config)} | ({"AWS_PROFILE": profile} if profile else {})
    run, shell, bucket = job(make_shell, https, **environment)
    succeeds(run, shell, https, bucket)


def test_a_proxy_that_fails_may_work_later(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = ForwardProxy("502 Bad Gateway")
    monkeypatch.setenv("HTTPS_PROXY", failing.url)
    monkeypatch.delenv("NO_PROXY", raising=False)

    async def ask() -> None:
        async with ConnectionPool(Endpoint.of("https://store.example", "us-east-1"), None) as pool:
            await pool.exchange("store.example", "GET", b"GET / HTTP/1.1\r\n\r\n")

    try:
        with pytest.raises(RetryError, match="502"):
            asyncio.run(ask())
    finally:
        failing.close()


# -- keys


def test_a_profile_of_the_credentials_file(make_shell: MakeShell, juicefs: Store, tmp_path: Path) -> None:
    """The store checks signatures, so success says which keys were used."""
    names = ("[default]\naws_access_key_id=", "aws_secret_access_key=", "[mine]\naws_access_key_id=")
    values = (names[0], "AKIDWRONG\n", names[1], "wrongwrong\n", names[2], f"{ACCESS_KEY}\n", names[1])
    (tmp_path / "credentials").write_text("".join(values) + SECRET_KEY + "\n")
    environment = {
        **NO_KEYS,
        "AWS_PROFILE": "mine",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
    }
    run, shell, bucket = job(make_shell, juicefs, **environment)
    succeeds(run, shell, juicefs, bucket)
    secrets_nowhere(shell, SECRET_KEY)
    environment["AWS_PROFILE"] = "default"
    run, _, _ = job(make_shell, juicefs, **environment)
    assert run.status["error"]["code"] == "InvalidAccessKeyId"


def test_no_keys_anywhere_ends_the_job_with_what_to_set(make_shell: MakeShell, juicefs: Store) -> None:
    run, _, _ = job(make_shell, juicefs, **NO_KEYS)
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "NoCredentials"
    assert "MINIO_ACCESS_KEY" in run.status["error"]["message"]


@pytest.mark.parametrize("environment", [{"AWS_PROFILE": "none-such"}, {"AWS_CONFIG_FILE": "broken"}])
def test_a_profile_that_cannot_be_read_ends_the_job_as_missing_keys(
    make_shell: MakeShell, juicefs: Store, tmp_path: Path, environment: dict[str, str]
) -> None:
    if "AWS_CONFIG_FILE" in environment:
        (tmp_path / "config").write_text("[profile a\nsecret = hidden")
        environment = {"AWS_CONFIG_FILE": str(tmp_path / "config")}
    run, shell, _ = job(make_shell, juicefs, **NO_KEYS, **environment)
    assert run.status["error"]["code"] == "NoCredentials"
    secrets_nowhere(shell, "hidden")


KEYS_PROGRAM = """#!{python}
import datetime, json, os
count = {folder!r} + "/count"
number = int(open(count).read()) + 1 if os.path.exists(count) else 1
open(count, "w").write(str(number))
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds={seconds})
print(json.dumps(dict(Version=1, AccessKeyId={access!r}, SecretAccessKey={secret!r},
                      SessionToken=f"token-{{number}}", Expiration=end.isoformat())))
"""


def process_profile(folder: Path, seconds: float) -> dict[str, str]:
    """A profile whose keys come from a program, with an end a few seconds ahead: the environment for it."""
    program = folder / "keys"
    text = KEYS_PROGRAM.format(
        python=BIN / "python", folder=str(folder), seconds=seconds, access=ACCESS_KEY, secret=SECRET_KEY
    )
    program.write_text(text)
    program.chmod(0o700)
    (folder / "config").write_text(f"[profile temporary]\ncredential_process = {program}\n")
    return {**NO_KEYS, "AWS_PROFILE": "temporary", "AWS_CONFIG_FILE": str(folder / "config")}


def tokens(proxy: RecordingProxy) -> list[str]:
    return [
        {k.lower(): v for k, v in r.headers.items()}.get("x-amz-security-token", "") for r in proxy.requests
    ]


@pytest.mark.parametrize("accepted", [0, 4])
def test_temporary_keys_that_expire_during_a_job_are_renewed(
    make_shell: MakeShell,
    moto: Store,
    make_proxy: Callable[[Store], RecordingProxy],
    tmp_path: Path,
    accepted: int,
) -> None:
    """The store takes the first token so many times, then says that it has expired."""
    proxy = make_proxy(moto)
    lock = threading.Lock()
    seen = 0

    def expire(request: Request) -> Answer | None:
        nonlocal seen
        token = {k.lower(): v for k, v in request.headers.items()}.get("x-amz-security-token")
        with lock:
            seen += token == "token-1"
            return s3_error(400, "ExpiredToken") if token == "token-1" and seen > accepted else None

    proxy.on_request(expire)
    files = {f"{n:03}.txt": f"content {n}" for n in range(60)} | {"large.bin": 20 << 20}
    run, shell, bucket = job(make_shell, moto, proxy.url, files, **process_profile(tmp_path, 2000))
    succeeds(run, shell, moto, bucket)
    assert set(tokens(proxy)) == {"token-1", "token-2"}
    assert run.progress["files_failed"] == 0
    secrets_nowhere(shell, SECRET_KEY, "token-1", "token-2")


def test_temporary_keys_near_their_end_are_renewed_before_it(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy], tmp_path: Path
) -> None:
    """Each look at keys that end in a few seconds brings new ones."""
    proxy = make_proxy(moto)
    run, shell, bucket = job(make_shell, moto, proxy.url, **process_profile(tmp_path, 5))
    succeeds(run, shell, moto, bucket)
    assert len(set(tokens(proxy))) == 1
    assert set(tokens(proxy)) != {""}


def test_keys_that_stay_expired_end_the_job_with_what_to_do(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy], tmp_path: Path
) -> None:
    proxy = make_proxy(moto)
    proxy.on_request(lambda _: s3_error(400, "ExpiredToken"))
    for environment in (process_profile(tmp_path, 2000), {}):
        run, _, _ = job(make_shell, moto, proxy.url, **environment)
        assert run.status["state"] == "failed"
        assert run.status["error"]["code"] == "ExpiredToken"
        assert "renew" in run.status["error"]["message"]


@pytest.mark.parametrize(
    "program",
    [
        "echo not json, and a hidden-secret",
        "echo '{}'",
        "echo '{\"Version\": 1}'",
        "exit 3",
        "/nonexistent/program",
    ],
)
def test_a_keys_program_that_does_not_give_keys_ends_the_job_as_missing_keys(
    make_shell: MakeShell, juicefs: Store, tmp_path: Path, program: str
) -> None:
    (tmp_path / "keys.sh").write_text(f"{program}\n")
    command = program if program.startswith("/") else f"sh {tmp_path}/keys.sh"
    (tmp_path / "config").write_text(f"[profile p]\ncredential_process = {command}\n")
    environment = {**NO_KEYS, "AWS_PROFILE": "p", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    run, shell, _ = job(make_shell, juicefs, **environment)
    assert run.status["state"] == "failed"
    assert run.status["error"]["code"] == "NoCredentials"
    assert "hidden-secret" not in run.err + run.out
    secrets_nowhere(shell, "hidden-secret")


def test_keys_that_have_ended_and_do_not_renew_are_missing_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in process_profile(tmp_path, -5).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(FatalError) as caught:
        asyncio.run(Chain().keys())
    assert caught.value.code == "NoCredentials"


HANGS = "#!/bin/sh\nexec sleep 600\n"


def hanging_profile(folder: Path) -> dict[str, str]:
    (folder / "hangs").write_text(HANGS)
    (folder / "hangs").chmod(0o700)
    (folder / "config").write_text(f"[profile p]\ncredential_process = {folder}/hangs\n")
    return {**NO_KEYS, "AWS_PROFILE": "p", "AWS_CONFIG_FILE": str(folder / "config")}


@pytest.fixture
def no_sleeper_left(tmp_path: Path) -> Iterator[None]:
    """Ends what a job has left behind."""
    yield
    for process in psutil.process_iter(["cmdline", "environ"]):
        if process.info["cmdline"] == ["sleep", "600"] and str(tmp_path) in str(process.info["environ"]):
            process.kill()


@pytest.mark.parametrize("how", ["cancel", "signal"])
def test_a_keys_program_that_hangs_does_not_keep_a_job_from_ending(
    make_shell: MakeShell, moto: Store, tmp_path: Path, no_sleeper_left: None, how: str
) -> None:
    shell = make_shell(moto, **hanging_profile(tmp_path))
    tree(shell.uploads / "photos", FILES)
    process, job_id = shell.begin(f"t-{uuid.uuid4().hex[:12]}")
    wait_for(lambda: shell.status(job_id)["state"] == "running", 20, "the job to run")
    began = time.monotonic()
    if how == "cancel":
        shell.file(job_id, "cancel").touch()
    else:
        process.terminate()
    assert process.wait(20) == (3 if how == "cancel" else 4)
    assert time.monotonic() - began < 10
    assert shell.status(job_id)["state"] == ("cancelled" if how == "cancel" else "interrupted")


def test_a_keys_program_that_hangs_is_given_up_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_sleeper_left: None
) -> None:
    for name, value in hanging_profile(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)

    async def several() -> list[Any]:
        chain = Chain(patience_seconds=0.5)
        return await asyncio.gather(*(chain.keys() for _ in range(50)), return_exceptions=True)

    began = time.monotonic()
    found = asyncio.run(several())
    assert time.monotonic() - began < 10, "all wait for one and the same look"
    assert {error.code for error in found} == {"NoCredentials"}
    assert "has not answered within 0.5 s" in found[0].message and "credential_process" in found[0].message


def test_a_session_token_goes_with_its_keys_and_with_no_others(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    proxy = make_proxy(moto)
    aws = {"AWS_ACCESS_KEY_ID": "AKIDAWS", "AWS_SECRET_ACCESS_KEY": "s3cret-of-aws"}
    for environment, sent in (
        ({**NO_KEYS, **aws, "AWS_SESSION_TOKEN": "token-of-aws"}, "token-of-aws"),
        ({"AWS_SESSION_TOKEN": "token-of-aws"}, ""),  # beside MINIO_*
        (
            {"SYNC_ACCESS_KEY": "AKIDOWN", "SYNC_SECRET_KEY": "s3cret", "SYNC_SESSION_TOKEN": "token-own"},
            "token-own",
        ),
    ):
        proxy.reset()
        run, shell, bucket = job(make_shell, moto, proxy.url, **environment)
        succeeds(run, shell, moto, bucket)
        assert set(tokens(proxy)) == {sent}
        secrets_nowhere(shell, "token-of-aws", "token-own", "s3cret")


@pytest.mark.parametrize(
    "environment, origin",
    [
        ({}, "MINIO_ACCESS_KEY and MINIO_SECRET_KEY of the environment"),
        ({"AWS_SESSION_TOKEN": "t"}, "AWS_SESSION_TOKEN is not theirs"),
        (
            {**NO_KEYS, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment",
        ),
        (
            {**NO_KEYS, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "t"},
            "with AWS_SESSION_TOKEN",
        ),
        ({"SYNC_ACCESS_KEY": "a", "SYNC_SECRET_KEY": "b"}, "access_key and secret_key of the request"),
    ],
)
@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "AccessDenied"])
def test_an_error_about_keys_names_the_setting_that_they_came_from(
    make_shell: MakeShell,
    moto: Store,
    make_proxy: Callable[[Store], RecordingProxy],
    environment: dict[str, str],
    origin: str,
    code: str,
) -> None:
    proxy = make_proxy(moto)
    proxy.on_request(lambda _: s3_error(403, code))
    run, _, _ = job(make_shell, moto, proxy.url, **environment)
    assert run.status["error"]["code"] == code
    assert origin in run.status["error"]["message"]


# -- regions


def test_a_region_that_the_store_names_is_taken_over(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    proxy = make_proxy(moto)
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"

    def elsewhere(request: Request) -> Answer | None:
        return Answer(400, {}, body) if "/us-east-1/" in scope(request) else None

    proxy.on_request(elsewhere)
    run, shell, bucket = job(make_shell, moto, proxy.url)
    succeeds(run, shell, moto, bucket)
    assert len([r for r in proxy.requests if "/us-east-1/" in scope(r)]) <= 2


@pytest.mark.parametrize(("seconds", "state"), [("0.5", "failed"), ("30", "done"), ("", "done")])
def test_a_slow_storage_is_waited_for_as_long_as_the_settings_allow(
    mirror: Mirror, seconds: str, state: str
) -> None:
    mirror.make({"a": 100})
    mirror.shell.environment["STORAGE_TIMEOUT"] = seconds
    mirror.proxy.on_request(lambda r: Toxic(latency_seconds=2.5) if r.kind == "PUT" else None)
    run = mirror.start()
    assert run.status["state"] == state, run.status
    if state == "failed":
        (error,) = run.status["errors"]
        assert (error["code"], "STORAGE_TIMEOUT" in error["message"]) == ("Timeout", True)


def test_a_region_that_two_requests_are_told_at_once_is_taken_over_by_both() -> None:
    """Both were signed for the old one: the second to be answered finds that the first has changed it."""

    async def run() -> tuple[list[str], set[int]]:
        both = asyncio.Event()
        scopes: list[str] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    scopes.append(head.partition("Credential=")[2].split("/")[2])
                    if len(scopes) == 2:
                        both.set()
                    await both.wait()
                    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-x</Region></Error>"
                    told = b"200 OK" if scopes.count("eu-x") and "eu-x" in head else b"400 Bad"
                    body = b"" if told == b"200 OK" else body
                    writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (told, len(body), body))
            writer.close()  # else the server waits for it, since Python 3.12

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        place = Endpoint.of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "us-east-1")
        async with server, ConnectionPool(place, None, use_proxies=False) as pool:
            bucket = Bucket(Client(pool, Target("bucket", "us-east-1"), Given("access", "secret")))
            answers = await asyncio.gather(
                *(bucket.client.call(S3Request("GetObject", "GET", key)) for key in "ab")
            )
        return scopes, {answer.status for answer in answers}

    scopes, statuses = asyncio.run(asyncio.wait_for(run(), 20))
    assert (sorted(scopes), statuses) == (["eu-x", "eu-x", "us-east-1", "us-east-1"], {200})


def test_a_bucket_whose_region_never_fits_ends_the_job(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    proxy = make_proxy(moto)

    def never(request: Request) -> Answer:
        other = b"eu-1" if "/eu-2/" in scope(request) else b"eu-2"
        return Answer(301, {}, b"<Error><Code>PermanentRedirect</Code><Region>%s</Region></Error>" % other)

    proxy.on_request(never)
    run, _, _ = job(make_shell, moto, proxy.url)
    assert run.status["state"] == "failed"
    assert "AWS_REGION" in run.status["error"]["message"]
    assert len(proxy.requests) < 10


def test_the_region_of_the_settings_is_signed_for_and_the_bucket_is_made_there(
    make_shell: MakeShell, moto: Store, make_proxy: Callable[[Store], RecordingProxy]
) -> None:
    proxy = make_proxy(moto)
    run, shell, bucket = job(make_shell, moto, proxy.url, AWS_REGION="eu-west-3")
    assert run.status["state"] == "done"
    assert {scope(request).split("/")[2] for request in proxy.requests} == {"eu-west-3"}
    assert moto.client().get_bucket_location(Bucket=bucket)["LocationConstraint"] == "eu-west-3"
    succeeds(run, shell, moto, bucket)


def scope(request: Request) -> str:
    """`KEY/day/region/s3/aws4_request` of a signed request."""
    value = {k.lower(): v for k, v in request.headers.items()}["authorization"]
    return value.partition("Credential=")[2].partition(",")[0]


# -- names and addresses of buckets


def test_a_bucket_with_an_old_name_is_mirrored_and_deleted_and_never_made(
    make_shell: MakeShell, tmp_path: Path
) -> None:
    make_certificate(tmp_path)
    kept = tmp_path / "data" / "Old_Bucket"
    kept.mkdir(parents=True)
    store = HttpsStore("rclone", _https_command, nested_keys=False, composite_etag=False)
    store.start(tmp_path)
    try:
        shell = make_shell(store, STORAGE_URL=store.url, AWS_CA_BUNDLE=str(tmp_path / "cert.pem"))
        tree(shell.uploads / "photos", FILES)
        missing = shell.start("Old_Missing")
        assert missing.status["error"]["code"] == "BadBucketName"
        assert "it cannot be created" in missing.status["error"]["message"]
        assert not (tmp_path / "data" / "Old_Missing").exists()
        there = shell.start("Old_Bucket")
        assert there.status["state"] == "done", there.status["error"]
        assert (kept / "a.txt").read_text() == "alpha"
        assert shell.start("Old_Bucket", "no-such-folder").status["state"] == "done"
        assert not kept.exists()
    finally:
        store.kill()


@pytest.mark.parametrize("addressing, turned", [("auto", True), ("path", False), ("virtual", True)])
def test_a_storage_that_wants_the_bucket_in_the_host_gets_it(
    monkeypatch: pytest.MonkeyPatch, addressing: str, turned: bool
) -> None:
    hosts: list[str] = []
    page = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    refusal = b"<Error><Code>SecondLevelDomainForbidden</Code><Message>no</Message></Error>"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                hosts.append(re.search(r"(?im)^host: ?([^:\r]*)", head)[1])  # type: ignore[index]
                good = hosts[-1] == "b-1.store.test"
                assert head.startswith("GET /?" if good else "GET /b-1?"), head
                line, body = ("200 OK", page) if good else ("403 Forbidden", refusal)
                writer.write(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    def address(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host.endswith("store.test")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async def many() -> list[Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        place = Endpoint.of(f"http://store.test:{port}", "us-east-1", addressing)
        monkeypatch.setattr(resolver.socket, "getaddrinfo", address)
        async with ConnectionPool(place, None) as pool:
            bucket = Bucket(Client(pool, Target("b-1", "us-east-1"), Given("a", "b")))
            found = await asyncio.gather(*(bucket.list_page(None) for _ in range(8)), return_exceptions=True)
        monkeypatch.undo()
        server.close()
        return found

    found = asyncio.run(many())
    if turned:
        assert [page.entries for page in found] == [[]] * 8, "those in flight at the turn as well"
        assert hosts.count("b-1.store.test") == 8
        assert ("store.test" in hosts) == (addressing == "auto")
    else:
        assert {error.code for error in found} == {"SecondLevelDomainForbidden"}
        assert set(hosts) == {"store.test"}
