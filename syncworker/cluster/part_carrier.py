"""Sends parts of large files in a member: those of an upload that the job's process has begun and completes.

Before and after each part is read the file has to be what it was when the upload was begun (size, times,
inode); else the answer is that it has changed. A file that cannot be read here is left to the job's process.
"""

from __future__ import annotations

import os
from collections import deque

from syncworker.cluster.member_accounts import Flight
from syncworker.cluster.protocol import PART, Kind, PartRecord, PartRun
from syncworker.errors import FatalError, FileError, RetryError, Stopped, SyncError
from syncworker.s3 import sums
from syncworker.system.gather import side_by_side
from syncworker.transfer.open_uploads import Upload
from syncworker.transfer.readers import Changed, entry_of, restat
from syncworker.transfer.upload import OPAQUE
from syncworker.transfer.upload_parts import PARTS_IN_FLIGHT, part_memory
from syncworker.worker.sending import Sending


class PartCarrier:
    """Of one job."""

    def __init__(self, sending: Sending, flight: Flight) -> None:
        self.sending, self.flight, self.stop = sending, flight, sending.stop
        self.parts, self.sender = sending.part_sender, sending.sender

    @property
    def has_doubts(self) -> bool:
        return self.sender.part_sums.is_doubted

    async def carry(self, run: PartRun) -> list[PartRecord]:
        """A record for each number, in order. Raises nothing but errors of the program."""
        found = {number: PartRecord(number) for number in run.numbers}
        algorithm = sums.BY_NAME.get(run.algorithm)
        if algorithm is None or not sums.loads(algorithm):
            return [each._replace(kind=Kind.FAILED) for each in found.values()]
        if run.is_opaque:
            self.sender.learn("multipart_etag", OPAQUE)
        try:
            fd, info = await self.sending.attempt.in_thread(self.sender.tree.open_file, run.file.path)
        except OSError:
            return [each._replace(kind=Kind.FAILED) for each in found.values()]
        operation = self.flight.begin(PART, run.file.key, self._size(run, run.numbers))
        left = deque(run.numbers if entry_of(info, run.file) == run.file else ())
        if not left:
            found[run.numbers[0]] = _failure(run.numbers[0], Changed())

        async def send(_: int) -> None:
            memory = part_memory(run.part_size)
            while left and not self.stop.requested():
                number = left.popleft()
                size = self._size(run, [number])
                upload, offset = Upload(run.upload_id, algorithm), (number - 1) * run.part_size
                try:
                    sent = await self.parts.send_part(
                        fd, run.file.key, upload, number, offset, size, operation, memory
                    )
                    if restat(fd, run.file) != run.file:
                        raise Changed
                except (FileError, RetryError, EOFError) as error:
                    left.clear()
                    if not (self.stop.requested() and isinstance(error, RetryError)):
                        found[number] = _failure(number, Changed() if isinstance(error, EOFError) else error)
                except FatalError as error:
                    left.clear()
                    self.stop.fail(error)
                except Stopped:
                    left.clear()
                else:
                    found[number] = PartRecord(number, Kind.SENT, *sent)
                    self.flight.bytes += size

        try:
            await side_by_side(send, list(range(PARTS_IN_FLIGHT)), PARTS_IN_FLIGHT)
        finally:
            self.flight.end(operation)
            os.close(fd)
        return list(found.values())

    @staticmethod
    def _size(run: PartRun, numbers: list[int]) -> int:
        return sum(min(run.part_size, run.file.size - (number - 1) * run.part_size) for number in numbers)


def _failure(number: int, error: SyncError) -> PartRecord:
    may_pass = isinstance(error, RetryError)
    return PartRecord(number, Kind.REFUSED, code=error.code, message=error.message, may_pass=may_pass)
