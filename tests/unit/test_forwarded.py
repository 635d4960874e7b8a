"""A server that is seen below a path and through proxies: API_BASE_PATH and TRUSTED_PROXIES."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Site, load

from syncworker import forwarded
from syncworker.errors import UsageError

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, STORAGE_URL="http://127.0.0.1:9", API_BASE_PATH="/s3sync/", API_TOKEN=TOKEN)
    yield site
    site.close()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, API_TOKEN=TOKEN, TRUSTED_PROXIES="127.0.0.1", ALLOWED_HOSTS="sync.test")
    yield site
    site.close()


# -- the path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path"),
    [("/", "/"), ("/s3sync/", "/s3sync/"), ("/s3sync", "/s3sync/"), ("/a/b-c_d.e/", "/a/b-c_d.e/")],
)
def test_a_base_path_has_a_slash_at_both_ends(text: str, path: str) -> None:
    assert forwarded.parse_base_path(text) == path


@pytest.mark.parametrize(
    "text", ["s3sync", "//", "/a//b", "/../", "/a/./b", "/a b/", "/a%20/", "/a?b", '/a"', "http://a/", "/ä/"]
)
def test_what_is_no_plain_path_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="API_BASE_PATH"):
        load(tmp_path, API_BASE_PATH=text)


def test_every_route_is_there_below_the_path_and_without_it(below: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/runnings", "/jobs", "/healthz", "/metrics", "/openapi.json", "/", "/static/api.js"):
        for target in (f"/s3sync{path}", path):
            assert below.get(target, **bearer).status == 200, target
    assert below.get("/s3sync/healthz").status == 200  # without a token
    for target in ("/s3syncx/healthz", "/s3sync/s3sync/healthz", "/other/healthz", "/s3sync/nothing"):
        assert below.get(target, **bearer).status == 404, target
    assert below.get("/s3sync/openapi.json", **bearer).json["servers"] == [{"url": "/s3sync"}]


def test_the_path_opens_no_way_around_the_token(below: Site) -> None:
    for target in (
        "/s3sync/runnings",
        "/s3sync//runnings",
        "/s3sync/healthz/../runnings",
        "//s3sync/runnings",
    ):
        assert below.get(target).status == 401, target
    assert below.get("/s3sync/runnings", Host="evil.test").status == 403
    assert below.get("/s3sync", Host="evil.test").status == 403


def test_the_path_without_its_slash_leads_to_the_pages(below: Site) -> None:
    answer = below.get("/s3sync", Authorization=f"Bearer {TOKEN}")
    assert (answer.status, answer.headers["location"]) == (308, "/s3sync/")


def test_what_the_server_names_is_below_the_path(below: Site) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    for target in ("/s3sync/sync?source=&dest=bucket", "/sync?source=&dest=bucket2"):
        answer = below.get(target, **bearer)
        job_id = answer.json["id"]
        assert answer.headers["location"] == f"/s3sync/get?id={job_id}"
        assert below.get(answer.headers["location"], **bearer).json["id"] == job_id
    below.get(f"/cancel?id={job_id}", **bearer)
    again = below.get(f"/s3sync/resume?id={job_id}", **bearer)
    assert again.headers["location"] == f"/s3sync/get?id={job_id}"
    Path(below.jobs.file(job_id, "report.jsonl")).write_text("{}\n{}\n")
    link = below.get(f"/report?id={job_id}&limit=1", **bearer).headers["link"]
    assert link == f'</s3sync/report?id={job_id}&after=1&limit=1>; rel="next"'


def test_the_login_is_for_the_path_alone(below: Site) -> None:
    answer = below.get(f"/s3sync/login?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/s3sync/")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert set(attributes) >= {"Path=/s3sync/", "HttpOnly", "SameSite=Strict"}
    assert below.get("/s3sync/", Cookie=cookie).status == 200
    page = below.get("/s3sync/", Accept="text/html")
    assert page.status == 401 and b'action="login"' in page.body


def test_the_pages_name_nothing_from_the_root(below: Site) -> None:
    """What begins with a slash would be asked of the proxy's other sites."""
    page = below.get("/s3sync/", Authorization=f"Bearer {TOKEN}").body.decode()
    assert 'src="static/app.js"' in page
    assert not re.search(r'\b(?:src|href|action|formaction|poster|data)="/', page)


def test_an_acting_get_of_a_silent_browser_is_refused_below_the_path_as_well(tmp_path: Path) -> None:
    site = Site(tmp_path, API_BASE_PATH="/s3sync/", ALLOWED_HOSTS="nas.test")
    try:
        for target in ("/s3sync/sync?source=&dest=b", "/s3sync//sync?source=&dest=b", "/sync?source=&dest=b"):
            answer = site.get(target, Host="nas.test", User_Agent="Mozilla/5.0")
            assert (answer.status, answer.problem["code"]) == (403, "PageUnknown")
        assert site.jobs.ids() == []
    finally:
        site.close()


# -- the proxies ------------------------------------------------------------------------------------------

TRUSTED = forwarded.parse_networks("127.0.0.1, 10.0.0.0/8, ::1")


@pytest.mark.parametrize(
    ("remote", "hops", "client"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.7", "192.0.2.1"),  # not trusted
        ("127.0.0.1", "203.0.113.9, 192.0.2.7", "192.0.2.7"),  # the first one is what the client says
        ("127.0.0.1", "192.0.2.7, 10.1.2.3", "192.0.2.7"),  # two proxies
        ("127.0.0.1", "10.1.2.3", "10.1.2.3"),  # a client in the proxies' network
        ("127.0.0.1", "192.0.2.7:4711", "192.0.2.7"),
        ("127.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
        ("127.0.0.1", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "192.0.2.7, unknown", "127.0.0.1"),
        ("127.0.0.1", 'x" 200 "GET /, 10.0.0.1', "10.0.0.1"),
        ("127.0.0.1", "192.0.2.7,", "127.0.0.1"),
        ("::1", "192.0.2.7", "192.0.2.7"),
        ("::ffff:127.0.0.1", "192.0.2.7", "192.0.2.7"),
        ("", "192.0.2.7", ""),
    ],
)
def test_the_client_is_the_last_one_that_is_no_trusted_proxy(remote: str, hops: str, client: str) -> None:
    environ: dict[str, Any] = {"REMOTE_ADDR": remote, "HTTP_X_FORWARDED_FOR": hops}
    forwarded.believe(environ, TRUSTED)
    assert environ == {"REMOTE_ADDR": client}


@pytest.mark.parametrize(
    ("remote", "proto", "scheme"),
    [
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "HTTPS", "https"),
        ("127.0.0.1", "http, https", "https"),
        ("127.0.0.1", "https, http", "http"),
        ("127.0.0.1", "ftp", "http"),
        ("127.0.0.1", "", "http"),
        ("192.0.2.1", "https", "http"),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(remote: str, proto: str, scheme: str) -> None:
    environ: dict[str, Any] = {
        "REMOTE_ADDR": remote,
        "wsgi.url_scheme": "http",
        "HTTP_X_FORWARDED_PROTO": proto,
    }
    forwarded.believe(environ, TRUSTED)
    assert environ["wsgi.url_scheme"] == scheme
    assert "HTTP_X_FORWARDED_PROTO" not in environ


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "1.2.3", "127.0.0.1;::1", "*"])
def test_what_is_no_address_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="TRUSTED_PROXIES"):
        load(tmp_path, TRUSTED_PROXIES=text)


def test_the_cookie_of_https_is_for_https_alone(behind: Site) -> None:
    target = f"/login?token={TOKEN}"
    assert "; Secure" in behind.get(target, X_Forwarded_Proto="https").headers["set-cookie"]
    assert "Secure" not in behind.get(target).headers["set-cookie"]
    assert "Secure" not in behind.get(target, X_Forwarded_Proto="http").headers["set-cookie"]


def test_over_https_an_origin_of_plain_http_is_another_site(behind: Site) -> None:
    fields = {"Authorization": f"Bearer {TOKEN}", "Host": "sync.test", "X_Forwarded_Proto": "https"}
    assert behind.ask("POST", "/runnings", Origin="https://sync.test", **fields).status == 200
    assert behind.ask("POST", "/runnings", Origin="http://sync.test", **fields).status == 403


def test_the_log_names_the_client(behind: Site, capfd: pytest.CaptureFixture[str]) -> None:
    behind.get("/healthz", X_Forwarded_For="192.0.2.7")
    assert ' 192.0.2.7 "GET /healthz" 200' in capfd.readouterr().err


def test_forwarded_headers_of_an_unlisted_proxy_are_ignored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site = Site(tmp_path, API_TOKEN=TOKEN)
    try:
        site.get("/healthz", X_Forwarded_For="192.0.2.7")
        told = site.get(f"/login?token={TOKEN}", X_Forwarded_Proto="https", X_Forwarded_Host="evil.test")
        assert "Secure" not in told.headers["set-cookie"]
    finally:
        site.close()
    assert "192.0.2.7" not in capfd.readouterr().err
