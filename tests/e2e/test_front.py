"""Behind the real nginx (and Caddy, for what needs no browser), as docs/operations.md sets them up: at a
path, over https, with a token. The tests of the dashboard are run once more, through nginx."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import test_dashboard
import test_dashboard_keyboard
import test_dashboard_options
import test_dashboard_plan
from bench import PROJECT, Reply, Service, tree, wait_for
from conftest import truthful
from playwright.sync_api import Browser, BrowserContext, Page
from stores import Store, die_with_parent, free_ports
from test_dashboard import *  # noqa: F403 - its tests, which find the fixtures of this file
from test_transport import make_certificate
from truth import Watch

pytestmark = pytest.mark.long


DOCUMENT = (PROJECT / "docs" / "operations.md").read_text()
[SNIPPET] = re.findall(r"^```nginx\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
[CADDY] = re.findall(r"^```caddyfile\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
TOKEN = "a-token-behind-nginx"
PATH = "/s3sync/"
# Not through a proxy: they ask for files or tokens of their own, or take the pictures of the docs.
DIRECT = {"test_the_page_loads_its_own_files_and_allows_nothing_else", "test_the_token_is_asked_for"}
# A server that is gone is nginx's 502 here; the page says that. And one asks for an address without the path.
DIRECT |= {"test_a_server_that_is_gone_is_said_and_found_again"}
DIRECT |= {"test_an_idle_page_costs_next_to_nothing_and_a_hidden_one_nothing"}
DIRECT |= {"test_a_job_s_page_tells_how_to_start_the_same"}
DIRECT |= {"test_a_thousand_jobs_weigh_what_fifty_do"}
DIRECT |= {name for name in vars(test_dashboard) if "pictures" in name}
for name in DIRECT:
    globals().pop(name)
# And those of its parts, which find the same fixtures.
for part in (test_dashboard_keyboard, test_dashboard_options, test_dashboard_plan):
    globals().update(
        {name: one for name, one in vars(part).items() if name.startswith("test_") and callable(one)}
    )


class Nginx:
    """Debian's nginx with the documents' server block; only port, name and certificate are others."""

    def __init__(self, folder: Path, api_port: int, *, strips: bool = False) -> None:
        self.folder, self.port = folder, free_ports(1)[0]
        make_certificate(folder)
        block = SNIPPET.replace("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl")
        block = block.replace("sync.example.org", "localhost").replace(":5000", f":{api_port}{'/' * strips}")
        block = block.replace("/etc/ssl/certs/sync.pem", f"{folder}/cert.pem")
        block = block.replace("/etc/ssl/private/sync.key", f"{folder}/key.pem")
        assert block.count(str(folder)) == 2 and f":{api_port}" in block
        places = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; worker_processes 1; error_log {folder}/error.log;"
            f"events {{}} http {{ access_log off; {places} {block} }}"
        )
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")],
            preexec_fn=die_with_parent,
        )
        wait_for(self._answers, 20, f"nginx: {self.folder}")

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}{PATH.rstrip('/')}"

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "error.log").read_text()
        with suppress(OSError):
            return self.request("GET", f"{PATH}healthz").status in (200, 502)
        return False

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        context = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, fields, answer.read())
        finally:
            connection.close()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Caddy(Nginx):
    """Debian's Caddy with the documents' site; only port, name and certificate are others."""

    def __init__(self, folder: Path, api_port: int, *, strips: bool = False) -> None:
        self.folder, self.port = folder, free_ports(1)[0]
        make_certificate(folder)
        site = f"https://localhost:{self.port} {{\n    bind 127.0.0.1\n    tls"
        site += f" {folder}/cert.pem {folder}/key.pem"
        block = CADDY.replace("sync.example.org {", site).replace(":5000", f":{api_port}")
        block = block.replace("handle ", "handle_path ") if strips else block
        assert block.count(str(folder)) == 2 and f":{api_port}" in block
        (folder / "Caddyfile").write_text(f"{{\n    admin off\n    auto_https off\n}}\n{block}")
        with (folder / "error.log").open("wb") as log:
            self.process = subprocess.Popen(
                [shutil.which("caddy") or "/usr/bin/caddy", "run", "--config", str(folder / "Caddyfile")],
                preexec_fn=die_with_parent,
                env={"HOME": str(folder), "PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, 20, f"caddy: {self.folder}")


class FrontService(Service):
    """A server that people see through nginx; its own port is asked with the token."""

    front: Nginx

    @property
    def url(self) -> str:
        return self.front.url

    def request(self, *arguments: Any, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        token = {"Authorization": f"Bearer {TOKEN}"}
        return super().request(*arguments, headers=token | dict(headers or {}), **more)


@pytest.fixture
def made() -> list[FrontService]:
    return []


@pytest.fixture
def make_service(
    tmp_path_factory: pytest.TempPathFactory, watch: Watch, made: list[FrontService]
) -> Iterator[Callable[..., Service]]:
    with ExitStack() as fronts:

        def make(
            store: Store | None,
            *,
            start: bool = True,
            strips: bool = False,
            proxy: type[Nginx] = Nginx,
            **environment: str,
        ) -> Service:
            settings = {"API_BASE_PATH": PATH, "TRUSTED_PROXIES": "127.0.0.1,::1", "API_TOKEN": TOKEN}
            service = FrontService(tmp_path_factory.mktemp("front"), store, **settings, **environment)
            service.front = proxy(tmp_path_factory.mktemp("proxy"), service.port, strips=strips)
            fronts.callback(service.front.close)
            made.append(service)
            watch.add(service.jobs)
            if start:
                service.start()
            return service

        with truthful(watch, made):
            yield make


@pytest.fixture
def new_page(browser: Browser, made: list[FrontService]) -> Iterator[Callable[..., Page]]:
    """As those of the dashboard's tests, logged in by the link, which is opened through nginx."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def make(**options: Any) -> Page:
        context = browser.new_context(
            ignore_https_errors=True, **({"viewport": test_dashboard.WIDE} | options)
        )
        context.set_default_timeout(45_000)
        contexts.append(context)
        service = made[-1]
        assert context.request.get(f"{service.url}/login?token={TOKEN}").status == 200
        [cookie] = context.cookies()
        assert (cookie["secure"], cookie["path"], cookie["httpOnly"]) == (True, PATH, True)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: test_dashboard._note(message.type, message.text, wrong))
        page.on("request", lambda request: _note_foreign(request.url, service.url, wrong))
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def _note_foreign(url: str, own: str, wrong: list[str]) -> None:
    """Nothing is asked of another server, nor of another path of this one."""
    if not url.startswith((f"{own}/", "data:")) and url != own:
        wrong.append(url)


# -- without a browser --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", [Nginx, Caddy])
@pytest.mark.parametrize("strips", [False, True])
def test_a_proxy_passes_the_path_on_or_cuts_it_off(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, strips: bool, proxy: type[Nginx]
) -> None:
    service = make_service(juicefs, strips=strips, proxy=proxy)
    front, token = service.front, {"Authorization": f"Bearer {TOKEN}"}  # type: ignore[attr-defined]
    tree(service.uploads / "photos", {"a": "1"})
    answer = front.request("POST", f"{PATH}sync?source=photos&dest={bucket}", token)
    job = answer.json()["id"]
    assert (answer.status, answer.headers["location"]) == (202, f"{PATH}get?id={job}")
    service.wait_state(job, "done")
    assert front.request("GET", answer.headers["location"], token).json()["state"] == "done"
    link = front.request("GET", f"{PATH}login?token={TOKEN}")
    assert (link.status, link.headers["location"]) == (303, PATH)
    assert "; Secure" in link.headers["set-cookie"] and f"Path={PATH}" in link.headers["set-cookie"]
    assert front.request("GET", f"{PATH}jobs").status == 401
    assert front.request("GET", f"{PATH}healthz").status == 200
    assert front.request("GET", PATH.rstrip("/")).status in (301, 302, 308)
    outside = front.request("GET", "/jobs", token)  # it never came here
    assert b"<center>nginx" in outside.body if proxy is Nginx else outside.body == b""
    said = (service.base / "server.err").read_text()
    assert '127.0.0.1 "POST' in said


def test_who_asks_through_two_proxies_is_told_and_nobody_else_is_believed(
    make_service: Callable[..., Service], juicefs: Store
) -> None:
    service = make_service(juicefs)
    service.front.request("GET", f"{PATH}healthz?q=1", {"X-Forwarded-For": "192.0.2.7"})  # type: ignore[attr-defined]
    # The client of nginx is a trusted address here, so what it tells counts as a proxy's.
    wait_for(lambda: '192.0.2.7 "GET' in (service.base / "server.err").read_text(), 5, "the line")


@pytest.mark.parametrize("proxy", [Nginx, Caddy])
def test_other_sites_are_refused_through_it_as_well(
    make_service: Callable[..., Service], juicefs: Store, bucket: str, proxy: type[Nginx]
) -> None:
    service = make_service(juicefs, proxy=proxy)
    front = service.front  # type: ignore[attr-defined]
    token = {"Authorization": f"Bearer {TOKEN}"}
    target = f"{PATH}sync?source=&dest={bucket}"
    own = f"https://localhost:{front.port}"
    for headers in (
        {"Origin": "https://evil.test"},
        {"Origin": f"http://localhost:{front.port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": own},
        {"Host": "evil.test"},
    ):
        reply = front.request("POST", target, token | headers)
        kept = proxy is Caddy and "Host" in headers  # an empty 200: Caddy has no such site, and asks nobody
        assert (reply.status, reply.body) == (200, b"") if kept else reply.status == 403, headers
    assert front.request("GET", f"{PATH}jobs", token | {"Origin": own}).status == 200
    assert service.ids() == []
    assert os.path.isdir(service.jobs)
