"""Decides whether a file and an object have the same content, from the stat, the listing and the index.

Pure functions. If the verdict is `hash` or `head`, the caller reads the file or asks the store.

`compare(file, object, row)` returns the verdict of the first row that fits:

| object | sizes | row | ETag | verdict |
| --- | --- | --- | --- | --- |
| none | | | | upload: new |
| there | differ | | | upload: size differs |
| there | same | trusted, same stat | the row's | unchanged |
| there | same | trusted, same stat | none listed, LastModified the row's | unchanged |
| there | same | trusted, same stat, no LastModified yet | none listed, as old as our upload | adopt |
| there | same | any | a content hash by its form | hash |
| there | same | the row's ETag (or LastModified) | no content hash | hash |
| there | same | other or none | no content hash | head |

A row is trusted unless it was made within two seconds of the file's own ctime: a second change within the
clock's resolution would not show (git calls this racily clean).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.s3 import etag as etags

RACY_NS = 2_000_000_000
ADOPT_SECONDS = 5


class Verdict(StrEnum):
    UNCHANGED = "unchanged"
    ADOPT = "adopt"  # unchanged, and the row takes over the listing's LastModified
    UPLOAD = "upload"
    UPDATE = "update"  # the same content, but other headers, tags or class
    HASH = "hash"
    HEAD = "head"


class Reason(StrEnum):
    """Why a file is sent or an object deleted."""

    NEW = "new"
    SIZE = "size"
    CONTENT = "content"
    HEADERS = "headers"


class Decision(NamedTuple):
    verdict: Verdict
    reason: Reason | None = None


class Candidate(NamedTuple):
    """A file that needs work, and the decision so far."""

    file: FileEntry
    object: ObjectEntry | None
    row: IndexRow | None
    decision: Decision


_UNCHANGED = Decision(Verdict.UNCHANGED)
_ADOPT = Decision(Verdict.ADOPT)
NEW = Decision(Verdict.UPLOAD, Reason.NEW)
UPDATE = Decision(Verdict.UPDATE, Reason.HEADERS)
AGAIN = Decision(Verdict.UPLOAD, Reason.HEADERS)  # the store cannot update it
_SIZE = Decision(Verdict.UPLOAD, Reason.SIZE)
_CONTENT = Decision(Verdict.UPLOAD, Reason.CONTENT)
_HASH = Decision(Verdict.HASH)
_HEAD = Decision(Verdict.HEAD)


def is_trusted(row: IndexRow, file: FileEntry) -> bool:
    """Whether the file has the stat that the row was made from, and the row is not racy."""
    return (
        row.mtime_ns == file.mtime_ns
        and row.ctime_ns == file.ctime_ns
        and row.size == file.size
        and row.inode == file.inode
        and row.read_ns - row.ctime_ns > RACY_NS
    )


def same_object(row: IndexRow, obj: ObjectEntry) -> bool:
    """Whether the object is the one that the row describes."""
    if row.size != obj.size:
        return False
    if obj.etag:
        return row.etag == obj.etag
    return bool(row.modified) and row.modified == obj.modified


def compare(file: FileEntry, obj: ObjectEntry | None, row: IndexRow | None) -> Decision:
    """Returns the first decision of the table above that fits."""
    if obj is None:
        return NEW
    if file.size != obj.size:
        return _SIZE
    if row is not None:
        if is_trusted(row, file):
            if same_object(row, obj):
                return _UNCHANGED
            if not obj.etag and not row.modified and fits_upload_time(obj.modified, row.read_ns):
                return _ADOPT
        if same_object(row, obj):
            return _HASH
    return _HASH if etags.parts_of(obj.etag) is not None else _HEAD


def fits_upload_time(modified: str, read_ns: int) -> bool:
    """Whether a LastModified fits an upload of a file that was read at `read_ns` (stores write whole
    seconds). A later one may belong to another client's object. If it is ours (the clocks differ, or the
    upload was slow), one HEAD shows it."""
    try:
        listed = datetime.fromisoformat(modified).timestamp()
    except ValueError:
        return False
    return -2 <= listed - read_ns / 1e9 <= ADOPT_SECONDS


def wanted_hashes(obj: ObjectEntry, row: IndexRow | None) -> list[int]:
    """Returns the part sizes to hash the file with (0: plain MD5), for the verdict `hash`."""
    parts = etags.parts_of(obj.etag)
    sizes: list[int] = []
    if row is not None and same_object(row, obj):
        sizes.append(row.part_size)
    if parts == 0:
        sizes.append(0)
    elif parts is not None:
        sizes += etags.candidates(obj.size, parts, row.part_size if row is not None else None)
    return list(dict.fromkeys(sizes))


def match(hashes: dict[int, str], obj: ObjectEntry, row: IndexRow | None) -> tuple[int, str] | None:
    """Returns (part size, digest) of the hash that proves the content equal, None if no hash does."""
    for part, digest in hashes.items():
        if obj.etag and digest == obj.etag:
            return part, digest
    if row is not None and same_object(row, obj):
        remembered = row.digest or row.etag
        if hashes.get(row.part_size) == remembered:
            return row.part_size, remembered
    return None


def after_mismatch(obj: ObjectEntry, etags_are_md5: bool) -> Decision:
    """Decides if no hash has matched. A plain ETag of a store whose ETags are MD5s proves other content.
    Otherwise HEAD is needed: the ETag may not be an MD5, and the metadata may have the content's MD5."""
    if etags_are_md5 and etags.parts_of(obj.etag) == 0:
        return _CONTENT
    return _HEAD
