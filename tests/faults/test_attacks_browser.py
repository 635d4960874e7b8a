"""What a web page can do to the server, in a real Chromium: the rows of a browser in docs/security.md.

Each vector must reach the server (its log has the request), be refused with 403, and make no job; and make
one with the guard's first checks off. The service has no token here, and its cookie would not be sent either:
what is tested is the line of defence that every installation has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from attack_pages import NAME, Chromium, Evil, Rebinder, Tab
from serving import Site

from syncworker.web import middleware

FORM = """<form id=f method={method} action="{url}/sync" enctype="{kind}">
<input name=source value=""><input name=dest value=victim-bucket></form><script>f.submit()</script>"""
SPECULATION = """<script type=speculationrules>
{"prefetch": [{"source": "list", "urls": ["{target}"], "eagerness": "immediate"}]}</script>"""
URLENCODED = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Vector:
    """`html` has {url}, the attacked server, and {target}, a sync on it. `acts`: with the guard off it makes
    a job (a form of text makes none even then: its body is no form of ours)."""

    name: str
    html: str
    acts: bool = True

    def __repr__(self) -> str:
        return self.name


VECTORS = [
    Vector("img", '<img src="{target}">'),
    Vector("script", '<script src="{target}"></script>'),
    Vector("stylesheet", '<link rel=stylesheet href="{target}">'),
    Vector("css url", '<body style="background: url({target})">x'),
    Vector("video", '<video src="{target}" preload=auto></video>'),
    Vector("iframe", '<iframe src="{target}"></iframe>'),
    Vector("sandboxed iframe", '<iframe sandbox src="{target}"></iframe>'),
    Vector("object", '<object data="{target}"></object>'),
    Vector("form GET", FORM.replace("{method}", "GET").replace("{kind}", URLENCODED)),
    Vector("form POST", FORM.replace("{method}", "POST").replace("{kind}", URLENCODED)),
    Vector("form POST text", FORM.replace("{method}", "POST").replace("{kind}", "text/plain"), acts=False),
    Vector(
        "form POST multipart",
        FORM.replace("{method}", "POST").replace("{kind}", "multipart/form-data"),
        acts=False,
    ),
    Vector("fetch GET", "<script>fetch('{target}', {mode: 'no-cors'})</script>"),
    Vector("fetch GET with CORS", "<script>fetch('{target}', {credentials: 'include'})</script>"),
    Vector(
        "fetch POST",
        "<script>fetch('{url}/sync', {method: 'POST', mode: 'no-cors',"
        " body: new URLSearchParams('source=&dest=victim-bucket')})</script>",
    ),
    Vector(
        "fetch POST JSON",
        "<script>fetch('{url}/sync', {method: 'POST', headers: {'Content-Type': 'application/json'},"
        " body: JSON.stringify({source: '', dest: 'victim-bucket'})})</script>",
        acts=False,  # a preflight, which nobody here answers
    ),
    Vector(
        "beacon",
        "<script>navigator.sendBeacon('{url}/sync',"
        " new URLSearchParams('source=&dest=victim-bucket'))</script>",
    ),
    Vector("top-level navigation", "<script>location = '{target}'</script>"),
    Vector("redirect by meta", '<meta http-equiv=refresh content="0; url={target}">'),
    Vector("embed", '<embed src="{target}">'),
    Vector("font", "<style>@font-face {font-family: f; src: url('{target}')} p {font-family: f}</style><p>x"),
    Vector("module", '<link rel=modulepreload href="{target}">'),
    Vector("preload", '<link rel=preload as=image href="{target}">'),
    Vector("ping", '<a id=a href="#x" ping="{target}">x</a><script>a.click()</script>', acts=False),
    Vector("speculation", SPECULATION),
    Vector("prefetch", '<link rel=prefetch href="{target}">'),
    Vector("EventSource", "<script>new EventSource('{target}')</script>"),
    Vector("WebSocket", "<script>new WebSocket('{target}'.replace('http', 'ws'))</script>"),
    Vector(
        "worker",
        "<script>new Worker(URL.createObjectURL(new Blob("
        "[`fetch('{target}', {mode: 'no-cors'})`])))</script>",
    ),
]


NAMES = (
    f"MAP {NAME} 127.0.0.1",
    "MAP *.rebound.test 127.0.0.2",
    "MAP localhost.evil.test 127.0.0.1",
    "MAP nas.test 127.0.0.1",
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    chromium = Chromium(*NAMES)
    yield chromium
    chromium.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    tab = chromium.tab()
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def evil() -> Iterator[Evil]:
    evil = Evil()
    yield evil
    evil.close()


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("attacked"), STORAGE_URL="http://127.0.0.1:9")
    yield site
    site.close()


@pytest.fixture
def site(attacked: Site, tab: Tab) -> Iterator[Site]:
    """The attacked server, without a job at the beginning; the page is closed before they are removed."""
    yield attacked
    tab.close()
    for job_id in attacked.jobs.ids():
        attacked.jobs.delete(job_id)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(method, status) of every request for /sync that came to the server."""
    seen: list[tuple[str, int]] = []
    real = middleware.write_access_line

    def write(environ: dict[str, str], status: str, seconds: float) -> None:
        if environ["PATH_INFO"] == "/sync":
            seen.append((environ["REQUEST_METHOD"], int(status[:3])))
        real(environ, status, seconds)

    monkeypatch.setattr(middleware, "write_access_line", write)
    return seen


def filled(html: str, site: Site, host: str = "127.0.0.1") -> str:
    url = f"http://{host}:{site.port}"
    return html.replace("{target}", f"{url}/sync?source=&dest=victim-bucket").replace("{url}", url)


def open_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(middleware, "refusal_of_origin", lambda *_: None)
    patch.setattr(middleware, "refusal_of_unknown_origin", lambda _: None)


@pytest.mark.parametrize("vector", VECTORS, ids=repr)
def test_a_page_of_another_site_reaches_the_server_and_is_refused(
    vector: Vector, tab: Tab, evil: Evil, site: Site, answers: list[tuple[str, int]]
) -> None:
    evil.page = filled(vector.html, site)
    assert tab.visit(evil.url, lambda: bool(answers)), "the page's request never came: nothing was tested"
    assert {status for _, status in answers} == {403}
    assert site.jobs.ids() == []


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.acts], ids=repr)
def test_with_the_guard_off_the_same_page_starts_a_job(
    vector: Vector, tab: Tab, evil: Evil, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_guard(monkeypatch)
    evil.page = filled(vector.html, site)
    assert tab.visit(evil.url, lambda: bool(site.jobs.ids())), "the attack does not work: nothing was tested"


def test_a_page_of_another_local_port_is_refused(
    tab: Tab, evil: Evil, site: Site, answers: list[tuple[str, int]]
) -> None:
    """For the browser that is the same site: cookies and `SameSite` do not tell ports apart."""
    evil.page = filled('<img src="{target}">', site, "localhost")
    assert tab.visit(f"http://localhost:{evil.port}/", lambda: bool(answers))
    assert answers[0] == ("GET", 403) and site.jobs.ids() == []


REBOUND = """<script>
fetch('/sync?source=&dest=victim-bucket').then(r => r.text()).then(t => { document.title = t || 'empty' })
</script>"""


@pytest.mark.parametrize("host", ["a.rebound.test", "localhost.evil.test"])
def test_a_page_of_a_rebound_name_is_refused(
    host: str, tab: Tab, site: Site, answers: list[tuple[str, int]]
) -> None:
    """The page's origin is the attacked server's address: no Origin, nothing cross-site, only the name."""
    if host == "a.rebound.test":
        rebinder = Rebinder(site.port, REBOUND)
        try:
            assert tab.visit(f"http://{host}:{site.port}/page", lambda: bool(answers))
            assert "HostNotAllowed" in tab.titled()
        finally:
            rebinder.close()
    else:
        url = f"http://{host}:{site.port}/sync?source=&dest=victim-bucket"
        assert tab.visit(url, lambda: bool(answers))
    assert {status for _, status in answers} == {403}
    assert site.jobs.ids() == []


def test_with_the_guard_off_a_rebound_page_starts_a_job_and_reads_it(
    tab: Tab, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_guard(monkeypatch)
    rebinder = Rebinder(site.port, REBOUND)
    try:
        assert tab.visit(f"http://b.rebound.test:{site.port}/page", lambda: bool(site.jobs.ids()))
        assert re.search(r'"state": "queued"', tab.titled())
    finally:
        rebinder.close()


@pytest.mark.parametrize("defended", [True, False], ids=["refused", "with the guard off"])
def test_a_page_starts_no_job_under_a_name_for_which_the_browser_tells_no_site(
    defended: bool, tab: Tab, evil: Evil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over plain http, and not to this machine's own names, Chromium sends no `Sec-Fetch-Site`."""
    if not defended:
        monkeypatch.setattr(middleware, "refusal_of_unknown_origin", lambda _: None)
    site = Site(tmp_path, ALLOWED_HOSTS="nas.test", STORAGE_URL="http://127.0.0.1:9")
    statuses: list[str] = []
    real = middleware.write_access_line

    def write(environ: dict[str, str], status: str, seconds: float) -> None:
        assert "HTTP_SEC_FETCH_SITE" not in environ
        statuses.append(status[:3])
        real(environ, status, seconds)

    monkeypatch.setattr(middleware, "write_access_line", write)
    try:
        evil.page = filled('<img src="{target}">', site, "nas.test")
        assert tab.visit(evil.url, lambda: bool(statuses))
        assert statuses[0] == ("403" if defended else "202")
        assert len(site.jobs.ids()) == (not defended)
    finally:
        tab.close()
        site.close()


def test_the_operators_own_address_bar_is_served(tab: Tab, site: Site) -> None:
    tab.open(f"http://localhost:{site.port}/sync?source=&dest=own-bucket")
    assert len(site.jobs.ids()) == 1


def test_the_login_cookie_is_not_sent_by_another_site(
    tab: Tab, evil: Evil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the guard's first checks off: `SameSite=Strict` is a defence of its own, and HttpOnly hides it."""
    site = Site(tmp_path, API_TOKEN="a-token-of-the-browser", STORAGE_URL="http://127.0.0.1:9")
    try:
        tab.open(f"http://127.0.0.1:{site.port}/login?token=a-token-of-the-browser")
        tab.open(f"http://127.0.0.1:{site.port}/runnings")
        assert '"count": 0' in tab.content()
        assert tab.evaluate("document.cookie") == ""
        open_guard(monkeypatch)
        statuses: list[int] = []
        real: Callable[..., None] = middleware.write_access_line

        def write(environ: dict[str, str], status: str, seconds: float) -> None:
            statuses.append(int(status[:3]))
            real(environ, status, seconds)

        monkeypatch.setattr(middleware, "write_access_line", write)
        evil.page = filled('<img src="{target}"><iframe src="{target}"></iframe>', site)
        assert tab.visit(evil.url, lambda: len(statuses) >= 2)
        assert set(statuses) == {401} and site.jobs.ids() == []
    finally:
        site.close()
