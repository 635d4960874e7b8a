"""Checks and normalizes the URL of a storage, and derives the names of a destination's files from it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from urllib.parse import urlsplit

from syncworker.errors import UsageError
from syncworker.system import processes

_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_LOOPBACK_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)


def parse_url(text: str) -> str:
    """Returns a storage URL with lower-case scheme and host, no default port, no trailing slash. Raises
    UsageError."""

    def refuse(why: str) -> UsageError:
        return UsageError("BadStorageUrl", f"storage_url {why}", param="storage_url")

    if len(text) > 2048 or any(ord(c) <= 32 or ord(c) == 127 for c in text):
        raise refuse("must be one URL without spaces or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refuse("is not a valid URL") from None
    if parts.scheme not in ("http", "https"):
        raise refuse("must start with http:// or https://")
    if "@" in parts.netloc:
        raise refuse("must not carry a user name or password: use access_key and secret_key")
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise refuse("must not carry a query or a fragment")
    host = parts.hostname
    if not host or not re.fullmatch(r"[a-z0-9._:-]+", host):
        raise refuse("must name a host")
    if ":" not in host and not all(0 < len(label) < 64 for label in host.removesuffix(".").split(".")):
        raise refuse("has a host with an empty part, or one longer than 63 characters")
    if port is not None and port == 0:
        raise refuse("has a port that cannot be connected to")
    if any(segment in (".", "..") for segment in parts.path.split("/")) or not _PATH.fullmatch(parts.path):
        raise refuse("has a path with `.`, `..` or unusual characters")
    name = f"[{host}]" if ":" in host else host
    default = 80 if parts.scheme == "http" else 443
    suffix = "" if port in (None, default) else f":{port}"
    return f"{parts.scheme}://{name}{suffix}{parts.path.rstrip('/')}"


def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Returns the address of a host that is written as one, in any form of the C library (`127.1`, `0x7f.1`,
    `017700000001`, `2130706433`, IPv4-mapped IPv6); None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def canonical_url(url: str) -> str:
    """Returns the form of a storage URL that destinations are compared by; no request goes there. All URLs of
    one storage have the same form, as far as that is known without a name server: an address in any spelling
    is the same; loopback, this machine's own addresses and its own name are one host. Other names are only
    compared as text: many storages share one address behind a proxy."""
    parts = urlsplit(parse_url(url))
    name = (parts.hostname or "").rstrip(".")
    ip = literal_address(name)
    if ip is None:
        is_here = name in _LOOPBACK_NAMES or name in processes.own_names()
    else:
        is_here = ip.is_loopback or str(ip) in processes.own_addresses()
        name = f"[{ip}]" if ip.version == 6 else str(ip)
    port = str(parts.port or "")
    host = f"loopback:{port}" if is_here else f"{name}:{port}".rstrip(":")
    return f"{parts.scheme}://{host}{parts.path}"


def destination_id(storage_url: str, bucket: str, prefix: str = "") -> str:
    """Returns a file name for a destination: the same for every spelling of a storage's address, another for
    every bucket and every prefix in it."""
    return _file_name(canonical_url(storage_url), bucket, prefix)


def earlier_destination_id(storage_url: str, bucket: str) -> str:
    """Returns the name that earlier versions gave a destination: they knew three spellings of loopback."""
    parts = urlsplit(parse_url(storage_url))
    host = parts.netloc
    bare = host.rsplit(":", 1)[0] if parts.port else host
    if bare in ("localhost", "127.0.0.1", "[::1]"):
        host = f"loopback:{parts.port or ''}"
    return _file_name(f"{parts.scheme}://{host}{parts.path}", bucket, "")


def _file_name(url: str, bucket: str, prefix: str) -> str:
    below = f"\n{prefix}" if prefix else ""
    digest = hashlib.sha256(f"{url}\n{bucket}{below}".encode()).hexdigest()
    return f"{bucket[:40]}-{digest[:16]}"
