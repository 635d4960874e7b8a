"""One request to the storage, what its operation implies, and what a client is given once: the bucket of its
requests, and the conditions of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from syncworker.system.control import Control
from syncworker.system.pause import Pause
from syncworker.system.stop_token import StopToken
from syncworker.wire.body import Body

SENDS = frozenset({"PutObject", "CreateMultipartUpload", "UploadPart"})
WRITES = SENDS | {"CreateBucket", "CompleteMultipartUpload", "CopyObject", "UploadPartCopy"}
WITH_BODY = frozenset({"PutObject", "UploadPart", "GetObject"})  # in the request or the answer
SLOW = frozenset({"CompleteMultipartUpload", "CopyObject", "UploadPartCopy"})  # silent while the store copies
WITH_BLANKS = SLOW | {"DeleteObjects"}  # they may come while the store is at work
LISTINGS = frozenset({"ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts"})
NOT_REPEATED = frozenset({"CreateMultipartUpload", "DeleteObjects"})  # by itself, when its answer is lost
ADVICE = "check storage_url"


class S3Request(NamedTuple):
    """A request before it is signed. `max_body`: of the answer; `payload`: what the signature says of a body
    of bytes, None for its SHA-256."""

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
    """A request that a stop waits for: a write, or one that finds out what a write has done."""

    operation: str
    key: str | None
    since: float  # by the monotonic clock


class Target(NamedTuple):
    """A bucket, or the part of it below `key_prefix`."""

    bucket: str
    region: str
    key_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """`only_reads`: a request that changes something is a bug. `store_dir`: where the storage keeps its
    objects, if that is on a disk of this machine. `advice`: what people should do when the storage never
    answers."""

    stop: StopToken = field(default_factory=lambda: StopToken(Control("")))  # nothing begins any more
    pause: Pause = field(default_factory=Pause)
    patience_seconds: float = 0.0  # how long a storage that is away is waited for
    most_requests: int = 160  # in flight
    only_reads: bool = False
    store_dir: str | None = None
    advice: str = ADVICE
