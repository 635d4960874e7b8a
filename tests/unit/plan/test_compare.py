"""Comparing: one test row for each line of the table, and the hashes that settle the rest."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import compare
from syncworker.plan.compare import Decision, Reason, Verdict
from syncworker.s3 import etag

SECOND = 1_000_000_000
T = 1_795_352_562 * SECOND
DATA = b"content"
MD5 = hashlib.md5(DATA).hexdigest()
OTHER = hashlib.md5(b"other").hexdigest()
OPAQUE = "0x8d4bcc2e4835cd0"
MULTI = etag.composite([hashlib.md5(DATA).digest()] * 2)


def stamp(ns: int) -> str:
    return datetime.fromtimestamp(ns / SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


MODIFIED = stamp(T + 10 * SECOND)
FILE = FileEntry("k", 7, T, T, 42, "photos/k")
# Read ten seconds after its last change, and sent; the store has not been listed since.
ROW = IndexRow("k", 7, T, T, 42, MD5, "", 0, "", T + 10 * SECOND)


def obj(tag: str = MD5, size: int = 7, modified: str = MODIFIED) -> ObjectEntry:
    return ObjectEntry("k", size, tag, modified)


UNCHANGED, ADOPT = Decision(Verdict.UNCHANGED), Decision(Verdict.ADOPT)
HASH, HEAD = Decision(Verdict.HASH), Decision(Verdict.HEAD)
NEW, SIZE = Decision(Verdict.UPLOAD, Reason.NEW), Decision(Verdict.UPLOAD, Reason.SIZE)
LISTED = ROW._replace(etag="", digest=MD5, modified=MODIFIED)  # of a store that lists no ETag
RACY = T + 2 * SECOND

TABLE = {
    "no object": (FILE, None, None, NEW),
    "no object, whatever the row says": (FILE, None, ROW, NEW),
    "sizes differ": (FILE, obj(size=8), None, SIZE),
    "sizes differ, though the row has the ETag": (FILE, obj(size=8), ROW, SIZE),
    "trusted row, same ETag": (FILE, obj(), ROW, UNCHANGED),
    "trusted row, same opaque ETag": (FILE, obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MD5), UNCHANGED),
    "trusted row, no ETag, same LastModified": (FILE, obj(""), LISTED, UNCHANGED),
    "trusted row, no ETag, no LastModified yet": (FILE, obj(""), ROW._replace(etag=""), ADOPT),
    "the same, of a store that counts whole seconds": (
        FILE,
        obj("", modified=stamp(T + 9 * SECOND)),
        ROW,
        ADOPT,
    ),
    "the same, but older than our upload": (FILE, obj("", modified=stamp(T + 7 * SECOND)), ROW, HEAD),
    "the same, but later, so it may be another's": (
        FILE,
        obj("", modified=stamp(T + 17 * SECOND)),
        ROW,
        HEAD,
    ),
    "the same, but no date at all": (FILE, obj("", modified="yesterday"), ROW, HEAD),
    "no ETag, another LastModified": (FILE, obj("", modified=stamp(T + 99 * SECOND)), LISTED, HEAD),
    "trusted row, another MD5": (FILE, obj(OTHER), ROW, HASH),
    "trusted row, another opaque ETag": (FILE, obj(OPAQUE), ROW, HEAD),
    "no row, MD5": (FILE, obj(), None, HASH),
    "no row, multipart ETag": (FILE, obj(MULTI), None, HASH),
    "no row, opaque ETag": (FILE, obj(OPAQUE), None, HEAD),
    "no row, no ETag": (FILE, obj(""), None, HEAD),
    "mtime differs": (FILE._replace(mtime_ns=T + 1), obj(), ROW, HASH),
    "mtime went back": (FILE._replace(mtime_ns=T - SECOND), obj(), ROW, HASH),
    "ctime differs": (FILE._replace(ctime_ns=T + 1), obj(), ROW, HASH),
    "inode differs": (FILE._replace(inode=43), obj(), ROW, HASH),
    "stat differs, opaque ETag of the row": (
        FILE._replace(inode=43),
        obj(OPAQUE),
        ROW._replace(etag=OPAQUE, digest=MD5),
        HASH,
    ),
    "stat differs, LastModified of the row": (FILE._replace(inode=43), obj(""), LISTED, HASH),
    "racy row, MD5": (FILE, obj(), ROW._replace(read_ns=RACY), HASH),
    "racy row, opaque": (FILE, obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MD5, read_ns=RACY), HASH),
    "racy row, no ETag": (FILE, obj(""), LISTED._replace(read_ns=RACY), HASH),
    "racy row, no ETag, nothing to adopt": (FILE, obj(""), ROW._replace(read_ns=RACY), HEAD),
    "just not racy any more": (FILE, obj(), ROW._replace(read_ns=RACY + 1), UNCHANGED),
    "a row from before the file's change": (FILE, obj(), ROW._replace(read_ns=T - 60 * SECOND), HASH),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_verdicts(name: str) -> None:
    file, there, row, wanted = TABLE[name]
    assert compare.compare(file, there, row) == wanted


def test_a_row_of_another_size_speaks_of_another_object_though_its_etag_is_the_same() -> None:
    """Two sizes with one ETag: only of a store whose ETags are no hashes."""
    row = ROW._replace(size=8, etag=OPAQUE)
    assert not compare.same_object(row, obj(OPAQUE))
    assert compare.compare(FILE, obj(OPAQUE), row) == HEAD


@pytest.mark.parametrize(
    ("there", "row", "wanted"),
    [
        (obj(MD5), None, [0]),
        (obj(MD5), ROW, [0]),
        (obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MULTI, part_size=4), [4]),
        (obj(MULTI), ROW._replace(etag=MULTI, part_size=4), [4]),
        (obj(MULTI), None, []),  # nobody cuts seven bytes in two
        (obj(""), LISTED, [0]),
    ],
)
def test_the_hashes_that_could_prove_the_content_equal(
    there: ObjectEntry, row: IndexRow | None, wanted: list[int]
) -> None:
    assert compare.wanted_hashes(there, row) == wanted


def test_part_sizes_of_other_tools_are_tried_for_an_object_of_another_program() -> None:
    size = 60 << 20
    sizes = compare.wanted_hashes(obj(f"{MD5}-8", size), None)
    assert sizes[0] == 8 << 20
    assert 50 << 20 in compare.wanted_hashes(obj(f"{MD5}-2", size), None)
    assert 5 << 20 in compare.wanted_hashes(obj(f"{MD5}-12", size), None)


@pytest.mark.parametrize(
    ("hashes", "there", "row", "wanted"),
    [
        ({0: MD5}, obj(MD5), None, (0, MD5)),
        ({0: OTHER}, obj(MD5), None, None),
        ({8: MULTI, 5: f"{OTHER}-2"}, obj(MULTI), None, (8, MULTI)),
        ({0: MD5}, obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MD5), (0, MD5)),
        ({0: OTHER}, obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MD5), None),
        ({0: MD5}, obj(OPAQUE), ROW._replace(etag="0xother", digest=MD5), None),  # the row's object is gone
        ({0: MD5}, obj(""), LISTED, (0, MD5)),
        ({0: MD5}, obj("", modified="later"), LISTED, None),
        ({0: ""}, obj(""), None, None),
        ({}, obj(OPAQUE), ROW._replace(etag=OPAQUE, digest=MD5, part_size=8), None),
        ({}, obj(""), LISTED._replace(digest=""), None),
    ],
)
def test_only_a_hash_of_this_content_proves_it_equal(
    hashes: dict[int, str], there: ObjectEntry, row: IndexRow | None, wanted: tuple[int, str] | None
) -> None:
    assert compare.match(hashes, there, row) == wanted


@pytest.mark.parametrize(
    ("tag", "etags_are_md5", "wanted"),
    [
        (MD5, True, Decision(Verdict.UPLOAD, Reason.CONTENT)),
        (MD5, False, HEAD),  # it may be a KMS ETag, which looks like an MD5 and is none
        (MULTI, True, HEAD),
        (OPAQUE, True, HEAD),
        ("", True, HEAD),
    ],
)
def test_no_hash_settles_it_only_where_etags_are_known_to_be_md5s(
    tag: str, etags_are_md5: bool, wanted: Decision
) -> None:
    assert compare.after_mismatch(obj(tag), etags_are_md5) == wanted
