"""Conditional requests: ETag, If-None-Match and 304, by RFC 9110."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import bottle

# With a 304, a browser replaces the headers that it has cached, also by those that the guard adds.
_KEPT = ("ETag", "Cache-Control", "Vary", "Content-Security-Policy")


def etag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Compares weakly, as RFC 9110 has it for If-None-Match; proxies that compress make an ETag weak."""
    known = [item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")]
    return etag in known or "*" in known


def not_modified(headers: Mapping[str, str]) -> bottle.HTTPResponse:
    kept = {name: headers[name] for name in _KEPT if name in headers}
    return bottle.HTTPResponse(b"", 304, headers=kept)
