"""Who may talk to the server: a WSGI layer before everything else, for every path and every method.

The server listens on loopback, where any web page in the operator's browser can send requests too. So, in
this order, each with a status of its own:

| check | refused with |
| --- | --- |
| `Host` is one of ours, once (else a name that was rebound to 127.0.0.1 speaks as same-origin) | 403 |
| no `Upgrade` (a WebSocket is not bound by the same-origin policy) | 403 |
| `Sec-Fetch-Site`, when there is one, is `same-origin` or `none` | 403 |
| `Origin`, when there is one, is our own | 403 |
| not a prefetch (a link on a page must not start anything by being shown) | 403 |
| no GET that acts, of a program that fetches links to preview, check or index them | 403 |
| without a token: no GET that acts, of a browser that cannot say for which page | 403 |
| with a token set: `Authorization: Bearer`, or the login link's cookie; not for `/healthz` | 401 |

GET is checked like the others, because here it acts. The layer also puts the security headers on every answer
and writes one line for each request to stderr, in which keys and tokens are blacked out.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from syncworker import forwarded
from syncworker.errors import UsageError
from syncworker.escape import escape_ascii
from syncworker.settings import LOOPBACK_NAMES, Settings
from syncworker.web import dashboard
from syncworker.web.operations import ACTING_PATHS
from syncworker.web.problem_details import SECURITY_HEADERS, problem
from syncworker.wire.resolver import address_of

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

FORM_MAX_BYTES = 4096
TOKEN_SHORT = 16  # characters
WILDCARDS = frozenset({"0.0.0.0", "::", "[::]", "", "*"})  # noqa: S104 - recognised, not listened on
# Chats, mail programs and search engines, which fetch a link because somebody wrote it: some of them on the
# machine of the reader or the writer, where `localhost` is ours.
_PREVIEWERS = re.compile(
    r"(?<!ro)(?<!cu)bot\b|crawler|spider|preview|facebookexternalhit|whatsapp/|viber/|ms-office"
    r"|slack-imgproxy|embedly|iframely|google-pagerenderer|google-read-aloud",
    re.IGNORECASE,
)
_PORT = re.compile(r"(.+?):([0-9]{1,5})")
# What a log line shows as it came: values of these parameters, when they hold nothing that separates names
# from values; a path up to the first character of that kind. A mistyped URL must not log its keys either.
_SHOWN_VALUES = frozenset({"source", "dest", "storage_url", "wait", "id", "state", "limit", "before"})
_SEPARATES = re.compile("[=&;,?#@:]|%(?:3d|26|3b|2c|3f|23|40|3a|25)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that the application below does not see: a refusal, a redirect, the log-in."""

    status: int
    code: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()


def bracketed(host: str) -> str:
    """An address as it stands in a Host header or a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def is_loopback(host: str) -> bool:
    address = address_of(host.strip("[]"))  # None: a name, which may lead anywhere
    return host == "localhost" or (address is not None and address.is_loopback)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Returns loopback's names, ALLOWED_HOSTS, and the listening address if it is a single one. Loopback's
    names are always allowed: no other site can have them, and the login link, Prometheus and local health
    checks use them."""
    named = (host.lower() for host in (*LOOPBACK_NAMES, *settings.allowed_hosts))
    hosts = {f"[{host}]" if host.count(":") > 1 and "[" not in host else host for host in named}
    if settings.api_host not in WILDCARDS:
        hosts.add(bracketed(settings.api_host).lower())
    return frozenset(hosts)


def is_allowed_host(host: str | None, allowed: frozenset[str]) -> bool:
    """Returns whether a Host header is one of ours. An entry without a port matches every port, because port
    forwarding (ssh -L) changes it and rebinding attacks use names. Two headers arrive joined by a comma,
    which never matches."""
    if not host:
        return False
    host = host.lower()
    if host in allowed:
        return True
    match = _PORT.fullmatch(host)
    return bool(match and match[1] in allowed and 0 < int(match[2]) <= 65535)


def refusal_of_origin(environ: Environ, allowed: frozenset[str]) -> Reply | None:
    """The rows of the table above but the last two."""
    host = environ.get("HTTP_HOST")
    if not is_allowed_host(host, allowed):
        return Reply(
            403,
            "HostNotAllowed",
            "the Host header names no address of this server: open it as http://localhost:PORT,"
            " or add the name to ALLOWED_HOSTS",
        )
    target = environ.get("REQUEST_URI", "/")
    if not target.startswith("/") and target != "*":
        return Reply(403, "ProxyRequest", "this server is not a proxy")
    if "HTTP_UPGRADE" in environ:
        return Reply(403, "UpgradeRefused", "this server speaks only HTTP/1.1")
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None and site.lower() not in ("same-origin", "none"):
        return Reply(403, "CrossSite", "a page of another site may not use this server")
    origin = environ.get("HTTP_ORIGIN")
    own = [f"{environ.get('wsgi.url_scheme', 'http')}://{host}".lower()]
    if site is not None and site.lower() == "same-origin":
        # A proxy in front of us speaks TLS; the browser sees no other site.
        own.append(f"https://{host}".lower())
    if origin is not None and origin.lower() not in own:
        return Reply(403, "CrossOrigin", "a page of another origin may not use this server")
    for name in ("HTTP_SEC_PURPOSE", "HTTP_PURPOSE", "HTTP_X_PURPOSE", "HTTP_X_MOZ"):
        if re.search("prefetch|prerender|preview", environ.get(name, ""), re.IGNORECASE):
            return Reply(403, "Prefetch", "prefetches are refused, because a request here can start a job")
    return None


def _is_acting_get(environ: Environ) -> bool:
    path = "/" + environ.get("PATH_INFO", "").strip("/")
    return environ["REQUEST_METHOD"] == "GET" and path in ACTING_PATHS


def refusal_of_preview(environ: Environ) -> Reply | None:
    """Refuses a GET that acts from a program whose User-Agent says that it previews links."""
    if not _is_acting_get(environ) or not _PREVIEWERS.search(environ.get("HTTP_USER_AGENT", "")):
        return None
    return Reply(
        403, "Preview", "link previews are refused, because a request here can start a job: use POST"
    )


def refusal_of_unknown_origin(environ: Environ) -> Reply | None:
    """Refuses a state-changing GET from a browser that sends neither `Sec-Fetch-Site` nor `Origin`. Browsers
    send `Sec-Fetch-Site` only to https and to this machine's own names, and no `Origin` with the GET of an
    `<img>`. So under a plain http name of the network, a request of the address bar and one of a hostile page
    look the same. A POST carries an `Origin`, the login's cookie is not sent for other sites, and curl is not
    a browser."""
    named = environ.get("HTTP_HOST", "").lower()
    match = _PORT.fullmatch(named)
    if (
        not _is_acting_get(environ)
        or "HTTP_SEC_FETCH_SITE" in environ
        or "mozilla/" not in environ.get("HTTP_USER_AGENT", "").lower()
        or is_loopback(match[1] if match else named)
    ):
        return None
    return Reply(
        403,
        "PageUnknown",
        "over plain http a browser does not say which page sent this request: use the dashboard, or POST, or"
        " open the server as localhost or through https, or set API_TOKEN",
    )


# -- the token -------------------------------------------------------------------------------------------


def check_exposure(settings: Settings) -> None:
    """UsageError when the server would be open to the network."""
    is_safe = is_loopback(settings.api_host) or settings.api_token is not None
    if not is_safe and not settings.api_allow_unauthenticated:
        raise UsageError(
            "Unprotected",
            f"API_HOST={settings.api_host} lets other machines in, and API_TOKEN is not set: set"
            " API_TOKEN=auto, or API_ALLOW_UNAUTHENTICATED=1 if a proxy in front of it authenticates clients",
        )


def warnings(settings: Settings, token: str | None) -> list[str]:
    """What is allowed and rarely meant, for the log at the start."""
    if token is None or is_loopback(settings.api_host) or len(token) >= TOKEN_SHORT:
        return []
    return [
        f"API_TOKEN has {len(token)} characters, and others on the network could guess it: use"
        f" {TOKEN_SHORT} or more, or API_TOKEN=auto"
    ]


class Login:
    """Checks the token, and exchanges it for a cookie. The cookie's value is derived from the token, so the
    browser never stores the token itself. Cookies are shared by all ports of a host, so the name contains our
    port."""

    def __init__(self, token: str, port: int, base_path: str = "/") -> None:
        self._token = token.encode()
        self._base_path = base_path
        self.cookie_name = f"syncworker_{port}"
        self.cookie_value = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest()

    def is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode("utf-8", "surrogateescape"), self._token)

    def refusal(self, environ: Environ) -> Reply | None:
        scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        is_wrong = scheme.lower() == "bearer"
        if is_wrong and self.is_token(value.strip()):
            return None
        for item in environ.get("HTTP_COOKIE", "").split(";"):
            name, _, value = item.strip().partition("=")
            if name == self.cookie_name and hmac.compare_digest(
                value.encode("utf-8", "surrogateescape"), self.cookie_value.encode()
            ):
                return None
        if is_wrong:
            return _wrong_token(
                "this is not the token of the server: send the one in API_TOKEN, or, with auto,"
                " in .api-token in the jobs folder"
            )
        return Reply(
            401,
            "Unauthorized",
            "a token is needed: send `Authorization: Bearer TOKEN`, or open the link that the server printed",
            (("WWW-Authenticate", 'Bearer realm="syncworker"'),),
        )

    def answer(self, environ: Environ) -> Reply:
        """Answers `/login` with the token in the link's query or the page's form: redirects to the dashboard
        and sets the cookie, for our path only and, over https, for https only."""
        if environ["REQUEST_METHOD"] not in ("GET", "POST"):
            detail = "the login link is opened with GET, its form is sent with POST"
            return Reply(405, "MethodNotAllowed", detail, (("Allow", "GET, POST"),))
        text = environ.get("QUERY_STRING", "")
        if environ["REQUEST_METHOD"] == "POST":
            text = environ["wsgi.input"].read(FORM_MAX_BYTES).decode("latin-1")
        given = [value for name, value in parse_qsl(text) if name == "token"]
        if len(given) != 1 or not self.is_token(given[0]):
            return _wrong_token("this is not the token of the server")
        secure = "; Secure" if environ.get("wsgi.url_scheme") == "https" else ""
        for_a_year = f"Path={self._base_path}; HttpOnly; SameSite=Strict{secure}; Max-Age=31536000"
        cookie = f"{self.cookie_name}={self.cookie_value}; {for_a_year}"
        return Reply(303, "LoggedIn", "", (("Location", self._base_path), ("Set-Cookie", cookie)))


def _wrong_token(detail: str) -> Reply:
    challenge = 'Bearer realm="syncworker", error="invalid_token"'
    return Reply(401, "Unauthorized", detail, (("WWW-Authenticate", challenge),))


# -- the layer -------------------------------------------------------------------------------------------


class Guard:
    """Wraps a WSGI application."""

    def __init__(self, application: Application, settings: Settings, token: str | None) -> None:
        self._application = application
        self._allowed = allowed_hosts(settings)
        self._base_path, self._trusted = settings.api_base_path, settings.trusted_proxies
        self._login = Login(token, settings.api_port, self._base_path) if token else None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        started = time.monotonic()
        forwarded.believe(environ, self._trusted)
        is_whole = forwarded.strip_base_path(environ, self._base_path)

        def answer(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            named = {name.lower() for name, _ in headers}
            headers = headers + [each for each in SECURITY_HEADERS if each[0].lower() not in named]
            write_access_line(environ, status, time.monotonic() - started)
            return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

        reply = self._reply(environ)
        if reply is None and not is_whole:
            reply = Reply(308, "Moved", "", (("Location", self._base_path),))
        if reply is None:
            return self._application(environ, answer)
        body, status, headers = problem(reply.status, reply.code, reply.detail)
        if reply.status < 400:
            body, headers = b"", [("Content-Length", "0")]
        elif reply.status == 401 and _wants_page(environ):
            page = dashboard.LOGIN
            body, headers = page.body, [*page.headers.items(), ("Content-Length", str(len(page.body)))]
        answer(status, headers + list(reply.headers))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _reply(self, environ: Environ) -> Reply | None:
        reply = refusal_of_origin(environ, self._allowed) or refusal_of_preview(environ)
        if reply is not None:
            return reply
        if self._login is None:
            return refusal_of_unknown_origin(environ)
        if environ.get("PATH_INFO") == "/login":
            return self._login.answer(environ)
        return None if environ.get("PATH_INFO") == "/healthz" else self._login.refusal(environ)


def _wants_page(environ: Environ) -> bool:
    """Returns whether a person sees this answer: a browser opens the dashboard, or sends the login form."""
    opened = environ.get("PATH_INFO") in ("/", "/login") and "text/html" in environ.get("HTTP_ACCEPT", "")
    return opened and environ["REQUEST_METHOD"] in ("GET", "POST")


def redacted(query: str) -> str:
    """Returns a query string for the log, with all values hidden except plain values of harmless
    parameters."""
    shown = []
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        held = re.sub("%3a|:", "", value, flags=re.IGNORECASE) if name == "storage_url" else value
        if value and (name not in _SHOWN_VALUES or _SEPARATES.search(held)):
            value = "..."
        if name and (not equals or _SEPARATES.search(name)):
            name = "..."
        shown.append(name + equals + value)
    return "&".join(shown)


def redacted_path(path: str) -> str:
    """Returns the path for the log, cut where parameters begin if the `?` was forgotten."""
    found = _SEPARATES.search(path)
    return path[: found.start()] + "..." if found else path


def write_access_line(environ: Environ, status: str, seconds: float) -> None:
    path, _, query = str(environ.get("REQUEST_URI", "/")).partition("?")
    target = escape_ascii(redacted_path(path) + (f"?{redacted(query)}" if query else ""))
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    who, method = environ.get("REMOTE_ADDR", "-"), escape_ascii(environ["REQUEST_METHOD"])
    sys.stderr.write(f'{when} {who} "{method} {target}" {status[:3]} {seconds * 1000:.1f} ms\n')
