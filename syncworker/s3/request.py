"""One request to the storage, and what an operation's name says about it."""

from __future__ import annotations

from typing import NamedTuple

from syncworker.wire.body import Body

SENDS = frozenset({"PutObject", "CreateMultipartUpload", "UploadPart"})
WRITES = SENDS | {"CreateBucket", "CompleteMultipartUpload", "CopyObject", "UploadPartCopy"}
WITH_BODY = frozenset({"PutObject", "UploadPart", "GetObject"})  # there or back
SLOW = frozenset({"CompleteMultipartUpload", "CopyObject", "UploadPartCopy"})  # silent while the store copies
WITH_BLANKS = SLOW | {"DeleteObjects"}  # they may come while the store is at work
LISTINGS = frozenset({"ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts"})
NOT_REPEATED = frozenset({"CreateMultipartUpload", "DeleteObjects"})  # by itself, when its answer is lost


class S3Request(NamedTuple):
    """What is asked, before it is signed. `max_body`: the answer's; `payload`: what the signature says of a
    body of bytes, None for its SHA-256."""

    operation: str
    method: str
    key: str | None = None
    query: dict[str, str] | None = None
    headers: dict[str, str] | None = None
    body: bytes | Body = b""
    max_body: int = 8 << 20
    payload: str | None = None

    @property
    def size(self) -> int:
        """Of the body that is sent."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size


class InFlight(NamedTuple):
    """A request that a stop waits for: what writes, and what finds out what a write has done."""

    operation: str
    key: str | None
    since: float  # by the monotonic clock
