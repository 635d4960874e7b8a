"""Reads files that are not in memory, in as many threads as make it faster.

A local disk is busy with a few reads; a network file system answers each after a delay, so that more at once
are faster. `ReaderCount` finds the best number by the files that are read in a second
(transfer/lane_count.py).
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
    """Divides the files of a group among as many readers as there should be."""

    def __init__(self, attempt: Attempt, sender: Sender) -> None:
        self._attempt, self._sender = attempt, sender
        self._count = ReaderCount(time.monotonic())
        self._slots, self._open, self._surplus = asyncio.Semaphore(READERS), READERS, 0

    async def read(self, group: list[Candidate]) -> list[ReadResult]:
        """The results of reading the files. Fewer than the files once the job halts."""
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
        """Opens more slots, or closes some once the shares that hold them have ended."""
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
