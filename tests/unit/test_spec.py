"""What may be asked for: sources, buckets, waits, keys, storages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from serving import load

from syncworker import request
from syncworker.errors import UsageError
from syncworker.options import table
from syncworker.shell import arguments as usage
from syncworker.shell import completion
from syncworker.storage_url import parse_url
from syncworker.wire import endpoint, resolver

OK = None


def code(function: object, *arguments: object) -> str | None:
    """The parameter that a refusal names; None when it is taken."""
    try:
        function(*arguments)  # type: ignore[operator]
    except UsageError as error:
        assert error.param and str(error)
        return error.param
    return None


@pytest.mark.parametrize(
    "text, source",
    [
        ("", ""),
        (".", ""),
        ("./", ""),
        ("photos", "photos"),
        ("photos/", "photos"),
        ("./photos//2024/.", "photos/2024"),
        (" spaces ", " spaces "),
        ("a\nb", "a\nb"),
        ("e\u0301", "e\u0301"),
        ("é", "é"),
        ("..a/b..", "..a/b.."),
        ("...", "..."),
        ("a\\..\\b", "a\\..\\b"),
        ("%2e%2e", "%2e%2e"),
        ("~", "~"),
        ("missing/below/missing", "missing/below/missing"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_source_is_relative_to_the_root(tmp_path: Path, text: str, source: str) -> None:
    assert request.parse_source(text, str(tmp_path)) == source


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/etc",
        "//etc",
        "..",
        "../x",
        "a/..",
        "a/../b",
        "a/./../b",
        "a\0b",
        "\ud800",
        "a/" * 3000,
        "a" * 5000,
    ],
)
def test_a_source_that_leads_out_is_refused(tmp_path: Path, text: str) -> None:
    assert code(request.parse_source, text, str(tmp_path)) == "source"


def test_a_source_through_a_symlink_must_stay_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-beside"
    (root / "in").mkdir(parents=True)
    outside.mkdir()
    (root / "to_inside").symlink_to(root / "in")
    (root / "to_outside").symlink_to(outside)
    (root / "to_parent").symlink_to("..")
    (root / "to_etc").symlink_to("/etc")
    (root / "in" / "up").symlink_to("../..")
    (root / "loop").symlink_to("loop")
    assert request.parse_source("to_inside", str(root)) == "to_inside"
    for source in (
        "to_outside",
        "to_outside/x",
        "to_parent",
        "to_etc/ssh",
        "in/up",
        "to_inside/up/root-beside",
    ):
        assert code(request.parse_source, source, str(root)) == "source", source


def test_the_root_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real" / "photos").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")
    assert request.parse_source("photos", str(tmp_path / "root")) == "photos"


@pytest.mark.parametrize(
    "name", ["abc", "a.b", "my-bucket", "0abc9", "a" * 63, "1.2.3", "1.2.3.4.5", "xn--a"]
)
def test_bucket_names_that_are_taken(name: str) -> None:
    assert request.parse_dest(name) == name


def test_no_name_is_the_default() -> None:
    assert request.parse_dest("") == request.DEST_DEFAULT == "mybucket"


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "a" * 256,
        "a..b",
        "192.168.1.1",
        "a/b",
        "a b",
        "abc\n",
        "ábc",
        "a%62c",
        "..",
        "../x",
        "abc?",
        "s3://abc",
    ],
)
def test_bucket_names_that_are_refused(name: str) -> None:
    assert code(request.parse_dest, name) == "dest"


@pytest.mark.parametrize(
    "name", ["a" * 64, "a" * 255, "Abc", "a_b", "-abc", "abc-", ".abc", "abc.", "LOGS_2009"]
)
def test_names_that_only_old_buckets_have_are_taken_and_never_made(name: str) -> None:
    assert request.parse_dest(name) == name
    assert endpoint.why_never_created(name)


@pytest.mark.parametrize(
    "name", ["xn--abc", "my-point-s3alias", "a--ol-s3", "sthree-abc", "a--use1-az4--x-s3"]
)
def test_aliases_are_taken_and_never_made(name: str) -> None:
    assert request.parse_dest(name) == name
    assert "alias" in (endpoint.why_never_created(name) or "")
    assert endpoint.why_never_created("abc") is None


@pytest.mark.parametrize(
    "name, rule",
    [("a..b", "two dots"), ("192.168.1.1", "IP address"), ("ab", "3 to 63"), ("a/b", "3 to 63")],
)
def test_the_message_names_the_rule_that_a_bucket_name_breaks(name: str, rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        request.parse_dest(name)


@pytest.mark.parametrize(
    "text, seconds",
    [("0", 0), ("0.0", 0), ("1", 1), ("0.25", 0.25), (".5", 0.5), ("3600", 3600), ("1e-3", 0.001), ("+1", 1)],
)
def test_waits_that_are_taken(text: str, seconds: float) -> None:
    assert table.parse_wait("wait", text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "3600.1",
        "1e9",
        "nan",
        "inf",
        "x",
        "1s",
        "1,5",
        " 1",
        "1\n",
        "0x1",
        "1_0",
        "٣",
        "²",
        ".",
        "1e999",
    ],
)
def test_waits_that_are_refused(text: str) -> None:
    assert code(table.parse_wait, "wait", text) == "wait"


@pytest.mark.parametrize(
    "access, secret, param",
    [
        (None, None, OK),
        ("", "", OK),
        ("AKID", "secret/+=", OK),
        ("AKID", None, "secret_key"),
        (None, "secret", "access_key"),
        ("AK ID", "secret", "access_key"),
        ("AK/ID", "secret", "access_key"),
        ("AK,ID", "secret", "access_key"),
        ("AKID", "sec ret", "secret_key"),
        ("AKID", "s\u00e9cret", "secret_key"),
        ("AKID", "secret\r\nX: 1", "secret_key"),
        ("AKID", "s" * 1025, "secret_key"),
    ],
)
def test_keys_come_in_pairs_of_plain_characters(
    access: str | None, secret: str | None, param: str | None
) -> None:
    assert code(request.parse_keys, access, secret) == param


def test_the_servers_keys_go_to_its_own_storage_only(tmp_path: Path) -> None:
    config = load(tmp_path, STORAGE_URL="https://s3.example.com")
    own = {"source": "", "dest": "bucket", "storage_url": "https://S3.example.com:443/"}
    assert request.parse(config, **own).keys is None
    with pytest.raises(UsageError) as caught:
        request.parse(config, source="", dest="bucket", storage_url="https://s3.example.com.evil.test")
    assert caught.value.param == "access_key"
    other = request.parse(
        config,
        source="",
        dest="bucket",
        storage_url="https://other.test",
        keys=request.RequestKeys("k", "s3cret"),
    )
    assert (other.storage_url, other.keys) == ("https://other.test", ("k", "s3cret", None))
    assert "s3cret" not in repr(other)


@pytest.mark.parametrize(
    "url, taken",
    [
        ("https://a.test", True),
        ("https://a.test/", True),
        ("https://a.test/path", True),
        ("https://a.test:8443", True),
        ("https://A.test", True),
        ("https://b.test/base", True),
        ("https://b.test/base/more", True),
        ("http://127.0.0.1:9", True),
        ("http://a.test", False),
        ("https://a.test.evil.test", False),
        ("https://a.testevil", False),
        ("https://b.test", False),
        ("https://b.test/basement", False),
        ("https://evil.test/https://a.test", False),
    ],
)
def test_allowed_storage_urls_narrow_what_may_be_asked_for(tmp_path: Path, url: str, taken: bool) -> None:
    allowed = "https://a.test, https://b.test/base/"
    config = load(tmp_path, STORAGE_URL="http://127.0.0.1:9", ALLOWED_STORAGE_URLS=allowed)
    assert code(request.parse_storage_url, url, config) == (None if taken else "storage_url")


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254",
        "http://2852039166",
        "http://0xa9fea9fe",
        "http://0251.0376.0251.0376",
        "http://169.254.43518",
        "http://[::ffff:a9fe:a9fe]",
        "http://[fe80::1]",
        "http://[fd00:ec2::254]",
        "http://0.0.0.0",
        "http://0",
        "http://[::]",
        "http://224.0.0.1",
        "https://169.254.169.254:443/x",
    ],
)
def test_a_metadata_address_is_refused_in_every_spelling(url: str) -> None:
    assert code(lambda: resolver.check_storage_url(parse_url(url))) == "storage_url"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "http://10.0.0.1"]
)
def test_loopback_and_private_addresses_are_storages(url: str) -> None:
    resolver.check_storage_url(url)


def test_a_name_that_does_not_resolve_is_left_to_the_worker() -> None:
    resolver.check_storage_url("http://no-such-name.invalid")


def test_a_name_that_leads_to_a_metadata_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "innocent.test"
        return [(2, 1, 6, "", ("192.0.2.1", port)), (2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(resolver.socket, "getaddrinfo", answers)
    assert code(resolver.check_storage_url, "http://innocent.test") == "storage_url"


def test_nothing_is_written_by_a_check(tmp_path: Path) -> None:
    config = load(tmp_path)
    before = sorted(os.listdir(tmp_path))
    request.parse(config, source="new/folder", dest="bucket")
    assert sorted(os.listdir(tmp_path)) == before


# -- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exclude", "include", "prefix", "tags", "header"])
def test_an_option_that_is_not_utf8_is_refused(name: str) -> None:
    assert code(lambda text: table.parse({name: text}), os.fsdecode(b"a=\xff")) == name


def test_options_are_kept_as_asked_and_left_out_when_they_were_not() -> None:
    assert table.parse({}) == {}
    assert table.parse({"wait": "", "forget_mounts": None}) == {}
    assert table.parse({"wait": "1.5", "forget_mounts": "0", "other": "x"}) == {
        "wait": 1.5,
        "forget_mounts": 0,
    }


@pytest.mark.parametrize("text", ["2", "true", "01", " 1", "1.0", "-1", "\u0661"])
def test_an_option_with_an_unknown_word_is_refused_by_name(text: str) -> None:
    assert code(table.parse, {"forget_mounts": text}) == "forget_mounts"


def test_every_option_has_a_flag_of_its_name_that_starts_alone_where_it_may() -> None:
    start = completion._subparsers(usage.parser())["start"]
    for option in table.TABLE:
        values = ["1", "0"] if option.is_list else ["1"]
        flags = [word for value in values for word in (option.flag, value)]
        given = vars(start.parse_args(["--source", "a", "--dest", "b", *flags]))
        assert given[option.name] == (values if option.is_list else "1")
        assert table.of_flags(given)[option.name] == "\n".join(values)
        if option.bare is not None:
            assert vars(start.parse_args(["--source=a", "--dest=b", option.flag]))[option.name] == option.bare
