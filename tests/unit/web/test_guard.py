"""The guard: who may talk to the server. Every row goes as bytes through a real waitress."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Answer, Site, load

from syncworker.errors import UsageError
from syncworker.service import api_token
from syncworker.web import middleware

TOKEN = "a-token-of-the-tests"
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"), ALLOWED_HOSTS="localhost,127.0.0.1,[::1],Sync.example:8443,plain"
    )
    yield site
    site.close()


@pytest.fixture(scope="module")
def closed_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("closed"), API_TOKEN=TOKEN)
    yield site
    site.close()


@pytest.mark.parametrize(
    "host, allowed",
    [
        ("localhost", True),
        ("LOCALHOST:5000", True),
        ("127.0.0.1", True),
        ("127.0.0.1:5000", True),
        ("[::1]", True),
        ("[::1]:5000", True),
        ("sync.example:8443", True),
        ("plain:1", True),
        ("sync.example", False),
        ("sync.example:8444", False),
        ("evil.test", False),
        ("evil.test:5000", False),
        ("localhost.evil.test", False),
        ("localhost.", False),
        ("localhost:", False),
        ("localhost:0", False),
        ("localhost:99999", False),
        ("localhost:5000:5000", False),
        ("localhost, evil.test", False),
        ("localhost@evil.test", False),
        ("127.0.0.1.nip.io", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_served(site: Site, host: str, allowed: bool) -> None:
    answer = site.get("/runnings", Host=host)
    assert answer.status == (200 if allowed else 403), answer
    if not allowed:
        assert answer.problem["code"] == "HostNotAllowed"


def test_two_hosts_or_none_are_refused(site: Site) -> None:
    two = b"GET /runnings HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    none = b"GET /runnings HTTP/1.1\r\nConnection: close\r\n\r\n"
    old = b"GET /runnings HTTP/1.0\r\n\r\n"
    assert [site.raw(data).status for data in (two, none, old)] == [403, 403, 403]


BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    "method, host, headers, status",
    [
        ("GET", "nas.test", {"User_Agent": BROWSER}, 403),
        ("GET", "nas.test:5000", {"User_Agent": BROWSER}, 403),
        ("GET", "nas.test", {"User_Agent": BROWSER, "Sec_Fetch_Site": "none"}, 202),
        ("GET", "nas.test", {"User_Agent": "curl/8.0"}, 202),
        ("GET", "nas.test", {}, 202),
        ("POST", "nas.test", {"User_Agent": BROWSER}, 202),
        ("POST", "nas.test", {"User_Agent": BROWSER, "Origin": "http://nas.test"}, 202),
        ("POST", "nas.test", {"User_Agent": BROWSER, "Origin": "http://evil.test"}, 403),
        ("GET", "localhost:5000", {"User_Agent": BROWSER}, 202),
        ("GET", "[::1]", {"User_Agent": BROWSER}, 202),
    ],
)
def test_a_get_of_a_browser_that_names_no_origin_starts_no_job(
    tmp_path: Path, method: str, host: str, headers: dict[str, str], status: int
) -> None:
    site = Site(tmp_path, ALLOWED_HOSTS="nas.test,localhost,[::1]")
    try:
        for path in ("/sync", "//sync", "/%73ync") if status == 403 else ("/sync",):
            answer = site.ask(method, f"{path}?source=&dest=bucket", Host=host, **headers)
            assert answer.status == status, (path, answer)
        assert len(site.jobs.ids()) == (status == 202)
        assert site.get("/runnings", Host=host, User_Agent=BROWSER).status == 200
    finally:
        site.close()


PREVIEWERS = [
    "WhatsApp/2.23.20.0 N",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1"
    " Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
    "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "TelegramBot (like TwitterBot)",
    "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com",
    "Mozilla/4.0 (compatible; ms-office; MSOffice 16)",
    "Synapse (bot; +https://github.com/matrix-org/synapse)",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
]


@pytest.mark.parametrize("agent", PREVIEWERS)
def test_the_preview_of_a_link_starts_no_job(tmp_path: Path, agent: str) -> None:
    site = Site(tmp_path)
    try:
        for path in ("/sync", "//sync", "/%73ync", "/sync/"):
            answer = site.get(f"{path}?source=&dest=bucket", User_Agent=agent)
            assert (answer.status, answer.problem["code"]) == (403, "Preview"), path
        assert site.jobs.ids() == []
        assert site.get("/runnings", User_Agent=agent).status == 200
        assert site.ask("POST", "/sync?source=&dest=bucket", User_Agent=agent).status == 202
    finally:
        site.close()


@pytest.mark.parametrize(
    "agent",
    [
        "curl/8.5.0",
        "Wget/1.21",
        "python-requests/2.32.3",
        "Go-http-client/1.1",
        "Robot Framework",
        "Mozilla/5.0 (Linux; Android 12; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/120.0 Mobile Safari/537.36",
        "",
        BROWSER,
    ],
)
def test_people_and_their_programs_start_one_by_get(tmp_path: Path, agent: str) -> None:
    site = Site(tmp_path)
    try:
        assert site.get("/sync?source=&dest=bucket", User_Agent=agent).status == 202
    finally:
        site.close()


def test_the_paths_that_act_are_the_routes_that_act() -> None:
    acting = {"/sync", "/cancel", "/resume", "/approve", "/pause", "/continue", "/limit"}
    assert acting == middleware.ACTING_PATHS


def test_the_dashboard_works_behind_a_proxy_that_speaks_tls(tmp_path: Path) -> None:
    site = Site(tmp_path, ALLOWED_HOSTS="sync.test")
    try:
        headers = {"Host": "sync.test", "Origin": "https://sync.test", "User_Agent": BROWSER}
        assert site.ask("POST", "/runnings", Sec_Fetch_Site="same-origin", **headers).status == 200
        assert site.ask("POST", "/runnings", **headers).status == 403  # nobody says it is the same site
        assert site.ask("POST", "/runnings", Sec_Fetch_Site="same-site", **headers).status == 403
    finally:
        site.close()


def test_a_target_with_another_authority_is_refused(site: Site) -> None:
    assert site.get("http://evil.test/runnings").status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
@pytest.mark.parametrize("target", ["/runnings", "/sync?source=&dest=bucket", "/nothing"])
@pytest.mark.parametrize(
    "header, value",
    [
        ("Sec_Fetch_Site", "cross-site"),
        ("Sec_Fetch_Site", "same-site"),
        ("Sec_Fetch_Site", ""),
        ("Origin", "http://evil.test"),
        ("Origin", "null"),
        ("Origin", "http://localhost:1"),
        ("Sec_Purpose", "prefetch;prerender"),
        ("Purpose", "prefetch"),
        ("Upgrade", "websocket"),
    ],
)
def test_another_site_is_refused_on_every_route_and_method(
    site: Site, method: str, target: str, header: str, value: str
) -> None:
    answer = site.ask(method, target, **{header: value})
    assert answer.status == 403, answer
    assert site.jobs.ids() == []


@pytest.mark.parametrize("value", ["same-origin", "none"])
def test_our_own_pages_and_the_address_bar_are_served(site: Site, value: str) -> None:
    origin = f"http://localhost:{site.port}"
    assert site.get("/runnings", Sec_Fetch_Site=value).status == 200
    assert site.ask("POST", "/runnings", Sec_Fetch_Site=value, Origin=origin).status == 200


def test_every_answer_has_the_security_headers_and_names_no_software(site: Site) -> None:
    answers = [
        site.get("/runnings"),
        site.get("/nothing"),
        site.get("/runnings", Host="evil.test"),
        site.ask("PUT", "/runnings"),
        site.get("/" + "a" * 20000),
        site.raw(b"nonsense\r\n\r\n"),
    ]
    assert [answer.status for answer in answers] == [200, 404, 403, 405, 431, 400]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY} == SECURITY, answer
        assert "server" not in answer.headers and "via" not in answer.headers
        assert b"waitress" not in answer.body.lower()


# -- the token -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT"])
@pytest.mark.parametrize("target", ["/runnings", "/sync?source=&dest=bucket", "/jobs", "/nothing", "/"])
def test_without_the_token_everything_is_401(closed_site: Site, method: str, target: str) -> None:
    answer = closed_site.ask(method, target)
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert closed_site.jobs.ids() == []


def test_healthz_needs_no_token_and_shows_no_job(closed_site: Site) -> None:
    answer = closed_site.get("/healthz")
    assert answer.status == 200
    assert answer.json["status"] == "ok"


@pytest.mark.parametrize(
    "value, status",
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer \xff\xfe", 401),
    ],
)
def test_the_bearer_token_opens(closed_site: Site, value: str, status: int) -> None:
    assert closed_site.get("/runnings", Authorization=value).status == status


def test_the_login_link_gives_a_cookie_that_is_not_the_token(closed_site: Site) -> None:
    answer = closed_site.get(f"/login?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    pair = cookie.partition(";")[0]
    assert closed_site.get("/runnings", Cookie=f"other=1; {pair}").status == 200
    assert closed_site.get("/runnings", Cookie=f"{pair}0").status == 401
    assert closed_site.get("/runnings", Cookie=f"{pair.partition('=')[0]}={TOKEN}").status == 401


@pytest.mark.parametrize(
    "target", ["/login", "/login?token=", "/login?token=wrong", f"/login?token={TOKEN}&token=x"]
)
def test_a_wrong_login_link_gives_nothing(closed_site: Site, target: str) -> None:
    answer = closed_site.get(target)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


def test_a_cross_site_request_with_the_cookie_is_still_refused(closed_site: Site) -> None:
    pair = closed_site.get(f"/login?token={TOKEN}").headers["set-cookie"].partition(";")[0]
    assert closed_site.get("/runnings", Cookie=pair, Sec_Fetch_Site="same-site").status == 403


def test_auto_makes_a_token_once_in_a_private_file(tmp_path: Path) -> None:
    config = load(tmp_path, API_TOKEN="auto")
    token = api_token.load(config, str(tmp_path))
    assert token is not None and len(token) >= 43
    assert api_token.load(config, str(tmp_path)) == token
    assert os.listdir(tmp_path / "jobs") == [".api-token"] and not (tmp_path / ".api-token").exists()
    assert stat.S_IMODE(os.stat(tmp_path / "jobs" / ".api-token").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "jobs").st_mode) == 0o700


def test_a_token_that_an_earlier_version_made_beside_the_program_stays_valid(tmp_path: Path) -> None:
    beside = tmp_path / ".api-token"
    beside.write_text("an-earlier-token-of-forty-three-characters-\n")
    beside.chmod(0o600)
    config = load(tmp_path, API_TOKEN="auto")
    assert api_token.load(config, str(tmp_path)) == beside.read_text().strip()
    assert not (tmp_path / "jobs").exists()


def test_a_token_is_made_where_the_programs_folder_cannot_be_written_to(tmp_path: Path) -> None:
    config = load(tmp_path, API_TOKEN="auto")
    assert api_token.load(config, "/proc") == api_token.load(config, "/proc")


def test_a_start_that_dies_while_it_makes_a_token_leaves_no_part_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tmp_path, API_TOKEN="auto")

    def die(_fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            api_token.load(config, str(tmp_path))
    assert not (tmp_path / "jobs" / ".api-token").exists()
    assert api_token.load(config, str(tmp_path))


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path, API_TOKEN="auto")
    api_token.load(config, str(tmp_path))
    (tmp_path / "jobs" / ".api-token").chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):
        api_token.load(config, str(tmp_path))


@pytest.mark.parametrize(
    "environ, refused",
    [
        ({}, False),
        ({"API_HOST": "127.0.0.1"}, False),
        ({"API_HOST": "::1"}, False),
        ({"API_HOST": "localhost"}, False),
        ({"API_HOST": "0.0.0.0"}, True),
        ({"API_HOST": "::"}, True),
        ({"API_HOST": "192.0.2.7"}, True),
        ({"API_HOST": "127.evil.test"}, True),
        ({"API_HOST": "127.1.2.3"}, False),
        ({"API_HOST": "0.0.0.0", "API_TOKEN": "x"}, False),
        ({"API_HOST": "0.0.0.0", "API_ALLOW_UNAUTHENTICATED": "1"}, False),
    ],
)
def test_beyond_loopback_a_token_is_needed(tmp_path: Path, environ: dict[str, str], refused: bool) -> None:
    config = load(tmp_path, **environ)
    if refused:
        with pytest.raises(UsageError, match="API_TOKEN"):
            middleware.check_exposure(config)
    else:
        middleware.check_exposure(config)


def test_the_address_listened_on_is_a_host_of_ours(tmp_path: Path) -> None:
    assert middleware.is_allowed_host(
        "192.0.2.7:5000", middleware.allowed_hosts(load(tmp_path, API_HOST="192.0.2.7"))
    )
    assert not middleware.is_allowed_host(
        "0.0.0.0:5000", middleware.allowed_hosts(load(tmp_path, API_HOST="0.0.0.0"))
    )


# -- the access log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query, shown",
    [
        ("source=a&dest=b", "source=a&dest=b"),
        ("secret_key=S3CRET&dest=b", "secret_key=...&dest=b"),
        ("access_key=S3CRET", "access_key=..."),
        ("secret%5Fkey=S3CRET", "secret%5Fkey=..."),
        ("SecretKey=S3CRET", "SecretKey=..."),
        ("token=S3CRET", "token=..."),
        ("storage_url=http://user:S3CRET@host/", "storage_url=..."),
        ("storage_url=http://user:S3CRET%40host/", "storage_url=..."),
        ("storage_url=http%3A%2F%2Fuser%3AS3CRET%2540host", "storage_url=..."),
        ("storage_url=http%3A%2F%2Fhost%3A9000", "storage_url=http%3A%2F%2Fhost%3A9000"),
        ("source=a;secret_key=S3CRET", "source=..."),
        ("source=a%26secret_key%3DS3CRET", "source=..."),
        ("source=a&secret_key%3DS3CRET", "source=a&..."),
        ("source=a&S3CRET", "source=a&..."),
    ],
)
def test_the_log_shows_no_secret(query: str, shown: str) -> None:
    assert middleware.redacted(query) == shown


def test_a_key_after_a_forgotten_question_mark_is_not_logged() -> None:
    for path in ("/sync&secret_key=S3CRET", "/sync%3Fsecret_key%3DS3CRET", "/sync;S3CRET"):
        assert middleware.redacted_path(path) == "/sync..."
    assert middleware.redacted_path("/get") == "/get"


def test_the_log_has_one_line_for_each_request_without_control_characters(
    site: Site, capfd: pytest.CaptureFixture[str]
) -> None:
    answer: Answer = site.get("/nothing\x1b[31m?secret_key=S3CRET")
    assert answer.status == 404
    lines = [line for line in capfd.readouterr().err.splitlines() if "nothing" in line]
    assert len(lines) == 1
    assert "S3CRET" not in lines[0] and "\x1b" not in lines[0] and " 404 " in lines[0]


# -- names and tokens --------------------------------------------------------------------------------------


def test_loopbacks_names_pass_whatever_is_allowed(tmp_path: Path) -> None:
    """The printed login link, Prometheus and health checks of this machine use them."""
    config = load(tmp_path, ALLOWED_HOSTS="nas.test", API_HOST="0.0.0.0")
    allowed = middleware.allowed_hosts(config)
    assert allowed == {"localhost", "127.0.0.1", "[::1]", "nas.test"}
    for host in ("localhost:5000", "127.0.0.1", "[::1]:1", "nas.test"):
        assert middleware.is_allowed_host(host, allowed)
    assert not middleware.is_allowed_host("evil.test", allowed)


def test_a_wrong_token_is_reported_as_wrong(tmp_path: Path) -> None:
    site = Site(tmp_path, API_TOKEN="a-token-of-the-test")
    try:
        assert "a token is needed" in site.get("/runnings").problem["detail"]
        wrong = site.get("/runnings", Authorization="Bearer a-token-of-the-tset")
        assert (wrong.status, wrong.problem["detail"][:32]) == (401, "this is not the token of the ser")
        assert 'error="invalid_token"' in wrong.headers["www-authenticate"]
        assert b"tset" not in wrong.body
        assert site.get("/runnings", Authorization="Bearer a-token-of-the-test").status == 200
    finally:
        site.close()


@pytest.mark.parametrize(
    "host, token, warned",
    [
        ("0.0.0.0", "short", True),
        ("0.0.0.0", "fifteen-letters", True),
        ("0.0.0.0", "sixteen--letters", False),
        ("127.0.0.1", "short", False),
        ("localhost", "short", False),
    ],
)
def test_a_short_token_beyond_loopback_is_a_warning(
    tmp_path: Path, host: str, token: str, warned: bool
) -> None:
    said = middleware.warnings(load(tmp_path, API_HOST=host, API_TOKEN=token), token)
    assert bool(said) == warned
    assert token not in " ".join(said)
