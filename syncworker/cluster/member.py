"""A member: reads, compares and sends what batches name, for as long as it has a lease.

```
carry_out (a thread of the engine's) ─► Engine: a thread with an event loop, connections and lanes of its own
hear      (at once, whatever goes on) ─►        one for each job that it works for
```
Invariants
- What a file needs is done by `Sending`, as in a job's process; only its accounts are others: a record for
  each file, which the job's process accounts for.
- Nothing begins without a lease; what is in flight when it has run out is ended after `LAST_SECONDS`, or
  at once when this process stood still for longer.
- The state is `none` only when nothing of the job is in flight any more.
- Large files and updates at the storage never come here; a file that has grown large is given back.
- `hear` raises nothing: what it was given holds keys, and an engine may log what failed with its arguments.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, cast

from syncworker.cluster import protocol
from syncworker.cluster.lease import Lease
from syncworker.cluster.protocol import LEASE_SECONDS, Kind, Record, State, Verb
from syncworker.errors import FatalError, RetryError, SyncError
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.index.records import Row
from syncworker.jobs.progress import Operation, Progress, Sent
from syncworker.model import FileEntry, Phase
from syncworker.options.effective import Options
from syncworker.plan.differences import Changes
from syncworker.plan.events import Work
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Chain, Given, KeySource
from syncworker.s3.signing import Keys
from syncworker.settings import Settings, origin_of_keys
from syncworker.system import processes
from syncworker.system.control import Control
from syncworker.system.pause import Pause
from syncworker.system.stop_token import StopToken
from syncworker.system.tls import ca_bundle_of
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.readers import Read
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool, Limits
from syncworker.worker.attempt import Attempt, Order
from syncworker.worker.dispatch import in_groups
from syncworker.worker.mount_check import MountCheck
from syncworker.worker.sending import READERS, Sending

_TICK_SECONDS = 0.05
_KEYS_SECONDS = 20.0
_SHOWN = 20


def clock() -> float:
    """Goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HeardKeys:
    """Keys that the job's process gives. `missing`: these have expired, it is to give others."""

    origin = "those that the job's process gives"

    def __init__(self, keys: Keys) -> None:
        self.given = keys
        self.missing = False

    async def keys(self) -> Keys:
        return self.given

    async def renew(self, used: Keys) -> bool:
        self.missing = self.given == used
        until = clock() + _KEYS_SECONDS
        while self.given == used and clock() < until:
            await asyncio.sleep(_TICK_SECONDS)
        self.missing = False
        return self.given != used


class _Facts:
    """The index as far as a member has one: what is known of the storage."""

    knows_given = False

    def __init__(self, known: dict[str, str]) -> None:
        self.known = dict(known)

    def fact(self, name: str) -> str | None:
        return self.known.get(name)

    def set_fact(self, name: str, value: str) -> None:
        self.known[name] = value

    def drop_facts(self, names: list[str]) -> None:
        for name in names:
            self.known.pop(name, None)

    def uploads(self) -> list[Any]:
        return []


class _Flight:
    """The progress as far as a member has one: what is in flight. What is done is in the records."""

    def __init__(self) -> None:
        self.counts = {"files_uploaded": 0}
        self.flight: dict[int, Operation] = {}
        self.ended_at: float | None = None
        self.files = self.bytes = 0

    def phase(self, phase: Phase, message: str) -> None: ...

    def grown(self, was: int, now: int) -> None: ...

    def begin(self, op: str, key: str, size: int) -> Operation:
        operation = Operation(op, key, size)
        self.flight[id(operation)] = operation
        return operation

    def end(self, operation: Operation) -> None:
        self.flight.pop(id(operation), None)


class Records:
    """The accounts of a member: a record for each file of the batches that are open."""

    is_plan = False

    def __init__(self, flight: _Flight) -> None:
        self._flight = flight
        self._slots: dict[str, tuple[_Open, int]] = {}
        self._is_closed = False

    def open(self, works: list[Work]) -> _Open:
        opened = _Open(works)
        for at, work in enumerate(works):
            if self._is_closed or work.file.key in self._slots:  # given twice: the first time counts
                opened.put(at, Record(Kind.LEFT))
            else:
                self._slots[work.file.key] = (opened, at)
        return opened

    def close(self) -> None:
        """What has no record yet was not begun."""
        self._is_closed = True
        for opened, at in self._slots.values():
            opened.put(at, Record(Kind.LEFT))
        self._slots.clear()

    def _put(self, key: str, record: Record) -> None:
        opened, at = self._slots.pop(key)
        opened.put(at, record)

    def plan_upload(self, work: Work, file: FileEntry) -> None:
        raise AssertionError("a plan is made in the job's process")

    def plan_update(self, work: Work) -> None:
        raise AssertionError("a plan is made in the job's process")

    def is_outdated(self, result: Read) -> bool:
        return False  # the job's process knows what the object was given, and asks itself

    def same(self, result: Read) -> None:
        record = Record(
            Kind.SAME, result.file, "", result.digest, result.part_size, result.checked_ns, result.changes
        )
        self._put(result.work.file.key, record)

    def vanished(self, work: Work, file: FileEntry) -> None:
        self._put(work.file.key, Record(Kind.VANISHED, file))

    def failed(self, file: FileEntry, error: SyncError) -> None:
        self._put(file.key, _failure(Kind.FAILED, file, error))

    def refused(self, work: Work, error: SyncError) -> None:
        self._put(work.file.key, _failure(Kind.REFUSED, work.file, error))

    def large(self, result: Read) -> None:
        self._put(result.work.file.key, Record(Kind.LARGE, result.file))

    def sent(self, result: Read, sent: Sent, started: float) -> None:
        self._flight.counts["files_uploaded"] += 1
        self._flight.bytes += sent.file.size
        record = Record(
            Kind.SENT, sent.file, sent.etag, sent.digest, sent.part_size, sent.checked_ns, sent.changes,
            time.monotonic() - started,
        )  # fmt: skip
        self._put(result.work.file.key, record)

    def updated(self, row: Row, work: Work, counted: int, started: float) -> None:
        raise AssertionError("updates are made by the job's process")


def _failure(kind: Kind, file: FileEntry, error: SyncError) -> Record:
    may_pass = isinstance(error, RetryError)
    return Record(kind, file, code=error.code, message=error.message, may_pass=may_pass)


class _Open:
    """A batch that is being carried out."""

    def __init__(self, works: list[Work]) -> None:
        self.records: list[Record] = [Record(Kind.LEFT)] * len(works)
        self.left = len(works)
        self.done = asyncio.get_running_loop().create_future()
        if not works:
            self.done.set_result(None)

    def put(self, at: int, record: Record) -> None:
        self.records[at] = record
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Sending(Sending):
    """Gives files that go in parts back to the job's process."""

    def __init__(self, attempt: Attempt, records: Records) -> None:
        super().__init__(attempt, records, attempt.options.object_headers())
        self._records = records

    async def send_large(self, result: Read) -> None:
        self._records.large(result)


class Engine:
    """What carries out the batches of one job, for one epoch."""

    def __init__(self, job: str, epoch: int, request: dict[str, Any], settings: Settings) -> None:
        self.job, self.epoch, self.settings = job, epoch, settings
        self.head = request["head"]
        self.lease = Lease()
        self.lease.renew(request["clock"], clock())
        self.state = State.OPENING
        self.refused = ""
        self.stops = self.drops = self.is_paused = False
        self.keys = _keys(request["keys"], settings)
        self.facts = _Facts(self.head["facts"])
        self.flight = _Flight()
        self.client: Client | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._records: Records | None = None
        self._lanes: Lanes | None = None
        self._lock = threading.Lock()  # of the state, and of what is pending
        self._pending: set[Future[list[Record]]] = set()
        self._numbers: set[int] = set()
        self._thread = threading.Thread(target=self._run, name=f"job {job}", daemon=True)
        self._thread.start()

    def carry_out(self, number: int, works: list[Work]) -> list[Record]:
        """From another thread. Waits until all of them have come to an end. A batch that comes again is not
        begun again."""
        until = clock() + LEASE_SECONDS
        while self.state is State.OPENING and clock() < until:
            time.sleep(_TICK_SECONDS)
        with self._lock:
            if self.state is not State.READY or self.loop is None or number in self._numbers:
                return protocol.left(works)
            self._numbers.add(number)
            future = asyncio.run_coroutine_threadsafe(self._carry(works), self.loop)
            self._pending.add(future)
        try:
            return future.result()
        except CancelledError:
            return protocol.left(works)
        finally:
            with self._lock:
                self._pending.discard(future)

    async def _carry(self, works: list[Work]) -> list[Record]:
        assert self._records is not None
        opened = self._records.open(works)
        feeding = asyncio.create_task(self._feed(works))
        await opened.done
        feeding.cancel()
        return opened.records

    async def _feed(self, works: list[Work]) -> None:
        assert self._lanes is not None
        for group in in_groups(works):
            await self._lanes.put(group)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except SyncError as error:
            self.refused = self.refused or error.message
        except Exception as error:  # noqa: BLE001 - the job goes on without this member; the trace is in its log
            traceback.print_exc()
            self.refused = self.refused or f"an error of this program: {type(error).__name__}"
        finally:
            with self._lock:
                self.state = State.NONE
                for future in self._pending:
                    future.cancel()

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        head, settings = self.head, self.settings
        control = Control("")
        stop = StopToken(control)
        pause = Pause()
        place = Endpoint.of(head["url"], head["region"], head["addressing"])
        ca_bundle = ca_bundle_of() if place.scheme == "https" else None
        connections = ConnectionPool(
            place, ca_bundle, Limits.of(head["timeout"]), use_proxies=head["use_proxies"]
        )
        with Tree(settings.uploads_dir) as tree, ThreadPoolExecutor(READERS, "reader") as pool:
            async with connections:
                client = self.client = Client(
                    connections,
                    head["bucket"],
                    head["region"],
                    self.keys,
                    key_prefix=head["prefix"],
                    stopping=stop.requested,
                    patience_seconds=head["patience"],
                    pause=pause,
                )
                watching = asyncio.create_task(self._watch(control, stop, pause, connections))
                try:
                    await self._serve(client, stop, tree, pool, head)
                finally:
                    watching.cancel()

    async def _serve(
        self, client: Client, stop: StopToken, tree: Tree, pool: ThreadPoolExecutor, head: dict[str, Any]
    ) -> None:
        """From the first look at the storage until nothing is in flight any more."""
        bucket = Bucket(client)
        await bucket.exists()  # raises what a job that begins would raise
        self._records = Records(self.flight)
        options = Options.of_status({"options": head["options"], "scope": None, "plan": None, "attempt": 2})
        order = Order(
            uploads_dir=self.settings.uploads_dir,
            source=head["source"],
            wait_seconds=0.0,
            may_delete_bucket=False,
            spool_dir="",
            options=options,
        )
        attempt = Attempt(  # what a member has none of is not used by what it does
            order=order,
            bucket=bucket,
            index=cast("Index", self.facts),
            mounts=cast("MountCheck", None),
            progress=cast("Progress", self.flight),
            stop=stop,
            tree=tree,
            pool=pool,
            changes=cast("Changes", None),
        )
        lanes = self._lanes = _Sending(attempt, self._records).open_lanes()
        with self._lock:
            if self.state is State.OPENING:
                self.state = State.READY
        while not stop.requested():
            await asyncio.sleep(_TICK_SECONDS)
        with self._lock:
            self.state = State.ENDING
        if stop.fatal is not None:
            self.refused = getattr(stop.fatal, "message", "") or type(stop.fatal).__name__
            if not isinstance(stop.fatal, SyncError):
                traceback.print_exception(stop.fatal)
        await lanes.finish()
        self._records.close()
        while self._pending:
            await asyncio.sleep(_TICK_SECONDS)

    async def _watch(
        self, control: Control, stop: StopToken, pause: Pause, connections: ConnectionPool
    ) -> None:
        """Lease, stop and pause, as they are at every moment."""
        assert connections.watchdog is not None
        while True:
            now = clock()
            if not self.lease.may_begin(now):
                control.stop("the end of its lease")
            if self.stops or self.drops:
                control.cancel()
            if connections.watchdog.done():
                stop.fail(FatalError("InternalError", "the watchdog of connections has ended"))
            if stop.requested():
                connections.give_up(writes=self.drops or control.drops_writes())
            if self.lease.must_end(now):
                connections.close()
            if pause.turn(self.is_paused and not stop.requested()) and not pause.on and self.client:
                self.client.go_on()
            await asyncio.sleep(_TICK_SECONDS)

    # -- what is heard
    def take(self, request: dict[str, Any]) -> None:
        self.lease.renew(request["clock"], clock())
        self.stops = self.stops or request["stop"] or request["verb"] == Verb.END
        self.drops = self.drops or request["drop"]
        self.is_paused = request["pause"]
        if isinstance(self.keys, HeardKeys) and request.get("keys"):
            self.keys.given = Keys(*request["keys"])

    def show(self) -> dict[str, Any]:
        operations = sorted(self.flight.flight.copy().values(), key=lambda operation: operation.started)
        now = time.monotonic()
        client = self.client
        return {
            "refused": self.refused,
            "needs_keys": isinstance(self.keys, HeardKeys) and self.keys.missing,
            "files": self.flight.counts["files_uploaded"],
            "bytes": self.flight.bytes,
            "flight": [(o.op, o.key, o.size, o.sent, now - o.started) for o in operations[:_SHOWN]],
            "requests": [
                (*name, count) for name, count in (client.requests.copy() if client else {}).items()
            ],
            "retries": client.retries if client else 0,
        }


def _keys(given: Any, settings: Settings) -> KeySource:
    """Those that were given, or, where the job's process gives none, this machine's own."""
    if given is not None:
        return HeardKeys(Keys(*given))
    if settings.minio_access_key and settings.minio_secret_key:
        return Given(settings.minio_access_key, settings.minio_secret_key, origin=origin_of_keys(settings))
    return Chain()


class Office:
    """The engines of this process, by job."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._engines: dict[str, Engine] = {}
        self._lock = threading.Lock()

    def carry_out(self, data: bytes) -> bytes:
        job, epoch, number, works = protocol.unpack_batch(data)
        engine = self._engines.get(job)
        if engine is None or engine.epoch != epoch:  # fenced, or not opened
            return protocol.pack_answer(State.NONE, protocol.left(works))
        records = engine.carry_out(number, works)
        return protocol.pack_answer(engine.state, records)

    def hear(self, data: bytes) -> bytes:
        """The answer to a request; of one that cannot be understood, that."""
        try:
            with self._lock:
                return protocol.pack(self._hear(protocol.unpack(data)))
        except Exception as error:  # noqa: BLE001 - see above: no argument may reach a log
            where = traceback.extract_tb(error.__traceback__)[-1]
            why = f"{type(error).__name__} in {os.path.basename(where.filename)}:{where.lineno}"
            return protocol.pack({"clock": clock(), "state": str(State.NONE), "refused": why})

    def _hear(self, request: dict[str, Any]) -> dict[str, Any]:
        verb, job, epoch = Verb(request["verb"]), request["job"], request["epoch"]
        engine = self._engines.get(job)
        if engine is not None and engine.epoch == epoch:
            engine.take(request)
        elif engine is not None and epoch > engine.epoch:
            engine.stops = True  # of an older epoch: it ends first
            if verb is Verb.OPEN and engine.state is State.NONE:
                engine = self._engines[job] = Engine(job, epoch, request, self.settings)
        elif engine is None and verb is Verb.OPEN:
            engine = self._engines[job] = Engine(job, epoch, request, self.settings)
        for other, ended in list(self._engines.items()):
            if other != job and ended.state is State.NONE:
                del self._engines[other]
        state = engine.state if engine is not None else State.NONE
        answer = {"clock": clock(), "state": str(state), **(self._about_me())}
        if verb is Verb.HELLO:
            answer |= self._look(request["samples"])
        if engine is not None and engine.epoch == epoch:
            answer |= engine.show()
        return answer

    def _about_me(self) -> dict[str, Any]:
        pid, started = processes.me()
        rss, cpu = processes.resources(pid) or (0, 0.0)
        return {"pid": pid, "started": started, "host": processes.host(), "rss": rss, "cpu": cpu}

    def _look(self, samples: list[tuple[str, int, int, int, int]]) -> dict[str, Any]:
        """Which program this is, what its clock says, and whether it sees the same files."""
        sees = []
        try:
            with Tree(self.settings.uploads_dir) as tree:
                for path, *expected in samples:
                    info = tree.lstat(path)
                    found = info and [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
                    sees.append(found == expected)
            trouble = ""
        except (SyncError, OSError) as error:
            trouble = getattr(error, "message", "") or str(getattr(error, "strerror", error))
        return {"version": protocol.this_version(), "time": time.time(), "sees": sees, "trouble": trouble}


_office: Office | None = None


def open_office(settings: Settings) -> Office:
    """Makes this process a member."""
    global _office
    _office = Office(settings)
    return _office


def carry_out(data: bytes) -> bytes:
    """Called by the engine in a member."""
    if _office is None:
        print("a batch came to a process that is no member", file=sys.stderr, flush=True)
        raise RuntimeError("this process is no member")
    return _office.carry_out(data)


def hear(sealed: Sealed) -> bytes:
    """Called by the engine in a member."""
    if _office is None:
        return protocol.pack({"clock": clock(), "state": str(State.NONE), "refused": "it is no member"})
    return _office.hear(sealed.data)


class Sealed:
    """A request on its way: shown nowhere, because it may hold keys."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __repr__(self) -> str:
        return "<request>"
