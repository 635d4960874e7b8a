"""Resolves host names, and refuses addresses that must not be connected to.

`storage_url` comes from outside: never a link-local address (169.254.0.0/16, fe80::/10) or another at which a
cloud's metadata service answers with keys (`_METADATA`). Every spelling that the C library takes (decimal,
hex, IPv6-mapped) is resolved before it is judged, and what was resolved is what is connected to.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from syncworker.errors import UsageError
from syncworker.wire.endpoint import Endpoint

_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure's agent
    )
)
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
# Prefixes of 96 bits that an IPv4 address follows: compatible, translated (SIIT), NAT64.
_IPV4_BEHIND = tuple(
    ipaddress.ip_network(prefix) for prefix in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/96")
)


def is_refused(address: str) -> bool:
    """Whether an IP address, as the resolver writes it, must never be connected to."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is not None:
            ip = embedded
        elif int(ip) > 1 and any(ip in prefix for prefix in _IPV4_BEHIND):  # :: and ::1 are themselves
            ip = ipaddress.ip_address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, ipaddress.IPv4Address) and ip in _THIS_NETWORK:
        return True
    return bool(ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA)


Address = tuple[int, tuple[str, int]]  # family, (IP address, port)


def resolve_any(host: str, port: int) -> list[Address]:
    """Returns the addresses of a host; blocks on DNS. Raises OSError if there is none."""
    found: list[Address] = []
    if host.endswith("localhost."):  # as DNS writes it (RFC 6761); /etc/hosts does not
        host = host.removesuffix(".")
    # A number as bytes: to encode a text for DNS, Python loads three tables.
    name = host.encode() if address_of(host) is not None else host
    for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
        if family in (socket.AF_INET, socket.AF_INET6):
            found.append((family, (str(address[0]), int(address[1]))))
    if not found:
        raise OSError(f"no address for {host}")
    return found


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parses an IP address; returns None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def resolve(host: str, port: int) -> list[Address]:
    """`resolve_any` for a storage. Raises UsageError if one of its addresses is refused."""
    found = resolve_any(host, port)
    if any(is_refused(address[0]) for _, address in found):
        raise UsageError(
            "StorageUrlRefused",
            f"storage_url: {host} is a link-local, multicast or unspecified address, never a storage",
            param="storage_url",
        )
    return found


def check_known(host: str, port: int) -> None:
    """Raises UsageError as `resolve` does, if the name can be looked up here."""
    with suppress(OSError):  # perhaps only a proxy knows this name
        resolve(host, port)


def check_storage_url(url: str) -> None:
    """Raises UsageError if the storage's host is a link-local address, in any spelling or by any name. A name
    that does not resolve now passes: the worker resolves and checks it again when it connects."""
    place = Endpoint.of(url, "us-east-1")
    check_known(place.host, place.port)
