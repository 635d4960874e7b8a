"""What a proxy in front changes of a request: its path, who asks, and whether over https.

- API_BASE_PATH (`/s3sync/`): what lies below it is served as what lies below `/`, which goes on being
  served: a proxy may cut the path off or pass it on, and what asks on this machine need not know it. The path
  without its last slash leads to the one with it, because the pages' links are relative.
- TRUSTED_PROXIES: of a request that comes from one of these, the client is the last address in
  X-Forwarded-For that is not itself a trusted one, and X-Forwarded-Proto says whether it came over https.
  From others neither is believed; nobody behind here ever sees these headers.

`Host` is never taken from a header of a proxy: it has to pass on its own.
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
    """API_BASE_PATH with a slash at both ends. ValueError: it is no plain path."""
    if not _BASE_PATH.fullmatch(text):
        raise ValueError("must be a path like /s3sync/")
    return text.rstrip("/") + "/"


def parse_networks(text: str) -> tuple[Network, ...]:
    """TRUSTED_PROXIES: addresses, and networks as `10.0.0.0/8`. ValueError: one of them is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return tuple(ipaddress.ip_network(name.strip("[]")) for name in names)
    except ValueError:
        raise ValueError("must be addresses or networks (127.0.0.1, 10.0.0.0/8)") from None


def strip_base_path(environ: Environ, base_path: str) -> bool:
    """Takes the base path off the request's. False: the request is for it without its last slash."""
    path = environ.get("PATH_INFO", "")
    if base_path == "/":
        return True
    if path == base_path[:-1]:
        return False
    if path.startswith(base_path):
        environ["PATH_INFO"] = path[len(base_path) - 1 :]
    return True


def believe(environ: Environ, trusted: Sequence[Network]) -> None:
    """Puts the client's address and scheme where they are looked for, if a trusted proxy tells them, and
    takes its headers away."""
    told = {name: environ.pop(f"HTTP_{name}", "") for name in _HEADERS}
    if not trusted or not _is_one(_address(environ.get("REMOTE_ADDR", "")), trusted):
        return
    proto = told["X_FORWARDED_PROTO"].rpartition(",")[2].strip().lower()
    if proto in ("http", "https"):
        environ["wsgi.url_scheme"] = proto
    for hop in reversed(told["X_FORWARDED_FOR"].split(",")):
        address = _address(hop.strip())
        if address is None:
            return  # what lies before it was told by nobody who is trusted
        environ["REMOTE_ADDR"] = str(address)
        if not _is_one(address, trusted):
            return


def _address(text: str) -> Address | None:
    match = _WITH_PORT.fullmatch(text)
    try:
        found = ipaddress.ip_address((match[1] or match[2]) if match else text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


def _is_one(address: Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
