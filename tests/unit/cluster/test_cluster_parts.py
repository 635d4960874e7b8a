"""Parts of large files over many schedules: each is counted once, by whichever process it went, and whoever
sends the file always comes to an end."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cluster_double import run
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from test_cluster_shares import EVENTS, SCHEDULES, SOON, Scene

from syncworker.cluster import protocol
from syncworker.cluster.peers import Limits
from syncworker.cluster.protocol import Kind, PartRecord, PartRun
from syncworker.cluster.shares import Shares
from syncworker.errors import FileError, Stopped
from syncworker.jobs.progress import Operation
from syncworker.model import FileEntry
from syncworker.s3.bucket import Bucket
from syncworker.s3.sums import MD5
from syncworker.transfer.open_uploads import SentPart, Upload
from syncworker.transfer.parts import Parts
from syncworker.transfer.upload import Sender
from syncworker.transfer.upload_parts import PartSender

PART = 8 << 20


class Here(PartSender):
    """The job's process, whose storage is the folder's."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.bytes = scene, 0
        self.remembered: list[Any] = []
        self.sender = cast(
            "Sender",
            SimpleNamespace(
                facts={"multipart_etag": None},
                check=self.check,
                halted=scene.home.is_stopping,
                progress=SimpleNamespace(sent=self.count),
                index=SimpleNamespace(remember_part=self.remembered.append),
                tree=SimpleNamespace(is_local=True),
            ),
        )
        self.bucket = cast(Bucket, SimpleNamespace(client=SimpleNamespace(uses_tls=False)))
        self.others = None
        self.left_to_send = -1  # here; then it fails
        self.at_members: set[int] | None = None  # when it had failed

    def check(self) -> None:
        if self.scene.home.is_stopping():
            raise Stopped("told to stop")

    def count(self, size: int) -> None:
        self.bytes += size

    async def send_part(self, *what: Any) -> SentPart:
        _, _, upload, number, *_ = what
        await asyncio.sleep(self.scene.chance.choice((0.1, 0.5, 3.0)))
        self.left_to_send -= 1
        if self.left_to_send == 0:
            raise FileError("InvalidPart", "refused")
        self.scene.folder.write(f"{upload.id} {number}", 1)
        return SentPart("00" * 16, bytes(16))

    async def send(self, name: str, count: int, *, alone: bool = False) -> Parts:
        file = FileEntry(name, count * PART - 1, 1, 1, 1, name)
        operation = Operation("upload", name, file.size)
        parts = Parts(self.sender, file, Upload(name, MD5), PART, {}, operation)
        try:
            await self._send_all(-1, parts, alone=alone)
        except FileError:
            self.at_members = set(parts._out)
            raise
        return parts


class Ways:
    """Some large files, sent here and by members while things happen."""

    def __init__(self, seed: int, count: int, faults: float = 0.0, unread: float = 0.0) -> None:
        self.scene = Scene(seed, count, faults=faults)
        for member in self.scene.members:
            member.unread = unread
        self.here = Here(self.scene)

    async def play(self, files: list[int], events: list[str]) -> list[Parts | BaseException]:
        scene = self.scene
        doing = Shares(scene.cluster, scene.home, Limits("job", 1000, patience_seconds=20.0))
        self.here.share(doing)
        beside = [asyncio.ensure_future(scene.happen(event)) for event in events]
        try:
            async with asyncio.timeout(SOON):
                sending = [self.here.send(f"f{n}", count) for n, count in enumerate(files)]
                ends = await asyncio.gather(*sending, return_exceptions=True)
                await doing.finish()
                await doing.barrier()
                await doing.close()
        finally:
            for task in beside:
                task.cancel()
        self.ended_uploads = scene.home.ended_uploads
        await asyncio.sleep(60.0)
        return ends


@settings(max_examples=SCHEDULES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 4),
    files=st.lists(st.integers(1, 60), max_size=4),
    faults=st.sampled_from((0.0, 0.05, 0.3)),
    unread=st.sampled_from((0.0, 0.2)),
    events=st.lists(st.sampled_from(EVENTS), max_size=6),
)
def test_each_part_is_counted_once_and_the_sender_comes_to_its_end(
    seed: int, count: int, files: list[int], faults: float, unread: float, events: list[str]
) -> None:
    note(f"{seed=} {count=} {files=} {faults=} {unread=} {events=}")
    ways = Ways(seed, count, faults, unread)
    ends = run(ways.play(files, events))
    assert ways.scene.home.error is None
    for parts, expected in zip(ends, files, strict=True):
        assert isinstance(parts, Parts), parts
        assert sorted(parts.sent) == list(range(1, expected + 1))
    assert ways.here.bytes == sum(count * PART - 1 for count in files)
    written = set(ways.scene.folder.objects)
    assert {f"f{n} {part}" for n, count in enumerate(files) for part in range(1, count + 1)} == written


@settings(max_examples=SCHEDULES // 2, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 1 << 32), events=st.lists(st.sampled_from(EVENTS), max_size=4))
def test_a_stop_ends_every_sender(seed: int, events: list[str]) -> None:
    ways = Ways(seed, 3, 0.1)
    ends = run(ways.play([60, 60], [*events, "stops"]))
    assert all(isinstance(end, (Parts, Stopped)) for end in ends), ends


def test_members_do_most_of_it_and_what_a_lost_one_had_is_asked_for_again_before_deletions() -> None:
    ways = Ways(7, 4)

    async def main() -> list[Parts | BaseException]:
        async def cut() -> None:
            while not all(len(member.numbers) > 1 for member in ways.scene.members[:2]):
                await asyncio.sleep(0.01)
            ways.scene.members[0].cut_until = ways.scene.members[1].cut_until = 1e9

        cutting = asyncio.ensure_future(cut())
        ends = await ways.play([200], [])
        await cutting
        return ends

    (parts,) = run(main())
    assert isinstance(parts, Parts)
    assert len(parts.sent) == 200
    assert sum(len(member.numbers) for member in ways.scene.members) > 20
    assert ways.ended_uploads == ["f0"]


def test_where_only_the_file_as_it_was_opened_counts_no_member_has_a_part() -> None:
    ways = Ways(7, 4)

    async def main() -> Parts:
        doing = Shares(ways.scene.cluster, ways.scene.home, Limits("job", 1000))
        ways.here.share(doing)
        await asyncio.sleep(2.0)
        parts = await ways.here.send("f", 30, alone=True)
        await doing.finish()
        await doing.close()
        return parts

    assert len(run(main()).sent) == 30
    assert not any(member.numbers for member in ways.scene.members)


def test_an_error_here_waits_for_what_is_under_way_elsewhere() -> None:
    """Its upload is ended next: a part that came later would stay in the storage."""
    ways = Ways(7, 2)
    ways.here.left_to_send = 4
    (error,) = run(ways.play([300], []))
    assert isinstance(error, FileError)
    assert any(len(member.numbers) > 1 for member in ways.scene.members)
    assert ways.here.at_members == set()
    assert ways.scene.home.error is None


def test_a_part_that_cannot_be_recorded_ends_the_job_without_waiting_for_others() -> None:
    """A full disk, say: the index takes nothing."""
    ways = Ways(7, 2)

    def full(_: object) -> None:
        raise OSError("No space left on device")

    ways.here.sender.index.remember_part = full  # type: ignore[method-assign]

    async def odd(epoch: int, number: int, run: PartRun) -> bytes:
        records = [PartRecord(each, Kind.SENT, "no MD5", bytes(16)) for each in run.numbers]
        return protocol.pack_parts("ready", records, doubted=False)

    for member in ways.scene.members:
        member._carry_parts = odd  # type: ignore[method-assign]
    (end,) = run(ways.play([100], []))
    assert isinstance(end, Stopped)
    assert isinstance(ways.scene.home.error, OSError)


def test_an_error_elsewhere_is_the_files() -> None:
    ways = Ways(7, 1)

    async def refuse(epoch: int, number: int, run: PartRun) -> bytes:
        refused = PartRecord(run.numbers[0], Kind.REFUSED, code="NoSuchUpload", message="gone")
        rest = [PartRecord(number) for number in run.numbers[1:]]
        return protocol.pack_parts("ready", [refused, *rest], doubted=False)

    ways.scene.members[0]._carry_parts = refuse  # type: ignore[method-assign]
    (error,) = run(ways.play([100], []))
    assert isinstance(error, FileError)
    assert error.code == "NoSuchUpload"


@pytest.mark.parametrize("data", [b"", protocol.pack(1), protocol.pack(("ready", [(1, 99)], False))])
def test_a_malformed_answer_is_ignored(data: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        protocol.unpack_parts(data, [1])


def test_runs_and_answers_come_back_as_they_went() -> None:
    file = FileEntry("k", 30 << 20, 1, 2, 3, "k")
    asked = PartRun(file, "id", "CRC64NVME", PART, [2, 3], True)
    assert protocol.unpack_batch(protocol.pack_run("job", 7, 3, asked)) == ("job", 7, 3, asked)
    records = [PartRecord(2, Kind.SENT, "e", b"m", b"c", True), PartRecord(3)]
    packed = protocol.pack_parts("ready", records, doubted=True)
    assert protocol.unpack_parts(packed, [2, 3]) == (records, True)
    with pytest.raises(ValueError, match="another batch"):
        protocol.unpack_parts(packed, [3, 2])
