"""Which proxy the environment names for a storage: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

NO_PROXY is read as curl and Go read it: names and their subdomains, addresses, networks (CIDR), each with an
optional port, and `*`. A proxy is shown as host:port and the variable's name; nothing else of the variable,
for example a password, is ever shown.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from syncworker.errors import FatalError
from syncworker.wire.resolver import address_of


class Proxy(NamedTuple):
    host: str
    port: int
    authorization: str | None  # value of Proxy-Authorization
    variable: str = "HTTP_PROXY"  # where it comes from

    def __repr__(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"the proxy {name}:{self.port} ({self.variable})"


def proxy_of(scheme: str, host: str, port: int, environ: Mapping[str, str] = os.environ) -> Proxy | None:
    """Returns the proxy for a storage, None for a direct connection. Raises FatalError if it cannot be
    used."""
    named = (f"{scheme}_proxy", f"{scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    variable = next((name for name in named if environ.get(name)), None)
    if variable is None or bypasses(environ.get("no_proxy") or environ.get("NO_PROXY") or "", host, port):
        return None
    url = environ[variable]
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        proxy_port = parts.port or 80
    except ValueError:
        parts, proxy_port = urlsplit("http:"), 0
    if re.fullmatch(r"https|socks[a-z0-9]*", parts.scheme):
        raise FatalError(
            "ProxyUnsupported",
            f"{variable} names a {parts.scheme} proxy, which is not supported: use an http:// one, or add"
            f" {host} to NO_PROXY",
        )
    if parts.scheme != "http" or not parts.hostname:
        raise FatalError("BadProxy", f"{variable} must be an http:// URL with a host")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, proxy_port, authorization, variable)


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY says to connect to this host directly."""
    name = host.lower().removesuffix(".")
    return any(_is_named(entry, name, port) for entry in re.split(r"[\s,]+", no_proxy.lower()))


def _is_named(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    address = address_of(host)
    if address is not None and "/" in entry:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    if with_port := re.fullmatch(r"(\[.*\]|[^:]*):(\d+)", entry):
        if int(with_port[2]) != port:
            return False
        entry = with_port[1]
    entry = entry.removeprefix("[").removesuffix("]")
    if address is not None:
        return address_of(entry) == address
    entry = entry.removeprefix("*").removeprefix(".").removesuffix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))
