"""What a job that does not get on waits for: the writes in flight of a job that is to stop.

Pure functions; `Progress` publishes what they say as `delay` and as the message of the status.
"""

from __future__ import annotations

import time

from syncworker.control import Control
from syncworker.model import Delay
from syncworker.progress import printable
from syncworker.s3 import Bucket, InFlight

_DOING = {
    "PutObject": "uploading",
    "CreateMultipartUpload": "beginning the upload of",
    "UploadPart": "uploading a part of",
    "CompleteMultipartUpload": "completing the upload of",
    "AbortMultipartUpload": "ending an upload of",
    "DeleteObject": "deleting",
    "DeleteObjects": "deleting objects of",
    "CreateBucket": "making",
    "DeleteBucket": "deleting",
}


def delay_of(control: Control, bucket: Bucket) -> Delay | None:
    """What the job waits for now; None: it gets on."""
    if control.since is not None:
        return _of_writes(control, bucket)
    return None


def _of_writes(control: Control, bucket: Bucket) -> Delay | None:
    """A stop that waits for what is in flight."""
    flights = list(bucket.in_flight.values())
    if not flights or control.since is None:
        return None
    waited = time.time() - control.since
    left = control.writes_until() - time.monotonic()
    until = time.time() + left if left < float("inf") else None
    more = f" and {len(flights) - 1} more" if len(flights) > 1 else ""
    word = "cancelling" if control.reason == "cancelled" else f"stopping ({control.reason})"
    long = (
        f"for {waited:.0f} s"
        if until is None
        else f"for {waited:.0f} s, {max(0.0, left):.0f} s more at most,"
    )
    message = f"{word}: waiting {long} for what is in flight to end: {_doing(flights[0], bucket.name)}{more}"
    return Delay("writes_in_flight", control.since, until, message)


def _doing(flight: InFlight, bucket_name: str) -> str:
    return f"{_DOING.get(flight.operation, 'checking')} {printable(flight.key or bucket_name)}"
