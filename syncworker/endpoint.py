"""Where a storage is: its URL, checked; a bucket's host and path there; which addresses are refused.

`storage_url` comes from outside, so nothing in it is believed: only http and https, no user information,
query or fragment, and never a link-local address (169.254.0.0/16, fe80::/10) or another at which a cloud's
metadata service answers with keys (`_METADATA`). Every spelling that the C library takes (decimal, hex,
IPv6-mapped) is resolved before it is judged, and what was resolved is what is connected to.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from syncworker import process
from syncworker.errors import UsageError

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
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_LOOPBACK_NAMES = frozenset(
    {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}
)


def parse_url(text: str) -> str:
    """A storage URL in one spelling: lower-case scheme and host, no default port, no trailing slash."""

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
    if port is not None and port == 0:
        raise refuse("has a port that cannot be connected to")
    if any(segment in (".", "..") for segment in parts.path.split("/")) or not _PATH.fullmatch(parts.path):
        raise refuse("has a path that is not plain")
    name = f"[{host}]" if ":" in host else host
    default = 80 if parts.scheme == "http" else 443
    suffix = "" if port in (None, default) else f":{port}"
    return f"{parts.scheme}://{name}{suffix}{parts.path.rstrip('/')}"


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


@dataclass(frozen=True, slots=True)
class Endpoint:
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
        is_name = _literal(host.rstrip(".")) is None
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


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host stands for as it is written, in any form that the C library takes (`127.1`,
    `0x7f.1`, `017700000001`, `2130706433`, IPv4-mapped IPv6); None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def canonical_url(url: str) -> str:
    """A storage URL in the form that destinations are compared by; it is never connected to. Two URLs that
    mean one storage have one form, as far as that can be known without asking a name server: addresses by
    what they mean; loopback, this machine's own addresses and its own name are one host. Other names are
    compared as names: many storages share one address behind a proxy."""
    parts = urlsplit(parse_url(url))
    name = (parts.hostname or "").rstrip(".")
    ip = _literal(name)
    if ip is None:
        is_here = name in _LOOPBACK_NAMES or name in process.own_names()
    else:
        is_here = ip.is_loopback or str(ip) in process.own_addresses()
        name = f"[{ip}]" if ip.version == 6 else str(ip)
    port = str(parts.port or "")
    host = f"loopback:{port}" if is_here else f"{name}:{port}".rstrip(":")
    return f"{parts.scheme}://{host}{parts.path}"


def destination_id(storage_url: str, bucket: str, prefix: str = "") -> str:
    """A file name for a destination: the same for every spelling of a storage's address, different for every
    bucket and every prefix in it."""
    return _file_name(canonical_url(storage_url), bucket, prefix)


def earlier_destination_id(storage_url: str, bucket: str) -> str:
    """The name that earlier versions gave a destination, which knew three spellings of loopback."""
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
