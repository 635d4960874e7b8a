"""Which jobs of the history are wanted: by state, folder, bucket, mirror, time and a word.

An id begins with the job's time (UTC), so a time becomes the beginning of an id, which stands for all ids
that begin so: `until` a day means until the end of that day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from syncworker.errors import UsageError
from syncworker.jobs.status_cache import Entry
from syncworker.model import State

_ID_BEGINNING = re.compile(r"[0-9]{4,8}|[0-9]{8}T[0-9]{0,6}|[0-9]{8}T[0-9]{6}-[0-9a-f]{0,8}")
_AFTER_ALL = "~"  # sorts behind every character of an id


@dataclass(frozen=True, slots=True)
class JobFilter:
    """None and "" mean all."""

    state: State | None = None
    before: str = ""
    source: str | None = None
    dest: str = ""
    mirror: str = ""
    since: str = ""  # the beginning of an id
    until: str = ""
    q: str = ""

    def takes(self, job_id: str, entry: Entry) -> bool:
        q, texts = self.q.casefold(), (job_id, entry.source, entry.dest, entry.error)
        return (
            (not self.before or job_id < self.before)
            and (self.state is None or entry.state is self.state)
            and (not self.dest or entry.dest == self.dest)
            and (self.source is None or entry.source == self.source)
            and (not self.mirror or entry.mirror == self.mirror)
            and (not self.since or job_id >= self.since)
            and (not self.until or job_id <= self.until + _AFTER_ALL)
            and (not self.q or any(q in text.casefold() for text in texts))
        )


def parse(given: Mapping[str, Any]) -> JobFilter:
    """From the parameters of `/jobs` or the flags of `list`. Raises UsageError that names the wrong one."""
    return JobFilter(
        state=_state(given["state"]) if given.get("state") else None,
        source=given["source"].strip("/") if given.get("source") else None,
        dest=given.get("dest") or "",
        mirror=given.get("mirror") or "",
        since=parse_time("since", given.get("since") or ""),
        until=parse_time("until", given.get("until") or ""),
        q=given.get("q") or "",
    )


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise UsageError("BadState", f"state must be one of {', '.join(State)}", param="state") from None


def parse_time(name: str, text: str) -> str:
    """Turns RFC 3339 with a time zone, a date (UTC), the beginning of an id, or "" into the beginning of an
    id."""
    if not text or _ID_BEGINNING.fullmatch(text):
        return text
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return f"{date.fromisoformat(text):%Y%m%d}"
        if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}", text):
            # A `+` in a query that was not escaped has become a space.
            moment = datetime.fromisoformat(re.sub(r" ([0-9]{2}:?[0-9]{2})$", r"+\1", text.upper()))
            if moment.tzinfo is not None:
                return f"{moment.astimezone(UTC):%Y%m%dT%H%M%S}"
    except (ValueError, OverflowError):
        pass
    raise UsageError(
        "BadTime",
        f"{name} must be a time with its zone (2026-11-22T13:00:00Z), a date, or the beginning of a job's id",
        param=name,
    )
