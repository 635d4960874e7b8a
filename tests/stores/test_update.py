"""What unchanged objects are given is repaired at the store, by a copy onto itself, on real stores."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench import Answer, Mirror, Run, fill, s3_error
from stores import Store
from test_filters import flags

from syncworker.options.object_headers import Given, ObjectHeaders
from syncworker.s3.request import Target

FILES = {"index.html": "<p>", "notes.txt": "n", "empty": "", "big.bin": 9 << 20}
CACHE = ["* Cache-Control: max-age=60"]


def sync(mirror: Mirror, **options: Any) -> Run:
    mirror.proxy.reset()
    run = mirror.start(*flags(**options))
    assert run.status["state"] == "done", (run.status["error"], run.status["errors"])
    return run


def head(mirror: Mirror, key: str) -> dict[str, Any]:
    return mirror.store.client().head_object(Bucket=mirror.bucket, Key=key)  # type: ignore[no-any-return]


def settled(mirror: Mirror, **options: Any) -> None:
    """Once more, and nothing is done: the index knows what the bucket has."""
    run = sync(mirror, **options)
    assert set(mirror.proxy.kinds()) == {"LIST"}, mirror.proxy.kinds()
    assert run.progress["files_unchanged"] == run.progress["files_total"]


def updates(mirror: Mirror, run: Run) -> set[str]:
    return {line["key"] for line in mirror.shell.report(run.status["id"]) if line["op"] == "update"}


def test_a_header_is_changed_without_sending_the_file_again(mirror: Mirror, store: Store) -> None:
    mirror.make(FILES)
    sync(mirror)
    before = {key: head(mirror, key) for key in FILES}
    options = {"header": [*CACHE, "*.txt Content-Type: text/x-notes", "*.bin x-amz-meta-team: photo"]}
    run = sync(mirror, **options)
    counts = run.progress
    assert (counts["files_updated"], counts["files_uploaded"], counts["bytes_uploaded"]) == (4, 0, 0)
    assert (counts["files_done"], counts["bytes_done"]) == (4, (9 << 20) + 4)
    assert not {"PUT", "CreateMultipartUpload"} & set(mirror.proxy.kinds()), mirror.proxy.kinds()
    assert updates(mirror, run) == set(FILES)
    for key in FILES:
        now = head(mirror, key)
        assert now["CacheControl"] == "max-age=60", key
        assert now["ContentLength"] == before[key]["ContentLength"]
        metadata = {name.lower(): value for name, value in now["Metadata"].items()}
        assert metadata.items() >= {n.lower(): v for n, v in before[key]["Metadata"].items()}.items()
    assert head(mirror, "notes.txt")["ContentType"] == "text/x-notes"
    assert head(mirror, "index.html")["ContentType"] == "text/html"
    assert {n.lower(): v for n, v in head(mirror, "big.bin")["Metadata"].items()}["team"] == "photo"
    assert mirror.contents == {key: (mirror.folder / key).read_bytes() for key in FILES}
    settled(mirror, **options)
    run = sync(mirror, verify="deep", **options)  # the bytes are still the files'
    assert run.progress["objects_verified"] == 4
    run = sync(mirror)  # without them: taken away again
    assert run.progress["files_updated"] == 4
    assert not any("CacheControl" in head(mirror, key) for key in FILES)
    settled(mirror)


def test_only_files_that_a_rule_is_about_are_updated(mirror: Mirror) -> None:
    mirror.make(FILES)
    sync(mirror, header=CACHE)
    run = sync(mirror, header=[*CACHE, "*.html Cache-Control: no-cache"])
    assert updates(mirror, run) == {"index.html"}
    assert mirror.proxy.kinds()["CopyObject"] == 1
    settled(mirror, header=[*CACHE, "*.html Cache-Control: no-cache"])


def test_a_file_that_was_touched_is_updated_as_well_and_one_that_was_changed_is_sent(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2"})
    sync(mirror)
    (mirror.folder / "a").touch()
    mirror.make({"b": "3"})
    run = sync(mirror, header=CACHE)
    assert (run.progress["files_updated"], run.progress["files_uploaded"]) == (1, 1)
    assert {head(mirror, key)["CacheControl"] for key in "ab"} == {"max-age=60"}


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_class_encryption_tags_and_acl(mirror: Mirror, store: Store) -> None:
    """A copy resets what it is not given: what was given once is carried, what is asked now is new."""
    client = store.client()

    def tags(key: str) -> dict[str, str]:
        found = client.get_object_tagging(Bucket=mirror.bucket, Key=key)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in found}

    def is_public(key: str) -> bool:
        grants = client.get_object_acl(Bucket=mirror.bucket, Key=key)["Grants"]
        return any(g["Grantee"].get("URI", "").endswith("/AllUsers") for g in grants)

    mirror.make(FILES)
    first = {"storage_class": "STANDARD_IA", "sse": "AES256", "acl": "public-read", "tags": "a=1"}
    sync(mirror, **first)
    settled(mirror, **first)
    run = sync(mirror, tags="a=2")  # an absent class, encryption or ACL is no reason, and stays
    assert run.progress["files_updated"] == 4
    for key in FILES:
        now = head(mirror, key)
        assert (now["StorageClass"], now["ServerSideEncryption"]) == ("STANDARD_IA", "AES256"), key
        assert tags(key) == {"a": "2"}
        assert is_public(key)
    settled(mirror, tags="a=2")
    run = sync(mirror, storage_class="ONEZONE_IA", tags="a=2", acl="private")
    assert run.progress["files_updated"] == 4
    assert {head(mirror, key)["StorageClass"] for key in FILES} == {"ONEZONE_IA"}
    assert not any(map(is_public, FILES))
    run = sync(mirror)  # tags are a reason
    assert run.progress["files_updated"] == 4
    assert tags("notes.txt") == {}
    assert head(mirror, "big.bin")["StorageClass"] == "ONEZONE_IA"
    settled(mirror)
    settled(mirror, acl="public-read")  # an ACL is given, never repaired


@pytest.mark.parametrize("storage_class", ["STANDARD", "REDUCED_REDUNDANCY"])
def test_a_class_that_the_store_does_not_tell_is_no_reason_to_send_again(
    mirror: Mirror, storage_class: str
) -> None:
    """No store tells STANDARD, this one tells no class at all: other tags, and nothing that HEAD shows."""
    mirror.make(FILES)
    sync(mirror, storage_class=storage_class, tags="a=1")
    for options in ({"storage_class": storage_class, "tags": "a=2"}, {"tags": "a=3"}):
        run = sync(mirror, **options)
        assert (run.progress["files_updated"], run.progress["files_uploaded"]) == (4, 0), options


def test_objects_of_others_and_of_before_are_left_as_they_are(mirror: Mirror, store: Store) -> None:
    fill(store, mirror.bucket, {"theirs": b"1"})
    mirror.make({"theirs": "1", "ours": "2"})
    sync(mirror)
    run = sync(mirror, header=CACHE)
    assert updates(mirror, run) == {"ours"}
    assert "CacheControl" not in head(mirror, "theirs")
    mirror.make({"theirs": "3"})  # sent by us, from here on it is known
    sync(mirror)
    run = sync(mirror, header=CACHE)
    assert "theirs" in updates(mirror, run)


def test_an_index_of_before_is_taken_over_and_none_of_its_objects_is_touched(mirror: Mirror) -> None:
    mirror.make({"a": "1", "b": "2"})
    sync(mirror)
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    with closing(sqlite3.connect(path)) as index, index:
        index.execute("DROP TABLE given")
        index.execute("PRAGMA user_version=2")
    settled(mirror, header=CACHE)
    mirror.make({"b": "3"})
    sync(mirror, header=CACHE)
    run = sync(mirror)
    assert updates(mirror, run) == {"b"}


REFUSALS = [
    pytest.param(s3_error(501, "NotImplemented"), id="no copies"),
    pytest.param(s3_error(412, "PreconditionFailed"), id="the condition"),
    pytest.param(s3_error(403, "InvalidObjectState"), id="archived"),
    pytest.param(s3_error(400, "InvalidRequest"), id="onto itself"),
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_what_the_store_does_not_copy_is_sent_again(mirror: Mirror, answer: Any) -> None:
    mirror.make(FILES)
    sync(mirror)
    mirror.proxy.on_request(lambda r: answer if "x-amz-copy-source" in r.headers else None)
    run = sync(mirror, header=CACHE)
    assert (run.progress["files_updated"], run.progress["files_uploaded"]) == (0, 4)
    assert {head(mirror, key)["CacheControl"] for key in FILES} == {"max-age=60"}
    mirror.proxy.clear_hooks()
    settled(mirror, header=CACHE)


def test_a_store_that_copies_and_keeps_the_old_headers_is_found_out(mirror: Mirror) -> None:
    """It answers as if it had: HEAD tells, and the files are sent."""
    mirror.make(FILES)
    sync(mirror)
    body = b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"
    lie = Answer(200, {"Content-Type": "application/xml"}, body)
    mirror.proxy.on_request(lambda r: lie if "x-amz-copy-source" in r.headers else None)
    run = sync(mirror, header=CACHE)
    assert (run.progress["files_updated"], run.progress["files_uploaded"]) == (0, 4)
    assert {head(mirror, key)["CacheControl"] for key in FILES} == {"max-age=60"}


def test_an_object_that_was_replaced_meanwhile_is_not_given_our_headers(mirror: Mirror, store: Store) -> None:
    """Between the listing and the copy: the file is sent, and nothing of theirs is kept as ours."""
    mirror.make({"a": "1"})
    sync(mirror)
    done: list[None] = []

    def replace(request: Any) -> None:
        if request.kind == "HEAD" and not done:
            done.append(None)
            store.client().put_object(Bucket=mirror.bucket, Key="a", Body=b"2")

    mirror.proxy.on_request(replace)
    run = sync(mirror, header=CACHE)
    assert done
    assert (run.progress["files_updated"], run.progress["files_uploaded"]) == (0, 1)
    assert mirror.contents == {"a": b"1"}
    assert head(mirror, "a")["CacheControl"] == "max-age=60"


def test_a_job_without_options_asks_nothing_more(mirror: Mirror) -> None:
    mirror.make(FILES)
    sync(mirror)
    assert set(mirror.proxy.kinds()) == {
        "LIST", "CreateBucket", "PUT", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
    }  # fmt: skip
    settled(mirror)
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    with closing(sqlite3.connect(path)) as index:
        assert index.execute("SELECT count(*) FROM given").fetchone() == (0,)


def test_kill_9_while_headers_are_repaired_then_a_resume(mirror: Mirror) -> None:
    mirror.make({f"{n:02}": str(n) for n in range(20)})
    sync(mirror)
    process, job = mirror.shell.begin(mirror.bucket, "photos", *flags(header=CACHE, wait=0.1))
    mirror.shell.wait_file(job, lambda status: status["progress"]["files_updated"] >= 3)
    process.kill()
    process.wait()
    status = mirror.shell.status(job)
    (mirror.shell.jobs / f"{job}.json").write_text(json.dumps({**status, "wait": 0}))
    assert mirror.shell.run("resume", job).returncode == 0
    assert {head(mirror, f"{n:02}")["CacheControl"] for n in range(20)} == {"max-age=60"}
    settled(mirror, header=CACHE)


# -- by parts ---------------------------------------------------------------------------------------------


def test_a_copy_by_parts(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    """As of objects above 5 GiB: the updater itself, with another limit."""
    from concurrent.futures import ThreadPoolExecutor

    from syncworker.folder.uploads_root import Tree
    from syncworker.index.database import Index
    from syncworker.model import FileEntry, ObjectEntry
    from syncworker.plan.compare import UPDATE, Candidate
    from syncworker.s3.bucket import Bucket
    from syncworker.s3.client import Client
    from syncworker.s3.credentials import Given as Keys
    from syncworker.system.control import Control
    from syncworker.system.stop_token import StopToken
    from syncworker.transfer.blocking_keys import Obstacles
    from syncworker.transfer.update import Updater
    from syncworker.transfer.upload import Sender
    from syncworker.transfer.upload_parts import PartSender
    from syncworker.wire.endpoint import Endpoint
    from syncworker.wire.pool import ConnectionPool

    mirror.make({"big.bin": 17 << 20})
    sync(mirror)
    listed = store.client().list_objects_v2(Bucket=mirror.bucket)["Contents"][0]
    (path,) = mirror.shell.jobs.glob(".index/*.sqlite")
    index = Index(str(path))
    row = index.find("big.bin")
    assert row is not None
    file = FileEntry(*row[:5], "photos/big.bin")
    obj = ObjectEntry(file.key, file.size, listed["ETag"].strip('"'), "")

    async def update() -> Any:
        place = Endpoint.of(store.url, "us-east-1", "auto")
        async with ConnectionPool(place, None) as connections:
            keys = Keys(store.access_key, store.secret_key)
            bucket = Bucket(Client(connections, Target(mirror.bucket, "us-east-1"), keys))
            with Tree(str(mirror.shell.uploads)) as tree, ThreadPoolExecutor(2) as pool:
                attempt: Any = SimpleNamespace(
                    bucket=bucket, index=index, tree=tree, progress=None, pool=pool,
                    stop=StopToken(Control(str(mirror.shell.uploads / "never"))), obstacles=Obstacles(),
                )  # fmt: skip
                sender = Sender(attempt, ObjectHeaders(header=CACHE))
                return await Updater(sender, PartSender(sender), copy_max=8 << 20).update(
                    Candidate(file, obj, row, UPDATE)
                )

    now = asyncio.run(update())
    if store.name == "rclone":  # it cannot copy a part, and is sent the file
        assert now is None
    else:
        assert head(mirror, "big.bin")["CacheControl"] == "max-age=60"
        assert now.etag == head(mirror, "big.bin")["ETag"].strip('"')
        index.remember(now)
        index.give("big.bin", ObjectHeaders(header=CACHE).given("big.bin"))
    assert index.uploads() == []
    index.close()
    assert mirror.contents == {"big.bin": (mirror.folder / "big.bin").read_bytes()}
    if now is not None:
        settled(mirror, header=CACHE)


# -- pure -------------------------------------------------------------------------------------------------

DIFFER = [
    ({"header": CACHE}, "", "a", True),
    ({}, Given(headers="x").text, "a", True),
    ({}, Given(tags="x").text, "a", True),
    ({}, Given(storage_class="GLACIER", sse="AES256", acl="private").text, "a", False),
    ({"storage_class": "GLACIER"}, "", "a", True),
    ({"sse": "AES256"}, Given(sse="aws:kms", sse_kms_key_id="k").text, "a", True),
    ({"acl": "public-read"}, "", "a", False),
    ({"header": CACHE, "tags": "a=1"}, "?", "a", False),
    ({"header": ["*.html Cache-Control: x"]}, "", "a", False),
    ({"header": ["*.html Cache-Control: x"]}, "", "a.html", True),
    ({}, "of a later version", "a", False),
]


@pytest.mark.parametrize(("asked", "given", "key", "differs"), DIFFER)
def test_when_an_object_is_to_be_updated(asked: dict[str, Any], given: str, key: str, differs: bool) -> None:
    assert ObjectHeaders(**asked).differs(key, given) is differs


def test_what_was_given_is_remembered_and_is_the_same_again() -> None:
    headers = ObjectHeaders(header=CACHE, tags="a=1", storage_class="GLACIER")
    text = headers.given("a")
    assert text == headers.given("b/c")
    assert not headers.differs("a", text)
    assert ObjectHeaders(header=CACHE, tags="a=1").given_after("a", text) == text
