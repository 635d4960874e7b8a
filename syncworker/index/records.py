"""What the index remembers, as records."""

from __future__ import annotations

from typing import NamedTuple

from syncworker.model import FileEntry

_INTEGER_END = 1 << 63


class IndexRow(NamedTuple):
    """`etag` as the store lists it; `digest` the content in ETag form as we computed it ("" when it is the
    etag); `modified` the listed LastModified ("" when not known yet); `read_ns` when the file was opened
    to be read (0: it changed while it was read)."""

    key: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str
    digest: str
    part_size: int
    modified: str
    read_ns: int

    @classmethod
    def of(
        cls, file: FileEntry, etag: str, digest: str, part_size: int, modified: str, read_ns: int
    ) -> IndexRow:
        """The row of a file whose content the object with this ETag has."""
        return cls(
            file.key, file.size, file.mtime_ns, file.ctime_ns, file.inode,
            etag, "" if digest == etag else digest, part_size, modified, read_ns,
        )  # fmt: skip


class Brief(NamedTuple):
    """The columns that a listing has, too."""

    key: str
    size: int
    etag: str


class Part(NamedTuple):
    key: str
    upload_id: str
    number: int
    etag: str  # as the store answered
    md5: str  # of what it was sent, in hexadecimal


class PendingUpload(NamedTuple):
    key: str
    upload_id: str  # "" for an intent
    part_size: int
    size: int
    md5: str = ""  # that its metadata carries since it began, in hexadecimal; "" for none


def is_text(key: str) -> bool:
    """Whether a key is UTF-8: one that is not was never ours."""
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def fits(row: IndexRow) -> bool:
    return (
        is_text(row.key)
        and -_INTEGER_END <= row.mtime_ns < _INTEGER_END
        and -_INTEGER_END <= row.ctime_ns < _INTEGER_END
        and -_INTEGER_END <= row.inode < _INTEGER_END
        and -_INTEGER_END <= row.read_ns < _INTEGER_END
    )
