"""Requests through a reverse proxy: their path, the client's address, and whether the client uses https.

- API_BASE_PATH (`/s3sync/`): paths below it are served like paths below `/`, which are still served: a proxy
  may remove the base path or keep it, and clients on this machine need not know it. The path without its last
  slash redirects to the one with it, because the pages' links are relative.
- TRUSTED_PROXIES: if a request comes from one of these, the client is the last address in X-Forwarded-For
  that is not trusted itself, and X-Forwarded-Proto is the client's scheme. Both headers are ignored from
  others, and later layers never see them.

`Host` is never taken from a forwarding header: the proxy has to send the right one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

Environ = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?")
_PARTS = ("FOR", "PROTO", "HOST", "PORT", "BY", "PREFIX")
_HEADERS = ("FORWARDED", "X_REAL_IP", "X_SCRIPT_NAME", *(f"X_FORWARDED_{part}" for part in _PARTS))


def parse_base_path(text: str) -> str:
    """Returns API_BASE_PATH with a slash at both ends. Raises ValueError if it is no plain path."""
    if not _BASE_PATH.fullmatch(text):
        raise ValueError("must be a path like /s3sync/")
    return text.rstrip("/") + "/"


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parses TRUSTED_PROXIES: addresses, and networks such as `10.0.0.0/8`. Raises ValueError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return tuple(ipaddress.ip_network(name.strip("[]")) for name in names)
    except ValueError:
        raise ValueError("must be addresses or networks (127.0.0.1, 10.0.0.0/8)") from None


def strip_base_path(environ: Environ, base_path: str) -> bool:
    """Removes the base path from the request's path. Returns False if only the last slash is missing."""
    path = environ.get("PATH_INFO", "")
    if path.startswith(base_path):
        environ["PATH_INFO"] = path[len(base_path) - 1 :]
    return base_path == "/" or path != base_path[:-1]


def believe(environ: Environ, trusted: Sequence[Network]) -> None:
    """Sets the client's address and scheme from a trusted proxy's headers. Removes these headers always."""
    told = {name: environ.pop(f"HTTP_{name}", "") for name in _HEADERS}
    if not trusted or not _is_one(_address(environ.get("REMOTE_ADDR", "")), trusted):
        return
    proto = told["X_FORWARDED_PROTO"].rpartition(",")[2].strip().lower()
    if proto in ("http", "https"):
        environ["wsgi.url_scheme"] = proto
    for hop in reversed(told["X_FORWARDED_FOR"].split(",")):
        address = _address(hop.strip())
        if address is None:
            return  # no trusted proxy wrote the addresses before this one
        environ["REMOTE_ADDR"] = str(address)
        if not _is_one(address, trusted):
            return


def _address(text: str) -> Address | None:
    match = _WITH_PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address((match[1] or match[2]) if match else text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _is_one(address: Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
