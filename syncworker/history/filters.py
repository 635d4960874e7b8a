"""Which jobs of the history are wanted: by state, folder, bucket, mirror, time and a word.

Times are told by ids, which begin with theirs (UTC): what is given as a time becomes the beginning of an id,
and a beginning stands for all ids that have it: `until` a day is until that day's end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
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
        return (
            (not self.before or job_id < self.before)
            and (self.state is None or entry.state is self.state)
            and (not self.dest or entry.dest == self.dest)
            and (self.source is None or entry.source == self.source)
            and (not self.mirror or entry.mirror == self.mirror)
            and (not self.since or job_id >= self.since)
            and (not self.until or job_id <= self.until + _AFTER_ALL)
            and (not self.q or _holds(self.q.casefold(), (job_id, entry.source, entry.dest, entry.error)))
        )


def _holds(word: str, texts: tuple[str, ...]) -> bool:
    return any(word in text.casefold() for text in texts)


def parse(given: Mapping[str, Any]) -> JobFilter:
    """From the parameters of `/jobs` and the flags of `list`. Raises UsageError naming the one at fault."""
    return JobFilter(
        state=_parsed("state", given, _state),
        source=given["source"].strip("/") if given.get("source") else None,
        dest=given.get("dest") or "",
        mirror=given.get("mirror") or "",
        since=_parsed("since", given, parse_time) or "",
        until=_parsed("until", given, parse_time) or "",
        q=given.get("q") or "",
    )


def _parsed(name: str, given: Mapping[str, Any], parse: Callable[[str, str], Any]) -> Any:
    return parse(name, given[name]) if given.get(name) else None


def _state(_name: str, text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise UsageError("BadState", f"state must be one of {', '.join(State)}", param="state") from None


def parse_time(name: str, text: str) -> str:
    """RFC 3339 with a time zone, a date (UTC), or the beginning of an id, as the beginning of an id."""
    if _ID_BEGINNING.fullmatch(text):
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
