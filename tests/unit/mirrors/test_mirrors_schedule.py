"""When mirrors run: tables that were written by hand from Debian's cron(8), not from the library that reads
cron lines, and what is due after every mishap of clock, server and destination."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from syncworker.mirrors import schedule
from syncworker.mirrors.memory import Memory
from syncworker.mirrors.schedule import Act, Schedule


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(line: str, zone: str, since: str, until: str) -> list[str]:
    """All times of a cron line in (since, until], as UTC."""
    wanted = Schedule(schedule.parse_cron(line), zone=ZoneInfo(zone))
    found, moment = [], schedule.following(wanted, at(since))
    while moment is not None and moment <= at(until):
        found.append(f"{moment:%m-%d %H:%M}")
        moment = schedule.following(wanted, moment)
    return found


# cron(8) of Debian: jobs at fixed hours run once on both nights, those of the hour that is left out right
# after it; jobs of every hour or minute go by the time that passes.
DST = [
    # Berlin, 29 March 2026: 02:00 +01:00 becomes 03:00 +02:00 at 01:00 UTC.
    ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-30T12:00", ["03-29 01:00", "03-30 00:30"]),
    ("30 3 * * *", "Europe/Berlin", "2026-03-28T12:00", "2026-03-30T12:00", ["03-29 01:30", "03-30 01:30"]),
    (
        "0 * * * *",
        "Europe/Berlin",
        "2026-03-28T23:30",
        "2026-03-29T02:30",
        ["03-29 00:00", "03-29 01:00", "03-29 02:00"],
    ),
    # Berlin, 25 October 2026: 03:00 +02:00 becomes 02:00 +01:00 at 01:00 UTC; 02:30 is there twice.
    ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", "2026-10-26T12:00", ["10-25 00:30", "10-26 01:30"]),
    (
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-10-25T00:00",
        "2026-10-25T01:30",
        ["10-25 00:30", "10-25 01:00", "10-25 01:30"],
    ),
    # New York, 8 March 2026: 02:00 -05:00 becomes 03:00 -04:00 at 07:00 UTC.
    (
        "15 2 * * *",
        "America/New_York",
        "2026-03-07T12:00",
        "2026-03-09T12:00",
        ["03-08 07:00", "03-09 06:15"],
    ),
    # New York, 1 November 2026: 02:00 -04:00 becomes 01:00 -05:00 at 06:00 UTC; 01:15 is there twice.
    (
        "15 1 * * *",
        "America/New_York",
        "2026-10-31T12:00",
        "2026-11-02T12:00",
        ["11-01 05:15", "11-02 06:15"],
    ),
    (
        "0 * * * *",
        "America/New_York",
        "2026-11-01T04:30",
        "2026-11-01T07:30",
        ["11-01 05:00", "11-01 06:00", "11-01 07:00"],
    ),
    # Lord Howe moves by half an hour: 4 October 2026, 02:00 +10:30 becomes 02:30 +11:00
    # at 15:30 UTC of the 3rd.
    (
        "10 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00",
        "2026-10-05T00:00",
        ["10-03 15:30", "10-04 15:10"],
    ),
    # 5 April 2026, 02:00 +11:00 becomes 01:30 +10:30 at 15:00 UTC of the 4th; 01:45 is there twice.
    (
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00",
        "2026-04-06T00:00",
        ["04-04 14:45", "04-05 15:15"],
    ),
]


@pytest.mark.parametrize(("line", "zone", "since", "until", "wanted"), DST)
def test_on_both_nights_of_a_year_each_run_comes_once(
    line: str, zone: str, since: str, until: str, wanted: list[str]
) -> None:
    assert times(line, zone, since, until) == wanted


@pytest.mark.parametrize(("line", "zone", "since", "until", "wanted"), DST)
def test_the_newest_time_is_the_same_from_wherever_it_is_looked_for(
    line: str, zone: str, since: str, until: str, wanted: list[str]
) -> None:
    """Looked back for from every quarter of an hour, each time comes once and in its order."""
    read = Schedule(schedule.parse_cron(line), zone=ZoneInfo(zone))
    found: list[str] = []
    last, now = at(since), at(since)
    while now <= at(until):
        come = schedule.latest(read, last, now)
        if come is not None:
            found.append(f"{come:%m-%d %H:%M}")
            last = come
        now += timedelta(minutes=15)
    assert found == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("0 3 L * *", ["01-31 03:00", "02-28 03:00", "03-31 03:00"]),  # the last day of a month
        ("0 3 * * 5#2", ["01-09 03:00", "02-13 03:00", "03-13 03:00"]),  # the second Friday
        ("0 3 * * 0L", ["01-25 03:00", "02-22 03:00", "03-29 03:00"]),  # the last Sunday
        ("0 3 * jan-mar mon#1", ["01-05 03:00", "02-02 03:00", "03-02 03:00"]),
        ("0 0 13 * 5", ["01-02 00:00", "01-09 00:00", "01-13 00:00"]),  # day of month or day of week, either
        ("@monthly", ["01-01 00:00", "02-01 00:00", "03-01 00:00"]),
        ("30 6 1 */2 *", ["01-01 06:30", "03-01 06:30"]),
        ("0 12 29 2 *", []),  # 2028
        ("0 3 * * 7", ["01-04 03:00", "01-11 03:00", "01-18 03:00"]),  # 7 is Sunday as well
    ],
)
def test_a_cron_line_means_what_debians_cron_means(line: str, wanted: list[str]) -> None:
    assert times(line, "UTC", "2025-12-31T12:00", "2026-03-31T12:00")[: len(wanted) or None][:3] == wanted


@pytest.mark.parametrize(
    "line", ["", "* * * *", "* * * * * *", "60 * * * *", "0 0 31 2 *", "@reboot", "a b c d e"]
)
def test_a_cron_line_that_is_invalid_or_never_comes_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        schedule.parse_cron(line)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("26h", 93_600), ("1d12h", 129_600), ("2w", 1_209_600)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert schedule.parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "15", "m", "0s", "-1m", "1.5h", "400d", "99999999999w", "1 h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        schedule.parse_duration(text)


NIGHTLY = Schedule("0 3 * * *")
QUARTERLY = Schedule(every=timedelta(minutes=15))
SEEN = at("2026-01-01T12:00")

# (what, schedule, last due, retry at, now, busy, waiting) -> (act, last due then, next run)
TABLE = [
    ("first seen at noon", NIGHTLY, None, None, "01-01T12:00", 0, 0, "nothing", None, "01-02T03:00"),
    ("the night comes", NIGHTLY, None, None, "01-02T03:00", 0, 0, "run", "01-02T03:00", "01-03T03:00"),
    (
        "a second later",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-02T03:00:01",
        0,
        0,
        "nothing",
        "01-02T03:00",
        "01-03T03:00",
    ),
    ("busy", NIGHTLY, None, None, "01-02T03:00", 1, 0, "skip", "01-02T03:00", "01-03T03:00"),
    (
        "free again",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-02T05:00",
        0,
        0,
        "nothing",
        "01-02T03:00",
        "01-03T03:00",
    ),
    (
        "server down for a week",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-09T09:00",
        0,
        0,
        "run",
        "01-09T03:00",
        "01-10T03:00",
    ),
    (
        "down, and busy",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-09T09:00",
        1,
        0,
        "skip",
        "01-09T03:00",
        "01-10T03:00",
    ),
    (
        "set back an hour",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-02T02:30",
        0,
        0,
        "nothing",
        "01-02T03:00",
        "01-03T03:00",
    ),
    (
        "that hour again",
        NIGHTLY,
        "01-02T03:00",
        None,
        "01-02T03:00",
        0,
        0,
        "nothing",
        "01-02T03:00",
        "01-03T03:00",
    ),
    (
        "was years ahead",
        NIGHTLY,
        "12-30T03:00",
        None,
        "01-02T02:30",
        0,
        0,
        "nothing",
        "01-02T02:30",
        "01-02T03:00",
    ),
    ("waits for approval", NIGHTLY, "01-02T03:00", None, "01-04T04:00", 0, 1, "nothing", "01-04T03:00", None),
    (
        "was approved",
        NIGHTLY,
        "01-04T03:00",
        None,
        "01-04T05:00",
        0,
        0,
        "nothing",
        "01-04T03:00",
        "01-05T03:00",
    ),
    (
        "to be tried again",
        NIGHTLY,
        "01-02T03:00",
        "01-02T03:09",
        "01-02T03:05",
        0,
        0,
        "nothing",
        "01-02T03:00",
        "01-02T03:09",
    ),
    (
        "tried again",
        NIGHTLY,
        "01-02T03:00",
        "01-02T03:09",
        "01-02T03:09",
        0,
        0,
        "retry",
        "01-02T03:00",
        "01-03T03:00",
    ),
    (
        "tried when free",
        NIGHTLY,
        "01-02T03:00",
        "01-02T03:09",
        "01-02T03:30",
        1,
        0,
        "nothing",
        "01-02T03:00",
        "01-02T03:30",
    ),
    (
        "the next night first",
        NIGHTLY,
        "01-02T03:00",
        "01-03T03:09",
        "01-03T03:20",
        0,
        0,
        "run",
        "01-03T03:00",
        "01-04T03:00",
    ),
    (
        "retry, but it waits",
        NIGHTLY,
        "01-02T03:00",
        "01-02T03:09",
        "01-02T03:30",
        0,
        1,
        "nothing",
        "01-02T03:00",
        None,
    ),
    ("every: never ran", QUARTERLY, None, None, "01-01T12:00", 0, 0, "run", "01-01T12:00", "01-01T12:15"),
    (
        "every: not yet",
        QUARTERLY,
        "01-01T12:00",
        None,
        "01-01T12:14",
        0,
        0,
        "nothing",
        "01-01T12:00",
        "01-01T12:15",
    ),
    (
        "every: on its grid",
        QUARTERLY,
        "01-01T12:00",
        None,
        "01-01T12:15:01",
        0,
        0,
        "run",
        "01-01T12:15",
        "01-01T12:30",
    ),
    (
        "every: slept a night",
        QUARTERLY,
        "01-01T22:00",
        None,
        "01-02T07:07",
        0,
        0,
        "run",
        "01-02T07:00",
        "01-02T07:15",
    ),
    (
        "every: busy",
        QUARTERLY,
        "01-01T12:00",
        None,
        "01-01T12:16",
        1,
        0,
        "skip",
        "01-01T12:15",
        "01-01T12:30",
    ),
    (
        "every: set back",
        QUARTERLY,
        "01-01T12:00",
        None,
        "01-01T09:00",
        0,
        0,
        "nothing",
        "01-01T09:00",
        "01-01T09:15",
    ),
    ("every: waits", QUARTERLY, "01-01T12:00", None, "01-01T13:01", 0, 1, "nothing", "01-01T13:00", None),
    ("by hand", Schedule(), None, None, "01-05T00:00", 0, 0, "nothing", None, None),
    ("by hand, busy", Schedule(), None, None, "01-05T00:00", 1, 0, "nothing", None, None),
]


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_what_runs_when(row: tuple[object, ...]) -> None:
    _, asked, last_due, retry_at, now, busy, waiting, act, then, next_run = row

    def moment(text: object) -> datetime | None:
        return at(f"2026-{text}") if text else None

    assert isinstance(asked, Schedule)
    memory = Memory(SEEN, last_due=moment(last_due), retry_at=moment(retry_at))
    found = schedule.decide(asked, memory, moment(now) or SEEN, busy=bool(busy), waiting=bool(waiting))
    assert (found.act, found.last_due, found.next_run) == (Act(act), moment(then), moment(next_run))


def test_what_was_done_is_never_due_again_whatever_the_clock_does() -> None:
    """A clock that is set back and forth by up to a day, 20,000 looks: no time of the schedule runs twice."""
    import random

    dice = random.Random(7)
    last_due: datetime | None = None
    ran: list[datetime] = []
    true = SEEN
    for _ in range(20_000):
        true += timedelta(minutes=dice.choice([1, 5, 30]))
        shown = true - timedelta(minutes=dice.choice([0, 0, 0, 60, 1200]))
        found = schedule.decide(NIGHTLY, Memory(SEEN, last_due=last_due), shown, busy=False, waiting=False)
        last_due = found.last_due
        if found.act is Act.RUN and last_due is not None:
            ran.append(last_due)
    assert len(ran) > 100
    assert ran == sorted(set(ran))


def test_a_year_of_missed_minutes_is_not_counted_through() -> None:
    import time

    every_minute = Schedule("* * * * *")
    began = time.process_time()
    found = schedule.latest(every_minute, SEEN, SEEN + timedelta(days=3650))
    assert found == SEEN + timedelta(days=3650)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("asked", "after", "until", "now", "wanted"),
    [
        (NIGHTLY, "01-02T03:00", "01-03T03:00", "01-03T03:00:59", 0),  # on time
        (NIGHTLY, "01-02T03:00", "01-03T03:00", "01-03T08:00", 1),
        (NIGHTLY, "01-02T03:00", "01-09T03:00", "01-09T09:00", 7),
        (NIGHTLY, "01-02T03:00", "01-09T03:00", "01-09T03:00:01", 6),  # the newest is met
        (NIGHTLY, "01-02T03:00", "01-09T02:59", "01-09T09:00", 6),  # it is skipped
        (NIGHTLY, "01-02T03:00", "01-02T03:00", "01-02T05:00", 0),
        (QUARTERLY, "01-01T12:00", "01-01T12:15", "01-01T12:15:01", 0),
        (QUARTERLY, "01-01T22:00", "01-02T07:00", "01-02T07:07", 36),
        (Schedule(every=timedelta(seconds=1)), "01-01T12:00", "01-01T12:00:40", "01-01T12:00:40", 0),
        (Schedule("* * * * *"), "01-01T12:00", "12-01T12:00", "12-01T12:02", schedule.MISSED_MOST),
        (
            Schedule(every=timedelta(seconds=1)),
            "01-01T12:00",
            "12-01T12:00",
            "12-01T12:02",
            schedule.MISSED_MOST,
        ),
    ],
)
def test_times_at_which_no_server_ran_are_counted(
    asked: Schedule, after: str, until: str, now: str, wanted: int
) -> None:
    moments = (at(f"2026-{text}") for text in (after, until, now))
    assert schedule.missed(asked, *moments) == wanted


@pytest.mark.parametrize(
    ("first_seen", "last_success", "now", "wanted"),
    [
        ("2026-01-01T00:00", None, "2026-01-02T02:00", False),
        ("2026-01-01T00:00", None, "2026-01-02T02:01", True),  # nothing ran at all
        ("2026-01-01T00:00", "2026-01-05T00:00", "2026-01-06T02:00", False),
        ("2026-01-01T00:00", "2026-01-05T00:00", "2026-01-06T02:01", True),
        ("2026-01-01T00:00", "2026-01-05T00:00", "2026-01-04T23:00", False),  # the clock was set back
        ("2026-01-01T00:00", "2040-01-05T00:00", "2026-01-04T23:00", True),  # it had been years ahead
    ],
)
def test_a_mirror_is_overdue_when_its_last_success_is_too_old(
    first_seen: str, last_success: str | None, now: str, wanted: bool
) -> None:
    memory = Memory(at(first_seen), last_success=at(last_success) if last_success else None)
    assert schedule.is_overdue(timedelta(hours=26), memory, at(now)) is wanted
    assert not schedule.is_overdue(None, memory, at(now))
