"""The dashboard's files and the log-in page: read once, at start, from a fixed list.

No path of a request ever becomes part of a file's name. The pages have no inline script and no inline style
(but the log-in page's, which is allowed by its hash), and can load from and talk to this server only.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
from dataclasses import dataclass

from syncworker.paths import STATIC

_GZIP = re.compile(r"(?:^|[ ,])gzip(?! *; *q *= *0(?:\.0*)? *(?:,|$))")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def accepts_gzip(accepted: str) -> bool:
    """Returns whether a client with this Accept-Encoding takes gzip."""
    return _GZIP.search(accepted.lower()) is not None


@dataclass(frozen=True, slots=True)
class Page:
    body: bytes
    headers: dict[str, str]
    packed: bytes = b""  # the body by gzip; empty: there is none

    def answer(self, accepted: str) -> tuple[bytes, dict[str, str]]:
        """Returns body and headers for a client with this Accept-Encoding."""
        if self.packed and accepts_gzip(accepted):
            return self.packed, self.headers | {"Content-Encoding": "gzip"}
        return self.body, self.headers


def _read(name: str) -> bytes:
    with open(os.path.join(STATIC, name), "rb") as file:
        return file.read()


def _page(name: str, content_type: str) -> Page:
    headers = {"Content-Type": content_type, "Content-Security-Policy": _POLICY}
    # It has no data of jobs, so a browser may cache it, and asks each time whether it has changed.
    headers |= {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    body = _read(name)
    return Page(body, headers, gzip.compress(body, mtime=0))


_SCRIPT = "text/javascript; charset=utf-8"
# The first lines of app.js explain how to add a part.
# fmt: off
_MODULES = (
    "app", "api", "actions", "card", "form", "history", "job", "labels",
    "limit", "mirrors", "options", "plan", "plan_view", "plot", "route", "success", "text",
)
# fmt: on
PAGES: dict[str, Page] = {
    "/": _page("index.html", "text/html; charset=utf-8"),
    "/static/style.css": _page("style.css", "text/css; charset=utf-8"),
    **{f"/static/{name}.js": _page(f"{name}.js", _SCRIPT) for name in _MODULES},
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
    # Under `no-referrer` a form is sent with `Origin: null`, which the guard refuses.
    return Page(body, headers | {"Referrer-Policy": "same-origin"})


LOGIN = _login_page()
