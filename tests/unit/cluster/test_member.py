"""What a member does with a batch, and what it leaves to the job's process."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from cluster_double import work

from syncworker.cluster.member_accounts import Flight, Records
from syncworker.cluster.member_sending import MemberSending
from syncworker.cluster.protocol import Kind, Record
from syncworker.model import FileEntry
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
        await sending.send(ReadResult(seen, Outcome.BODY, older, body=b"older"))
        return opened.records

    (record,) = asyncio.run(main())
    assert record.kind is Kind.BACK


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
