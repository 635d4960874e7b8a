"""What an object says of itself is believed only where its ETag cannot tell, as under SSE-KMS."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from bench import Mirror, fill, s3_error, wait_for
from proxy import Answer, Cut, Request
from test_quirks import changed_body, opaque
from toxics import Toxic

KINDS = ("PUT", "HEAD", "GET", "UploadPart")


def under_kms(head: bytes, body: bytes) -> bytes:
    """An answer of Amazon S3 about an object that is encrypted with SSE-KMS."""
    found = opaque(head, body)
    return found.replace(b"\r\n", b"\r\nx-amz-server-side-encryption: aws:kms\r\n", 1)


def kms(mirror: Mirror) -> Callable[[Request], Toxic | Answer | None]:
    """A bucket whose default is SSE-KMS. A listing says nothing of it but the ETags. An upload is completed
    for the client, who knows its parts by ETags that the store behind has never heard of."""

    def hook(request: Request) -> Toxic | Answer | None:
        if request.kind == "CompleteMultipartUpload":
            upload = {"Bucket": request.bucket, "Key": request.key, "UploadId": request.query["uploadId"]}
            client = mirror.store.client()
            parts = [
                {"PartNumber": part["PartNumber"], "ETag": part["ETag"]}
                for part in client.list_parts(**upload)["Parts"]
            ]
            tag = client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})["ETag"]
            answer = f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
            answer = answer.replace('"', "&quot;")
            return Answer(200, {"x-amz-server-side-encryption": "aws:kms"}, opaque(b"", answer.encode()))
        if request.kind in ("LIST", "ListParts"):
            return Toxic(edit=opaque)
        return Toxic(edit=under_kms) if request.kind in KINDS else None

    return hook


def forget(mirror: Mirror) -> None:
    shutil.rmtree(mirror.shell.jobs / ".index")


def chksum(body: bytes) -> dict[str, str]:
    return {"md5chksum": base64.b64encode(hashlib.md5(body).digest()).decode()}


@pytest.mark.parametrize("size", [3, 9 << 20], ids=["small", "large"])
def test_metadata_of_an_earlier_content_does_not_hide_that_the_object_has_changed(
    size: int, mirror: Mirror
) -> None:
    """A tool that keeps the metadata of what it changes: on a first sync nothing but the ETag tells."""
    ours, theirs = b"a" * size, b"b" * size
    mirror.make({"changed": ours})
    fill(mirror.store, mirror.bucket, {})
    mirror.store.client().put_object(Bucket=mirror.bucket, Key="changed", Body=theirs, Metadata=chksum(ours))
    mirror.twice()
    assert mirror.contents["changed"] == ours


def test_it_is_found_out_once_whether_etags_are_md5s(mirror: Mirror) -> None:
    stale = {f"f{n}": b"a%d" % n for n in range(8)}
    mirror.make(stale)
    fill(mirror.store, mirror.bucket, {})
    for key, body in stale.items():
        mirror.store.client().put_object(
            Bucket=mirror.bucket, Key=key, Body=b"b" + body[1:], Metadata=chksum(body)
        )
    mirror.sync()
    assert len(mirror.proxy.of_kind("GET")) == 1
    assert len(mirror.proxy.of_kind("PUT")) == 8


def test_under_kms_nothing_is_sent_again_though_the_index_is_lost(mirror: Mirror) -> None:
    mirror.proxy.on_request(kms(mirror))
    mirror.make({"a": "1", "d/b": "22"})
    mirror.sync()
    mirror.make({"large": 9 << 20})
    mirror.twice()
    forget(mirror)
    mirror.sync()
    assert set(mirror.proxy.kinds()) <= {"LIST", "HEAD"}, mirror.proxy.kinds()


def test_a_bucket_that_becomes_kms_is_read_back_once(mirror: Mirror) -> None:
    mirror.make({f"f{n}": "old" for n in range(9)})
    mirror.sync()
    mirror.proxy.on_request(kms_for_new(mirror))
    mirror.make({"f0": "new"})
    mirror.sync()
    mirror.make({f"f{n}": f"new{n}" for n in range(1, 7)})
    mirror.sync()
    assert len(mirror.proxy.of_kind("PUT")) == 6
    assert mirror.proxy.of_kind("GET") == []
    assert len(mirror.proxy.of_kind("HEAD")) == 0
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}


def kms_for_new(mirror: Mirror) -> Callable[[Request], Toxic | None]:
    """KMS for what is sent from now on; what is there keeps its ETag."""
    sent: set[str] = set()

    def edit(head: bytes, body: bytes) -> bytes:
        def hide(match: re.Match[bytes]) -> bytes:
            return opaque(b"", match[0]) if match[1].decode() in sent else match[0]

        return head + re.sub(rb"<Contents><Key>([^<]*)</Key>.*?</Contents>", hide, body)

    def hook(request: Request) -> Toxic | None:
        if request.kind == "PUT":
            sent.add(request.key)
        if request.kind == "LIST":
            return Toxic(edit=edit)
        return Toxic(edit=under_kms) if request.key in sent else None

    return hook


def test_in_a_bucket_with_kms_an_object_without_it_is_judged_by_its_etag(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    hook = kms_for_new(mirror)
    mirror.proxy.on_request(hook)
    mirror.sync()
    mirror.make({"b": "new"})
    mirror.store.client().put_object(Bucket=mirror.bucket, Key="b", Body=b"old", Metadata=chksum(b"new"))
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["b"]


def test_a_part_under_kms_is_sent_once_and_a_resume_keeps_it(mirror: Mirror) -> None:
    mirror.make({"large": 40 << 20})

    def hook(request: Request) -> Toxic | Answer | Cut | None:
        return s3_error(403, "AccessDenied") if request.part == 5 else kms(mirror)(request)

    mirror.proxy.on_request(hook)
    run = mirror.start()
    assert run.status["state"] == "failed", run
    assert sorted(request.part or 0 for request in mirror.proxy.of_kind("UploadPart")) == [1, 2, 3, 4, 5]
    mirror.proxy.clear_hooks()
    mirror.proxy.on_request(kms(mirror))
    mirror.sync()
    assert [request.part for request in mirror.proxy.of_kind("UploadPart")] == [5]


def test_a_kept_part_under_kms_is_sent_again_when_the_file_has_other_bytes_there(mirror: Mirror) -> None:
    mirror.make({"large": 24 << 20})
    mirror.proxy.on_request(lambda r: s3_error(403, "AccessDenied") if r.part == 3 else kms(mirror)(r))
    assert mirror.start().status["state"] == "failed"
    with (mirror.folder / "large").open("r+b") as file:
        file.write(b"other")
    mirror.proxy.clear_hooks()
    mirror.proxy.on_request(kms(mirror))
    mirror.sync()
    assert 1 in [request.part for request in mirror.proxy.of_kind("UploadPart")]


def test_without_etags_a_later_object_is_not_taken_for_ours(mirror: Mirror) -> None:
    """Somebody else has written it after us: as long, and later. One HEAD finds out."""
    mirror.make({"a": "ours"})
    changed = (mirror.folder / "a").stat().st_ctime
    wait_for(lambda: time.time() > changed + 2.2, what="the file to be old enough for its row to be trusted")
    without = changed_body(b"<ETag>.*?</ETag>", b"")
    mirror.proxy.on_request(lambda request: without if request.kind == "LIST" else None)
    mirror.sync()
    fill(mirror.store, mirror.bucket, {"a": b"them"})
    later = (datetime.now(UTC) + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S.000Z").encode()

    def edit(head: bytes, body: bytes) -> bytes:
        assert without.edit is not None
        head, body = without.edit(head, body).split(b"\r\n\r\n", 1)
        dates = re.compile(rb"<LastModified>.*?</LastModified>")
        return head + b"\r\n\r\n" + dates.sub(b"<LastModified>" + later + b"</LastModified>", body)

    mirror.proxy.clear_hooks()
    mirror.proxy.on_request(lambda request: Toxic(edit=edit) if request.kind == "LIST" else None)
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["a"]


def test_the_time_that_an_object_was_given_goes_stale_and_nothing_relies_on_it(mirror: Mirror) -> None:
    mirror.make({"a": "1", "large": 9 << 20})
    mirror.sync()
    client = mirror.store.client()

    def given(key: str) -> str:
        found: str = client.head_object(Bucket=mirror.bucket, Key=key)["Metadata"]["mtime"]
        return found

    before = given("a"), given("large")
    for key in ("a", "large"):
        os.utime(mirror.folder / key, (1_000_000_000, 1_000_000_000))
    mirror.twice()
    assert (given("a"), given("large")) == before
    forget(mirror)
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}, mirror.proxy.kinds()
