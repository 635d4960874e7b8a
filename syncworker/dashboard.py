"""The dashboard's files, and the page that asks for the token: read once, at start, from a fixed list.

No path of a request ever becomes part of a file's name. The pages carry no script and no style of their own
(the one of the log-in page is named by its hash), and may load from and talk to this server alone.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Page:
    body: bytes
    headers: dict[str, str]


def _read(name: str) -> bytes:
    with open(os.path.join(_FOLDER, name), "rb") as file:
        return file.read()


def _page(name: str, content_type: str) -> Page:
    headers = {"Content-Type": content_type, "Content-Security-Policy": _POLICY}
    # It says nothing about any job: a browser may keep it, and asks whether it has changed.
    return Page(_read(name), headers | {"Cache-Control": "no-cache"})


_SCRIPT = "text/javascript; charset=utf-8"
PAGES: dict[str, Page] = {
    "/": _page("index.html", "text/html; charset=utf-8"),
    "/static/style.css": _page("style.css", "text/css; charset=utf-8"),
    "/static/app.js": _page("app.js", _SCRIPT),
    "/static/api.js": _page("api.js", _SCRIPT),
    "/static/card.js": _page("card.js", _SCRIPT),
    "/static/form.js": _page("form.js", _SCRIPT),
    "/static/text.js": _page("text.js", _SCRIPT),
    "/static/icon.svg": _page("icon.svg", "image/svg+xml"),
}


def _login_page() -> Page:
    body = _read("login.html")
    style = body.split(b"<style>")[1].split(b"</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none';"
        " frame-ancestors 'none'"
    )
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
    # Under `no-referrer` a form is sent with `Origin: null`, which the guard takes for another site's.
    return Page(body, headers | {"Referrer-Policy": "same-origin"})


LOGIN = _login_page()
