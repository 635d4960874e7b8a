"""Signature Version 4 for S3, as pure functions of the request, the keys and the time.

Source: AWS General Reference, "Signature Version 4 signing process"; S3 encodes the path once and signs
`x-amz-content-sha256`. A body with a signed Content-MD5 may be sent as UNSIGNED-PAYLOAD: the store checks the
MD5, which the signature covers.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

is_plain = re.compile(r"[A-Za-z0-9/._~-]*").fullmatch  # nothing in it has to be encoded


class Keys(NamedTuple):
    """Credentials. `token` is set for temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:  # never a secret in a traceback or a log
        return "Keys(...)"


def encode_path(path: str) -> str:
    """Encodes a path as S3 signs it: UTF-8 (a surrogate escape is the byte it stands for), percent-encoded
    once, `/` kept."""
    return path if is_plain(path) else quote(path, safe="/-._~", errors="surrogateescape")


def encode_query(query: dict[str, str]) -> str:
    """Encodes a query for signing and sending: sorted, names and values encoded, `name=` for an empty
    value."""
    return urlencode(sorted(query.items()), safe="-._~", errors="surrogateescape", quote_via=quote)


class Signer:
    """Signs for one region. Caches the derived key for the day, and the date strings for the second."""

    def __init__(self, region: str) -> None:
        self.region = region
        self._second = -1
        self._amz_date = ""
        self._scope = ""
        self._derived: tuple[str, str, hmac.HMAC | None] = ("", "", None)  # secret, scope, MAC
        # By header names, of which there are few sets: the lines, their values, the signed names.
        self._sorted: dict[tuple[str, ...], tuple[str, Callable[[dict[str, str]], Any], str]] = {}

    def sign(
        self,
        keys: Keys,
        method: str,
        path: str,
        query: str,
        headers: dict[str, str],
        payload_sha256: str,
        now: float | None = None,
    ) -> str:
        """Returns the header lines of the request, each ended by CR LF: the given ones (lower-case names,
        including `host`), and those of the signature, which are also added to `headers`, except for
        `authorization`. `path` and `query` must be encoded."""
        second = int(time.time() if now is None else now)
        if second != self._second:
            self._tick(second)
        headers["x-amz-date"] = self._amz_date
        headers["x-amz-content-sha256"] = payload_sha256
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        given = tuple(headers)
        known = self._sorted.get(given)
        if known is None:
            names = sorted(headers)
            template = "".join(f"{name.replace('%', '%%')}:%s\n" for name in names)
            known = self._sorted[given] = (template, itemgetter(*names), ";".join(names))
        template, values, signed = known
        canonical_headers = template % values(headers)
        canonical = f"{method}\n{path}\n{query}\n{canonical_headers}\n{signed}\n{payload_sha256}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{self._amz_date}\n{self._scope}\n{digest}"
        mac = self._mac(keys.secret_key).copy()
        mac.update(text.encode())
        lines = canonical_headers.replace("\n", "\r\n")  # sent as they were signed
        return (
            f"{lines}authorization: AWS4-HMAC-SHA256 Credential={keys.access_key}/{self._scope}, "
            f"SignedHeaders={signed}, Signature={mac.hexdigest()}\r\n"
        )

    def _tick(self, second: int) -> None:
        self._second = second
        self._amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        self._scope = f"{self._amz_date[:8]}/{self.region}/s3/aws4_request"

    def _mac(self, secret: str) -> hmac.HMAC:
        """Returns the MAC with the derived key; copying it takes half the time of `hmac.digest`."""
        known, scope, mac = self._derived
        if mac is None or known != secret or scope != self._scope:
            key = f"AWS4{secret}".encode()
            for part in (self._amz_date[:8], self.region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            mac = hmac.new(key, digestmod="sha256")
            self._derived = (secret, self._scope, mac)
        return mac
