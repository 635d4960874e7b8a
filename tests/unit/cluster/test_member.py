"""What a member does with a batch, and what it leaves to the job's process."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from cluster_double import work

from syncworker.cluster.member_accounts import Flight, Records
from syncworker.cluster.member_sending import MemberSending
from syncworker.cluster.protocol import Kind, Record
from syncworker.jobs.progress import UploadResult
from syncworker.model import FileEntry
from syncworker.plan.compare import Candidate
from syncworker.system.pause import Pause
from syncworker.transfer.readers import Outcome, ReadResult


class Sending(MemberSending):
    """Without a storage. `inbox`: of the lanes."""

    def __init__(self) -> None:
        self.records = Records(Flight())
        self.inbox = cast("Any", self)

    async def put(self, group: object) -> None:
        await asyncio.get_running_loop().create_future()  # no room


def test_a_file_that_is_not_what_the_job_saw_replaces_no_object() -> None:
    """An outdated view of the folder would put old content over what the storage has."""

    async def main() -> list[Record]:
        sending, seen = Sending(), work(1)
        older = FileEntry(seen.file.key, 5, 1, 1, 1, seen.file.path)
        opened = sending.records.open([seen])
        await sending.handle_read(ReadResult(seen, Outcome.BODY, older, body=b"older"))
        return opened.records

    (record,) = asyncio.run(main())
    assert record.kind is Kind.BACK


def test_neither_does_one_that_was_read_before_a_pause() -> None:
    """What is read after it would be compared with what was seen here before it."""
    sent: list[FileEntry] = []

    async def main() -> list[Record]:
        sending, seen = Sending(), work(1)
        older = FileEntry(seen.file.key, 99, 1, 1, 1, seen.file.path)
        sending.pause, sending.progress, sending.wait_seconds = Pause(), cast("Any", Flight()), 0.0
        sending.pause.stale_ns = 10
        sending.attempt = cast("Any", SimpleNamespace(wait_interval=lambda: asyncio.sleep(0)))

        async def read(group: list[Candidate]) -> list[ReadResult]:
            return [ReadResult(each, Outcome.BODY, older, 20) for each in group]

        async def upload(result: ReadResult, _: object) -> UploadResult:
            sent.append(result.file)
            return UploadResult(result.file, "", "", 0, 20, False)

        sending.read, sending.upload = read, upload  # type: ignore[method-assign,assignment]
        sending.accounts = sending.records
        opened = sending.records.open([seen])
        await sending.handle_read(ReadResult(seen, Outcome.BODY, older, 5))
        return opened.records

    (record,) = asyncio.run(main())
    assert record.kind is Kind.BACK
    assert sent == []


def test_a_batch_that_finds_no_room_is_left_when_its_job_ends_there() -> None:
    async def main() -> tuple[list[Record], int]:
        sending = Sending()
        carrying = asyncio.create_task(sending.carry([work(n) for n in range(100)]))
        await asyncio.sleep(0.01)
        sending.records.close()
        records = await carrying
        await asyncio.sleep(0)
        return records, len(asyncio.all_tasks())

    records, tasks = asyncio.run(main())
    assert records == [Record(Kind.LEFT)] * 100
    assert tasks == 1  # nobody waits for room any more
