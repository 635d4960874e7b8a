"""Notifies people, by POST to the addresses of `notify`, that a mirror failed, waits for approval, is overdue
or has recovered.

- An address is a secret: it is never in a message, a log or an error; `digest` stands for it in files.
- No redirect is followed. The host is resolved once; all its IP addresses are checked, and these are
  connected to. Link-local addresses and those of metadata services are refused, as for a storage.
- Three tries, with growing pauses. Only an answer of 2xx is a success. A failure never affects a job.
- The body is JSON in which Slack, Mattermost, Discord, Gotify, Teams and ntfy's templates find their fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from syncworker import __version__
from syncworker.wire.resolver import is_refused, resolve_any

TRIES = 3
PAUSES_SECONDS = (2.0, 15.0)
TIMEOUT_SECONDS = 10.0
AT_A_TIME = 8
log = logging.getLogger("syncworker.mirrors")


class Refused(Exception):
    """The host of an address must never be talked to."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one address. `number` is its place in `notify`, from 1, for people."""

    mirror: str
    entry: str
    number: int
    address: str
    body: bytes

    def __repr__(self) -> str:  # never an address in a traceback or a log
        return f"Delivery({self.mirror}, {self.entry}, {self.number})"


def digest(address: str) -> str:
    """Stands for an address in a file."""
    return hashlib.sha256(address.encode()).hexdigest()[:24]


def message(event: str, mirror: str, text: str, **more: Any) -> bytes:
    """Returns the body. `text`, `content` and `message` say the same: receivers read different ones."""
    title = f"mirror {mirror}: {event}"
    words = f"{title}\n{text}"
    value = {
        "event": event,
        "mirror": mirror,
        "title": title,
        "text": words,
        "content": words,
        "message": text,
    }
    return json.dumps(value | more).encode()


def post(address: str, body: bytes, timeout_seconds: float = TIMEOUT_SECONDS) -> int:
    """Sends and returns the status of the answer. Raises OSError, Refused or urllib3's errors."""
    import urllib3  # costs memory, and few servers notify anybody

    parts = urlsplit(address)
    host, is_https = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_https else 80)
    places = resolve_any(host, port)
    if any(is_refused(place[0]) for _, place in places):
        raise Refused("a link-local, multicast or unspecified address")
    headers = {
        "Host": parts.netloc.rpartition("@")[2],
        "Content-Type": "application/json",
        "User-Agent": f"s3-sync-api/{__version__}",
    }
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers |= urllib3.make_headers(basic_auth=login)
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    timeout = urllib3.Timeout(connect=timeout_seconds, read=timeout_seconds)
    make_pool = urllib3.HTTPSConnectionPool if is_https else urllib3.HTTPConnectionPool
    tls: dict[str, Any] = {"server_hostname": host, "assert_hostname": host, "cert_reqs": "CERT_REQUIRED"}
    tls = tls if is_https else {}
    last: Exception | None = None
    for _, (ip, _port) in places[:4]:
        with make_pool(ip, port, timeout=timeout, **tls) as pool:
            try:
                answer = pool.urlopen(
                    "POST", target, body, headers, retries=False, redirect=False, preload_content=False
                )
            except urllib3.exceptions.NewConnectionError as error:  # the next address may answer
                last = error
                continue
            status = int(answer.status)
            answer.close()
            return status
    raise last or OSError("no address")


def why(error: Exception) -> str:
    """Describes a failure without an address: only its kind."""
    return f"refused: {error}" if isinstance(error, Refused) else type(error).__name__


class Sender:
    """Sends in threads, so that slow addresses delay nothing. `results`: deliveries, and whether each was
    sent."""

    def __init__(
        self,
        send: Callable[[str, bytes], int] = post,
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self.results: queue.SimpleQueue[tuple[Delivery, bool]] = queue.SimpleQueue()
        self._send, self._pauses, self._sleep = send, pauses_seconds, sleep
        self._slots = threading.BoundedSemaphore(AT_A_TIME)

    def deliver(self, delivery: Delivery) -> None:
        threading.Thread(target=self._run, args=(delivery,), name="notify", daemon=True).start()

    def _run(self, delivery: Delivery) -> None:
        sent = False
        try:
            sent = self._try(delivery)
        finally:  # whatever went wrong: it is counted, and does not hold up the next message
            self.results.put((delivery, sent))

    def _try(self, delivery: Delivery) -> bool:
        for pause in (*self._pauses[: TRIES - 1], None):
            with self._slots:
                reason = self._once(delivery)
            if reason is None:
                return True
            where = f"mirror {delivery.mirror}: notify address {delivery.number}"
            if pause is None:
                log.warning("%s: %s: given up after %d tries", where, reason, TRIES)
            else:
                log.warning("%s: %s: tried again in %g s", where, reason, pause)
                self._sleep(pause)
        return False

    def _once(self, delivery: Delivery) -> str | None:
        """None: sent; else why not."""
        try:
            status = self._send(delivery.address, delivery.body)
        except Exception as error:  # noqa: BLE001 - of a library, whose text quotes the address
            return why(error)
        return None if 200 <= status < 300 else f"HTTP status {status}"
