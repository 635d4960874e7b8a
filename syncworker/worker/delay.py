"""Finds out why a job makes no progress: writes in flight before a stop, a pause, or a storage that is down,
is silent, or asks to slow down.

`Progress` publishes it as `delay` and as the message of the status.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from syncworker.escape import escape_surrogates
from syncworker.jobs.progress import StorageView
from syncworker.model import Delay
from syncworker.s3.client import Client
from syncworker.system.control import Control
from syncworker.wire.throttle import TAKEN_SECONDS

_NOTICED_SECONDS = 2.0
_SILENT_SECONDS = 5.0
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


class ClientView(StorageView):
    """Gives `Progress` the client's view of the storage."""

    def __init__(self, control: Control, client: Client) -> None:
        self._control, self._client = control, client

    def requests(self) -> tuple[Mapping[tuple[str, int], int], int]:
        return self._client.requests, self._client.retries

    def throttled_seconds(self) -> float:
        return self._client.throttle.slow_seconds(time.monotonic())

    def paced_bytes(self) -> int | None:
        bandwidth = self._client.pool.bandwidth
        return bandwidth.moved if bandwidth.on else None

    def delay(self) -> Delay | None:
        """Returns what the job waits for now; None if it makes progress."""
        client = self._client
        if self._control.since is not None:
            return _of_writes(self._control, self._control.since, client)
        if client.pause.on:
            return _of_pause(client)
        return _of_outage(client) or _of_slow_down(client) or _of_silence(client)


def _of_pause(client: Client) -> Delay:
    message = f"paused since {_clock(client.pause.since)}"
    if client.in_flight:
        message += f": operations in flight finish: {_doing(client)}"
    return Delay("paused", client.pause.since, None, message)


def _of_outage(client: Client) -> Delay | None:
    """Returns the delay of an outage: no request has succeeded for a while, and the storage did not ask to
    slow down."""
    outage = client.outage
    if outage.since is None or outage.error is None or not outage.has_lasted(_NOTICED_SECONDS):
        return None
    if outage.error.throttled and client.throttle.slow_since is not None:
        return None
    message = f"retrying: {outage.error.message}; nothing has succeeded since {_clock(outage.since)}"
    if outage.until is not None:
        message += f", the job waits until {_clock(outage.until)}"
    return Delay("storage_down", outage.since, outage.until, message)


def _of_slow_down(client: Client) -> Delay | None:
    now = time.monotonic()
    if client.throttle.slow_since is None:
        return None
    since = time.time() - (now - client.throttle.slow_since)
    taken = client.throttle.taken(now)
    message = (
        f"the storage has asked to slow down since {_clock(since)}: it accepted {taken or 'no'}"
        f" request{'' if taken == 1 else 's'} in the last {TAKEN_SECONDS} s"
    )
    return Delay("slow_down", since, client.outage.until, message)


def _of_silence(client: Client) -> Delay | None:
    """Returns the delay of a silence: requests are in flight, but no byte is transferred."""
    seconds = client.pool.silent_seconds()
    if seconds < _SILENT_SECONDS:
        return None
    since = time.time() - seconds
    return Delay("storage_silent", since, None, f"waiting: the storage has been silent since {_clock(since)}")


def _of_writes(control: Control, since: float, client: Client) -> Delay | None:
    """Returns the delay of a stop that waits for writes in flight."""
    if not client.in_flight:
        return None
    left = control.writes_until() - time.monotonic()
    is_limited = left < float("inf")
    until = time.time() + left if is_limited else None
    word = "cancelling" if control.reason == "cancelled" else f"stopping ({control.reason})"
    long = f"for {time.time() - since:.0f} s"
    if is_limited:
        long += f", {max(0.0, left):.0f} s more at most,"
    message = f"{word}: waiting {long} for operations in flight to finish: {_doing(client)}"
    return Delay("writes_in_flight", since, until, message)


def _clock(when: float) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%H:%M:%S} UTC"


def _doing(client: Client) -> str:
    """Describes the requests in flight: the first one, and the number of others."""
    flight, *others = client.in_flight.values()
    what = f"{_DOING.get(flight.operation, 'checking')} {escape_surrogates(flight.key or client.name)}"
    return f"{what} and {len(others)} more" if others else what
