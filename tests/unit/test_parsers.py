"""Every parser of outside input, with made-up input: it gives a value that keeps its promise, or refuses with
a UsageError that says which parameter is at fault. (The listing's XML is in test_s3xml.py.)"""

from __future__ import annotations

import io
import ipaddress
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from syncworker import request, storage_url
from syncworker import settings as service_settings
from syncworker.errors import UsageError
from syncworker.jobs import ids
from syncworker.options import table
from syncworker.web import middleware, parameters
from syncworker.wire import endpoint, resolver

MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = ("source", "dest", "storage_url", "access_key", "secret_key", "wait")
ODD = st.text(st.sampled_from("/.%+&;=\\\0\r\n\t@#?[]:éÿ\u2028\ud800aA0-_~ "), max_size=30)
TEXT = st.one_of(st.text(max_size=40), ODD)
HOSTS = st.sampled_from(["a.test", "127.0.0.1", "0x7f.1", "[::1]", "[fe80::1%25eth0]", "2852039166", "é", ""])
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", ""]),
    HOSTS,
    st.sampled_from(["", ":1", ":0", ":99999", ":x", "@b.test", "\\@b.test"]),
    ODD,
)


def environ(query: str = "", body: bytes = b"", kind: str = "") -> dict[str, Any]:
    return {"QUERY_STRING": query, "wsgi.input": io.BytesIO(body), "CONTENT_TYPE": kind}


@MANY
@given(st.binary(max_size=60), st.binary(max_size=60), st.sampled_from(["", "application/json", "text/plain",
       "application/x-www-form-urlencoded", "application/json; charset=utf-16"]))  # fmt: skip
def test_any_bytes_are_parameters_or_refused(query: bytes, body: bytes, kind: str) -> None:
    try:
        found = parameters.of_request(environ(query.decode("latin-1"), body, kind), NAMES)
    except UsageError as error:
        assert error.message
        error.message.encode()
        return
    for name, value in found.items():
        assert name in NAMES
        value.encode()
        assert name == "source" or not re.search("[\x00-\x1f\x7f]", value)


@pytest.mark.parametrize(
    ("written", "wanted"), [("156", "156"), ("156.0", "156"), ("-0.0", "0"), ("1.5", "1.5"), ("1e999", "inf")]
)
def test_a_whole_number_in_json_is_one_however_it_is_written(written: str, wanted: str) -> None:
    body = f'{{"after": {written}}}'.encode()
    assert parameters.of_request(environ("", body, "application/json"), ("after",)) == {"after": wanted}


@MANY
@given(
    st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(codec="utf-8", exclude_categories=["C"])))
)
def test_parameters_come_back_from_a_query_a_form_and_json(given_: dict[str, str]) -> None:
    given_ = {name: value.replace("\u2028", "").replace("\u2029", "") for name, value in given_.items()}
    text = urlencode(given_)
    form = "application/x-www-form-urlencoded"
    assert parameters.of_request(environ(text), NAMES) == given_
    assert parameters.of_request(environ(body=text.encode(), kind=form), NAMES) == given_
    body = json.dumps(given_).encode()
    assert parameters.of_request(environ(body=body, kind="application/json"), NAMES) == given_


@MANY
@given(st.one_of(TEXT, URLS))
@example("http://a.test\\@b.test")
@example("http://a.test#@b.test")
@example("http://[::1]x")
def test_any_text_is_a_storage_url_in_one_spelling_or_refused(text: str) -> None:
    try:
        url = storage_url.parse_url(text)
    except UsageError as error:
        assert error.param == "storage_url"
        return
    assert storage_url.parse_url(url) == url
    assert url.isascii() and url.isprintable() and not re.search(r"[\s@#?\\%]", url)
    place = endpoint.Endpoint.of(url, "us-east-1")
    assert place.host and 0 < place.port < 65536 and place.host == urlsplit(url).hostname
    assert re.fullmatch(r"[a-z0-9.-]+-[0-9a-f]{16}", storage_url.destination_id(url, "a-bucket"))


@MANY
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=4, network="169.254.0.0/16")))
def test_an_address_is_judged_alike_in_each_of_its_forms(ip: ipaddress.IPv4Address) -> None:
    refused = resolver.is_refused(str(ip))
    assert refused or ip not in ipaddress.ip_network("169.254.0.0/16")
    number = int(ip)
    for high in (0xFFFF << 32, 0xFFFF << 48, 0x64FF9B << 96, (0x64FF9B << 96) + (1 << 80)):
        assert resolver.is_refused(str(ipaddress.IPv6Address(high + number))) is refused


@MANY
@given(TEXT)
@example("a/../../b")
@example("\ud800")
def test_any_text_is_a_source_below_the_root_or_refused(tmp_path: Path, text: str) -> None:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    if not (root / "out").is_symlink():
        (root / "out").symlink_to("/etc")
    try:
        source = request.parse_source(text, str(root))
    except UsageError as error:
        assert error.param == "source"
        return
    real = os.path.realpath(os.path.join(root, source))
    assert real == str(root) or real.startswith(f"{root}/")
    assert not source.startswith("/") and ".." not in source.split("/") and "\0" not in source


@MANY
@given(st.one_of(TEXT, st.from_regex(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}.?", fullmatch=True)))
@example("20260101T000000-00000000\n")
@example("\uff12\uff10\uff12\uff160101T000000-00000000")
def test_any_text_is_an_id_of_plain_characters_or_refused(text: str) -> None:
    try:
        assert re.fullmatch(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}", ids.check_id(text), re.ASCII)
    except UsageError as error:
        assert error.param == "id"


@MANY
@given(TEXT, TEXT, TEXT)
def test_any_bucket_wait_and_keys_are_plain_or_refused(dest: str, wait: str, key: str) -> None:
    for parse, text, promise in (
        (request.parse_dest, dest, lambda v: re.fullmatch(r"[A-Za-z0-9._-]{3,255}", v) and ".." not in v),
        (partial(table.parse_wait, "wait"), wait, lambda v: 0 <= v <= 3600),
        (
            lambda v: request.parse_keys(v, v),
            key,
            lambda v: v is None or (v[0].isascii() and "\n" not in v[0]),
        ),
    ):
        try:
            value = parse(text)
        except UsageError as error:
            assert error.param
            continue
        assert promise(value)


@MANY
@given(TEXT, st.sampled_from(["", ":80", ":0", ":99999", ":x"]))
def test_any_host_is_ours_exactly_or_refused(host: str, port: str) -> None:
    allowed = frozenset({"localhost", "[::1]"})
    if middleware.is_allowed_host(host + port, allowed):
        assert host.lower() in allowed and port in ("", ":80")


@MANY
@given(
    st.text(st.characters(min_codepoint=1, codec="utf-8"), min_size=8, max_size=30),
    st.sampled_from(["{}", "a;secret_key={}", "token%3D{}"]),
)
def test_no_value_of_a_secret_parameter_is_ever_logged(value: str, form: str) -> None:
    secret = quote(value, safe="")
    for name in ("secret_key", "access_key", "token", "Secret-Key", "x"):
        assert secret not in middleware.redacted(f"a=b&{name}={form.format(secret)}&dest=c").replace(
            "dest=c", ""
        )


@MANY
@given(st.binary(max_size=200))
def test_any_env_file_is_settings_or_refused_with_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "any.env").write_bytes(b"API_PORT=" + data + b"\nMINIO_SECRET_KEY=" + data + b"\n")
    try:
        found = service_settings.load({}, str(tmp_path / "any.env"))
    except UsageError as error:
        assert error.message.startswith(("wrong settings", "the file"))
    else:
        assert 1 <= found.api_port <= 65535
