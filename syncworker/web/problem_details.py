"""Errors and answers as bytes: `application/problem+json` (RFC 9457) and plain JSON, indented, UTF-8.

Used by the routes, by the layer before them and by the server below them, so that every error looks the same
whoever finds it. No error carries a stack trace, a path of this machine's or a secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)


def to_json(value: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair: a name that is no UTF-8
        return (json.dumps(value, indent=2) + "\n").encode()


def status_line(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def problem(status: int, code: str, detail: str, **more: Any) -> tuple[bytes, str, list[tuple[str, str]]]:
    """(body, status line, headers) of an error. `more`: `param`, `job`, whatever helps a program."""
    value = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        **{name: item for name, item in more.items() if item is not None},
    }
    body = to_json(value)
    headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
    return body, status_line(status), headers
