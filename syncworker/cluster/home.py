"""The job's process as its cluster sees it: what members are told and asked, and where their answers go.

A file that a member has done is accounted for by the same functions as one that was done here; only bodies
and requests were elsewhere.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from syncworker.cluster import protocol
from syncworker.cluster.peers import Peer
from syncworker.cluster.protocol import Kind, Record
from syncworker.cluster.shares import Shares
from syncworker.errors import FatalError, FileError, RetryError
from syncworker.jobs.destination import Destination
from syncworker.jobs.progress import Operation, UploadResult
from syncworker.jobs.status import set_cluster, timestamp
from syncworker.model import FileEntry, Phase
from syncworker.plan.compare import NEW, Candidate
from syncworker.s3 import multipart
from syncworker.settings import Settings
from syncworker.system import processes
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.parts import Parts
from syncworker.transfer.readers import Outcome, ReadResult, entry_of
from syncworker.worker import late_writers
from syncworker.worker.accounts import Accounts, largest
from syncworker.worker.dispatch import in_groups
from syncworker.worker.second_look import send_counted
from syncworker.worker.sending import Sending

SAMPLES = 3
_PATIENCE_SECONDS = 30.0
_SHOWN_MOST = 64
_SKEW_SECONDS = 1.0
_SKEW_NS = 1_000_000_000
_OUTCOMES = {Kind.SAME: Outcome.SAME, Kind.VANISHED: Outcome.VANISHED, Kind.FAILED: Outcome.FAILED}
_FACTS = ("etag", "multipart_etag")  # what is known of the storage that small files ask for
_Believed = tuple[int, str, str]  # size, ETag, digest
_Requests = tuple[Counter[tuple[str, int]], int]  # by operation and HTTP status; how many were repeats


class JobHome:
    """Of one attempt. `shares` is set by whoever opens them."""

    shares: Shares

    def __init__(
        self, sending: Sending, accounts: Accounts, lanes: Lanes, settings: Settings, destination: Destination
    ) -> None:
        self.sending, self.accounts, self.lanes = sending, accounts, lanes
        self.settings, self.destination = settings, destination
        self.attempt = attempt = sending.attempt
        self.progress, self.stop, self.bucket = attempt.progress, attempt.stop, attempt.bucket
        self.is_stopping, self.fail = self.stop.requested, self.stop.fail
        self.drops_writes = self.stop.control.drops_writes
        self.samples: deque[FileEntry] = deque(maxlen=SAMPLES)
        self._shown: dict[str, list[int]] = {}  # operations in flight, by member
        self._believed: dict[str, _Believed | None] = {}  # of suspects: what was settled
        self._said: set[str] = set()
        self._machine = processes.machine()
        self._noting = ThreadPoolExecutor(1, "members")
        self._requests: dict[tuple[str, int], _Requests] = {}  # of members, by member and epoch

    # -- what the job is up to
    def is_paused(self) -> bool:
        return self.attempt.pause.on

    def keeps_all(self) -> bool:
        """Whether all is to be sent by this process: it alone can hold to a limit of bandwidth."""
        return self.bucket.client.pool.bandwidth.on

    # -- members
    async def greeting(self) -> dict[str, Any]:
        client, order = self.bucket.client, self.attempt.order
        endpoint = client.pool.endpoint
        keys = None if self.settings.cluster_keys == "own" else tuple(await client.keys.keys())
        facts = {name: self.attempt.index.fact(name) for name in _FACTS}
        asked = self.progress.status.get("options") or {}
        return {
            "samples": [(f.path, f.size, f.mtime_ns, f.ctime_ns, f.inode) for f in self.samples],
            "keys": keys,
            "head": {
                "url": self.progress.status["storage_url"],
                "region": client.signer.region,
                "addressing": "virtual" if endpoint.virtual else self.settings.storage_addressing,
                "timeout": self.settings.storage_timeout,
                "patience": self._patience_of_members(),
                "use_proxies": client.pool.proxy is not None or self.settings.storage_url is not None,
                "bucket": client.name,
                "prefix": client.key_prefix,
                "source": order.source,
                "lanes": self.lanes.pace.lanes,
                "options": {name: value for name, value in asked.items() if name != "plan"},
                "facts": {name: value for name, value in facts.items() if value is not None},
            },
        }

    def _patience_of_members(self) -> float:
        """A member that cannot reach the storage soon gives back what it has. Where this process may not go
        on alone, a storage that is away for all is waited for as ever."""
        patience = float(self.settings.storage_patience)
        return min(patience, _PATIENCE_SECONDS) if self.settings.cluster_alone else patience

    async def refusal(self, answer: dict[str, Any], asked_at: float, seconds: float) -> str | None:
        """See `Home`. The same program, the same files, the same time."""
        why = await self._why_not(answer, seconds)
        name = str(answer.get("host", "?"))
        if why is not None and f"{name} {why}" not in self._said:
            self._said.add(f"{name} {why}")
            print(f"cluster: {name} is not used: {why}", file=sys.stderr, flush=True)
        return why

    async def _why_not(self, answer: dict[str, Any], seconds: float) -> str | None:
        if answer.get("refused"):
            return str(answer["refused"])
        if answer.get("version") != protocol.this_version():
            return f"it runs another version ({answer.get('version')}, here {protocol.this_version()})"
        if answer.get("trouble"):
            return f"it does not see UPLOADS_DIR: {answer['trouble']}"
        now = time.time()  # before this process looks for files itself
        sees = answer.get("sees") or {}
        for file in list(self.samples):  # others by now, perhaps, than it was asked about
            if not sees.get(file.path, True) and await asyncio.to_thread(self._here, file) == file:
                return f"it sees a different folder: {file.path} is not the same file there"
        skew = abs(float(answer.get("time") or 0.0) - (now - seconds / 2)) - seconds / 2
        if skew > _SKEW_SECONDS:
            return f"its clock differs by {skew:.1f} s: keep the clocks of all machines in step (NTP)"
        return None

    def heard(self, peer: Peer) -> None:
        """What is in flight there is shown as if it were here."""
        self._count_requests(peer)
        flight = self.progress.flight
        for number in self._shown.pop(peer.member.id, []):
            flight.pop(number, None)
        shown = []
        now = time.monotonic()
        if peer.lost_at is None:
            for op, key, size, sent, age in peer.shows.get("flight") or []:
                if op == protocol.PART:
                    continue
                operation = Operation(op, self.bucket.client.key_prefix + key, size)
                operation.sent, operation.started = sent, now - age
                flight[id(operation)] = operation
                shown.append(id(operation))
        self._shown[peer.member.id] = shown
        self.show()

    def _count_requests(self, peer: Peer) -> None:
        """What a member has asked the storage since it last told is counted with this process's requests."""
        if "requests" not in peer.shows:
            return
        client, life = self.bucket.client, (peer.member.id, int(peer.shows["epoch"]))
        before, repeats_before = self._requests.get(life, (Counter(), 0))
        now = Counter({(operation, status): count for operation, status, count in peer.shows["requests"]})
        repeats = int(peer.shows["retries"])
        for name, count in (now - before).items():
            client.requests[name] = client.requests.get(name, 0) + count
        client.retries += repeats - repeats_before
        self._requests[life] = now, repeats

    def forget(self, peer: Peer) -> None:
        """A member is lost: what it had is with others, or waits."""
        peer.lost_time = timestamp()
        print(f"cluster: {peer.member.name} is lost", file=sys.stderr, flush=True)
        self.heard(peer)  # nothing is in flight there any more

    def show(self) -> None:
        """The machines in the status."""
        shares = self.shares
        kind = self.settings.cluster.partition(":")[0]
        cluster = {
            "scheduler": self.settings.cluster if kind == "tls" else kind,
            "workers": [_shown(peer) for peer in (*shares.roll.peers.values(), *shares.roll.lost)][
                :_SHOWN_MOST
            ],
            "lost": len(shares.roll.lost),
            "resent": shares.resent,
        }
        set_cluster(self.progress.status, cluster)

    def has_ended(self, peer: Peer) -> bool:
        return not late_writers.may_live(peer.shows)

    async def mark(self, leased: list[Peer]) -> None:
        members = [{name: peer.shows.get(name) for name in ("machine", "pid", "started")} for peer in leased]
        loop = asyncio.get_running_loop()
        try:  # in a thread, because it waits for the disk; one after the other, because they have one path
            await loop.run_in_executor(self._noting, late_writers.note, self.destination, members)
        except OSError as error:  # a full disk: nobody could be told who may write
            self.stop.fail(error)

    def no_members(self) -> bool:
        refused = {peer.refused for peer in self.shares.roll.peers.values() if peer.refused}
        why = "; ".join(sorted(refused)) or f"no member joined within {self.settings.cluster_patience} s"
        if self.shares.roll.trouble:
            why = f"{why}; {self.shares.roll.trouble}"
        if self.settings.cluster_alone:
            print(f"cluster: the job continues without it: {why}", file=sys.stderr, flush=True)
            return True
        self.stop.fail(
            FatalError("ClusterLost", f"the cluster has no member left that can work ({why}): resume the job")
        )
        return False

    # -- files
    async def settle(self, work: Candidate, record: Record, peer: Peer) -> None:
        if await self._saw_another(work, record):
            sent = record.kind is Kind.SENT  # what the listing told of the object is over
            await self.alone([work._replace(object=None, row=None, decision=NEW) if sent else work])
            return
        file = record.file or work.file
        read_ns = record.read_ns
        if peer.shows.get("machine") != self._machine and read_ns:
            read_ns -= _SKEW_NS  # of another clock: what was changed near that moment is read again
        read = ReadResult(
            work,
            _OUTCOMES.get(record.kind, Outcome.BODY),
            file,
            read_ns,
            digest=record.digest,
            part_size=record.part_size,
            error=protocol.error_of(record) if record.code else None,
            changes=record.changes,
        )
        if work.file.key in self.shares.suspects:
            self._believe(work, record)
        if record.kind is Kind.SENT:
            self._sent(read, record)
        elif record.kind is Kind.REFUSED:
            self.accounts.refused(largest(work, file), protocol.error_of(record))
        else:
            await self.sending.handle_read(read)

    async def _saw_another(self, work: Candidate, record: Record) -> bool:
        """Whether a member has not read the file that is here: a disk is not mounted there, or its view of a
        network's file system is older. What it says of it is not believed; the file is done here."""
        if record.kind is Kind.FAILED:
            return True  # here it fails as well, or is read
        if record.kind is not Kind.VANISHED and record.file in (None, work.file):
            return False
        here = await self.attempt.in_thread(self._here, work.file)
        return here is not None if record.kind is Kind.VANISHED else here != record.file

    def _here(self, file: FileEntry) -> FileEntry | None:
        try:
            info = self.attempt.tree.lstat(file.path)
        except OSError:
            return None
        return entry_of(info, file) if info is not None else None

    def _sent(self, read: ReadResult, record: Record) -> None:
        work, file, progress = read.work, read.file, self.progress
        progress.grown(work.file.size, file.size)
        progress.phase(Phase.TRANSFERRING, "transferring")
        operation = progress.begin("upload", file.key, file.size)
        operation.started -= record.seconds
        operation.sent = file.size
        progress.end(operation)
        sent = UploadResult(file, record.etag, record.digest, record.part_size, read.read_ns, record.changes)
        self.accounts.sent(read, sent, operation.started)

    def _believe(self, work: Candidate, record: Record) -> None:
        believed: _Believed | None = None
        file = record.file or work.file
        if record.kind is Kind.SENT:
            believed = file.size, record.etag, record.digest
        elif record.kind is Kind.SAME and work.object is not None:
            believed = file.size, work.object.etag, record.digest
        self._believed[work.file.key] = believed

    async def alone(self, works: list[Candidate]) -> None:
        for group in in_groups(works):
            await self.lanes.put(group)

    def died_of(self, work: Candidate) -> None:
        error = FileError(
            "MemberDied",
            "every member of the cluster that was given this file has died: see their logs, or sync without"
            " CLUSTER",
        )
        self.accounts.failed(work.file, error)

    async def end_upload(self, parts: Parts) -> None:
        """A storage may keep a part that came after the upload was ended, until it is ended once more."""
        key, upload = parts.file.key, parts.upload.id
        known = self.attempt.index.upload(key)
        if not parts.is_completed and (known is None or known.upload_id != upload):
            await multipart.abort_upload(self.bucket, key, upload)

    async def confirm(self, work: Candidate) -> None:
        """A HEAD; what the storage has is sent again if it is not what was settled, or cannot be told."""
        key = work.file.key
        if key in self._believed and self._believed[key] is None:
            return  # gone, or failed: the job does not take it for sent
        self.stop.raise_if_requested()
        believed = self._believed.get(key) or self._remembered(key)
        if believed is not None:
            size, tag, digest = believed
            try:
                head = await self.bucket.head(key)
            except (FileError, RetryError):
                self.stop.raise_stopped()
                head = None
            if head is not None and head.size == size and head.etag and head.etag in (tag, digest):
                return
        await self._send_again(work)

    def _remembered(self, key: str) -> _Believed | None:
        self.attempt.index.flush()
        row = self.attempt.index.find(key)
        return (row.size, row.etag, row.digest or row.etag) if row is not None else None

    async def _send_again(self, work: Candidate) -> None:
        """A file that is counted already. Nobody else can write it any more."""
        for result in await self.sending.read([work._replace(object=None, row=None, decision=NEW)]):
            if result.outcome is Outcome.VANISHED:
                return
            if result.error is not None:
                raise result.error
            if await send_counted(self.sending, self.accounts, result) is None:
                return
            print(
                f"cluster: {work.file.key!r} was sent again: the member that had it was lost", file=sys.stderr
            )


def _shown(peer: Peer) -> dict[str, Any]:
    shows = peer.shows
    return {
        "name": peer.member.name,
        "host": shows.get("host"),
        "pid": shows.get("pid"),
        "state": "lost" if peer.lost_at is not None else "refused" if peer.refused else str(peer.state),
        "reason": peer.refused or None,
        "files_done": peer.files_done,
        "bytes_done": peer.bytes_done,
        "in_flight": len(shows.get("flight") or []) if peer.lost_at is None else 0,
        "rss_bytes": shows.get("rss"),
        "cpu_seconds": shows.get("cpu"),
        "lost_at": peer.lost_time,
    }
