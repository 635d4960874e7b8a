"""Notifies people, by POST to the addresses of `notify`, that a mirror failed, waits for approval, is overdue
or has recovered; of each problem once.

- A message is put into the mirror's outbox before it is sent, and leaves it once every address has received
  it: it is sent at least once, whenever the server dies.
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
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from syncworker import __version__
from syncworker.jobs.record import Status
from syncworker.jobs.status import error_code, timestamp
from syncworker.jobs.store import Jobs
from syncworker.mirrors import schedule
from syncworker.mirrors.memory import Memory
from syncworker.mirrors.mirror import Mirror
from syncworker.mirrors.view import time_text
from syncworker.model import State
from syncworker.wire.resolver import is_refused, resolve_any

PAUSES_SECONDS = (2.0, 15.0)  # between the tries
TIMEOUT_SECONDS = 10.0
AT_A_TIME = 8
TELL_AGAIN = timedelta(hours=20)  # a failure that lasts is reported about once a day, not at each retry
WAITING = State.WAITING.value
log = logging.getLogger("syncworker.mirrors")


class Refused(Exception):
    """The host of an address must never be talked to."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one address. `number` is its place in `notify`, from 1, for people."""

    mirror: str
    entry: str
    number: int
    address: str = field(repr=False)  # never in a traceback or a log
    body: bytes = field(repr=False)


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


def post(address: str, body: bytes) -> int:
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
    make_pool = urllib3.HTTPSConnectionPool if is_https else urllib3.HTTPConnectionPool
    tls: dict[str, Any] = {"server_hostname": host, "assert_hostname": host, "cert_reqs": "CERT_REQUIRED"}
    tls = tls if is_https else {}
    last: Exception | None = None
    for _, (ip, _port) in places[:4]:
        with make_pool(ip, port, timeout=TIMEOUT_SECONDS, **tls) as pool:
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


class Sender:
    """Sends in threads, so that slow addresses delay nothing. `results`: deliveries, and whether each was
    sent."""

    def __init__(self) -> None:
        self.results: queue.SimpleQueue[tuple[Delivery, bool]] = queue.SimpleQueue()
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
        for pause in (*PAUSES_SECONDS, None):
            with self._slots:
                reason = self._once(delivery)
            if reason is None:
                return True
            where = f"mirror {delivery.mirror}: notify address {delivery.number}"
            if pause is None:
                log.warning("%s: %s: given up after %d tries", where, reason, len(PAUSES_SECONDS) + 1)
            else:
                log.warning("%s: %s: next try in %g s", where, reason, pause)
                time.sleep(pause)
        return False

    def _once(self, delivery: Delivery) -> str | None:
        """None: sent; else why not, without an address."""
        try:
            status = post(delivery.address, delivery.body)
        except Refused as error:
            return f"refused: {error}"
        except Exception as error:  # noqa: BLE001 - of a library, whose text quotes the address
            return type(error).__name__
        return None if 200 <= status < 300 else f"HTTP status {status}"


class News:
    """Records in each mirror's memory what was reported; the sender's threads deliver messages. `counts`: the
    deliveries since this server started, by result."""

    def __init__(self, jobs: Jobs) -> None:
        self.counts = {"sent": 0, "failed": 0}
        self._jobs = jobs
        self._sender = Sender()
        self._in_flight: set[tuple[str, str, str]] = set()  # mirror, entry, digest

    def note_success(self, mirror: Mirror, memory: Memory, job_id: str, now: datetime) -> None:
        memory.retry_at, memory.retries = None, 0
        if memory.told:
            memory.told.clear()
            self._tell(mirror, memory, "recovered", "the last run ended well", job_id, now)

    def note_failure(self, mirror: Mirror, memory: Memory, status: Status, now: datetime) -> None:
        if status["id"] == memory.scheduled and memory.retries < mirror.retries:
            pauses = schedule.RETRY_PAUSES
            memory.retry_at = now + pauses[min(memory.retries, len(pauses) - 1)]
        code, told = str(error_code(status)), memory.told.get("failed") or {}
        at = told.get("at")
        if told.get("code") == code and at and now - datetime.fromisoformat(at) < TELL_AGAIN:
            return
        memory.told["failed"] = {"at": timestamp(now), "code": code}
        again = f"; it is tried again at {timestamp(memory.retry_at)}" if memory.retry_at else ""
        text = f"{_reason(status)} ({code}){again}"
        self._tell(mirror, memory, "failed", text, status["id"], now)

    def note_waiting(self, mirror: Mirror, memory: Memory, status: Status, now: datetime) -> None:
        which = f"{status['id']} {status['attempt']}"
        if memory.told.get(WAITING) == which:
            return
        memory.told[WAITING] = which
        text = f"{_reason(status)}; its schedule stops until job {status['id']} is approved or cancelled"
        self._tell(mirror, memory, WAITING, text, status["id"], now)

    def note_age(self, mirror: Mirror, memory: Memory, now: datetime) -> None:
        if not schedule.is_overdue(mirror.max_age, memory, now):
            memory.told.pop("overdue", None)
            return
        if "overdue" in memory.told:
            return
        memory.told["overdue"] = timestamp(now)
        last = memory.last_success
        since = f"the last success was at {timestamp(last)}" if last else "there has been no success yet"
        newest = memory.runs[-1] if memory.runs else None
        ran = f"the last run was {newest['id']}, {newest['state']}" if newest else "nothing has run"
        self._tell(mirror, memory, "overdue", f"{since}; {ran}", newest["id"] if newest else None, now)

    def _tell(
        self, mirror: Mirror, memory: Memory, event: str, text: str, job_id: str | None, now: datetime
    ) -> None:
        log.warning("mirror %s: %s: %s", mirror.name, event, text)
        if not mirror.notify:
            return
        entry = {
            "id": f"{event} {timestamp(now)}",
            "event": event,
            "text": text,
            "job": job_id,
            "at": timestamp(now),
            "last_success_at": time_text(memory.last_success),
            "left": [digest(address) for address in mirror.notify],
        }
        memory.outbox = [*memory.outbox, entry][-100:]

    def send(self, mirror: Mirror, memory: Memory) -> None:
        addresses = {digest(each): (n, each) for n, each in enumerate(mirror.notify, 1)}
        for entry in memory.outbox:
            entry["left"] = [each for each in entry["left"] if each in addresses]
            for receiver in entry["left"]:
                place = (mirror.name, entry["id"], receiver)
                if place in self._in_flight:
                    continue
                self._in_flight.add(place)
                number, address = addresses[receiver]
                more = {name: entry[name] for name in ("job", "at", "last_success_at")}
                body = message(entry["event"], mirror.name, entry["text"], **more)
                self._sender.deliver(Delivery(mirror.name, entry["id"], number, address, body))
        memory.outbox = [entry for entry in memory.outbox if entry["left"]]

    def take_results(self, memory_of: Callable[[str], Memory | None]) -> None:
        """Records the deliveries. `memory_of` returns None for a mirror that is no longer in the file."""
        while not self._sender.results.empty():
            done, sent = self._sender.results.get()
            receiver = digest(done.address)
            self._in_flight.discard((done.mirror, done.entry, receiver))
            self.counts["sent" if sent else "failed"] += 1
            memory = memory_of(done.mirror)
            for entry in memory.outbox if memory is not None else ():
                if entry["id"] == done.entry:
                    entry["left"] = [each for each in entry["left"] if each != receiver]
                    if sent and entry["job"]:
                        self._jobs.note_notified(entry["job"])


def _reason(status: Status) -> str | None:
    error = status.get("error")
    return (error and error.get("message")) or status.get("message")
