"""A year of ten mirrors behind a real server whose clock is the test's, and a night on which each of ten goes
wrong in another way."""

from __future__ import annotations

import calendar
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import serving
from bench import Service, contents, tree, wait_for
from stores import Store
from test_mirrors import Nightly, Receiver

from syncworker.jobs import cleanup
from syncworker.jobs import store as jobs
from syncworker.mirrors.file import MirrorFile
from syncworker.mirrors.keeper import Keeper
from syncworker.model import State
from syncworker.service.supervisor import Supervisor

pytestmark = pytest.mark.long


BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
BERLIN, NEW_YORK, LORD_HOWE, TOKYO = map(
    ZoneInfo, ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo")
)


# -- what Debian's cron would do, from the calendar and cron(8) alone ----------------------------------------


def days() -> Iterator[date]:
    day = BEGIN.date() - timedelta(days=1)
    while day <= END.date():
        yield day
        day += timedelta(days=1)


def at(day: date, hour: int, minute: int, zone: ZoneInfo) -> datetime:
    """A fixed hour: once a day; where the clock leaves it out, right after that; the first of two."""
    local = datetime.combine(day, clock_time(hour, minute), zone)
    if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return local.astimezone(UTC)
    while local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != local.replace(tzinfo=None):
        local += timedelta(minutes=1)  # by the clock on the wall
    return local.astimezone(UTC)


def fixed(
    zone: ZoneInfo, hour: int, minute: int, holds: Callable[[date], bool] = lambda _: True
) -> list[datetime]:
    return [moment for day in days() if holds(day) and BEGIN < (moment := at(day, hour, minute, zone)) <= END]


def last_of_month(day: date) -> bool:
    return day.day == calendar.monthrange(day.year, day.month)[1]


# name: (what stands in the file, when it runs)
YEAR: dict[str, tuple[str, list[datetime]]] = {
    # Clocks there move by half an hour, from 2:00 to 2:30 and back.
    "nightly": ("cron = '10 2 * * *'\ntimezone = 'Australia/Lord_Howe'", fixed(LORD_HOWE, 2, 10)),
    "left-out": ("cron = '30 2 * * *'\ntimezone = 'Europe/Berlin'", fixed(BERLIN, 2, 30)),
    "twice": ("cron = '30 1 * * *'\ntimezone = 'America/New_York'", fixed(NEW_YORK, 1, 30)),
    "workdays": (
        "cron = '15 4 * * mon-fri'\ntimezone = 'Asia/Tokyo'",
        fixed(TOKYO, 4, 15, lambda day: day.weekday() < 5),
    ),
    "weekly": (
        "cron = '@weekly'\ntimezone = 'UTC'",
        fixed(ZoneInfo("UTC"), 0, 0, lambda day: day.weekday() == 6),
    ),
    "month-end": ("cron = '50 23 L * *'\ntimezone = 'Europe/Berlin'", fixed(BERLIN, 23, 50, last_of_month)),
    "second-friday": (
        "cron = '0 6 * * 5#2'\ntimezone = 'America/New_York'",
        fixed(NEW_YORK, 6, 0, lambda day: day.weekday() == 4 and 8 <= day.day <= 14),
    ),
    "either": (  # day of month or day of week, as neither begins with a star
        "cron = '0 12 13 * 5'\ntimezone = 'UTC'",
        fixed(ZoneInfo("UTC"), 12, 0, lambda day: day.day == 13 or day.weekday() == 4),
    ),
    "every": ("every = '1d12h'", [BEGIN + timedelta(hours=36) * n for n in range(244)]),
    "by-hand": ("", []),
}


class Year:
    """A keeper by a clock of ours, and workers that are done at once."""

    def __init__(self, base: Path) -> None:
        self.now = BEGIN
        self.ran: dict[str, list[datetime]] = {name: [] for name in YEAR}
        config = serving.load(base, KEEP_JOBS="40")
        self.jobs = jobs.Jobs(config.jobs_dir)
        self.jobs.prepare()
        self.supervisor = Supervisor(config, self.jobs, serving.Workers(base).spawn)
        text = "".join(f"[{n}]\nsource = 'a'\ndest = 'b-{n}'\n{asked}\n" for n, (asked, _) in YEAR.items())
        Path(config.mirrors_file).write_text(text)
        file = MirrorFile(config.mirrors_file, config, dict)
        self.keeper = Keeper(config, self.supervisor, file, clock=lambda: self.now)

    def step(self) -> None:
        self.keeper.tick()
        for status in self.jobs.active():
            self.ran[status["mirror"]].append(self.now)
            self.jobs.finish(status, State.DONE, None, "done")
        cleanup.prune(self.jobs, 40)
        following = [
            datetime.fromisoformat(view["next_run_at"])
            for view in self.keeper.overview()["mirrors"]
            if view["next_run_at"]
        ]
        self.now = max(min(following), self.now + timedelta(seconds=1))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory: each of thousands of statuses is made durable, and a shared disk takes its time."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


@pytest.mark.timeout(600)
def test_a_year_of_ten_mirrors_starts_exactly_what_cron_would(memory: Path) -> None:
    """Both nights on which clocks move, in three zones, among them; within a minute."""
    year = Year(memory)
    began = time.monotonic()
    while year.now <= END:
        year.step()
    for name, (_, wanted) in YEAR.items():
        assert year.ran[name] == [moment for moment in wanted if moment <= END], name
    total, took = sum(map(len, year.ran.values())), time.monotonic() - began
    print(f"a year of {total} runs in {took:.0f} s")
    assert took < 60
    assert total > 1500
    kept = json.loads((Path(year.jobs.path) / ".mirrors.json").read_text())["mirrors"]
    assert {len(memory["runs"]) for name, memory in kept.items() if name in ("nightly", "every")} == {30}
    assert {memory["skipped"] for memory in kept.values()} == {0}


# -- a night on which everything goes wrong ------------------------------------------------------------------


def test_each_of_ten_mirrors_goes_wrong_in_another_way_and_is_told_once(
    make_service: Callable[..., Service], juicefs: Store, tmp_path: Path
) -> None:
    receiver = Receiver()
    path = tmp_path / "mirrors.toml"
    wrong = {"WRONG_ACCESS_KEY": juicefs.access_key, "WRONG_SECRET_KEY": "not-the-secret-key"}
    service = make_service(
        juicefs, start=False, MIRRORS_FILE=str(path), BUCKET_DELETE="refuse", MAX_RUNNING_JOBS="12", **wrong
    )
    nightly = Nightly(service, path)
    night = {  # name: (folder, more lines, event, code)
        "unreadable": ("unreadable", "", "failed", None),
        "wrong-key": ("good", "keys = 'WRONG'", "failed", "SignatureDoesNotMatch"),
        "nobody-there": ("good", "storage_url = 'http://127.0.0.1:9'\nkeys = 'WRONG'", "failed", None),
        "link-local": ("good", "storage_url = 'http://169.254.169.254'\nkeys = 'WRONG'", "failed", None),
        "empty": ("missing", "", "failed", "BucketDeleteRefused"),
        "dangling": ("dangling", "", "failed", "SourceDangling"),
        "a-file": ("file", "", "failed", "SourceNotADirectory"),
        "no-profile": ("good", "profile = 'there-is-none'", "failed", "NoCredentials"),
        "never-ran": ("good", "max_age = '3s'", "overdue", None),
        "killed": ("slow", "wait = 3600\nmax_age = '8s'", "overdue", None),
    }
    tree(service.uploads, {"good": {"a": 1}, "unreadable": {"a": 1}, "file": 1, "slow": {"a": 1, "b": 1}})
    (service.uploads / "unreadable" / "closed").mkdir(mode=0)
    os.symlink("nothing", service.uploads / "dangling")
    text = ""
    for name, (folder, more, _, _) in night.items():
        every = "" if name == "never-ran" else "every = '1h'\n"
        text += f"[{name}]\nsource = '{folder}'\ndest = 'night-{name}'\nretries = 0\n{every}{more}\n"
        text += f"notify = ['{receiver.url(f'hook/{name}')}']\n\n"
    nightly.write(text)
    try:
        service.start()
        assert service.get("/mirrors").json()["mistakes"] == []
        killed = nightly.wait("killed", lambda view: view["last_state"] == "running")["last_job"]
        wait_for(lambda: service.show(killed)["progress"]["files_uploaded"] == 1, 30, "its first file")
        os.kill(service.show(killed)["pid"], signal.SIGKILL)
        wait_for(lambda: len(receiver.seen) >= len(night), 90, "ten messages")
        time.sleep(3)
        assert Counter(receiver.events()) == Counter(
            (name, event) for name, (_, _, event, _) in night.items()
        )
        for hook, body in receiver.seen:
            name = body["mirror"]
            assert hook == f"/hook/{name}"
            code = night[name][3]
            assert code is None or f"({code})" in body["text"], body
            job = service.show(body["job"]) if body["job"] else None
            assert job is None or job["mirror"] == name
            assert (job is None) == (name == "never-ran")
        said = json.dumps([body for _, body in receiver.seen]) + service.output()
        assert "not-the-secret-key" not in said
        _mend_and_recover(nightly, service, juicefs, receiver)
    finally:
        receiver.close()


def _mend_and_recover(nightly: Nightly, service: Service, store: Store, receiver: Receiver) -> None:
    """What is mended is told of, once, and of nothing else."""
    (service.uploads / "unreadable" / "closed").rmdir()
    before = len(receiver.seen)
    for name in ("unreadable", "never-ran"):
        started: dict[str, Any] = service.get("/sync", mirror=name).json()
        assert service.wait_state(started["id"])["state"] == "done"
        assert contents(store, f"night-{name}").keys() == {"a"}
    wait_for(lambda: len(receiver.seen) >= before + 2, 20, "two messages")
    assert sorted(receiver.events()[before:]) == [("never-ran", "recovered"), ("unreadable", "recovered")]
