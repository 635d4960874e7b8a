"""A request to the storage, the properties of its operation, and the fixed arguments of a client: the bucket
and the conditions of its requests."""

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
WITH_BLANKS = SLOW | {"DeleteObjects"}  # blanks may arrive while the store works
LISTINGS = frozenset({"ListObjectsV2", "ListObjectVersions", "ListMultipartUploads", "ListParts"})
NOT_REPEATED = frozenset({"CreateMultipartUpload", "DeleteObjects"})  # automatically, if the answer is lost
ADVICE = "check storage_url"


class S3Request(NamedTuple):
    """A request before it is signed. `max_body`: of the answer; `payload`: the value for a body of bytes in
    the signature, None for its SHA-256."""

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
        """The size of the body that is sent."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size


class InFlight(NamedTuple):
    """A request that a stop waits for: a write, or a check of what a write has done."""

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
    objects, if that is on a disk of this machine. `advice`: what users should do if the storage never
    answers."""

    stop: StopToken = field(default_factory=lambda: StopToken(Control("")))  # nothing begins after it
    pause: Pause = field(default_factory=Pause)
    patience_seconds: float = 0.0  # how long to wait for a storage that is down
    most_requests: int = 160  # in flight
    only_reads: bool = False
    store_dir: str | None = None
    advice: str = ADVICE
