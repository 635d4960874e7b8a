"""Keys in a whole run: where they may be, and that they are nowhere else. The rows on secrets, floods and
redirects in docs/security.md. Everything here is the real server, real workers and a real store.

The run: jobs with the server's keys and with their own, one that fails and is resumed, one that is cancelled,
keys that are wrong, a store that says the keys back, requests that are refused and mistyped, a worker that
ends with a trace. Then every file it wrote, every answer it gave, and `/proc` of every process are searched,
for the keys as they are, percent-encoded and in Base64."""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from bench import Service, tree, wait_for

ODD = "/+=&%"  # what a real secret key holds, and what encodings change


def canary(word: str) -> str:
    return f"{word}{secrets.token_hex(8)}{ODD}{secrets.token_hex(4)}"


def spellings(key: str) -> list[bytes]:
    """A key as it is, percent-encoded (twice as well), and its Base64 at each of the three offsets."""
    found = [key, quote(key, safe=""), quote(key), quote(quote(key, safe=""), safe="")]
    encoded = [text.encode() for text in {*found, key.encode("unicode_escape").decode()}]
    for offset in range(3):
        whole = base64.b64encode(b"x" * offset + key.encode())
        encoded.append(whole[4 if offset else 0 : -4])
    return encoded


def holds(data: bytes, keys: list[str]) -> list[str]:
    return [key for key in keys if any(spelling in data for spelling in spellings(key))]


class Parrot:
    """A store that says back whatever it is sent, in its error, and whether anything came."""

    def __init__(self, status: int = 403, headers: dict[str, str] | None = None) -> None:
        parrot = self
        self.requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                parrot.requests.append(str(self.headers))
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                access = re.search("Credential=([^/]+)/", self.headers.get("Authorization", ""))
                said = f"no access for {access[1] if access else ''}"
                body = f"<Error><Code>InvalidRequest</Code><Message>{said}</Message></Error>".encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def parrots() -> Iterator[Any]:
    made: list[Parrot] = []

    def make(*arguments: Any) -> Parrot:
        made.append(Parrot(*arguments))
        return made[-1]

    yield make
    for parrot in made:
        parrot.close()


def test_the_search_finds_a_key_in_every_spelling() -> None:
    """The search itself can fail: each spelling of a canary is found in a text that holds it."""
    key = canary("probe")
    for spelling in (key, quote(key, safe=""), quote(key), quote(quote(key, safe=""), safe="")):
        assert holds(f"before {spelling} after".encode(), [key]) == [key]
    for before in (b"", b"a", b"ab", b"user:", b'{"k": "'):
        assert holds(base64.b64encode(before + key.encode() + b"behind"), [key]) == [key]
    assert holds(b"nothing here", [key]) == []


def seen_in_proc(service: Service, keys: list[str], stop: threading.Event, found: list[str]) -> None:
    """Looks at the arguments and the environment of every process of the machine until told to stop."""
    while not stop.is_set():
        for process in psutil.process_iter():
            for name in ("cmdline", "environ"):
                try:
                    data = Path(f"/proc/{process.pid}/{name}").read_bytes()
                except OSError:  # gone, or another user's
                    continue
                for key in holds(data, keys):
                    found.append(f"{name} of {process.pid} ({process.name()}): {key}")
        stop.wait(0.02)


def test_keys_are_in_the_secret_files_and_nowhere_else(make_service, juicefs, make_bucket, parrots) -> None:
    token, wrong = canary("token").replace("%", "x"), canary("wrong")
    own, access, parrot_secret = canary("own"), "AKIA" + secrets.token_hex(8), canary("parrot")
    session = canary("session")
    keys = [token, wrong, own, access, parrot_secret, session]
    service: Service = make_service(juicefs, API_TOKEN=token, start=False)
    server_secret = juicefs.secret_key
    service.start()
    tree(service.uploads, {"photos": {"a": "1", "b": "2"}, "more": {"c": 3_000_000}})
    parrot = parrots()
    login = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-www-form-urlencoded"}
    said: list[bytes] = []
    found: list[str] = []
    stop = threading.Event()
    watch = threading.Thread(target=seen_in_proc, args=(service, keys[1:], stop, found))
    watch.start()

    def ask(path: str, **parameters: Any) -> Any:
        body = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items()).encode()
        reply = service.request("POST", path, headers=login, body=body)
        said.append(str(reply.headers).encode() + reply.body)
        return reply.json()

    def ends(job: str, *states: str) -> None:
        wait_for(lambda: ask("/get", id=job)["state"] in states, 40, f"{job} to be {states}")

    given = {"storage_url": parrot.url, "access_key": access, "secret_key": parrot_secret}
    given |= {"session_token": session}
    try:
        plain = ask("/sync", source="photos", dest=make_bucket(juicefs))["id"]
        fails = ask("/sync", source="photos", dest="bucket-of-a-parrot", **given)["id"]
        bad = ask(
            "/sync", source="photos", dest="bucket-of-wrong-keys", storage_url=juicefs.url,
            access_key=juicefs.access_key, secret_key=wrong,
        )["id"]  # fmt: skip
        slow = ask(
            "/sync", source="photos", dest="bucket-of-a-slow", wait=600, **{**given, "secret_key": own}
        )["id"]
        ends(plain, "done")
        ends(bad, "failed")
        ends(fails, "failed")
        ask("/resume", id=fails, access_key=access, secret_key=own, session_token=session)
        ends(fails, "failed")
        ask("/cancel", id=slow)
        ends(slow, "cancelled", "failed")
        # an error on the disk, with its trace in the job's log: the destination's lock cannot be opened
        (service.jobs / ".dest").chmod(0o500)
        trace = ask("/sync", source="more", dest="bucket-of-a-trace", **given)["id"]
        ends(trace, "failed", "interrupted")
        (service.jobs / ".dest").chmod(0o700)
        # what is refused, and what is mistyped
        ask("/sync", source="photos", dest="x", access_key=access, secret_key=own)
        ask("/sync", source="photos", dest="bucket", secret_key=own)
        ask("/sync", source="photos", dest="bucket", session_token=session)
        ask("/sync", source="photos", dest="bucket", access_key=access, secret_key=f"{own} {session}")
        ask("/sync", source="photos", dest="bucket", secret_key=own, access_key=f"{access} {own}")
        ask("/resume", id=plain, secret_key=own, access_key=access)
        odd = quote(own, safe="")
        mistyped = (f"/sync?dest=bucket&secret_key={odd}", f"/sync&secret_key={odd}", f"/runnings?{odd}")
        mistyped += (f"/sync?session_token={quote(session, safe='')}",)
        for path in (*mistyped, f"/sync?source=a;secret_key={odd}", f"/login?token={quote(token)}x"):
            reply = service.request("GET", path, headers=login)
            said.append(str(reply.headers).encode())
        for path in ("/jobs", "/runnings", "/healthz", "/metrics", "/openapi.json", "/"):
            reply = service.request("GET", path, headers=login)
            said.append(str(reply.headers).encode() + reply.body)
    finally:
        stop.set()
        watch.join()
    service.terminate()

    assert found == []
    for answer in said:
        assert holds(answer, [*keys, server_secret]) == [], answer[:3000]
    looked = 0
    for path in [p for p in service.base.rglob("*") if p.is_file() and service.uploads not in p.parents]:
        looked += 1
        held = holds(path.read_bytes(), [*keys, server_secret])
        may = path.parent == service.jobs and path.suffix == ".secret"
        assert not held or may, (path, held)
        assert path.parent != service.jobs or path.stat().st_mode & 0o077 == 0, path
    assert looked > 15
    left = {path.stem for path in service.jobs.glob("*.secret")}
    assert left - {slow} == {fails, bad, trace}, "a job that can be resumed keeps its keys, no other does"
    assert "Traceback" in service.file(trace, "log").read_text()
    assert os.stat(service.jobs).st_mode & 0o777 == 0o700
    assert parrot.requests and all(parrot_secret not in text for text in parrot.requests)


# -- redirects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_never_followed(status, make_shell, juicefs, parrots) -> None:
    elsewhere = parrots()
    store = parrots(status, {"Location": f"{elsewhere.url}/bucket-x", "x-amz-bucket-region": "eu-west-9"})
    shell = make_shell(juicefs, STORAGE_URL=store.url)
    tree(shell.uploads, {"photos": {"a": "1"}})
    run = shell.start("bucket-x")
    assert run.exit_status == 1 and run.status["state"] == "failed"
    assert store.requests and elsewhere.requests == []


# -- a flood ------------------------------------------------------------------------------------------------


def test_two_thousand_rapid_syncs_leave_few_workers_and_a_clear_refusal(make_service, juicefs) -> None:
    """At most MAX_RUNNING_JOBS workers at any moment, at most MAX_QUEUED_JOBS waiting, 503 with Retry-After
    for the others, and /healthz goes on answering."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)  # a store that never answers: workers stay
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    service: Service = make_service(juicefs, STORAGE_URL=url, MAX_RUNNING_JOBS="2", MAX_QUEUED_JOBS="20")
    tree(service.uploads, {"photos": {"a": "1"}})
    statuses: dict[int, int] = {}
    refusals: list[str] = []
    most, count = 0, threading.Lock()
    numbers = iter(range(2000))
    stop = threading.Event()

    def flood() -> None:
        while True:
            with count:
                number = next(numbers, None)
            if number is None:
                return
            reply = service.get("/sync", source="photos", dest=f"bucket-{number:04}")
            with count:
                statuses[reply.status] = statuses.get(reply.status, 0) + 1
                if reply.status in (429, 503):
                    refusals.append(reply.headers.get("retry-after", ""))

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, len(service.workers()))
            stop.wait(0.1)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    watcher = threading.Thread(target=watch)
    for thread in [*threads, watcher]:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert service.get("/healthz").status == 200
        threads[0].join(0.2)
    wait_for(lambda: len(service.workers()) >= 2, 20, "the workers of the first jobs")
    stop.set()
    watcher.join()
    assert sum(statuses.values()) == 2000 and set(statuses) <= {202, 429, 503}, statuses
    assert 20 <= statuses[202] <= 30, statuses
    assert all(text.isdigit() and int(text) > 0 for text in refusals)
    assert most <= 2
    silent.close()
