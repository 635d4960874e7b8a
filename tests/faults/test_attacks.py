"""The attacks of docs/security.md, one test a row, and each row a second time with its defence switched off:
then it must get through, or the first test would prove nothing.

The rows of a browser are in test_attacks_browser.py, those about keys in test_attacks_secrets.py."""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote

import pytest
from attack_harness import Row, both, mutated, replaced, without
from bench import PROJECT, wait_for
from serving import Site, write_finished
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser

from syncworker import request, settings
from syncworker.errors import FatalError, UsageError
from syncworker.folder import uploads_root
from syncworker.jobs import ids, status, store
from syncworker.options import table
from syncworker.service import storage_check
from syncworker.service.supervisor import Supervisor
from syncworker.system import durable_files
from syncworker.web import http_server, middleware, operations, parameters
from syncworker.wire import resolver

TOKEN = "the-token-of-the-attack-tests"
SYNC = "/sync?source=&dest=victim-bucket"
KEYS = "access_key=k&secret_key=s"
WITH_TOKEN = (("API_TOKEN", TOKEN),)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[[Row], Site]]:
    made: list[Site] = []

    def make(row: Row) -> Site:
        made.append(Site(tmp_path, **{"STORAGE_URL": "http://127.0.0.1:9", **dict(row.environ)}))
        return made[-1]

    yield make
    for site in made:
        site.close()


def acts(site: Site, *, method: str = "GET", target: str = SYNC, **headers: str) -> bool:
    """Whether a request makes a job."""
    site.ask(method, target, **headers)
    return bool(site.jobs.ids())


def sends(**headers: str) -> Callable[[Site], bool]:
    return lambda site: acts(site, **headers)


# -- another site's page ------------------------------------------------------------------------------------


def two_hosts(site: Site) -> bool:
    site.raw(
        f"GET {SYNC} HTTP/1.1\r\nHost: localhost\r\nHost: evil.test\r\nConnection: close\r\n\r\n".encode()
    )
    return bool(site.jobs.ids())


def no_host(site: Site) -> bool:
    for line in (f"GET {SYNC}", f"GET {SYNC} HTTP/1.0", f"GET {SYNC} HTTP/1.1\r\nConnection: close"):
        site.raw(f"{line}\r\n\r\n".encode())
    return bool(site.jobs.ids())


def every_origin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(middleware, "refusal_of_origin", lambda *_: None)


PAGES = [
    Row("a rebound name", sends(Host="evil.test:5000"), without("HTTP_HOST")),
    Row("a name that begins like ours", sends(Host="localhost.evil.test"), without("HTTP_HOST")),
    Row("two Host headers", two_hosts, without("HTTP_HOST")),
    Row("no Host header", no_host, without("HTTP_HOST")),
    Row("a page of another site", sends(Sec_Fetch_Site="cross-site"), without("HTTP_SEC_FETCH_SITE")),
    Row("a page of another local port", sends(Sec_Fetch_Site="same-site"), without("HTTP_SEC_FETCH_SITE")),
    Row("a form of another origin", sends(method="POST", Origin="http://evil.test"), without("HTTP_ORIGIN")),
    Row("a sandboxed page", sends(method="POST", Origin="null"), without("HTTP_ORIGIN")),
    Row(
        "a page over plain http, which no header betrays",
        sends(Host="nas.test", User_Agent="Mozilla/5.0 (X11; Linux x86_64)"),
        replaced(middleware, "refusal_of_unknown_origin", lambda _: None),
        (("ALLOWED_HOSTS", "nas.test"),),
    ),
    Row("a prefetch", sends(Sec_Purpose="prefetch"), without("HTTP_SEC_PURPOSE")),
    Row("an old browser's prefetch", sends(Purpose="prefetch"), without("HTTP_PURPOSE")),
    Row(
        "a link that a chat previews",
        sends(User_Agent="WhatsApp/2.23.20.0 N"),
        replaced(middleware, "refusal_of_preview", lambda _: None),
    ),
    Row("a WebSocket", sends(Upgrade="websocket"), without("HTTP_UPGRADE")),
    Row("a request to a proxy", sends(target=f"http://evil.test{SYNC}"), without("REQUEST_URI")),
]

# -- nobody's token -----------------------------------------------------------------------------------------


def spelled_otherwise(site: Site) -> bool:
    """Other spellings of what needs no token: does any get by the check?"""
    targets = ("//healthz", "/HEALTHZ", "/healthz/", "/healthz/../runnings", "/%2fhealthz", "/healthz%00")
    targets += ("/healthz;/runnings", "/login/../runnings", "/./healthz", "/healthz%2f..%2frunnings")
    answers = [site.get(target) for target in targets]
    assert b'"status": "ok"' in answers[0].body  # `//healthz` is `/healthz`
    return any(a.status not in (400, 401) and b'"status": "ok"' not in a.body for a in answers)


def guessed(site: Site) -> bool:
    for value in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f" {TOKEN}x", "\xff", "*", "None"):
        if site.get("/runnings", Authorization=f"Bearer {value}").status == 200:
            return True
    return False


def compared_in_changing_time(site: Site) -> bool:
    """Whether the token or the cookie is compared by anything but `hmac.compare_digest`."""
    seen: list[bytes] = []
    real = hmac.compare_digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hmac, "compare_digest", lambda a, b: seen.append(a) or real(a, b))
        site.get("/runnings", Authorization="Bearer guess-of-a-token")
        site.get("/runnings", Cookie=f"syncworker_{site.settings.api_port}=guess-of-a-cookie")
        site.get("/login?token=guess-of-a-login")
    return seen != [b"guess-of-a-token", b"guess-of-a-cookie", b"guess-of-a-login"]


def open_to_the_network(site: Site) -> bool:
    for host in ("0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "an-own-name"):
        config = settings.load({"API_HOST": host}, "/nonexistent/.env")
        with contextlib.suppress(UsageError):
            middleware.check_exposure(config)
            return True
    return False


def login_by_another_site(site: Site) -> bool:
    answer = site.get(f"/login?token={TOKEN}", Sec_Fetch_Site="cross-site")
    return "set-cookie" in answer.headers


ENTRIES = [
    Row(
        "no token",
        lambda site: any(site.get(t).status != 401 for t in ("/runnings", SYNC, "/jobs", "/", "/nothing")),
        replaced(middleware.Login, "refusal", lambda *_: None),
        WITH_TOKEN,
    ),
    Row(
        "another spelling of a path without a token",
        spelled_otherwise,
        replaced(middleware.Login, "refusal", lambda *_: None),
        WITH_TOKEN,
    ),
    Row(
        "a guessed token",
        guessed,
        mutated(middleware, "Login.is_token", "return hmac", "return True or hmac"),
        WITH_TOKEN,
    ),
    Row(
        "a token measured by the time that comparing takes",
        compared_in_changing_time,
        mutated(middleware, "Login.is_token", "hmac.compare_digest(", "bytes.__eq__("),
        WITH_TOKEN,
    ),
    Row("a login from another site", login_by_another_site, without("HTTP_SEC_FETCH_SITE"), WITH_TOKEN),
    Row(
        "a server open to the network",
        open_to_the_network,
        replaced(middleware, "is_loopback", lambda _: True),
    ),
]

# -- parameters ---------------------------------------------------------------------------------------------


def lenient(patch: pytest.MonkeyPatch) -> None:
    """Parameters as most frameworks read them: the last one wins, what is no UTF-8 is replaced."""
    patch.setattr(
        parameters,
        "of_request",
        lambda environ, _: dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)),
    )


def read_outside(site: Site) -> bool:
    """A status file beside the jobs folder, asked for by a path instead of an id."""
    outside = Path(site.jobs.path).parent / "outside.json"
    outside.write_text('{"state": "done", "id": "x", "source": "a secret"}')
    ids = ("../outside", "..%2foutside", "%2e%2e/outside", "./../outside", str(outside)[:-5])
    return any(b"a secret" in site.get(f"/get?id={job_id}").body for job_id in ids)


def any_status(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(status, "is_status_of", lambda *_: True)


def no_id_check(patch: pytest.MonkeyPatch) -> None:
    for module in (store, ids):
        patch.setattr(module, "check_id", lambda text: text)
    any_status(patch)


def leads_out(site: Site) -> bool:
    secret = Path(site.settings.uploads_dir).parent / "secret"
    secret.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(secret, Path(site.settings.uploads_dir) / "link")
    for source in (
        "..",
        "a/../..",
        "../secret",
        "link",
        "link/../link",
        quote(str(secret), safe=""),
        "%2e%2e",
        "./..",
    ):
        site.get(f"/sync?source={source}&dest=victim-bucket")
    return bool(site.jobs.ids())


def server_keys_elsewhere(site: Site) -> bool:
    """The server's own keys, for a store that somebody names."""
    own = site.settings.default_storage_url
    elsewhere = ("http://evil.test", f"{own}0", f"{own}/below", own.replace("http:", "https:"))
    elsewhere += (f"{own}@evil.test", f"{own}%2f@evil.test", f"{own}#@evil.test", own.replace("127", "0127"))
    for url in elsewhere:
        site.get(f"/sync?source=&dest=victim-bucket&storage_url={quote(url, safe='')}")
    return bool(site.jobs.ids())


METADATA = (
    "http://169.254.169.254", "http://2852039166", "http://0xa9fea9fe", "http://0xA9.0xFE.0xA9.0xFE",
    "http://0251.0376.0251.0376", "http://0251.254.0xa9fe", "http://169.254.43518", "http://169.16689662",
    "http://[::ffff:169.254.169.254]", "http://[::ffff:a9fe:a9fe]", "http://[64:ff9b::a9fe:a9fe]",
    "http://[2002:a9fe:a9fe::]", "http://[::169.254.169.254]", "http://[fe80::1]", "http://[fd00:ec2::254]",
    "http://100.100.100.200", "http://168.63.129.16", "http://metadata.test", "http://0.0.0.0:1", "http://0",
)  # fmt: skip


def reaches_metadata(site: Site) -> bool:
    real = socket.getaddrinfo

    def stub(host: str, *more: object, **named: object) -> object:
        return real("169.254.169.254" if host == "metadata.test" else host, *more, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver.socket, "getaddrinfo", stub)
        statuses = {
            url: site.get(f"/sync?source=&dest=victim-{n:03}&{KEYS}&storage_url={quote(url, safe='')}").status
            for n, url in enumerate(METADATA)
        }
    return 202 in statuses.values() or set(statuses.values()) != {400}


def by_prefix(site: Site) -> bool:
    for url in (
        "https://good.test.evil.test", "https://good.test@evil.test", "https://good.testevil",
        "https://good.test:1@evil.test", "https://evil.test/https://good.test", "https://good.test\\.evil.test",
        "https://good.test%2eevil.test", "http://good.test", "https://good.test./", "https://evil.test#https://good.test",
    ):  # fmt: skip
        site.get(f"/sync?source=&dest=victim-bucket&{KEYS}&storage_url={quote(url, safe='')}")
    return bool(site.jobs.ids())


PARAMETERS = [
    Row(
        "a HEAD that acts",
        sends(method="HEAD"),
        replaced(operations.Operation, "methods", ("GET", "POST", "HEAD")),
    ),
    Row("a parameter given twice", sends(target=SYNC + "&dest=other-bucket"), lenient),
    Row("a parameter with two names", sends(target=SYNC + "&Dest=other-bucket"), lenient),
    Row(
        "a NUL in a parameter",
        sends(target=SYNC + "&wait=0%00"),
        both(lenient, replaced(table, "parse", lambda _: {})),
    ),
    Row("text that is no UTF-8", sends(target="/sync?source=%FF%FE&dest=victim-bucket"), lenient),
    Row(
        "CR LF in a parameter",
        sends(target=SYNC + "&wait=0%0d%0aX:%201"),
        both(lenient, replaced(table, "parse", lambda _: {})),
    ),
    Row("a path for an id", read_outside, no_id_check),
    Row("a source that leads out", leads_out, replaced(request, "parse_source", lambda text, _: text)),
    Row(
        "the server's keys for another storage",
        server_keys_elsewhere,
        mutated(request, "parse", "keys is None and profile is None and not settings.is_own(url)", "False"),
    ),
    Row(
        "the metadata service as a storage",
        reaches_metadata,
        replaced(resolver, "is_refused", lambda _: False),
    ),
    Row(
        "a storage that begins like an allowed one",
        by_prefix,
        mutated(
            request,
            "_below",
            'url == prefix or url.startswith((f"{prefix}/", f"{prefix}:"))',
            "url.startswith(prefix)",
        ),
        (("ALLOWED_STORAGE_URLS", "https://good.test"),),
    ),
]

# -- requests that are too large, too slow, too many --------------------------------------------------------


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def hangs(site: Site, seconds: float = 1.0, tries: int = 3) -> bool:
    """Whether /healthz never answers in time: a busy machine is slow now and then."""

    def answers() -> bool:
        started = time.monotonic()
        with contextlib.suppress(OSError):
            return site.raw(HEALTH, seconds + 1).status == 200 and time.monotonic() - started <= seconds
        return False

    return not any(answers() for _ in range(tries))


def silent_and_slow(site: Site) -> bool:
    """200 connections that say nothing, 200 that say a byte a second."""
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 5)) for _ in range(400)
        ]
        for byte in (b"G", b"E", b"T"):
            for connection in opened[200:]:
                connection.send(byte)
            if hangs(site):
                return True
            time.sleep(0.3)  # the pace of the attacker, not a wait for anything
        return False


def few_connections(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(http_server, "CONNECTIONS", 100)  # waitress's own number
    patch.setattr(http_server._Server, "maintenance", lambda *_: None)


def unread_answers(site: Site) -> bool:
    """More clients than threads ask for megabytes and read nothing."""
    write_finished(Path(site.jobs.path), 60)
    ask = b"GET /jobs?limit=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(http_server, "UNREAD_MAX_BYTES", 1 << 18)
        accepted = []
        real = http_server._Channel.__init__

        def counted(channel: http_server._Channel, *given: object, **named: object) -> None:
            accepted.append(channel)
            real(channel, *given, **named)

        patch.setattr(http_server._Channel, "__init__", counted)
        for _ in range(9):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", site.port))
            client.sendall(ask * 140)
        wait_for(lambda: len(accepted) >= 9, 10, "the clients to be accepted")
        clients = accepted[:9]

        def all_cut() -> bool:
            open_channels = list(site.http._map.values())
            return not any(channel in open_channels for channel in clients)

        wait_for(
            lambda: all_cut() or hangs(site, 10, 1), 90, "the clients to be cut, or all threads to be stuck"
        )
        return not all_cut()


def waits_for_readers(patch: pytest.MonkeyPatch) -> None:
    name = "_flush_outbufs_below_high_watermark"
    patch.setattr(http_server._Channel, name, getattr(HTTPChannel, name))
    real = http_server.Adjustments
    patch.setattr(http_server, "Adjustments", lambda **named: real(**named, outbuf_high_watermark=1 << 18))


def slow_names(site: Site) -> bool:
    """As many storages as there are threads, whose names nobody answers for."""
    released, begun = threading.Event(), []

    def look_up(url: str) -> None:
        begun.append(url)
        released.wait(30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolver, "check_storage_url", look_up)
        patch.setattr(storage_check, "RESOLVE_SECONDS", 10.0)  # longer than `hangs` looks
        target = f"/sync?source=&dest=victim-bucket&{KEYS}&storage_url=http://slow.test"
        threads = [threading.Thread(target=site.get, args=(target,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: len(begun) + sum(not thread.is_alive() for thread in threads) == 8, 10)
            return hangs(site, 1.5)
        finally:
            released.set()
            for thread in threads:
                thread.join()


def every_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(storage_check, "_RESOLVING", threading.Semaphore(1000))


def smuggled(site: Site) -> bool:
    """Is a request that is hidden in another's body served?"""
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    body = b"0\r\n\r\n" + hidden
    head = b"POST /runnings HTTP/1.1\r\nHost: localhost\r\n"
    for lines in (
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n" % len(body),
        b"Transfer-Encoding: chunked\r\nContent-Length: %d\r\n" % len(body),
        b"Content-Length: %d\r\nContent-Length: 5\r\n" % len(body),
        b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5,5\r\n",
        b"Content-Length: 0x5\r\n",
        b"X: y\nTransfer-Encoding: chunked\r\n",
    ):
        with socket.create_connection(("127.0.0.1", site.port), 5) as connection:
            connection.sendall(head + lines + b"\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(OSError):
                while data := connection.recv(65536):
                    received += data
        if b'"status": "ok"' in received:
            return True
    return False


LOADS = [
    Row("silent and slow clients", silent_and_slow, few_connections),
    Row("clients that read no answer", unread_answers, waits_for_readers),
    Row(
        "long headers",
        lambda site: site.get("/runnings", X="a" * 20000).status != 431,
        replaced(http_server, "HEADER_MAX_BYTES", 1 << 20),
    ),
    Row(
        "a long body",
        lambda site: site.form("/sync", b"source=" + b"a" * 300_000).status != 413,
        both(
            replaced(http_server, "BODY_MAX_BYTES", 1 << 20), replaced(parameters, "BODY_MAX_BYTES", 1 << 20)
        ),
    ),
    Row(
        "many parameters",
        lambda site: site.get("/runnings?" + "a=1&" * 1000).problem["code"] != "TooManyParameters",
        replaced(parameters, "MAX_PARAMETERS", 10_000),
    ),
    Row(
        "a queue without end",
        lambda site: any(
            site.get(f"/sync?source=&dest=victim-{n}").status == 202 and n >= 3 for n in range(5)
        ),
        replaced(Supervisor, "_refuse_full", lambda _: None),
        (("MAX_QUEUED_JOBS", "3"),),
    ),
    Row("storages whose names are slow to look up", slow_names, every_name),
    Row(
        "a request in another's body",
        smuggled,
        replaced(http_server._Channel, "parser_class", HTTPRequestParser),
    ),
]

# -- answers and logs ---------------------------------------------------------------------------------------

HEADERS = ("x-content-type-options", "referrer-policy", "content-security-policy", "cache-control")


def framed(site: Site) -> bool:
    """Whether an answer may be framed, sniffed, kept or read by a page of another origin."""
    for answer in (
        site.get("/runnings"),
        site.get("/nothing"),
        site.get("/x", Host="evil.test"),
        site.ask("PUT", SYNC),
    ):
        policy = answer.headers.get("content-security-policy", "")
        if any(name not in answer.headers for name in HEADERS) or "frame-ancestors 'none'" not in policy:
            return True
        if "unsafe" in policy or any(name.startswith("access-control") for name in answer.headers):
            return True
        if re.search(r"waitress|bottle|python", str(answer.headers), re.IGNORECASE):
            return True
    return False


def said(site: Site, *targets: str) -> str:
    """What the log says of these requests."""
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware.sys.stderr, "write", written.append)
        for target in targets:
            site.get(target)
    return "".join(written)


def forged_line(site: Site) -> bool:
    found = said(site, "/x\x1b[2J", "/runnings?source=\x1b]0;forged\x07", '/x"200"', "/%0d%0aforged")
    assert found.count("GET") == 4
    return (
        bool(re.search("[\x00-\x09\x0b-\x1f\x7f-\xff]", found)) or found.count("\n") != 4 or '"200"' in found
    )


def key_in_the_log(site: Site) -> bool:
    key = "S3CRETKEY"
    found = said(
        site,
        f"{SYNC}&secret_key={key}", f"/sync&secret_key={key}", f"/sync?source=a;secret_key={key}",
        f"/sync?secret_key%3D{key}", f"/sync?{key}", f"/sync%3Fsecret_key={key}", f"/sync?Secret-Key={key}",
        f"/login?token={key}", f"/login?token={key}&x", f"/sync?storage_url=http://a:{key}@b",
        f"/sync?source=a%26secret_key={key}", f"/sync?x[secret_key]={key}", f"http://a:{key}@localhost/sync",
    )  # fmt: skip
    return key in found or found.count("\n") != 13


ANSWERS = [
    Row("an answer in a frame, or taken for a script", framed, replaced(middleware, "SECURITY_HEADERS", ())),
    Row("a forged line in the log", forged_line, replaced(middleware, "escape_ascii", str)),
    Row(
        "a key in the log",
        key_in_the_log,
        both(replaced(middleware, "redacted", str), replaced(middleware, "redacted_path", str)),
    ),
]

# -- files --------------------------------------------------------------------------------------------------


def shared_jobs(site: Site) -> bool:
    for mode in (0o777, 0o1777, 0o775, 0o770):
        folder = Path(site.jobs.path).parent / f"jobs-{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        with contextlib.suppress(FatalError):
            store.Jobs(str(folder)).prepare()
            return True
    return False


def written_through_a_link(site: Site) -> bool:
    """A link in the jobs folder, under the name that a status is written to next."""
    victim = Path(site.jobs.path).parent / "victim"
    victim.write_text("precious")
    job_id = site.submit()
    os.symlink(victim, site.jobs.file(job_id, "json.tmp"))
    site.get(f"/cancel?id={job_id}")
    return victim.read_text() != "precious"


def read_through_a_link(site: Site) -> bool:
    victim = Path(site.jobs.path).parent / "victim"
    victim.write_text('{"state": "done", "source": "precious"}')
    job_id = "20260101T000000-00000000"
    os.symlink(victim, site.jobs.file(job_id, "json"))
    return b"precious" in site.get(f"/get?id={job_id}").body


def open_files(site: Site) -> bool:
    """Whether a job's files, keys included, can be read by others."""
    site.submit(access_key="k", secret_key="s")
    found = [path for path in Path(site.jobs.path).rglob("*") if path.is_file()]
    assert len(found) >= 3
    return any(path.stat().st_mode & 0o077 for path in found) or bool(os.stat(site.jobs.path).st_mode & 0o077)


def swapped(site: Site) -> bool:
    """A folder and a link to the outside change places while a file below is opened, again and again."""
    root = Path(site.settings.uploads_dir)
    outside = root.parent / "outside"
    for folder, text in ((root / "real", "ours"), (outside, "theirs")):
        folder.mkdir()
        (folder / "file").write_text(text)
    (root / "link").symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for old, new in (("real", "dir"), ("dir", "real"), ("link", "dir"), ("dir", "link")):
                os.rename(root / old, root / new)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        opened = refused = 0  # the attack has been tried when the link was met, and not before
        deadline = time.monotonic() + 60
        with uploads_root.Tree(str(root)) as walked:
            while (opened < 100 or refused < 20) and time.monotonic() < deadline:
                try:
                    fd, _ = walked.open_file("dir/file")
                except OSError as error:
                    refused += error.errno in (errno.ELOOP, errno.ENOTDIR)
                    continue
                opened += 1
                with os.fdopen(fd) as file:
                    if file.read() == "theirs":
                        return True
        assert opened >= 100 and refused >= 20
        return False
    finally:
        done.set()
        thread.join()


def follow_links(patch: pytest.MonkeyPatch) -> None:
    for name in ("READ_DIRECTORY", "_PASS_DIRECTORY", "_READ_FILE"):
        patch.setattr(uploads_root, name, getattr(uploads_root, name) & ~os.O_NOFOLLOW)


def env_in_the_bucket(site: Site) -> bool:
    project = settings.PROJECT
    with contextlib.suppress(UsageError):
        elsewhere = {name: f"/nonexistent/{name}" for name in ("JOBS_DIR", "STORAGE_DIR", "MIRRORS_FILE")}
        settings.load({"UPLOADS_DIR": project, **elsewhere}, "/x")
        return True
    return False


FILES = [
    Row(
        "a jobs folder that others write to",
        shared_jobs,
        mutated(durable_files, "make_private_directory", "if others and (", "if False and ("),
    ),
    Row(
        "a link where a status is written",
        written_through_a_link,
        mutated(durable_files, "_making", "| os.O_NOFOLLOW ", ""),
    ),
    Row(
        "a link where a status is read",
        read_through_a_link,
        both(mutated(durable_files, "_open_regular", "| _ALWAYS", "| os.O_NONBLOCK"), any_status),
    ),
    Row(
        "files that others read",
        open_files,
        mutated(durable_files, "_making", "0o600)", "0o644)"),
    ),
    Row("a link swapped in between check and use", swapped, follow_links),
    Row(
        "the folder with .env as the uploads root",
        env_in_the_bucket,
        mutated(settings, "_overlaps", "if inside(PROJECT)", "if False"),
    ),
]

ROWS = [*PAGES, *ENTRIES, *PARAMETERS, *LOADS, *ANSWERS, *FILES]


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_the_attack_does_not_get_through(row: Row, make_site: Callable[[Row], Site]) -> None:
    assert not row.attack(make_site(row))


@pytest.mark.parametrize("row", ROWS, ids=repr)
def test_with_its_defence_off_the_attack_gets_through(
    row: Row, make_site: Callable[[Row], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    row.off(monkeypatch)
    assert row.attack(make_site(row))


def test_every_attack_is_in_the_document_and_every_test_named_there_exists() -> None:
    files = {path.name: path for path in (PROJECT / "tests").rglob("test_*.py")}
    assert len(files) > 100
    document = (PROJECT / "docs" / "security.md").read_text()
    assert [row.name for row in ROWS if f"`{row.name}`" not in document] == []
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", document):
        assert f"def {name}(" in files[file].read_text(), (file, name)
    for folder, file in set(re.findall(r"`(?:(tests/[\w/]+)/)?(test_\w+\.py)", document)):
        assert file in files and files[file].match(f"{folder}/{file}" if folder else file), (folder, file)
