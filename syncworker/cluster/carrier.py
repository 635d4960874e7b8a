"""What carries out the batches of one job in a member: a thread with an event loop, connections and lanes.

Invariants
- What a file needs is done by `Sending`, as in a job's process; only its accounts are others: a record for
  each file, which the job's process accounts for. Of a large file it sends the parts that it is given.
- Nothing begins without a lease; what is in flight when it has run out is ended after `LAST_SECONDS`, or
  at once when this process stood still for longer.
- The state is `none` only when nothing of the job is in flight any more.
- Uploads by parts are begun and completed, and objects updated, by the job's process alone; a file that has
  grown large is given back.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from syncworker.cluster import protocol
from syncworker.cluster.member_accounts import TICK_SECONDS, Facts, Flight, HeardKeys, clock
from syncworker.cluster.member_sending import MemberSending
from syncworker.cluster.protocol import LEASE_SECONDS, PART, Lease, PartRecord, PartRun, Record, State, Verb
from syncworker.errors import FatalError, SyncError
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.jobs.progress import Progress
from syncworker.options.effective import Options
from syncworker.plan.compare import Candidate
from syncworker.plan.differences import Changes
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Chain, Given, KeySource
from syncworker.s3.request import Conditions, Target
from syncworker.s3.signing import Keys
from syncworker.settings import Settings, origin_of_keys
from syncworker.system.control import Control
from syncworker.system.pause import Pause
from syncworker.system.stop_token import StopToken
from syncworker.system.tls import ca_bundle_of
from syncworker.transfer.attempt import Attempt, Order
from syncworker.transfer.lane_count import DISK_READERS, READERS
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool, Limits

T = TypeVar("T")

_SHOWN = 20


class _Leased(Control):
    """Looks at the lease whenever it is asked: a process that stood still begins nothing when it goes on."""

    def __init__(self, lease: Lease) -> None:
        super().__init__("")
        self._lease = lease

    def stopping(self) -> bool:
        if not self._lease.may_begin(clock()):
            self.stop("the end of its lease")
        return super().stopping()


class Carrier:
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
        self.facts = Facts(self.head["facts"])
        self.flight = Flight()
        self.client: Client | None = None
        self._stop, self._pause = StopToken(_Leased(self.lease)), Pause()
        self._sending: MemberSending | None = None
        self._lock = threading.Lock()  # of the state, and of what is pending
        self._pending: set[Future[Any]] = set()
        self._numbers: set[int] = set()
        threading.Thread(target=self._run, name=f"job {job}", daemon=True).start()

    def carry_out(self, number: int, works: list[Candidate]) -> list[Record]:
        """From another thread. Waits until all of them have come to an end."""
        return self._carried(number, lambda sending: sending.carry(works)) or protocol.left(works)

    def carry_parts(self, number: int, run: PartRun) -> list[PartRecord] | None:
        """The same for parts of a large file; None: nothing was begun."""
        return self._carried(number, lambda sending: sending.carry_parts(run))

    @property
    def has_doubts(self) -> bool:
        """Whether the storage was seen not to check the sums of parts."""
        return self._sending is not None and self._sending.sender.part_sums.is_doubted

    def _carried(self, number: int, carry: Callable[[MemberSending], Coroutine[Any, Any, T]]) -> T | None:
        """None: not begun, or broken off. A batch that comes again is not begun again."""
        until = clock() + LEASE_SECONDS
        while self.state is State.OPENING and clock() < until:
            time.sleep(TICK_SECONDS)
        with self._lock:
            sending = self._sending
            if self.state is not State.READY or sending is None or number in self._numbers:
                return None
            self._numbers.add(number)
            future = asyncio.run_coroutine_threadsafe(carry(sending), sending.loop)
            self._pending.add(future)
        try:
            return future.result()
        except CancelledError:
            return None
        finally:
            with self._lock:
                self._pending.discard(future)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except SyncError as error:
            self.refused = self.refused or error.message
        except Exception as error:  # noqa: BLE001 - the job goes on without this member; the trace is in its log
            traceback.print_exc()
            self.refused = self.refused or f"a bug in this program: {type(error).__name__}"
        finally:
            with self._lock:
                self.state = State.NONE
                for future in self._pending:
                    future.cancel()

    async def _live(self) -> None:
        head = self.head
        place = Endpoint.of(head["url"], head["region"], head["addressing"])
        ca_bundle = ca_bundle_of() if place.scheme == "https" else None
        connections = ConnectionPool(
            place, ca_bundle, Limits.of(head["timeout"]), use_proxies=head["use_proxies"]
        )
        with (
            Tree(self.settings.uploads_dir) as tree,
            ThreadPoolExecutor(READERS, "reader") as pool,
            ThreadPoolExecutor(DISK_READERS, "disk") as disk,
        ):
            async with connections:
                target = Target(head["bucket"], head["region"], head["prefix"])
                patience = head["patience"]
                conditions = Conditions(stop=self._stop, pause=self._pause, patience_seconds=patience)
                client = self.client = Client(connections, target, self.keys, conditions)
                watching = asyncio.create_task(self._watch(client))
                try:
                    await self._serve(client, tree, pool, disk)
                finally:
                    watching.cancel()

    async def _serve(self, client: Client, tree: Tree, pool: Executor, disk: Executor) -> None:
        """From the first look at the storage until nothing is in flight any more."""
        bucket, head, stop = Bucket(client), self.head, self._stop
        await bucket.exists()  # raises what a job that begins would raise
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
            progress=cast("Progress", self.flight),
            stop=stop,
            tree=tree,
            pool=pool,
            disk=disk,
            changes=cast("Changes", None),
        )
        sending = self._sending = MemberSending(attempt, self.flight, head["lanes"])
        with self._lock:
            if self.state is State.OPENING:
                self.state = State.READY
        while not stop.requested():
            await asyncio.sleep(TICK_SECONDS)
        with self._lock:
            self.state = State.ENDING
        if stop.fatal is not None:
            self.refused = getattr(stop.fatal, "message", "") or type(stop.fatal).__name__
            if not isinstance(stop.fatal, SyncError):
                traceback.print_exception(stop.fatal)
        await sending.inbox.finish()
        sending.records.close()
        while self._pending:
            await asyncio.sleep(TICK_SECONDS)

    async def _watch(self, client: Client) -> None:
        """Lease, stop and pause, as they are at every moment."""
        stop, pause, connections = self._stop, self._pause, client.pool
        assert connections.watchdog is not None
        while True:
            if self.stops or self.drops:
                stop.control.cancel()
            if connections.watchdog.done():
                stop.fail(FatalError("InternalError", "the connection watchdog has ended"))
            if stop.requested():
                connections.give_up(writes=self.drops or stop.control.drops_writes())
            if self.lease.must_end(clock()):
                connections.close()
            if pause.turn(self.is_paused and not stop.requested()) and not pause.on:
                client.go_on()
            await asyncio.sleep(TICK_SECONDS)

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
            "epoch": self.epoch,
            "needs_keys": isinstance(self.keys, HeardKeys) and self.keys.missing,
            "files": self.flight.counts["files_uploaded"],
            "bytes": self.flight.bytes,
            "done": self.flight.done,
            "waits": any(operation.op != PART for operation in operations)
            or (client is not None and bool(client.in_flight or client.outage.asking)),
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
        return Given(settings.minio_access_key, settings.minio_secret_key, origin=origin_of_keys())
    return Chain()
