"""What people are told about their mirrors: failed, waiting, overdue, recovered; each problem once.

A message is put into the mirror's outbox before it is sent, and leaves it once every address has received it:
it is sent at least once, whenever the server dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from syncworker.jobs.record import Status
from syncworker.jobs.status import error_code, timestamp
from syncworker.jobs.store import Jobs
from syncworker.mirrors import notify, schedule
from syncworker.mirrors.memory import Memory
from syncworker.mirrors.mirror import Mirror
from syncworker.mirrors.view import is_overdue, time_text
from syncworker.model import State

TELL_AGAIN = timedelta(hours=20)  # a failure that lasts is reported about once a day, not at each retry
WAITING = State.WAITING.value
log = logging.getLogger("syncworker.mirrors")


@dataclass(slots=True)
class Counts:
    """Since this server started."""

    sent: int = 0
    failed: int = 0


class News:
    """Records in each mirror's memory what was reported; the sender's threads deliver messages."""

    def __init__(self, jobs: Jobs, sender: notify.Sender) -> None:
        self.counts = Counts()
        self._jobs = jobs
        self._sender = sender
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
        if not is_overdue(mirror, memory, now):
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
            "left": [notify.digest(address) for address in mirror.notify],
        }
        memory.outbox = [*memory.outbox, entry][-100:]

    def send(self, mirror: Mirror, memory: Memory) -> None:
        addresses = {notify.digest(each): (n, each) for n, each in enumerate(mirror.notify, 1)}
        for entry in memory.outbox:
            entry["left"] = [each for each in entry["left"] if each in addresses]
            for digest in entry["left"]:
                place = (mirror.name, entry["id"], digest)
                if place in self._in_flight:
                    continue
                self._in_flight.add(place)
                number, address = addresses[digest]
                more = {name: entry[name] for name in ("job", "at", "last_success_at")}
                body = notify.message(entry["event"], mirror.name, entry["text"], **more)
                self._sender.deliver(notify.Delivery(mirror.name, entry["id"], number, address, body))
        memory.outbox = [entry for entry in memory.outbox if entry["left"]]

    def take_results(self, memory_of: Callable[[str], Memory | None]) -> None:
        """Records the deliveries. `memory_of` returns None for a mirror that is no longer in the file."""
        while not self._sender.results.empty():
            done, sent = self._sender.results.get()
            digest = notify.digest(done.address)
            self._in_flight.discard((done.mirror, done.entry, digest))
            self.counts.sent += sent
            self.counts.failed += not sent
            memory = memory_of(done.mirror)
            for entry in memory.outbox if memory is not None else ():
                if entry["id"] == done.entry:
                    entry["left"] = [each for each in entry["left"] if each != digest]
                    if sent and entry["job"]:
                        self._jobs.note_notified(entry["job"])


def _reason(status: Status) -> str | None:
    error = status.get("error")
    return (error and error.get("message")) or status.get("message")
