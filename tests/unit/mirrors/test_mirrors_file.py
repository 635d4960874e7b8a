"""`mirrors.toml`: what is taken, and each mistake with its line."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import serving

from syncworker.mirrors import file, mirror
from syncworker.mirrors.file import MirrorFile
from syncworker.mirrors.memory import Memories

ENVIRON = {
    "OFFSITE_ACCESS_KEY": "AKIDOFF",
    "OFFSITE_SECRET_KEY": "very-secret",
    "HALF_ACCESS_KEY": "AKIDHALF",
}
WHOLE = """\
# every night
[photos]
source = "photos"
dest = "photo-archive"
prefix = "vm1"
exclude = ["*.tmp", "!keep.tmp"]
delete = false
wait = 0.5
cron = "0 3 * * *"
timezone = "Europe/Berlin"
max_age = "26h"
retries = 1
notify = ["https://hooks.example.com/T0/secret-path"]

[offsite]
source = "photos"
dest = "photo-archive"
storage_url = "https://s3.example.com"
keys = "OFFSITE"
every = "15m"
watch = true
"""


def parse(tmp_path: Path, text: str) -> file.Contents:
    return file.parse(text, serving.load(tmp_path), ENVIRON)


def test_a_mirror_is_taken_with_all_that_it_may_say(tmp_path: Path) -> None:
    found = parse(tmp_path, WHOLE)
    assert found.mistakes == ()
    photos, offsite = found.mirrors["photos"], found.mirrors["offsite"]
    assert photos.asked == {"prefix": "vm1", "exclude": "*.tmp\n!keep.tmp", "delete": "0", "wait": "0.5"}
    assert (photos.max_age, photos.retries, photos.watch) == (timedelta(hours=26), 1, False)
    assert (photos.schedule.cron, str(photos.schedule.zone)) == ("0 3 * * *", "Europe/Berlin")
    assert (offsite.schedule.every, offsite.retries, offsite.watch) == (timedelta(minutes=15), 3, True)
    request = offsite.request(serving.load(tmp_path))
    assert (request.mirror, request.keys) == ("offsite", ("AKIDOFF", "very-secret", None))
    assert photos.request(serving.load(tmp_path)).options == {
        "prefix": "vm1/",
        "exclude": ["*.tmp", "!keep.tmp"],
        "delete": 0,
    }


def test_no_secret_is_in_how_a_mirror_is_shown(tmp_path: Path) -> None:
    shown = repr(parse(tmp_path, WHOLE))
    assert "very-secret" not in shown
    assert "secret-path" not in shown


MISTAKES = [
    ("[a]\nsource = 'x'\ndest = 'aaa'\nsorce = 'x'", 4, "there is no sorce"),
    ("[a]\nsource = 'x'\n", 1, "dest is missing"),
    ("[a]\ndest = 'aaa'\n", 1, "source is missing"),
    ("[a]\nsource = ''\ndest = 'aaa'\n", 1, "source is missing"),
    ("\n[Photos]\nsource = 'x'\ndest = 'aaa'", 2, "lower-case"),
    (f"[{'a' * 41}]\nsource = 'x'\ndest = 'aaa'", 1, "1 to 40"),
    ("source = 'x'", 1, "belongs in the table"),
    ("[a]\nsource = 'x'\ndest = 'a'", 3, "dest must be a bucket name"),
    ("[a]\nsource = '../x'\ndest = 'aaa'", 2, "must not contain"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nwait = 5000", 4, "wait must be"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nexclude = \"a\\nb\"", 4, "without line ends"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ninclude = ['!a']", 4, "include"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nprefix = ['a']", 4, "prefix must be text"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nforget_mounts = 1", 4, "acts once"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nsecret_key = 'hunter2'", 4, "do not write keys into this file"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nkeys = 'NONE'", 4, "NONE_ACCESS_KEY and NONE_SECRET_KEY must be set"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nkeys = 'HALF'", 4, "HALF_SECRET_KEY must be set"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nkeys = 'OFFSITE'\nprofile = 'x'", 5, "one of them"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nstorage_url = 'https://s3.example.com'", 4, "needs keys or profile"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ncron = '0 3 * * *'\nevery = '1h'", 5, "one of them"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ncron = '0 25 * * *'", 4, "bad hour"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ncron = '0 0 31 2 *'", 4, "cron"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nevery = 'often'", 4, "every must be a number and a unit"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ntimezone = 'Europe/Atlantis'", 4, "no such time zone"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ntimezone = '../../etc/passwd'", 4, "no such time zone"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nwatch = 'yes'", 4, "true or false"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nmax_age = 26", 4, "max_age must be text"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nretries = -1", 4, "retries must be"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\nnotify = ['mailto:hunter2']", 4, "http:// or https://"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\n\n[b]\nsource = 'y'\ndest = 'aaa'", 5, "destination of [a]"),
    (
        "[a]\nsource = 'x'\ndest = 'aaa'\nprefix = 'p'\n[b]\nsource = 'y'\ndest = 'aaa'\nprefix = 'p/q'",
        5,
        "[a]",
    ),
    (
        "[a]\nsource = 'x'\ndest = 'aaa'\n[b]\nsource = 'y'\ndest = 'aaa'\nstorage_url = 'http://localhost:9000'",
        4,
        "[a]",
    ),
    ("[a]\nsource = 'x'\ndest = \n", 3, "TOML"),
    ("[a]\nsource = 'x'\ndest = 'aaa'\ndest = 'bbb'\n", 4, "TOML"),
    ("[a\n", 1, "TOML"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_a_mistake_is_reported_with_its_line_and_nothing_secret(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    found = parse(tmp_path, text)
    assert dict(found.mirrors) == {}
    assert [mistake.line for mistake in found.mistakes] == [line]
    assert says in str(found.mistakes[0])
    assert "hunter2" not in str(found.mistakes[0])


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "[a]\nsource = 'x'\n\n[b]\nsource = 'x'\ndest = 'bbb'\ncron = 'never'\n"
    assert [mistake.line for mistake in parse(tmp_path, text).mistakes] == [1, 7]


def test_two_mirrors_may_share_a_bucket_below_prefixes_of_their_own(tmp_path: Path) -> None:
    text = "[a]\nsource='x'\ndest='aaa'\nprefix='p'\n[b]\nsource='x'\ndest='aaa'\nprefix='q'\n"
    assert set(parse(tmp_path, text).mirrors) == {"a", "b"}


def test_the_last_good_file_holds_while_a_later_one_has_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "mirrors.toml"
    kept = MirrorFile(str(path), serving.load(tmp_path), lambda: ENVIRON)
    assert kept.load()
    assert not kept.load()
    path.write_text("[a]\nsource = 'x'\ndest = 'aaa'\n")
    assert kept.load()
    assert set(kept.mirrors) == {"a"}
    path.write_text("[a]\nsource = 'x'\ndest = 'aaa'\n[b]\n")
    assert kept.load()
    assert (set(kept.mirrors), [mistake.line for mistake in kept.mistakes]) == ({"a"}, [4])
    path.write_text("[b]\nsource = 'x'\ndest = 'aaa'\n")
    assert kept.load()
    assert (set(kept.mirrors), kept.mistakes) == ({"b"}, ())
    path.unlink()
    assert kept.load()
    assert (dict(kept.mirrors), kept.mistakes) == ({}, ())


def test_a_file_with_addresses_must_not_be_readable_by_every_user(tmp_path: Path) -> None:
    path = tmp_path / "mirrors.toml"
    path.write_text("[a]\nsource = 'x'\ndest = 'aaa'\nnotify = ['https://example.com/secret']\n")
    config = serving.load(tmp_path)
    path.chmod(0o644)
    found = file.read(str(path), config, ENVIRON)
    assert [(mistake.line, "chmod o-r" in mistake.message) for mistake in found.mistakes] == [(4, True)]
    path.chmod(0o640)
    assert set(file.read(str(path), config, ENVIRON).mirrors) == {"a"}
    path.write_bytes(b"[a]\n# caf\xe9\n")
    assert [mistake.line for mistake in file.read(str(path), config, ENVIRON).mistakes] == [2]


def test_the_machines_time_zone_has_its_summer_time() -> None:
    assert str(mirror.local_zone({"TZ": ":America/New_York"})) == "America/New_York"
    assert mirror.local_zone({"TZ": "No/Where"}) is not None
    assert os.path.exists("/etc/localtime") or str(mirror.local_zone({})) == "UTC"


def test_what_is_remembered_outlives_a_file_that_is_empty_for_an_instant(tmp_path: Path) -> None:
    """As an editor leaves it while it writes. What is not in the file for 90 days is forgotten."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    kept = Memories(str(tmp_path))
    kept.of("photos", now).last_success = now
    kept.forget_old(set(), now + timedelta(days=1))
    kept.save()
    again = Memories(str(tmp_path))
    assert again.of("photos", now + timedelta(days=1)).last_success == now
    again.forget_old(set(), now + timedelta(days=91))
    assert again.of("photos", now + timedelta(days=91)).last_success is None
    (tmp_path / ".mirrors.json").write_bytes(b"{")
    assert Memories(str(tmp_path)).of("photos", now).runs == []
