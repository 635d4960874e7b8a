"""Where a storage is: its URL, checked; a bucket's host and path there.

`storage_url` comes from outside, so it is checked: only http and https, no user information, query or
fragment. resolver.py decides which addresses are refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from syncworker.storage_url import literal_address, parse_url

_AWS_HOST = re.compile(r"^s3[.-](?:dualstack\.)?(?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?$")
# These stores take the bucket as part of the host only: Alibaba OSS, Tencent COS, Volcengine TOS.
_VIRTUAL_ONLY = (".aliyuncs.com", ".myqcloud.com", ".volces.com", ".ivolces.com")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def why_never_created(bucket: str) -> str | None:
    """Returns why a bucket of this name may be used but not created; None for an ordinary name (Amazon S3
    User Guide, "General purpose bucket naming rules")."""
    if not _BUCKET.fullmatch(bucket):
        return "it has a form that only old buckets have"
    if bucket.startswith(_RESERVED_STARTS) or bucket.endswith(_RESERVED_ENDS):
        return "names of this form are aliases that a storage gives out itself"
    return None


class Endpoint(NamedTuple):
    """The address of a storage."""

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
        """The URL as it is shown to people."""
        return f"{self.scheme}://{self.host_header(self.host)}{self.base_path}"

    def bucket_address(self, bucket: str) -> tuple[str, str]:
        """Returns the host to connect to for a bucket, and the path before the key. A name with dots stays in
        the path, because a certificate for *.s3.amazonaws.com does not cover it; so does one that is no valid
        host name."""
        if self.virtual and "." not in bucket and _BUCKET.fullmatch(bucket):
            return f"{bucket}.{self.host}", ""
        return self.host, f"{self.base_path}/{bucket}"

    def host_header(self, host: str) -> str:
        name = f"[{host}]" if ":" in host else host
        return name if self.port == (443 if self.scheme == "https" else 80) else f"{name}:{self.port}"
