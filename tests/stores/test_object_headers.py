"""What objects are given beside their bytes, read back from real stores; and what is refused beforehand."""

from __future__ import annotations

from typing import Any

import pytest
from bench import Mirror, Service, s3_error, tree
from stores import Store
from test_filters import flags

from syncworker.model import FileEntry
from syncworker.options import object_headers
from syncworker.options.object_headers import ObjectHeaders

FILES = {"index.html": "<p>", "film 1.mp4": "f", "notes.txt": "n", "big.bin": 9 << 20}
HEADERS = [
    "* Cache-Control: max-age=60",
    "*.html Cache-Control:  no-cache,   must-revalidate ",
    "film\\ * Content-Disposition: attachment; filename=film.mp4",
    "*.txt Content-Type: text/x-notes",
    "*.bin x-amz-meta-Team: photo",
    "*.bin Cache-Control:",
    "/notes.txt Content-Language: de",
    "*.txt Expires: Wed, 21 Oct 2026 07:28:00 GMT",
]


def sync(mirror: Mirror, **options: Any) -> dict[str, Any]:
    """Synced with the options; HEAD of each object."""
    mirror.make(FILES)
    run = mirror.shell.sync(mirror.bucket, "photos", *flags(**options))
    assert run.status["options"] == options
    client = mirror.store.client()
    return {key: client.head_object(Bucket=mirror.bucket, Key=key) for key in FILES}


def test_each_file_gets_the_headers_of_the_lines_that_match_it(mirror: Mirror, store: Store) -> None:
    heads = sync(mirror, header=HEADERS)
    assert heads["index.html"]["CacheControl"] == "no-cache, must-revalidate"
    assert heads["index.html"]["ContentType"] == "text/html"
    assert heads["film 1.mp4"]["ContentDisposition"] == "attachment; filename=film.mp4"
    assert heads["film 1.mp4"]["CacheControl"] == "max-age=60"
    assert heads["notes.txt"]["ContentType"] == "text/x-notes"
    team = {name.lower(): value for name, value in heads["big.bin"]["Metadata"].items()}
    assert team["team"] == "photo"
    assert "CacheControl" not in heads["big.bin"]
    assert {"mtime", "md5chksum"} <= {name.lower() for name in heads["notes.txt"]["Metadata"]}
    if store.name in ("moto", "seaweedfs"):  # the others forget it
        assert heads["notes.txt"]["ContentLanguage"] == "de"


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_class_encryption_and_tags_are_what_was_asked(mirror: Mirror, store: Store) -> None:
    tags = "team=photo%20%2B%20film&empty=&n=1"
    heads = sync(mirror, storage_class="STANDARD_IA", sse="aws:kms", sse_kms_key_id="alias/x", tags=tags)
    client = store.client()
    for key, head in heads.items():
        assert head["StorageClass"] == "STANDARD_IA", key
        assert head["ServerSideEncryption"] == "aws:kms", key
        assert head["SSEKMSKeyId"] == "alias/x", key
        found = client.get_object_tagging(Bucket=mirror.bucket, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in found} == {
            "team": "photo + film",
            "empty": "",
            "n": "1",
        }, key


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_the_acl_is_what_was_asked(mirror: Mirror, store: Store) -> None:
    sync(mirror, acl="public-read")
    for key in FILES:
        grants = store.client().get_object_acl(Bucket=mirror.bucket, Key=key)["Grants"]
        assert any(g["Grantee"].get("URI", "").endswith("/AllUsers") for g in grants), key


REFUSED = [
    ("storage_class", "GLACIER", s3_error(400, "InvalidStorageClass")),
    ("acl", "public-read", s3_error(400, "AccessControlListNotSupported")),
    ("acl", "public-read", s3_error(403, "AccessDenied")),
    ("tags", "a=b", s3_error(501, "NotImplemented")),
    ("sse", "aws:kms", s3_error(400, "KMS.NotFoundException")),
]


@pytest.mark.parametrize(("option", "value", "answer"), REFUSED)
def test_a_store_that_refuses_an_option_fails_the_job_at_its_first_object(
    mirror: Mirror, option: str, value: str, answer: Any
) -> None:
    mirror.make({f"{number:03}": "x" for number in range(500)})
    mirror.proxy.on_request(lambda request: answer if request.kind == "PUT" else None)
    run = mirror.start(*flags(**{option: value}))
    assert (run.status["state"], run.status["error"]["code"]) == ("failed", "OptionRefused")
    assert f"{option}={value}" in run.status["error"]["message"]
    assert mirror.proxy.kinds()["PUT"] < 200, "those that were in flight"
    assert run.progress["files_failed"] == 0


def test_without_an_option_a_refusal_is_about_its_file(mirror: Mirror) -> None:
    mirror.make({"a": "x", "b": "y"})
    refusal = s3_error(501, "NotImplemented")
    mirror.proxy.on_request(lambda request: refusal if request.key == "a" else None)
    run = mirror.start()
    assert (run.status["error"]["code"], run.progress["files_failed"]) == ("FilesFailed", 1)


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_large_upload_that_was_begun_with_other_headers_is_begun_anew(mirror: Mirror, store: Store) -> None:
    mirror.make({"big.bin": 24 << 20})
    cut = [s3_error(403, "AccessDenied")]
    mirror.proxy.on_request(lambda request: cut[0] if cut and request.part == 3 else None)
    assert mirror.start().status["state"] == "failed"
    cut.clear()
    mirror.shell.sync(mirror.bucket, "photos", *flags(header=["* Cache-Control: no-store"]))
    assert store.client().head_object(Bucket=mirror.bucket, Key="big.bin")["CacheControl"] == "no-store"
    uploads = store.client().list_multipart_uploads(Bucket=mirror.bucket)
    assert "Uploads" not in uploads


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_what_was_begun_with_other_headers_is_known_for_it_though_a_run_in_between_did_not_come_to_it(
    mirror: Mirror, store: Store
) -> None:
    mirror.make({"big.bin": 24 << 20})
    cut = [s3_error(403, "AccessDenied")]
    mirror.proxy.on_request(lambda request: cut[0] if cut and request.part == 3 else None)
    assert mirror.start().status["state"] == "failed"
    more = flags(header=["* Cache-Control: no-store"])
    mirror.proxy.on_request(lambda request: s3_error(403, "AccessDenied") if cut else None)
    assert mirror.start(*more).status["state"] == "failed"
    cut.clear()
    mirror.shell.sync(mirror.bucket, "photos", *more)
    assert store.client().head_object(Bucket=mirror.bucket, Key="big.bin")["CacheControl"] == "no-store"
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=mirror.bucket)


# -- pure -------------------------------------------------------------------------------------------------


def test_no_option_costs_no_header() -> None:
    file = FileEntry("a/b.html", 1, 1_500_000_000_123_456_789, 0, 0, "a/b.html")
    assert ObjectHeaders().of(file, b"\0" * 16) == {
        "content-type": "text/html",
        "x-amz-meta-mtime": "1500000000.123456789",
        "x-amz-meta-md5chksum": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert ObjectHeaders().fingerprint == ""
    assert ObjectHeaders(acl="private").fingerprint != ObjectHeaders(acl="public-read").fingerprint


BAD = [
    ("storage_class", "standard"),
    ("storage_class", "A" * 65),
    ("acl", "everybody"),
    ("sse", "aws"),
    ("sse_kms_key_id", "alone"),
    ("tags", "a"),
    ("tags", "&".join(f"k{n}=v" for n in range(11))),
    ("tags", "k" * 129 + "=v"),
    ("tags", "k=" + "v" * 257),
    ("tags", "a=1&a=2"),
    ("tags", "=v"),
    ("header", "*.html"),
    ("header", "*.html Cache-Control"),
    ("header", "*.html Server: x"),
    ("header", "*.html x-amz-acl: public-read"),
    ("header", "*.html x-amz-meta-: x"),
    ("header", "*.html x-amz-meta-mtime: 0"),
    ("header", "*.html X-Amz-Meta-MD5chksum: 0"),
    ("header", "*.html Cache-Control: naïve"),
    ("header", "*.html Cache-Control: a\rX-Injected: b"),
    ("header", "!*.html Cache-Control: x"),
    ("header", "[ Cache-Control: x"),
    ("header", "* x-amz-meta-a: " + "v" * 2049),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_400_and_names_its_option(service: Service, name: str, value: str) -> None:
    tree(service.uploads / "photos", {"a": "1"})
    pair = {"source": "photos", "dest": "bucket", name: value}
    for answer in (
        service.get("/sync", **pair),
        service.post("/sync", **pair),
        service.post_json("/sync", pair),
    ):
        assert (answer.status, answer.problem["param"]) == (400, name), answer
    assert service.ids() == []


def test_the_last_line_of_a_name_wins_and_the_whole_is_bounded() -> None:
    assert object_headers.parse_rule("a\\ b.html  Cache-Control :  x  y ") == (
        "a\\ b.html",
        "cache-control",
        "x y",
    )
    object_headers.parse_rules(["* x-amz-meta-a: " + "v" * (2048 - 12)])
    with pytest.raises(ValueError, match="2048 bytes"):
        object_headers.parse_rules(["* x-amz-meta-a: " + "v" * (2048 - 11)])
