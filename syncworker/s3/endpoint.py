"""Where a storage is: its URL, checked; a bucket's host and path there; which addresses are refused.

`storage_url` comes from outside, so nothing in it is believed: only http and https, no user information,
query or fragment, and never a link-local address (169.254.0.0/16, fe80::/10) or another at which a cloud's
metadata service answers with keys (`_METADATA`). Every spelling that the C library takes (decimal, hex,
IPv6-mapped) is resolved before it is judged, and what was resolved is what is connected to.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from syncworker.errors import UsageError
from syncworker.storage_url import literal_address, parse_url

_AWS_HOST = re.compile(r"^s3[.-](?:dualstack\.)?(?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?$")
# Hosts that take the bucket as part of the host only: Alibaba OSS, Tencent COS, Volcengine TOS.
_VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com", ".volces.com", ".ivolces.com")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
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
# Prefixes of 96 bits behind which an IPv4 address stands: compatible, translated (SIIT), NAT64.
_IPV4_BEHIND = tuple(
    ipaddress.ip_network(prefix) for prefix in ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/96")
)


def is_refused(address: str) -> bool:
    """Whether an IP address, as the resolver gives it, is one that must never be talked to."""
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
    """The addresses of a host; blocks on DNS. OSError: none."""
    found: list[Address] = []
    if host.endswith("localhost."):  # as DNS writes it (RFC 6761); /etc/hosts does not
        host = host.removesuffix(".")
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if family in (socket.AF_INET, socket.AF_INET6):
            found.append((family, (str(address[0]), int(address[1]))))
    if not found:
        raise OSError(f"no address for {host}")
    return found


def resolve(host: str, port: int) -> list[Address]:
    """`resolve_any` for a storage. UsageError: one of its addresses is refused."""
    found = resolve_any(host, port)
    if any(is_refused(address[0]) for _, address in found):
        raise UsageError(
            "StorageUrlRefused",
            f"storage_url: {host} is a link-local, multicast or unspecified address, never a storage",
            param="storage_url",
        )
    return found


def refuse_behind_proxy(host: str, port: int) -> None:
    """A proxy looks up the name itself; what can be known of it here is judged all the same. UsageError."""
    try:
        resolve(host, port)
    except OSError:
        return  # only the proxy knows this name


def why_never_created(bucket: str) -> str | None:
    """Why a bucket of this name is used where there is one and never made; None for an ordinary name (Amazon
    S3 User Guide, "General purpose bucket naming rules")."""
    if not _BUCKET.fullmatch(bucket):
        return "it has a form that only old buckets have"
    if bucket.startswith(_RESERVED_STARTS) or bucket.endswith(_RESERVED_ENDS):
        return "names of this form are aliases that a storage gives out itself"
    return None


class Endpoint(NamedTuple):
    """A storage as requests see it."""

    scheme: str
    host: str  # without brackets
    port: int
    base_path: str  # "" or "/path"
    virtual: bool  # the bucket is part of the host (AWS), else of the path
    may_turn: bool = False  # to `virtual`, when the storage says that it wants that

    @classmethod
    def of(cls, url: str, region: str, addressing: str = "auto") -> Endpoint:
        """`addressing` is STORAGE_ADDRESSING. A bucket cannot be part of an IP address."""
        parts = urlsplit(parse_url(url))
        host = parts.hostname or ""
        is_name = literal_address(host.rstrip(".")) is None
        known = bool(_AWS_HOST.match(host)) or host.endswith(_VIRTUAL_ONLY)
        virtual = is_name and (addressing == "virtual" or (addressing == "auto" and known))
        if host == "s3.amazonaws.com" and region != "us-east-1":
            host = f"s3.{region}.amazonaws.com"
        port = parts.port or (443 if parts.scheme == "https" else 80)
        may_turn = is_name and addressing == "auto" and not virtual
        return cls(parts.scheme, host, port, parts.path, virtual, may_turn)

    @property
    def url(self) -> str:
        """For people."""
        return f"{self.scheme}://{self.host_header(self.host)}{self.base_path}"

    def place(self, bucket: str) -> tuple[str, str]:
        """(host to connect to, path before the key) of a bucket. A name with dots stays in the path: a
        certificate for *.s3.amazonaws.com does not cover it. So does one that no host name can be."""
        if self.virtual and "." not in bucket and _BUCKET.fullmatch(bucket):
            return f"{bucket}.{self.host}", ""
        return self.host, f"{self.base_path}/{bucket}"

    def host_header(self, host: str) -> str:
        name = f"[{host}]" if ":" in host else host
        return name if self.port == (443 if self.scheme == "https" else 80) else f"{name}:{self.port}"


def check_storage_url(url: str) -> None:
    """Refuses a storage whose host is a link-local address, in any spelling or by any name. A name that does
    not resolve now is let through: the worker resolves again, and checks again, when it connects."""
    place = Endpoint.of(url, "us-east-1")
    try:
        resolve(place.host, place.port)
    except OSError:
        return
