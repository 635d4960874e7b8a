"""Durable files and locks, with real processes: never torn, never two holders."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from bench import PROJECT, wait_for

from syncworker.errors import FatalError
from syncworker.system import durable_files


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{code}",
            *map(str, arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# -- publishing -------------------------------------------------------------------------------------------


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    writer = python(
        "from syncworker.system import durable_files as files\n"
        "for n in range(400):\n"
        "    files.replace_json(sys.argv[1], {'n': n, 'fill': str(n) * (n * 40)}, durable=False)\n",
        path,
    )
    wait_for(path.exists)
    seen = []
    while writer.poll() is None:
        value = json.loads(path.read_bytes())  # raises when it is torn
        assert value["fill"] == str(value["n"]) * (value["n"] * 40)
        seen.append(value["n"])
    assert writer.returncode == 0
    assert len(set(seen)) > 10 and seen == sorted(seen)


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    for _ in range(10):
        writer = python(
            "import itertools; from syncworker.system import durable_files as files\n"
            "for n in itertools.count():\n"
            "    files.replace_json(sys.argv[1], {'n': n, 'fill': 'x' * 100_000}, durable=True)\n"
            "    print(n, flush=True)\n",
            path,
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        writer.kill()
        writer.wait()
        assert len(json.loads(path.read_bytes())["fill"]) == 100_000
    assert sorted(os.listdir(tmp_path)) in (["status.json"], ["status.json", "status.json.tmp"])


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "status.json"
    durable_files.replace_json(str(path), {"n": 1}, durable=True)

    def full(_fd: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        durable_files.replace_json(str(path), {"n": 2}, durable=True)
    assert json.loads(path.read_text()) == {"n": 1}
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:7])))
    durable_files.replace_json(str(tmp_path / "a"), {"text": "x" * 1000}, durable=False)
    assert json.loads((tmp_path / "a").read_text()) == {"text": "x" * 1000}


def test_a_published_file_is_private_and_ascii(tmp_path: Path) -> None:
    durable_files.replace_json(str(tmp_path / "a"), {"name": "é\ud800"}, durable=False)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_bytes().isascii()
    assert durable_files.read_json(str(tmp_path / "a")) == {"name": "é\ud800"}


def test_a_link_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        durable_files.replace_json(str(tmp_path / "a"), {}, durable=False)
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": 1'])
def test_what_is_no_object_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert durable_files.read_json(str(tmp_path / "a")) is None


def test_what_is_no_file_reads_as_none_at_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert durable_files.read_json(str(tmp_path / "missing")) is None
    assert durable_files.read_json(str(tmp_path / "link")) is None
    os.mkfifo(tmp_path / "fifo")
    assert durable_files.read_json(str(tmp_path / "fifo")) is None  # a blocking open would hang here


# -- locks ------------------------------------------------------------------------------------------------

FIGHTER = """
import os, random, time
from syncworker.system import durable_files as files
path, marker, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
got = 0
while got < rounds:
    with files.Lock(path) as lock:
        if not lock.acquire(timeout_seconds=random.random() / 50):
            continue
        fd = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL)   # fails when another one holds it too
        os.close(fd)
        if random.random() < 0.5:
            time.sleep(random.random() / 500)
        os.unlink(marker)
        if random.random() < 0.5:
            files.remove(path)   # as a holder may: the next must not lock the removed file
        got += 1
"""


def test_two_processes_never_hold_a_lock_that_is_removed_and_remade(tmp_path: Path) -> None:
    fighters = [python(FIGHTER, tmp_path / "lock", tmp_path / "held", 120) for _ in range(8)]
    for fighter in fighters:
        fighter.communicate(timeout=120)
    assert [fighter.returncode for fighter in fighters] == [0] * 8


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    holder = python(
        "from syncworker.system import durable_files as files\n"
        "lock = files.Lock(sys.argv[1]); assert lock.acquire(); print('held', flush=True); sys.stdin.read()",
        path,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert durable_files.is_locked(path)
    assert not durable_files.Lock(path).acquire()
    holder.kill()
    holder.wait()
    assert not durable_files.is_locked(path)
    with durable_files.Lock(path) as lock:
        assert lock.acquire()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with durable_files.Lock(path) as lock:
        assert lock.acquire()
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert not durable_files.is_locked(path)
    finally:
        child.kill()
        child.wait()


def test_probes_do_not_keep_a_taker_out(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    (tmp_path / "lock").touch()
    stop = threading.Event()

    def probe() -> None:
        while not stop.is_set():
            durable_files.is_locked(path)

    probers = [threading.Thread(target=probe) for _ in range(2)]
    for prober in probers:
        prober.start()
    try:
        for _ in range(20):
            with durable_files.Lock(path) as lock:
                assert lock.acquire(timeout_seconds=1)
    finally:
        stop.set()
        for prober in probers:
            prober.join()


def test_a_probe_makes_no_file_and_a_waiting_taker_gets_its_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    assert not durable_files.is_locked(path)
    assert not os.path.exists(path)
    first, second = durable_files.Lock(path), durable_files.Lock(path)
    assert first.acquire()
    threading.Timer(0.1, first.release).start()
    assert second.acquire(timeout_seconds=5)
    second.release()


# -- directories ------------------------------------------------------------------------------------------


def test_the_self_test_passes_on_a_local_disk_and_leaves_nothing(tmp_path: Path) -> None:
    durable_files.self_test(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_self_test_finds_locks_that_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable_files.fcntl, "flock", lambda *_: None)
    with pytest.raises(FatalError, match="without working locks"):
        durable_files.self_test(str(tmp_path))


def test_the_self_test_says_what_to_set_when_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="JOBS_DIR"):
        durable_files.self_test(str(tmp_path / "missing"))


def test_a_private_directory_is_made_closed_and_one_open_to_writers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    durable_files.make_private_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o755)
    durable_files.make_private_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    with pytest.raises(FatalError, match="chmod 700"):
        durable_files.make_private_directory(str(path))
    path.chmod(0o770)
    with pytest.raises(FatalError, match="chmod 700"):
        durable_files.make_private_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o770  # what others did may still be looked at


def test_a_fresh_checkouts_directory_is_closed_when_only_the_group_may_write_to_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    path.mkdir()
    (path / ".gitkeep").touch()
    path.chmod(0o775)
    durable_files.make_private_directory(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o775)
    (path / "20260101T000000-00000000.json").touch()
    with pytest.raises(FatalError, match="chmod 700"):
        durable_files.make_private_directory(str(path))


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jobs"
    durable_files.make_private_directory(str(path))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(FatalError, match="chown"):
        durable_files.make_private_directory(str(path))


def test_a_fifo_in_place_of_a_lock_blocks_no_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    assert not durable_files.is_locked(str(tmp_path / "lock"))
