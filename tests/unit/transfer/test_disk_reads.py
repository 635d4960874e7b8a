"""How many files are read side by side that are not in memory: by what the disk gives."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from syncworker.model import FileEntry
from syncworker.plan.compare import NEW, Candidate
from syncworker.transfer.lane_count import DISK_READERS, READERS
from syncworker.worker import disk_reads
from syncworker.worker.disk_reads import DiskReads, ReaderCount


def work(size: int = 4096, number: int = 0) -> Candidate:
    return Candidate(FileEntry(f"{number:06}", size, 1, 1, 1, "x"), None, None, NEW)


def readers_of(latency: float, a_second: float, *, size: int = 4096, is_idle: bool = False) -> list[int]:
    """How many read at a time from a disk that answers each read after `latency` seconds, and so many pieces
    a second at most."""
    now = 0.0
    count = ReaderCount(now)
    pieces = 1 + (size >> 18)
    found = []
    for _ in range(20_000):
        now += max(latency, count.readers * pieces / a_second) / count.readers
        count.record([size], now, is_idle=is_idle)
        found.append(count.readers)
    return found


def test_a_disk_far_away_is_read_by_as_many_as_its_latency_asks_for() -> None:
    assert 28 <= readers_of(0.02, 1e6)[-1] <= DISK_READERS
    assert 9 <= readers_of(0.02, 500)[-1] <= 16  # ten keep it busy
    assert readers_of(0.02, 1e6, size=8 << 20)[-1] >= 28


def test_a_disk_that_is_busy_with_a_few_reads_is_asked_for_few() -> None:
    tried = readers_of(0.001, 500)
    assert max(tried) <= 6
    assert tried.count(READERS) > 0.8 * len(tried)


def test_a_store_that_is_slower_than_the_disk_adds_no_readers() -> None:
    assert set(readers_of(0.02, 1e6, is_idle=True)) == {READERS}


class Disk:
    """Answers each read after a while, and knows how many were under way."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.most = seconds, 0, 0
        self._lock = threading.Lock()

    def read(self, _tree: Any, asked: Candidate, *_: Any) -> str:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self._lock:
            self.now -= 1
        if asked.file.size < 0:
            raise OSError("made up by the test")
        return asked.file.key


def reads(pool: ThreadPoolExecutor) -> DiskReads:
    async def from_disk(function: Any, *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *values)

    attempt = SimpleNamespace(tree=None, from_disk=from_disk)
    sender = SimpleNamespace(etags_are_md5=True, halted_in_thread=lambda: False)
    return DiskReads(cast("Any", attempt), cast("Any", sender))


def test_every_file_is_read_once_by_more_and_more_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(0.01)
    monkeypatch.setattr(disk_reads, "read", disk.read)
    numbers = iter(range(10_000_000))
    sent: list[str] = []
    found: list[Any] = []

    async def groups(reading: DiskReads, until: float) -> None:
        while disk.most <= 2 * READERS and time.monotonic() < until:
            group = [work(number=next(numbers)) for _ in range(32)]
            sent.extend(asked.file.key for asked in group)
            found.extend(await reading.read(group))

    async def run() -> None:
        with ThreadPoolExecutor(DISK_READERS) as pool:
            reading = reads(pool)
            await asyncio.gather(*(groups(reading, time.monotonic() + 30) for _ in range(4)))

    asyncio.run(run())
    assert sorted(found) == sorted(sent)
    assert 2 * READERS < disk.most <= DISK_READERS


def test_a_reader_that_failed_leaves_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(0.0)
    monkeypatch.setattr(disk_reads, "read", disk.read)

    async def run() -> list[Any]:
        with ThreadPoolExecutor(DISK_READERS) as pool:
            reading = reads(pool)
            for _ in range(3 * READERS):
                with pytest.raises(OSError, match="made up"):
                    await reading.read([work(-1)])
            return await asyncio.wait_for(reading.read([work(number=n) for n in range(8)]), 30)

    assert len(asyncio.run(run())) == 8
