"""Parts of large files go with the cheapest sum that the store was seen to check, and no byte unchecked."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Gate, Mirror, s3_error, wait_for
from proxy import Answer, Cut, Request
from stores import Store, list_uploads
from test_quirks import changed_body, opaque
from toxics import Toxic

from syncworker.s3 import sums
from syncworker.transfer import part_sums

MIB = 1 << 20
LARGE = part_sums.WORTH_BYTES + MIB  # nine parts, and as many bytes as are worth a question
ASKED = len(part_sums._BYTES)
Hook = Callable[[Request], Answer | Cut | Toxic | None]
# Which sum the parts go with, and how many parts of a few bytes it takes to find that out.
CHECKED = {"juicefs": ("SHA256", 5), "seaweedfs": ("CRC64NVME", 3), "moto": ("MD5", 3), "rclone": ("MD5", 3)}
CHECKING = pytest.mark.parametrize("store", ["juicefs", "seaweedfs"], indirect=True)


def headers(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


def sum_of(request: Request) -> str:
    """By which sum the store can check this part."""
    found = headers(request)
    for algorithm in sums.CRCS:
        if algorithm.header in found:
            return algorithm.name
    return "SHA256" if found["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD" else "MD5"


def is_question(request: Request) -> bool:
    return request.kind == "UploadPart" and headers(request)["content-length"] == str(ASKED)


def questions(mirror: Mirror) -> list[Request]:
    return [request for request in mirror.proxy.of_kind("UploadPart") if request.body_bytes == ASKED]


def parts(mirror: Mirror) -> list[Request]:
    """Those of the file, in the order in which they were begun."""
    return [request for request in mirror.proxy.of_kind("UploadPart") if request.body_bytes != ASKED]


def film(mirror: Mirror, name: str = "film") -> Path:
    """A large file of which no two parts are alike."""
    path = mirror.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(os.urandom(MIB) * 8 for _ in range(9))[:LARGE])
    return path


def left_over(mirror: Mirror) -> list[dict[str, Any]]:
    return list_uploads(mirror.store.client(), mirror.bucket)


def fact(mirror: Mirror) -> str | None:
    index = next((mirror.shell.jobs / ".index").glob("*.sqlite"))
    with sqlite3.connect(index) as db:
        row = db.execute("SELECT value FROM facts WHERE name=?", (part_sums.FACT,)).fetchone()
    return None if row is None else str(row[0]).split()[0]


def edit_fact(mirror: Mirror, place: int, value: str) -> None:
    index = next((mirror.shell.jobs / ".index").glob("*.sqlite"))
    with sqlite3.connect(index) as db:
        words = db.execute("SELECT value FROM facts WHERE name=?", (part_sums.FACT,)).fetchone()[0].split()
        words[place] = value
        db.execute("UPDATE facts SET value=? WHERE name=?", (" ".join(words), part_sums.FACT))


def once(matches: Callable[[Request], bool], what: Answer | Cut | Toxic) -> Hook:
    seen = itertools.count()
    return lambda request: what if matches(request) and next(seen) == 0 else None


# -- pure
def test_what_is_asked_has_the_sums_that_it_is_said_to_have() -> None:
    for algorithm, right in part_sums._RIGHT.items():
        digest = sums.new(algorithm)
        digest.update(part_sums._BYTES)
        assert digest.digest() == right, algorithm


def test_a_range_is_read_once_and_summed_as_a_whole(tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 5)
    (tmp_path / "f").write_bytes(data)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        every = list(sums.BY_NAME.values())
        kept = bytearray(len(data) - 7)
        found = sums.of_range(fd, 7, len(data) - 7, every, memoryview(kept))
        assert kept == data[7:]
        assert sums.of_range(fd, 7, len(data) - 7, every) == found
        assert found[sums.MD5] == hashlib.md5(data[7:]).digest()
        assert found[sums.SHA256] == hashlib.sha256(data[7:]).digest()
        cut = [(7, MIB), (7 + MIB, 1), (8 + MIB, len(data) - 8 - MIB)]
        each = [sums.of_range(fd, *piece, [sums.CRC64NVME])[sums.CRC64NVME] for piece in cut]
        assert sums.combine(each, [size for _, size in cut]) == found[sums.CRC64NVME]
        with pytest.raises(EOFError):
            sums.of_range(fd, 7, len(data), every, memoryview(bytearray(len(data))))
    finally:
        os.close(fd)


def test_a_library_that_does_not_fit_the_machine_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "awscrt", None)
    assert not sums.loads(sums.CRC64NVME)
    assert sums.loads(sums.MD5)


# -- what is chosen
@pytest.mark.parametrize("store", list(CHECKED), indirect=True)
def test_each_store_gets_the_cheapest_sum_that_it_checks(mirror: Mirror, store: Store) -> None:
    chosen, asked = CHECKED[store.name]
    if chosen == "SHA256" and not sums.can_make(sums.SHA256):
        chosen, asked = "MD5", 2  # no instructions for it here
    film(mirror)
    mirror.twice()
    assert len(questions(mirror)) == asked
    assert {sum_of(part) for part in parts(mirror)} == {chosen}
    by_md5 = [part.part for part in parts(mirror) if "content-md5" in headers(part)]
    assert len(by_md5) == 9 if chosen == "MD5" else 1 <= len(by_md5) <= 3, (
        "held against an ETag, then no more"
    )
    assert fact(mirror) == chosen
    assert left_over(mirror) == []
    os.utime(mirror.folder / "film")  # compared by content, with the ETag of parts that had no MD5 of ours
    mirror.sync()
    assert set(mirror.proxy.kinds()) == {"LIST"}
    film(mirror, "other")
    mirror.sync()
    assert questions(mirror) == [], "a fact of the destination"
    assert {sum_of(part) for part in parts(mirror)} == {chosen}
    assert mirror.proxy.kinds()["CreateMultipartUpload"] == 1


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_little_is_not_worth_a_question(mirror: Mirror, store: Store) -> None:
    mirror.make({f"{n}": 9 * MIB for n in range(3)} | {"small": 10})
    mirror.sync()
    assert questions(mirror) == []
    assert {sum_of(part) for part in parts(mirror)} == {"MD5"}


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_store_that_knows_another_crc_gets_that(mirror: Mirror, store: Store) -> None:
    def refuse(request: Request) -> Answer | None:
        named = headers(request).get("x-amz-checksum-algorithm")
        return s3_error(400, "InvalidRequest") if named == "CRC64NVME" else None

    mirror.proxy.on_request(refuse)
    film(mirror)
    mirror.twice()
    assert {sum_of(part) for part in parts(mirror)} == {"CRC32C"}
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_without_the_library_the_next_sum_is_taken(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    (tmp_path / "awscrt").mkdir()
    (tmp_path / "awscrt" / "__init__.py").write_text("raise ImportError('not for this machine')\n")
    mirror.shell.environment["PYTHONPATH"] = str(tmp_path)
    film(mirror)
    mirror.sync()
    assert {sum_of(part) for part in parts(mirror)} == {"MD5"}


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("change", ["age", "clock", "place", "server", "nonsense"])
def test_a_store_that_may_have_changed_is_asked_anew(change: str, mirror: Mirror, store: Store) -> None:
    film(mirror)
    mirror.sync()
    match change:
        case "age":
            edit_fact(mirror, 1, str(int(time.time()) - 86_500))
        case "clock":
            edit_fact(mirror, 1, str(int(time.time()) + 5000))
        case "place":
            edit_fact(mirror, 2, "0" * 16)
        case "server":
            edit_fact(mirror, 3, "0" * 16)
        case "nonsense":
            edit_fact(mirror, 0, "CRC7")
    film(mirror, "other")
    mirror.sync()
    assert len(questions(mirror)) == 3
    assert {sum_of(part) for part in parts(mirror)} == {"CRC64NVME"}
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_store_whose_name_changes_all_the_time_gets_md5s(mirror: Mirror, store: Store) -> None:
    count = itertools.count()

    def rename(request: Request) -> Toxic | None:
        if request.kind != "CreateMultipartUpload":
            return None
        name = b"Server: number %d" % next(count)
        return Toxic(edit=lambda head, body: re.sub(rb"(?i)server: [^\r]*", name, head) + body)

    mirror.proxy.on_request(rename)
    film(mirror)
    mirror.sync()
    assert {sum_of(part) for part in parts(mirror)} == {"MD5"}
    assert left_over(mirror) == []
    assert fact(mirror) is None


# -- bits that turn on the way
FLIPS: dict[str, tuple[Callable[[Request], bool], Toxic]] = {
    "a question": (is_question, Toxic(flip_body=3)),
    "a question's answer": (
        is_question,
        Toxic(edit=lambda head, body: head.replace(b" 400 ", b" 200 ", 1) + body),
    ),
    "the first part": (lambda r: r.part == 1 and not is_question(r), Toxic(flip_body=5 * MIB)),
    "a later part": (lambda r: r.part == 8, Toxic(flip_body=5 * MIB)),
    "the last part": (lambda r: r.part == 9, Toxic(flip_body=1000)),
    "an ETag of a part": (
        lambda r: r.part == 8,
        Toxic(edit=lambda head, body: re.sub(rb'(?i)(etag: "?)(\w{4})', rb"\g<1>0000", head) + body),
    ),
    "the ETag of the whole": (
        lambda r: r.kind == "CompleteMultipartUpload",
        changed_body(rb"(&quot;|&#34;)\w{4}", rb"\g<1>0000"),
    ),
    "the sum of the whole": (
        lambda r: r.kind == "CompleteMultipartUpload",
        changed_body(rb"(<ChecksumCRC64NVME>)\w{3}", rb"\g<1>AAA"),
    ),
}


@CHECKING
@pytest.mark.parametrize("where", list(FLIPS))
def test_a_bit_that_turns_is_seen(where: str, mirror: Mirror, store: Store) -> None:
    matches, toxic = FLIPS[where]
    mirror.proxy.on_request(once(matches, toxic))
    film(mirror)
    mirror.sync()
    assert left_over(mirror) == []
    mirror.proxy.clear_hooks()
    again = mirror.sync()
    assert again.progress["files_uploaded"] == 0
    assert mirror.proxy.of_kind("PUT", "CreateMultipartUpload") == []


# -- a store that lies
def refuse_wrong(times: int) -> Hook:
    """Refuses wrong CRC64NVMEs in questions, so often, and checks nothing."""
    right = sums.encode(part_sums._RIGHT[sums.CRC64NVME])
    seen = itertools.count()

    def hook(request: Request) -> Answer | None:
        claimed = headers(request).get(sums.CRC64NVME.header)
        if is_question(request) and claimed not in (None, right) and next(seen) < times:
            return s3_error(400, "BadDigest")
        return None

    return hook


@pytest.mark.parametrize("store", ["moto"], indirect=True)
def test_a_store_that_refuses_a_wrong_sum_once_checks_none(mirror: Mirror, store: Store) -> None:
    mirror.proxy.on_request(refuse_wrong(1))
    film(mirror)
    mirror.sync()
    assert {sum_of(part) for part in parts(mirror)} == {"MD5"}
    assert fact(mirror) == "MD5"


@pytest.mark.parametrize("store", ["moto"], indirect=True)
@pytest.mark.parametrize("part", [1, 8])
def test_a_store_that_only_says_that_it_checks_is_found_out(part: int, mirror: Mirror, store: Store) -> None:
    """It refuses what is wrong in questions alone. A part that turns is seen by its ETag, or because the
    store cannot tell the sum of the whole."""
    mirror.proxy.on_request(refuse_wrong(1000))
    mirror.proxy.on_request(once(lambda r: r.part == part and not is_question(r), Toxic(flip_body=MIB)))
    film(mirror)
    mirror.sync()
    assert fact(mirror) is None, "it is not believed any more"
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize("code", ["InvalidRequest", "BadDigest", "XAmzContentChecksumMismatch"])
def test_a_store_that_refuses_right_sums_after_all_gets_md5s(code: str, mirror: Mirror, store: Store) -> None:
    def refuse(request: Request) -> Answer | None:
        is_crc = sums.CRC64NVME.header in headers(request)
        return s3_error(400, code) if request.part and is_crc and not is_question(request) else None

    mirror.proxy.on_request(refuse)
    film(mirror)
    mirror.sync()
    assert sum_of(parts(mirror)[-1]) == "MD5"
    assert fact(mirror) is None
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("CreateMultipartUpload", "NotImplemented", 501),
        ("UploadPart", "AccessDenied", 403),
        ("UploadPart", "InternalError", 500),
        ("AbortMultipartUpload", "AccessDenied", 403),
    ],
)
def test_a_store_that_fails_on_questions_gets_md5s(
    kind: str, code: str, status: int, mirror: Mirror, store: Store
) -> None:
    def refuse(request: Request) -> Answer | None:
        is_about = {
            "CreateMultipartUpload": "x-amz-checksum-algorithm" in headers(request),
            "UploadPart": is_question(request),
        }
        return s3_error(status, code) if request.kind == kind and is_about.get(kind, True) else None

    mirror.proxy.on_request(refuse)
    film(mirror)
    mirror.sync()
    assert {sum_of(part) for part in parts(mirror)} == {"MD5"}


# -- ETags that are no MD5s
@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_under_kms_the_checksum_proves_what_the_etag_cannot(mirror: Mirror, store: Store) -> None:
    """Nothing is read back: the store says the object's CRC64NVME."""

    def kms(head: bytes, body: bytes) -> bytes:
        return head.replace(b"\r\n", b"\r\nx-amz-server-side-encryption: aws:kms\r\n", 1) + body

    mirror.proxy.on_request(
        lambda r: Toxic(edit=kms) if r.kind in ("UploadPart", "HEAD") and not is_question(r) else None
    )
    mirror.proxy.on_request(
        lambda r: (
            changed_body(rb"(&quot;|&#34;)\w{4}", rb"\g<1>0000")
            if r.kind in ("CompleteMultipartUpload", "LIST")
            else None
        )
    )
    film(mirror)
    mirror.start()
    assert all("content-md5" in headers(part) for part in parts(mirror)[:2])
    assert headers(mirror.proxy.of_kind("HEAD")[0])["x-amz-checksum-mode"] == "ENABLED"
    assert mirror.proxy.of_kind("GET") == []


# -- what breaks off
def begin_held(mirror: Mirror, matches: Callable[[Request], bool]) -> tuple[Gate, Any, str]:
    gate = Gate(mirror.proxy, matches)
    film(mirror)
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait(60)
    return gate, process, job


BREAKS: dict[str, Callable[[Request], bool]] = {
    "the first question": is_question,
    "the end of questions": lambda r: r.kind == "AbortMultipartUpload",
    "the upload": lambda r: r.kind == "CreateMultipartUpload",
    "the first part": lambda r: r.kind == "UploadPart" and not is_question(r),
    "a later part": lambda r: r.kind == "UploadPart" and r.part == 6,
}


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
@pytest.mark.parametrize(
    ("where", "gone"),
    [*((where, False) for where in BREAKS), ("the first question", True), ("the end of questions", True)],
)
def test_a_worker_killed_while_it_asks_leaves_nothing(
    where: str, gone: bool, mirror: Mirror, store: Store
) -> None:
    gate, process, job = begin_held(mirror, BREAKS[where])
    os.kill(mirror.shell.status(job)["pid"], signal.SIGKILL)
    process.wait(10)
    gate.drop()
    wait_for(lambda: all(request.finished for request in mirror.proxy.requests))
    if gone:
        (mirror.folder / "film").unlink()
        mirror.make({"small": "1"})
        mirror.sync()
    else:
        mirror.proxy.reset()
        assert mirror.shell.run("resume", job, timeout=90).returncode == 0
        assert mirror.contents == {"film": (mirror.folder / "film").read_bytes()}
        if where == "a later part":
            assert len({part.part for part in parts(mirror)}) < 9, "kept parts are not sent again"
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_resume_verifies_parts_by_the_checksums_that_the_store_lists(mirror: Mirror, store: Store) -> None:
    """As Amazon S3 and MinIO list them; the file's third part has changed since."""
    path = film(mirror)
    data = path.read_bytes()
    crcs = {}
    for number in range(1, 10):
        digest = sums.new(sums.CRC64NVME)
        digest.update(data[(number - 1) * 8 * MIB : number * 8 * MIB])
        crcs[number] = sums.encode(digest.digest())

    def listed(head: bytes, body: bytes) -> bytes:
        def add(match: re.Match[bytes]) -> bytes:
            crc = crcs[int(match[1])]
            return match[0] + f"<ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME>".encode()

        body = re.sub(rb"<PartNumber>(\d+)</PartNumber>", add, body)
        head = re.sub(rb"(?i)\r\ncontent-length:[^\r]*", b"", head)
        return head.rstrip() + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    gate = Gate(mirror.proxy, lambda r: r.kind == "UploadPart" and r.part == 6)
    process, job = mirror.shell.begin(mirror.bucket)
    gate.wait(60)
    wait_for(lambda: all(r.finished for r in mirror.proxy.requests if r.part is not None and r.part < 5))
    os.kill(mirror.shell.status(job)["pid"], signal.SIGKILL)
    process.wait(10)
    gate.drop()
    wait_for(lambda: all(request.finished for request in mirror.proxy.requests))
    with path.open("r+b") as file:
        file.seek(2 * 8 * MIB)
        file.write(b"changed")
    mirror.proxy.clear_hooks()
    mirror.proxy.on_request(lambda r: Toxic(edit=listed) if r.kind == "ListParts" else None)
    mirror.proxy.reset()
    assert mirror.shell.run("resume", job, timeout=90).returncode == 0
    again = {part.part for part in parts(mirror)}
    assert 3 in again
    assert again.isdisjoint({1, 2})
    assert {sum_of(part) for part in parts(mirror)} == {"CRC64NVME"}
    assert mirror.contents == {"film": path.read_bytes()}


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_cancel_while_it_asks_ends_it_and_the_next_sync_leaves_nothing(
    mirror: Mirror, store: Store
) -> None:
    gate, process, job = begin_held(mirror, is_question)
    assert mirror.shell.run("cancel", job).returncode == 0
    gate.open()
    assert process.wait(20) == 3
    assert parts(mirror) == []
    mirror.sync()
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_pause_while_it_asks_holds_the_next_question(mirror: Mirror, store: Store) -> None:
    gate, process, job = begin_held(mirror, is_question)
    assert mirror.shell.run("pause", job).returncode == 0
    mirror.shell.wait_file(job, lambda s: s["phase"] == "paused")
    gate.open()
    wait_for(lambda: all(request.finished for request in mirror.proxy.requests))
    seen = len(mirror.proxy.requests)
    time.sleep(1.0)
    assert len(mirror.proxy.requests) == seen
    assert mirror.shell.run("continue", job).returncode == 0
    assert process.wait(60) == 0
    assert {sum_of(part) for part in parts(mirror)} == {"CRC64NVME"}
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_an_outage_while_it_asks_is_waited_for(mirror: Mirror, store: Store) -> None:
    gate, process, job = begin_held(mirror, is_question)
    mirror.proxy.refuse()
    gate.drop()
    mirror.shell.wait_file(job, lambda s: s["delay"], 30)
    mirror.proxy.listen()
    assert process.wait(90) == 0
    assert mirror.contents == {"film": (mirror.folder / "film").read_bytes()}
    assert left_over(mirror) == []


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
def test_a_limit_of_bandwidth_holds_for_parts_that_are_read_once(mirror: Mirror, store: Store) -> None:
    film(mirror)
    began = time.monotonic()
    mirror.sync("--bandwidth", "16M")
    assert time.monotonic() - began >= LARGE / (16 * MIB) - 1
    assert {sum_of(part) for part in parts(mirror)} == {"CRC64NVME"}


# -- small files
def signed(mirror: Mirror) -> list[bool]:
    """Of each PUT of an object, in turn: was the body's SHA-256 signed?"""
    puts = mirror.proxy.of_kind("PUT")
    return [headers(put)["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD" for put in puts]


@pytest.mark.parametrize("store", list(CHECKED), indirect=True)
def test_a_small_body_is_signed_until_the_etag_has_proved_one(mirror: Mirror, store: Store) -> None:
    mirror.make({"0": "first"})
    mirror.twice()
    assert signed(mirror) == [True]
    mirror.make({f"{n}": str(n) for n in range(1, 9)} | {"empty": ""})
    mirror.twice()
    assert signed(mirror) == [False] * 9
    assert all("content-md5" in headers(put) for put in mirror.proxy.of_kind("PUT"))


def test_a_store_that_wants_small_bodies_signed_gets_them_so(mirror: Mirror) -> None:
    refused = []

    def refuse(request: Request) -> Answer | None:
        if request.kind == "PUT" and headers(request)["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD":
            refused.append(request.key)
            return s3_error(403, "SignatureDoesNotMatch")
        return None

    mirror.make({"0": "first"})
    mirror.sync()
    mirror.proxy.on_request(refuse)
    mirror.make({f"{n}": str(n) for n in range(1, 200)})
    mirror.sync()
    assert refused
    refused.clear()
    mirror.make({"more": "of it"})
    mirror.sync()
    assert refused == [], "a fact of the destination"


def test_a_refusal_that_is_not_about_the_signature_is_told(mirror: Mirror) -> None:
    """A store that has taken unsigned bodies is not asked twice, and one that refuses both says why."""
    mirror.make({"0": "first"})
    mirror.sync()
    mirror.make({"bad": "b"})
    mirror.proxy.on_request(
        lambda request: (
            s3_error(400, "InvalidArgument") if request.key == "bad" and request.kind == "PUT" else None
        )
    )
    run = mirror.start()
    assert run.status["state"] == "failed"
    assert [error["code"] for error in run.status["errors"]] == ["InvalidArgument"]
    assert signed(mirror) == [False, True]
    mirror.proxy.clear_hooks()
    mirror.sync()
    assert signed(mirror) == [False], "no fact of the destination"


def test_where_etags_tell_nothing_small_bodies_stay_signed(mirror: Mirror) -> None:
    mirror.proxy.on_request(
        lambda request: Toxic(edit=opaque) if request.kind in ("PUT", "GET", "HEAD", "LIST") else None
    )
    mirror.make({"0": "first"})
    mirror.sync()
    mirror.make({f"{n}": str(n) for n in range(1, 9)})
    mirror.sync()
    assert signed(mirror) == [True] * 8
