"""Sends files in a member, and parts of large ones, of uploads that the job's process begins and completes.

Before and after each part is read the file has to be what it was when the upload was begun (size, times,
inode); else the answer is that it has changed. A file that cannot be read here is left to the job's process.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable

from syncworker.cluster.member_accounts import Flight, Records
from syncworker.cluster.protocol import PART, Kind, PartRecord, PartRun, Record, fields_of
from syncworker.errors import FatalError, FileError, RetryError, Stopped
from syncworker.plan.compare import Candidate
from syncworker.s3 import sums
from syncworker.system.gather import side_by_side
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.open_uploads import Upload
from syncworker.transfer.readers import Changed, Outcome, ReadResult, entry_of, restat
from syncworker.transfer.upload import OPAQUE
from syncworker.transfer.upload_parts import PARTS_IN_FLIGHT
from syncworker.worker.dispatch import in_groups
from syncworker.worker.sending import Sending


class MemberSending(Sending):
    """Of one job. Gives files that go in parts back to the job's process, and those that are not what it saw:
    they have changed since, or what is seen here is older, and must not replace what the storage has.
    `lanes`: how many the job's process has found to be useful."""

    def __init__(self, attempt: Attempt, flight: Flight, lanes: int) -> None:
        self.records, self.flight = Records(flight), flight
        super().__init__(attempt, self.records, attempt.options.object_headers())
        self.inbox = self.open_lanes(lanes)
        self.loop = asyncio.get_running_loop()

    async def send_large(self, result: ReadResult) -> None:
        self.records.back(result)

    def handle_read(self, result: ReadResult, *, again: bool = False) -> Awaitable[None]:
        if result.outcome is Outcome.BODY and result.file != result.work.file:
            return self.send_large(result)  # before a pause takes what is seen here for what the job saw
        return super().handle_read(result, again=again)

    async def carry(self, works: list[Candidate]) -> list[Record]:
        opened = self.records.open(works)
        feeding = asyncio.create_task(self._feed(works))
        await opened.done
        feeding.cancel()
        return opened.records

    async def _feed(self, works: list[Candidate]) -> None:
        for group in in_groups(works):
            await self.inbox.put(group)

    async def carry_parts(self, run: PartRun) -> list[PartRecord]:
        """A record for each number, in order. Raises nothing but errors of the program."""
        found = {number: PartRecord(number) for number in run.numbers}
        algorithm = sums.BY_NAME.get(run.algorithm)
        if algorithm is None or not sums.loads(algorithm):
            return [each._replace(kind=Kind.FAILED) for each in found.values()]
        if run.is_opaque:
            self.sender.learn("multipart_etag", OPAQUE)
        try:
            fd, info = await self.attempt.in_thread(self.sender.tree.open_file, run.file.path)
        except OSError:
            return [each._replace(kind=Kind.FAILED) for each in found.values()]
        operation = self.flight.begin(PART, run.file.key, self._size(run, run.numbers))
        left = deque(run.numbers if entry_of(info, run.file) == run.file else ())
        if not left:
            found[run.numbers[0]] = PartRecord(run.numbers[0], Kind.REFUSED, **fields_of(Changed()))

        async def send(_: int) -> None:
            memory = self.part_sender.memory(run.part_size)
            while left and not self.stop.requested():
                number = left.popleft()
                size = self._size(run, [number])
                upload, offset = Upload(run.upload_id, algorithm), (number - 1) * run.part_size
                try:
                    sent = await self.part_sender.send_part(
                        fd, run.file.key, upload, number, offset, size, operation, memory
                    )
                    if restat(fd, run.file) != run.file:
                        raise Changed
                except (FileError, RetryError, EOFError) as error:
                    left.clear()
                    if not (self.stop.requested() and isinstance(error, RetryError)):
                        error = Changed() if isinstance(error, EOFError) else error
                        found[number] = PartRecord(number, Kind.REFUSED, **fields_of(error))
                except (FatalError, Stopped) as error:
                    left.clear()
                    self.stop.fail(error)  # a stop is no failure there
                else:
                    found[number] = PartRecord(number, Kind.SENT, *sent)
                    self.flight.bytes += size
                    self.flight.done += 1

        try:
            await side_by_side(send, list(range(PARTS_IN_FLIGHT)), PARTS_IN_FLIGHT)
        finally:
            self.flight.end(operation)
            os.close(fd)
        return list(found.values())

    @staticmethod
    def _size(run: PartRun, numbers: list[int]) -> int:
        return sum(min(run.part_size, run.file.size - (number - 1) * run.part_size) for number in numbers)
