"""Errors and answers as bytes: `application/problem+json` (RFC 9457) and plain JSON, indented, UTF-8.

Used by the routes, the layer before them and the server below them, so that all errors look the same. No
error contains a stack trace, a path of this machine or a secret.
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
    except UnicodeEncodeError:  # a surrogate: a name that is not UTF-8
        return (json.dumps(value, indent=2) + "\n").encode()


def problem(status: int, code: str, detail: str, **more: Any) -> tuple[bytes, str, list[tuple[str, str]]]:
    """Returns (body, status line, headers) of an error. `more`: `param`, `job`, whatever helps a program."""
    title = HTTPStatus(status).phrase
    value = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **{name: item for name, item in more.items() if item is not None},
    }
    body = to_json(value)
    headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
    return body, f"{status} {title}", headers
