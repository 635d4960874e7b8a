"""Reads files that are not in memory, in as many threads as increase the throughput.

A few concurrent reads keep a local disk busy. A network file system answers each read after a delay, so more
concurrent reads are faster. `ReaderCount` measures the files read per second and finds the best number.
"""

from __future__ import annotations

import asyncio
import time

from syncworker.plan.compare import Candidate
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lane_count import DISK_READERS, RATE_SECONDS, READERS, LaneController
from syncworker.transfer.readers import ReadResult, read
from syncworker.transfer.upload import Sender

_PIECE_BYTES = 256 << 10  # a disk reads a larger file in several pieces
_SHARES_EACH = 2  # shares that each reader must read before the rate is judged


class ReaderCount:
    """Decides how many threads read files that are not in memory (`readers`). `now`: the present time."""

    def __init__(self, now: float) -> None:
        self._pace = LaneController(READERS, DISK_READERS)
        self._since, self._pieces, self._shares, self._was_idle = now, 0, 0, False

    @property
    def readers(self) -> int:
        return self._pace.lanes

    def record(self, sizes: list[int], now: float, *, is_idle: bool) -> None:
        """Records that a share of files of these sizes was read. `is_idle`: there were fewer shares than
        readers."""
        self._pieces += sum(1 + size // _PIECE_BYTES for size in sizes)
        self._shares += 1
        self._was_idle = self._was_idle or is_idle
        seconds = now - self._since
        if seconds < RATE_SECONDS or self._shares < _SHARES_EACH * self.readers:
            return
        self._pace.record_rate(self._pieces / seconds, is_busy=not self._was_idle)
        self._since, self._pieces, self._shares, self._was_idle = now, 0, 0, False


class DiskReads:
    """Divides the files of a group among the best number of readers."""

    def __init__(self, attempt: Attempt, sender: Sender) -> None:
        self._attempt, self._sender = attempt, sender
        self._count = ReaderCount(time.monotonic())
        self._slots, self._open, self._surplus = asyncio.Semaphore(READERS), READERS, 0

    async def read(self, group: list[Candidate]) -> list[ReadResult]:
        """Reads the files and returns the results: fewer than there are files if the job halts."""
        readers = self._count.readers
        shares = [group[i::readers] for i in range(min(readers, len(group)))]
        found = await asyncio.gather(*map(self._read_share, shares))
        return [result for results in found for result in results]

    async def _read_share(self, share: list[Candidate]) -> list[ReadResult]:
        await self._slots.acquire()
        try:
            results: list[ReadResult] = await self._attempt.from_disk(self._read_files, share)
            sizes = [work.file.size for work in share]
            self._count.record(sizes, time.monotonic(), is_idle=not self._slots.locked())
            self._adapt()
            return results
        finally:
            if self._surplus:
                self._surplus -= 1
            else:
                self._slots.release()

    def _adapt(self) -> None:
        """Opens more slots, or closes some when the shares that hold them end."""
        wanted = self._count.readers
        while self._open < wanted:
            self._open += 1
            if self._surplus:
                self._surplus -= 1
            else:
                self._slots.release()
        self._surplus += self._open - wanted
        self._open = wanted

    def _read_files(self, share: list[Candidate]) -> list[ReadResult]:
        md5 = self._sender.etags_are_md5
        results = []
        for work in share:
            if self._sender.halted_in_thread():
                break
            try:
                results.append(read(self._attempt.tree, work, md5, self._sender.halted_in_thread))
            except InterruptedError:
                break
        return results
