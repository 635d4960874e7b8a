"""Reads files that are not in memory, in as many threads as increase the throughput.

A few concurrent reads keep a local disk busy. A network file system answers each read after a delay, so more
concurrent reads are faster. `ReaderCount` (transfer/lane_count.py) measures the files read per second and
finds the best number.
"""

from __future__ import annotations

import asyncio
import time

from syncworker.plan.compare import Candidate
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lane_count import READERS, ReaderCount
from syncworker.transfer.readers import ReadResult, read
from syncworker.transfer.upload import Sender


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
