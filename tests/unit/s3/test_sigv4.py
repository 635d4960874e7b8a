"""Signatures, against botocore's own for S3: the same request at the same second, the same signature."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from unittest import mock
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from syncworker.s3.signing import EMPTY_SHA256, Keys, Signer, encode_path, encode_query
from syncworker.wire.body import UNSIGNED

NOW = 1795352562.9
STAMP = datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%dT%H%M%SZ")
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NAMES = st.text("abcdefghijklmnopqrstuvwxyzABC-0123456789", min_size=1, max_size=20)


def botocore_signs(
    keys: Keys,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: dict[str, str],
    payload: str,
    region: str,
) -> str:
    url = f"https://{host}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url, headers=headers)
    request.headers["X-Amz-Content-SHA256"] = payload
    auth = _Auth(Credentials(keys.access_key, keys.secret_key, keys.token), "s3", region)
    with mock.patch("botocore.auth.get_current_datetime", lambda: datetime.fromtimestamp(NOW, UTC)):
        auth.add_auth(request)
    return str(request.headers["Authorization"])


class _Auth(S3SigV4Auth):
    """botocore's, with the payload's hash as the request names it."""

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        payload = request.headers["X-Amz-Content-SHA256"]
        super()._modify_request_before_signing(request)
        del request.headers["X-Amz-Content-SHA256"]
        request.headers["X-Amz-Content-SHA256"] = payload


def we_sign(
    keys: Keys,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: dict[str, str],
    payload: str,
    region: str,
) -> str:
    signed = {"host": host, **headers}
    lines = Signer(region).sign(keys, method, path, query, signed, payload, NOW)
    assert signed["x-amz-date"] == STAMP
    assert signed["x-amz-content-sha256"] == payload
    assert signed.get("x-amz-security-token") == keys.token
    assert lines.endswith("\r\n")
    sent = dict(line.split(":", 1) for line in lines[:-2].split("\r\n"))
    authorization = sent.pop("authorization").removeprefix(" ")
    assert sent == signed
    return authorization


def both(
    path: str = "/bucket/key",
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    *,
    keys: Keys = KEYS,
    method: str = "GET",
    host: str = "s3.example.com",
    payload: str = EMPTY_SHA256,
    region: str = "eu-west-3",
) -> tuple[str, str]:
    values = (
        keys,
        method,
        host,
        encode_path(path),
        encode_query(query or {}),
        headers or {},
        payload,
        region,
    )
    return we_sign(*values), botocore_signs(*values)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/bucket",
        "/bucket/a b+c%d#e?f&g=h;i,j@k:l",
        "/bucket/a//b/../c/./d/",
        "/bucket/caf\u00e9 cafe\u0301 \U0001f600 \u202e",
        "/bucket/\x01\n\r\t\x7f\\\"'<>{}|^`~!*()",
        "/bucket/.hidden/-_.~",
    ],
)
def test_odd_keys_are_signed_as_botocore_signs_them(path: str) -> None:
    ours, theirs = both(path)
    assert ours == theirs


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"delete": ""},
        {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "start-after": "a b/+%\u00e9"},
        {"list-type": "2", "continuation-token": "AbC+/=&?% ~"},
        {"partNumber": "10000", "uploadId": "x.y~z-_/+="},
        {"versionId": "null"},
        {"prefix": "z", "uploads": "", "key-marker": "A"},
    ],
)
def test_queries_are_signed_as_botocore_signs_them(query: dict[str, str]) -> None:
    ours, theirs = both(query=query)
    assert ours == theirs


def test_headers_a_token_a_port_and_an_unsigned_payload_are_signed_as_botocore_signs_them() -> None:
    headers = {
        "content-md5": "1B2M2Y8AsgTpgAmy7PhCfg==",
        "content-type": "application/xml",
        "x-amz-meta-mtime": "1795352562.000000001",
        "range": "bytes=0-9",
    }
    token = "FwoGZXIvYXdzE+/=="
    ours, theirs = both(
        method="PUT",
        headers=headers,
        keys=KEYS._replace(token=token),
        host="127.0.0.1:9000",
        payload=UNSIGNED,
    )
    assert ours == theirs
    assert "x-amz-security-token" in ours


@given(path=TEXT, query=st.dictionaries(NAMES, TEXT, max_size=5), token=st.none() | st.just("tok/en+="))
def test_any_key_and_query_is_signed_as_botocore_signs_it(
    path: str, query: dict[str, str], token: str | None
) -> None:
    ours, theirs = both(f"/bucket/{path}", query, keys=KEYS._replace(token=token))
    assert ours == theirs


@given(st.binary(max_size=30))
def test_a_key_that_is_no_utf8_has_a_path_of_its_own_bytes(raw: bytes) -> None:
    key = raw.decode("utf-8", "surrogateescape")
    assert encode_path(key) == quote(raw, safe="/-._~")
    assert encode_query({"prefix": key}) == "prefix=" + quote(raw, safe="-._~")


def test_a_signer_that_is_kept_changes_day_and_keys_with_the_request() -> None:
    kept = Signer("us-east-1")
    for keys in (KEYS, KEYS._replace(secret_key="another"), KEYS):
        for now in (NOW, NOW + 1, NOW + 86400, NOW):
            fresh_headers, kept_headers = {"host": "a"}, {"host": "a"}
            fresh = Signer("us-east-1").sign(keys, "GET", "/", "", fresh_headers, EMPTY_SHA256, now)
            assert kept.sign(keys, "GET", "/", "", kept_headers, EMPTY_SHA256, now) == fresh
            assert kept_headers == fresh_headers


def test_keys_do_not_show_themselves() -> None:
    keys = Keys("AKID-public", "very-secret", "token-secret")
    holder = SimpleNamespace(keys=keys)
    for text in (repr(keys), str(keys), f"{keys}", repr([keys]), repr(holder)):
        assert "secret" not in text
