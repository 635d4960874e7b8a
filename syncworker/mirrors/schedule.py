"""When a mirror runs: pure functions of its schedule, the time and what is remembered. They read no clock.

`decide` is this table; the first row that matches applies:

| what | then |
| --- | --- |
| no schedule | nothing |
| the mirror's last job is `waiting` | nothing runs, and times that come until it ends are passed over |
| a time of the schedule has come, the destination is busy | skipped and counted |
| a time has come (several: the newest; missed ones are one) | a run |
| a retry has come, the destination is busy | nothing: it comes when the destination is free |
| a retry has come | a run |

`last_due` is the newest time that was handled. It only moves forward, so a clock that is set back starts
nothing twice; a `last_due` more than a day ahead comes from a wrong clock, and is dropped. All runs that were
missed while no server ran or the machine slept become one run: only the newest time counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from itertools import islice, takewhile

from cronsim import CronSim, CronSimError

from syncworker.mirrors.memory import Memory

RETRY_PAUSES = (timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=60))
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_CLOCK_WAS_WRONG = timedelta(days=1)
MISSED_MOST = 1000  # counted at once: counting a year of minutes would take long
_PUNCTUAL = timedelta(minutes=1)
# How far to look back for the newest time that has come: the shortest window that holds one, instead of all
# minutes of a missed year.
_WINDOWS = tuple(timedelta(hours=hours) for hours in (1, 25, 24 * 32, 24 * 367))


@dataclass(frozen=True, slots=True)
class Schedule:
    """`cron` (a line of five fields, in the time zone `zone`) or `every`, or neither."""

    cron: str | None = None
    every: timedelta | None = None
    zone: tzinfo = UTC


class Act(StrEnum):
    NOTHING = "nothing"
    RUN = "run"
    RETRY = "retry"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Decision:
    """`last_due` is to be remembered; `next_run` is when the mirror runs next, None: never by itself."""

    act: Act
    last_due: datetime | None
    next_run: datetime | None


def parse_duration(text: str) -> timedelta:
    """`90s`, `15m`, `26h`, `1d12h`, `2w`. ValueError says what is expected."""
    if not re.fullmatch(r"(?:[0-9]{1,9}[smhdw])+", text):
        raise ValueError("must be a number and a unit, s, m, h, d or w: 15m, 26h, 1d12h")
    seconds = sum(int(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if not 1 <= seconds <= 366 * 86_400:
        raise ValueError("must be from one second to a year")
    return timedelta(seconds=seconds)


def parse_cron(text: str) -> str:
    """A line as Debian's cron reads it, with `L` and `#` besides. ValueError says what is wrong."""
    line = _MACROS.get(text.strip().lower(), text.strip())
    if line.startswith("@"):
        raise ValueError(f"there is no {text.strip()}: @hourly, @daily, @weekly, @monthly or @yearly")
    if len(line.split()) != 5:
        raise ValueError("must be five fields: minute, hour, day of month, month, day of week")
    try:
        next(CronSim(line, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(str(error).lower()) from None
    except StopIteration:
        raise ValueError("names a day that never comes") from None
    return line


def following(schedule: Schedule, after: datetime) -> datetime | None:
    """The first time of a cron line after a moment; of `every`, one interval later."""
    if schedule.every is not None:
        return after + schedule.every
    return next(_times(schedule, after), None)


def latest(schedule: Schedule, after: datetime, now: datetime) -> datetime | None:
    """The newest time of a schedule in (after, now]; None: none has come."""
    if now <= after:
        return None
    if schedule.every is not None:
        count = (now - after) // schedule.every
        return after + count * schedule.every if count else None
    for window in (*_WINDOWS, now - after):
        start = max(after, now - window)
        newest = max(takewhile(lambda moment: moment <= now, _times(schedule, start)), default=None)
        if newest is not None or start == after:
            return newest
    return None


def missed(schedule: Schedule, after: datetime, until: datetime, now: datetime) -> int:
    """Counts the scheduled times in (after, until] at which no run started within a minute, as seen at `now`:
    no server ran, or the machine slept."""
    until = min(until, now - _PUNCTUAL)
    if until <= after:
        return 0
    if schedule.every is not None:
        return min((until - after) // schedule.every, MISSED_MOST)
    times = takewhile(lambda moment: moment <= until, _times(schedule, after))
    return sum(1 for _ in islice(times, MISSED_MOST))


def _times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Times of a cron line after a moment, each once: the clock of a zone shows some hours twice."""
    if schedule.cron is None:
        return
    newest = after
    for local in CronSim(schedule.cron, after.astimezone(schedule.zone)):
        moment = local.astimezone(UTC)
        if moment > newest:
            newest = moment
            yield moment


def decide(schedule: Schedule, memory: Memory, now: datetime, *, busy: bool, waiting: bool) -> Decision:
    """Decides what to do now; the table above."""
    last_due = memory.last_due if schedule.cron or schedule.every else None
    if last_due is not None and last_due > now and (schedule.every or last_due - now > _CLOCK_WAS_WRONG):
        last_due = now  # of `every`: an interval from now at the latest, whatever the clock had shown
    if schedule.every and last_due is None:
        come: datetime | None = now  # it never ran
    else:
        come = latest(schedule, last_due or min(memory.first_seen, now), now)
    if come is None:
        next_run = following(schedule, max(now, last_due) if schedule.cron and last_due else last_due or now)
    else:
        last_due, next_run = come, following(schedule, come)
        while next_run is not None and next_run <= now:
            next_run = following(schedule, next_run)
    if waiting:
        return Decision(Act.NOTHING, last_due, None)
    if come is not None:
        return Decision(Act.SKIP if busy else Act.RUN, come, next_run)
    if memory.retry_at is None:
        return Decision(Act.NOTHING, last_due, next_run)
    if memory.retry_at <= now and not busy:
        return Decision(Act.RETRY, last_due, next_run)
    soonest = max(memory.retry_at, now)
    return Decision(Act.NOTHING, last_due, min(soonest, next_run) if next_run else soonest)


def is_overdue(max_age: timedelta | None, memory: Memory, now: datetime) -> bool:
    """Returns whether the newest success, or else the first sight of the mirror, is older than `max_age`. A
    success more than a day in the future came from a wrong clock and does not count."""
    last_success = memory.last_success
    if last_success is not None and last_success - now > _CLOCK_WAS_WRONG:
        last_success = None
    return max_age is not None and now - (last_success or memory.first_seen) > max_age
