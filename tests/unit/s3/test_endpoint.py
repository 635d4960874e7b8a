"""Storage URLs: one spelling, where a bucket is, which addresses are never talked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncworker.errors import UsageError
from syncworker.storage_url import destination_id, earlier_destination_id, parse_url
from syncworker.system import processes
from syncworker.wire import resolver
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.resolver import is_refused


@pytest.mark.parametrize(
    "text, url",
    [
        ("http://localhost:9000", "http://localhost:9000"),
        ("HTTP://LocalHost:9000/", "http://localhost:9000"),
        ("http://host:80", "http://host"),
        ("https://host:443/", "https://host"),
        ("https://host:80", "https://host:80"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("http://[FE80::A]", "http://[fe80::a]"),
        ("https://host/base/path/", "https://host/base/path"),
        ("https://s3.amazonaws.com", "https://s3.amazonaws.com"),
        ("http://under_score:1", "http://under_score:1"),
    ],
)
def test_a_url_has_one_spelling(text: str, url: str) -> None:
    assert parse_url(text) == url
    assert parse_url(url) == url


@pytest.mark.parametrize(
    "text",
    [
        "", "host", "host:9000", "//host", "ftp://host", "file:///etc/passwd", "http://", "http:///x",
        "http:host", "http://user@host", "http://user:pass@host", "http://@host",
        "http://host@169.254.169.254", "http://host?x", "http://host/?", "http://host#x",
        "http://host/#", "http://host:0", "http://host:65536", "http://host:x", "http://host:-1",
        "http://a b", " http://host", "http://host\n", "http://host\r\nX: 1", "http://host\0",
        "http://host\t", "http://host/../x", "http://host/./x", "http://host/%2e%2e/x",
        "http://host\\@evil", "http://hóst", "http://[::1", "http://[fe80::1%25eth0]",
        "http://host/" + "a" * 3000, "http://host/é", "http://host/\x85", "http://host/\u2028", 'http://host/"',
        "http://a..b:90", "http://.a", "http://a..", f"http://{'a' * 64}.b",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(text)
    assert caught.value.param == "storage_url"
    assert "pass" not in str(caught.value).replace("a user name or password", "")


@pytest.mark.parametrize(
    "address, refused",
    [
        ("169.254.169.254", True),
        ("169.254.0.1", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("100.100.100.200", True),
        ("192.0.0.192", True),
        ("168.63.129.16", True),
        ("fd20:ce::254", True),
        ("::ffff:6464:64c8", True),
        ("::ffff:0:169.254.169.254", True),
        ("64:ff9b:1::a9fe:a9fe", True),
        ("0.1.2.3", True),
        ("::ffff:169.254.169.254", True),
        ("::ffff:a9fe:a9fe", True),
        ("::169.254.169.254", True),
        ("64:ff9b::a9fe:a9fe", True),
        ("2002:a9fe:a9fe::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("224.0.0.1", True),
        ("ff02::1", True),
        ("127.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("10.0.0.1", False),
        ("100.100.100.201", False),
        ("192.168.1.1", False),
        ("fd00:ec2::253", False),
        ("2001:db8::1", False),
        ("192.0.2.1", False),
    ],
)
def test_addresses_that_are_never_talked_to(address: str, refused: bool) -> None:
    assert is_refused(address) is refused


@pytest.mark.parametrize(
    "url, region, bucket, host, path",
    [
        ("http://127.0.0.1:9000", "us-east-1", "b-1", "127.0.0.1", "/b-1"),
        ("https://host/base", "us-east-1", "b-1", "host", "/base/b-1"),
        ("https://s3.amazonaws.com", "us-east-1", "b-1", "b-1.s3.amazonaws.com", ""),
        ("https://s3.amazonaws.com", "eu-west-1", "b-1", "b-1.s3.eu-west-1.amazonaws.com", ""),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", "b.1", "s3.eu-west-1.amazonaws.com", "/b.1"),
        ("https://s3.amazonaws.com.evil.test", "us-east-1", "b-1", "s3.amazonaws.com.evil.test", "/b-1"),
    ],
)
def test_where_a_bucket_is(url: str, region: str, bucket: str, host: str, path: str) -> None:
    assert Endpoint.of(url, region).bucket_address(bucket) == (host, path)


@pytest.mark.parametrize(
    "url, addressing, bucket, host",
    [
        ("https://oss-cn-hangzhou.aliyuncs.com", "auto", "b-1", "b-1.oss-cn-hangzhou.aliyuncs.com"),
        ("https://cos.ap-guangzhou.myqcloud.com", "auto", "b-1", "b-1.cos.ap-guangzhou.myqcloud.com"),
        ("https://cos.ap-guangzhou.myqcloud.com", "path", "b-1", "cos.ap-guangzhou.myqcloud.com"),
        ("https://s3.amazonaws.com", "path", "b-1", "s3.amazonaws.com"),
        ("https://s3.amazonaws.com", "auto", "Old_Bucket", "s3.amazonaws.com"),
        ("https://store.test", "auto", "b-1", "store.test"),
        ("https://store.test", "virtual", "b-1", "b-1.store.test"),
        ("https://store.test", "virtual", "b.1", "store.test"),
        ("http://127.0.0.1:9000", "virtual", "b-1", "127.0.0.1"),
        ("http://2130706433:9000", "virtual", "b-1", "2130706433"),
        ("http://[::1]:9000", "virtual", "b-1", "::1"),
    ],
)
def test_how_a_bucket_is_addressed(url: str, addressing: str, bucket: str, host: str) -> None:
    assert Endpoint.of(url, "us-east-1", addressing).bucket_address(bucket)[0] == host


@pytest.mark.parametrize(
    "url, header",
    [
        ("http://host", "host"),
        ("http://host:8080", "host:8080"),
        ("https://host:80", "host:80"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_the_host_header_has_the_port_unless_it_is_the_schemes(url: str, header: str) -> None:
    endpoint = Endpoint.of(url, "us-east-1")
    assert endpoint.host_header(endpoint.host) == header


def test_a_destination_is_one_whatever_its_spelling() -> None:
    same = ["http://localhost:9000", "http://127.0.0.1:9000/", "HTTP://[::1]:9000"]
    assert len({destination_id(url, "bucket") for url in same}) == 1
    other = ["http://localhost:9001", "https://localhost:9000", "http://localhost:9000/x", "http://host:9000"]
    assert len({destination_id(url, "bucket") for url in [same[0], *other]}) == 5
    assert destination_id(same[0], "bucket") != destination_id(same[0], "bucket2")


def own_address() -> str | None:
    """An address of this machine that is not loopback; None on one without a network."""
    plain = (a for a in processes.own_addresses() if ":" not in a and not a.startswith("127."))
    return next(plain, None)


SPELLINGS_OF_HERE = [
    "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "[::1]", "2130706433", "0x7f.1",
    "127.1", "0x7f000001",
    "017700000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:0:0:1]",
    "ip6-localhost", "localhost.localdomain", processes.host(), *filter(None, [own_address()]),
]  # fmt: skip


@pytest.mark.parametrize("host", SPELLINGS_OF_HERE)
def test_every_spelling_of_this_machine_is_one_destination(host: str) -> None:
    assert destination_id(f"http://{host}:9000", "bucket") == destination_id(
        "http://127.0.0.1:9000", "bucket"
    )
    assert destination_id(f"http://{host}", "bucket") == destination_id("http://127.0.0.1:80/", "bucket")


@pytest.mark.parametrize(
    "one, other",
    [
        ("http://10.1.2.3:9000", "http://167838211:9000"),
        ("http://10.1.2.3:9000", "http://0xa.0x10203:9000"),
        ("http://10.1.2.3:9000", "http://10.66051:9000"),
        ("http://10.1.2.3:9000", "http://[::ffff:10.1.2.3]:9000"),
        ("http://10.1.2.3", "http://10.1.2.3:80/"),
        ("https://10.1.2.3", "https://10.1.2.3:443"),
        ("http://[2001:db8::1]:9000", "http://[2001:0DB8:0:0:0:0:0:1]:9000"),
        ("https://s3.example.com", "https://S3.example.com.:443/"),
        ("https://s3.example.com/base", "https://s3.example.com/base//"),
    ],
)
def test_another_address_is_one_destination_too(one: str, other: str) -> None:
    assert destination_id(one, "bucket") == destination_id(other, "bucket")


@pytest.mark.parametrize(
    "one, other",
    [
        ("http://10.1.2.3:9000", "http://10.1.2.4:9000"),
        ("http://10.1.2.3:9000", "http://10.1.2.3:9001"),
        ("http://a.localhost:9000", "http://b.localhost:9000"),  # two storages behind one proxy
        ("http://a.example.com", "http://b.example.com"),
        ("http://127.example.com", "http://127.0.0.1"),
        ("https://127.0.0.1:9000", "http://127.0.0.1:9000"),
    ],
)
def test_what_may_be_two_storages_is_two_destinations(one: str, other: str) -> None:
    assert destination_id(one, "bucket") != destination_id(other, "bucket")


@pytest.mark.parametrize(
    "url, name",
    [
        ("http://127.0.0.1:9000", "bucket-c88bf5a77da76c57"),
        ("http://localhost:9000", "bucket-c88bf5a77da76c57"),
        ("https://s3.amazonaws.com", "bucket-9c45f57e5facc1be"),
        ("http://minio:9000", "bucket-968c794668d49011"),
        ("http://203.0.113.9:9000", "bucket-"),
        ("http://[2001:db8::1]:9000", "bucket-"),
    ],
)
def test_common_addresses_keep_the_name_that_their_files_have(url: str, name: str) -> None:
    assert destination_id(url, "bucket") == earlier_destination_id(url, "bucket")
    assert destination_id(url, "bucket").startswith(name)


def test_a_machine_has_the_names_beside_its_own_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n127.0.1.1 Box.example.org box # box2\n127.0.0.1 store-a store-b\n")
    monkeypatch.setattr(processes, "_HOSTS", str(hosts))
    monkeypatch.setattr(processes, "host", lambda: "box")
    processes.own_names.cache_clear()
    try:
        assert processes.own_names() == {"box", "box.example.org"}
        assert destination_id("http://box.example.org:1", "b-1") == destination_id(
            "http://localhost:1", "b-1"
        )
    finally:
        processes.own_names.cache_clear()


@pytest.mark.parametrize("bucket", ["a" * 63, "a.b", "abc"])
def test_a_destination_is_a_plain_file_name(bucket: str) -> None:
    name = destination_id("https://host/a/b", bucket)
    assert "/" not in name and len(name) < 80 and name.startswith(bucket[:40])


def test_localhost_is_found_as_dns_writes_it() -> None:
    assert {address[0] for _, address in resolver.resolve_any("localhost.", 80)} <= {"127.0.0.1", "::1"}
