"""Stores that are not as Amazon's is: what none of the four here does is played by the proxy before one.

The answers are those that are recorded of the stores named in each test. The table of all quirks, and of the
tests that show how each is met, is in docs/reliability.md; it is checked here.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from pathlib import Path

import pytest
from bench import PROJECT, Answer, Mirror, fill, s3_error
from fault_catalog import listed
from proxy import Cut, Request
from stores import Store, list_uploads
from toxics import Toxic

_HEX = rb"[0-9a-f]{32}"


def changed_body(pattern: bytes, replacement: bytes) -> Toxic:
    """The answer's body, with what matches replaced, under a length that fits."""

    def edit(head: bytes, body: bytes) -> bytes:
        if b"chunked" in head.lower():
            body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.+?)\r\n(?=[0-9a-f]+\r\n)", body, re.DOTALL))
        body = re.sub(pattern, replacement, body, flags=re.DOTALL)
        head = re.sub(rb"(?i)\r\n(content-length|transfer-encoding):[^\r]*", b"", head)
        return head.rstrip() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    return Toxic(edit=edit)


def opaque(head: bytes, body: bytes) -> bytes:
    """Every ETag as one that tells nothing: as long as an MD5, the same for the same content."""

    def hide(match: re.Match[bytes]) -> bytes:
        return match[1] + hashlib.md5(b"key" + match[2]).hexdigest().encode()

    head = re.sub(rb'(?i)(etag: "?)(' + _HEX + rb")", hide, head)
    return head + re.sub(rb"(&quot;|&#34;)(" + _HEX + rb")", hide, body)


def test_etags_that_are_no_md5s_are_found_out_and_then_only_told_apart(mirror: Mirror) -> None:
    """SSE-KMS, SSE-C, S3 Express, Fastly."""
    mirror.proxy.on_request(
        lambda r: Toxic(edit=opaque) if r.kind in ("PUT", "LIST", "HEAD", "CompleteMultipartUpload") else None
    )
    mirror.make({"a": "1", "d/b": "22", "large": 9 << 20})
    mirror.twice()
    mirror.make({"d/b": "33"})
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["d/b"]
    assert mirror.proxy.of_kind("GET") == [], "read back before, and never again"
    shutil.rmtree(mirror.shell.jobs / ".index")
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == []


def test_a_listing_without_etags_is_known_by_its_times(mirror: Mirror) -> None:
    """juicefs gateway without --keep-etag."""
    without = changed_body(b"<ETag>.*?</ETag>", b"")
    mirror.proxy.on_request(lambda request: without if request.kind == "LIST" else None)
    mirror.make({"a": "1", "d/b": "22"})
    mirror.sync()
    mirror.sync()
    assert mirror.proxy.of_kind("PUT") == []
    mirror.make({"d/b": "33"})
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("PUT")] == ["d/b"]


def test_a_finished_upload_without_an_etag_is_asked_after(mirror: Mirror) -> None:
    """Ceph RGW 16."""
    without = changed_body(b"<ETag>.*?</ETag>", b"<ETag></ETag>")
    mirror.proxy.on_request(lambda r: without if r.kind == "CompleteMultipartUpload" else None)
    mirror.make({"large": 9 << 20})
    mirror.twice()
    assert [request.key for request in mirror.proxy.of_kind("HEAD")] == ["large"]


def test_parts_whose_etag_is_no_md5_of_md5s_are_read_back_once(mirror: Mirror) -> None:
    """rclone, HCP, Fastly: the ETag of an object that came in parts is some other hash of it."""
    mirror.proxy.on_request(
        lambda r: Toxic(edit=opaque) if r.kind in ("LIST", "HEAD", "CompleteMultipartUpload") else None
    )
    mirror.make({"large": 9 << 20})
    mirror.sync()
    assert {request.key for request in mirror.proxy.of_kind("GET")} == {"large"}
    mirror.make({"larger": 10 << 20})
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("CompleteMultipartUpload")] == ["larger"]
    assert mirror.proxy.of_kind("GET") == []


def test_an_error_in_the_answer_200_to_a_finished_upload_is_tried_again(mirror: Mirror) -> None:
    """Amazon begins to answer before it knows."""
    answers = [Answer(200, {"Content-Type": "application/xml"}, s3_error(500, "InternalError").body)]
    mirror.proxy.on_request(
        lambda r: answers.pop() if answers and r.kind == "CompleteMultipartUpload" else None
    )
    mirror.make({"large": 9 << 20})
    mirror.sync()
    assert len(mirror.proxy.of_kind("CompleteMultipartUpload")) == 2
    assert len(mirror.proxy.of_kind("UploadPart")) == 2, "no part went twice"


def test_a_missing_bucket_that_lists_as_empty_is_asked_for_and_made(mirror: Mirror) -> None:
    mirror.make({"a": "1"})
    mirror.proxy.on_request(
        lambda r: listed([]) if r.kind == "LIST" and not mirror.proxy.of_kind("CreateBucket") else None
    )
    mirror.sync()
    first = [(r.kind, r.status) for r in mirror.proxy.requests if r.kind != "LIST"][:3]
    assert first == [("HeadBucket", 404), ("CreateBucket", 200), ("PUT", 200)]


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_key_that_xml_cannot_carry_is_deleted_by_itself(mirror: Mirror, store: Store) -> None:
    """This store names what it deletes, so all others go by the thousand."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"zone\x01": b"0"} | {f"gone{i}": b"1" for i in range(4)})
    mirror.sync()
    assert [request.key for request in mirror.proxy.of_kind("DELETE")] == ["zone\x01"]
    assert len(mirror.proxy.of_kind("DeleteObjects")) == 2


def test_a_key_outside_of_the_prefix_that_was_asked_for_is_no_answer(mirror: Mirror) -> None:
    """The name is one that stores are known to change, so it is looked for in the listing."""
    row = "<Contents><Key>other</Key><Size>1</Size></Contents>"
    mirror.make({"name ": "1", "fine": "2"})
    mirror.proxy.on_request(lambda r: listed([row]) if r.query.get("prefix") else None)
    run = mirror.start()
    assert run.status["error"]["code"] == "FilesFailed"
    assert [(e["key"], e["code"]) for e in run.status["errors"]] == [("name ", "BadAnswer")]
    assert "outside of the prefix" in run.status["errors"][0]["message"]


def half_sent(mirror: Mirror) -> str:
    """A sync of a large file whose second part is refused: the id of the upload that is left."""
    mirror.make({"large": 20 << 20})
    mirror.proxy.on_request(lambda request: s3_error(403, "AccessDenied") if request.part == 2 else None)
    run = mirror.start()
    assert run.status["state"] == "failed", run
    mirror.proxy.clear_hooks()
    [upload] = list_uploads(mirror.store.client(), mirror.bucket)
    found: str = upload["UploadId"]
    return found


def test_an_upload_that_the_store_has_dropped_is_begun_anew(mirror: Mirror) -> None:
    """R2 drops them after seven days, rclone's server when it is restarted."""
    upload = half_sent(mirror)
    mirror.store.client().abort_multipart_upload(Bucket=mirror.bucket, Key="large", UploadId=upload)
    mirror.sync()
    assert list_uploads(mirror.store.client(), mirror.bucket) == []


def test_a_store_that_takes_no_part_of_an_older_upload_gets_a_new_one(mirror: Mirror) -> None:
    """Some will not have a part replaced, or refuse what comes late."""
    upload = half_sent(mirror)
    refusal = s3_error(400, "InvalidRequest")
    mirror.proxy.on_request(
        lambda r: refusal if r.kind == "UploadPart" and r.query["uploadId"] == upload else None
    )
    mirror.sync()
    assert list_uploads(mirror.store.client(), mirror.bucket) == []


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "MalformedXML"), (405, "MethodNotAllowed")]
)
def test_without_deletions_by_the_thousand_they_go_one_by_one(status: int, code: str, mirror: Mirror) -> None:
    """Google Cloud Storage; LocalBucket."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "d/gone2": b"2"})
    mirror.proxy.on_request(lambda r: s3_error(status, code) if r.kind == "DeleteObjects" else None)
    mirror.sync()
    assert {request.key for request in mirror.proxy.of_kind("DELETE")} >= {"gone1", "d/gone2"}


def test_an_object_that_may_not_be_deleted_is_named_though_the_answer_is_200(mirror: Mirror) -> None:
    """Amazon, and all who do as it does: errors of single keys come inside of the answer."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "gone2": b"2"})
    errors = "".join(f"<Error><Key>gone{n}</Key><Code>AccessDenied</Code></Error>" for n in (1, 2))
    body = f"<DeleteResult>{errors}</DeleteResult>".encode()
    mirror.proxy.on_request(lambda r: Answer(200, {}, body) if r.kind == "DeleteObjects" else None)
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
    denied = [("gone1", "AccessDenied"), ("gone2", "AccessDenied")]
    assert [(e["key"], e["code"]) for e in run.status["errors"]] == denied
    assert run.progress["objects_deleted"] == 0
    mirror.proxy.clear_hooks()
    mirror.sync()


@pytest.mark.parametrize("named", [b"<Key>a</Key>", b""])
def test_what_nobody_asked_to_delete_is_not_deleted_because_an_answer_names_it(
    mirror: Mirror, named: bytes
) -> None:
    """Over plain http a bit may turn in an answer, too. Without any key, it would be the bucket."""
    mirror.make({"a": "1"})
    mirror.sync()
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "gone2": b"2"})
    error = b"<Error>" + named + b"<Code>InternalError</Code></Error>"
    body = b"<DeleteResult><Deleted><Key>gone1</Key></Deleted>" + error + b"</DeleteResult>"
    mirror.proxy.on_request(lambda r: Answer(200, {}, body) if r.kind == "DeleteObjects" else None)
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (1, "FilesFailed")
    assert mirror.proxy.of_kind("DELETE") == mirror.proxy.of_kind("DeleteBucket") == []
    assert mirror.contents["a"] == b"1"
    mirror.proxy.clear_hooks()
    mirror.sync()


def deletions(mirror: Mirror) -> tuple[list[int], int]:
    """How many keys each DeleteObjects of the last sync had, and how many went one by one."""
    batches = [request.body.count(b"<Key>") for request in mirror.proxy.of_kind("DeleteObjects")]
    return batches, len(mirror.proxy.of_kind("DELETE"))


def were_ours(mirror: Mirror, count: int) -> None:
    """Files that were synced once and have gone since."""
    mirror.make({"a": "1"} | {f"gone{n}": "1" for n in range(count)})
    mirror.sync()
    for n in range(count):
        (mirror.folder / f"gone{n}").unlink()


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.usefixtures("store")
def test_a_store_that_names_what_it_deletes_is_asked_by_the_thousand_over_plain_http(mirror: Mirror) -> None:
    """Amazon, SeaweedFS, moto, rclone: once two objects have shown that it does."""
    were_ours(mirror, 1004)
    run = mirror.sync()
    assert deletions(mirror) == ([2, 1000, 2], 0)
    assert mirror.proxy.of_kind("HEAD") == []
    assert run.progress["objects_deleted"] == 1004
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "gone2": b"1", "gone3": b"1"})
    mirror.sync()
    assert deletions(mirror) == ([3], 0)
    assert len(mirror.proxy.of_kind("HEAD")) == 3, "never ours: is it there, or has a bit of its key turned?"
    fill(mirror.store, mirror.bucket, {"gone": b"1"})
    mirror.sync()
    assert deletions(mirror) == ([], 1)


def test_an_object_that_was_never_ours_goes_though_the_store_fails_to_tell_of_it(mirror: Mirror) -> None:
    """Over plain http it is asked for first; where the answer is an error, its deletion tells."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone": b"1"})
    mirror.proxy.on_request(lambda r: Answer(500) if r.kind == "HEAD" and r.key == "gone" else None)
    mirror.sync()
    assert mirror.proxy.of_kind("HEAD")
    assert deletions(mirror) == ([], 1)


@pytest.mark.parametrize("store", ["juicefs"], indirect=True)
@pytest.mark.usefixtures("store")
def test_a_store_that_does_not_name_what_it_deletes_is_asked_one_by_one(mirror: Mirror) -> None:
    """juicefs gateway: two objects show it, and that they are gone; then a key goes where it is signed."""
    were_ours(mirror, 300)
    run = mirror.sync()
    assert deletions(mirror) == ([2], 298)
    assert len(mirror.proxy.of_kind("HEAD")) == 2
    assert run.progress["objects_deleted"] == 300
    fill(mirror.store, mirror.bucket, {f"gone{n}": b"1" for n in range(3)})
    mirror.sync()
    assert deletions(mirror) == ([], 3)
    shutil.rmtree(mirror.folder)
    fill(mirror.store, mirror.bucket, {f"gone{n}": b"1" for n in range(3)})
    mirror.folder.mkdir()
    assert mirror.start().status["state"] == "done"
    assert deletions(mirror) == ([4], 0), "all that is in the bucket is to go: no bit can do harm"
    assert mirror.proxy.of_kind("DeleteBucket")


def test_a_request_to_delete_whose_answer_is_lost_is_not_repeated_over_plain_http(mirror: Mirror) -> None:
    """It would hide what the first has done. What it has deleted is looked for."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "gone2": b"1"})
    mirror.proxy.on_request(lambda r: Cut(answer_bytes=0) if r.kind == "DeleteObjects" else None)
    run = mirror.sync()
    assert deletions(mirror) == ([2], 0)
    assert run.progress["objects_deleted"] == 2
    fill(mirror.store, mirror.bucket, {"gone1": b"1", "gone2": b"1"})
    mirror.proxy.clear_hooks()
    mirror.proxy.on_request(lambda request: Cut() if request.kind == "DeleteObjects" else None)
    mirror.sync()
    assert len(mirror.proxy.of_kind("DeleteObjects")) == 1
    assert len(mirror.proxy.of_kind("DELETE")) == 2


def test_a_bucket_that_was_there_after_all_is_looked_at_again(mirror: Mirror) -> None:
    """A listing that lags behind says that there is none; making it then tells."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone": b"1"})
    late = itertools.count()

    def lag(request: Request) -> Answer | None:
        if request.kind == "LIST" and next(late) == 0:
            return s3_error(404, "NoSuchBucket")
        return s3_error(409, "BucketAlreadyOwnedByYou") if request.kind == "CreateBucket" else None

    mirror.proxy.on_request(lag)
    mirror.sync()


def test_a_listing_of_nothing_that_never_ends_is_broken(mirror: Mirror) -> None:
    """Empty pages, each with a way to the next."""
    mirror.make({"a": "1"})
    fill(mirror.store, mirror.bucket, {"gone": b"1"})
    tokens = itertools.count()
    mirror.proxy.on_request(
        lambda request: listed([], f"t{next(tokens)}", "true") if request.kind == "LIST" else None
    )
    run = mirror.start()
    assert (run.exit_status, run.status["error"]["code"]) == (1, "BrokenListing"), run
    assert "gone" in mirror.contents


def test_every_test_that_the_page_names_exists() -> None:
    files = {path.name: path for path in (PROJECT / "tests").rglob("test_*.py")}
    assert len(files) > 100
    page = (PROJECT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(?:tests/[\w/]+/)?(test_\w+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    for file, name in named:
        assert f"def {name}(" in files[file].read_text(), (file, name)
    for folder, file in set(re.findall(r"`(?:(tests/[\w/]+)/)?(test_\w+\.py)", page)):
        assert file in files and files[file].match(f"{folder}/{file}" if folder else file), (folder, file)
    own = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(), re.MULTILINE)
    assert [name for name in own if name not in page and "page" not in name] == []
