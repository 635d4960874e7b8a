"""When a job's files go to a cluster: once there are so many to be sent that it is worth opening.

Until then, and for what only this process can do (updates at the storage, files in whose way an object may
stand), they go by its own lanes. Large files are compared, begun and completed here, and their parts go by
this process and by members. One operation at a time (`wait`) and plans stay here wholly.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys

from syncworker.cluster.home import JobHome
from syncworker.cluster.peers import Limits
from syncworker.cluster.protocol import Cluster
from syncworker.cluster.shares import Shares
from syncworker.errors import FatalError, SyncError
from syncworker.jobs.record import Status
from syncworker.jobs.store import Jobs
from syncworker.plan.compare import Candidate, Verdict
from syncworker.s3 import etag
from syncworker.settings import Settings
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lanes import Lanes
from syncworker.transfer.parts import Parts
from syncworker.worker.accounts import Accounts
from syncworker.worker.dispatch import Outlet
from syncworker.worker.sending import Sending

MIN_BYTES = 1 << 30
_AHEAD_GROUPS = 8
_LOOK_SECONDS = 0.02
EPOCHS = 1_000_000  # of one attempt
NOT_INSTALLED = (
    "CLUSTER needs packages that are not installed: pip install --require-hashes -r requirements-cluster.txt"
    " (into the service's environment, on each machine), or leave CLUSTER empty"
)


class ByCluster:
    """What a job has elsewhere."""

    def __init__(self, settings: Settings, jobs: Jobs, status: Status) -> None:
        if importlib.util.find_spec("distributed") is None:
            raise FatalError("ClusterNotInstalled", NOT_INSTALLED)
        self.settings, self.destination, self.status = settings, jobs.destination(status), status
        self._outlet: ClusterOutlet | None = None

    def outlet(self, attempt: Attempt, sending: Sending, accounts: Accounts, lanes: Lanes) -> Outlet:
        if attempt.order.wait_seconds or accounts.is_plan:
            return lanes
        home = JobHome(sending, accounts, lanes, self.settings, self.destination)
        limits = Limits(
            self.status["id"], int(self.status["attempt"]) * EPOCHS, float(self.settings.cluster_patience)
        )
        self._outlet = ClusterOutlet(self.settings, home, limits)
        sending.part_sender.share(self._outlet)
        return self._outlet

    async def close(self) -> None:
        if self._outlet is not None:
            await self._outlet.close()


class ClusterOutlet:
    """Takes groups of files; hands them to the lanes or, once they are many, to the members."""

    def __init__(self, settings: Settings, home: JobHome, limits: Limits) -> None:
        self.settings, self.home, self.limits = settings, home, limits
        self.lanes = home.lanes
        self._shares: Shares | None = None
        self._opening: asyncio.Task[None] | None = None
        self._is_closed = False
        self._files = self._bytes = 0
        self._large: set[str] = set()  # counted before it was opened
        self._offered: list[Parts] = []

    async def put(self, group: list[Candidate]) -> None:
        out = [work for work in group if self._may_go(work)]
        large = [work for work in group if _goes_in_parts(work)]
        if out or large:
            self.home.samples.append((out or large)[-1].file)
        self._files += len(out)
        self._bytes += sum(work.file.size for work in (*out, *large))
        if self._opening is None and (out or large):
            self._large.update(work.file.key for work in large)
            self._open_if_worth_it()
        if out:
            await self._wait_for_members()
        shares = self._shares
        if not out or shares is None or not self._has_members() or self.home.keeps_all():
            await self.lanes.put(group)
            return
        await shares.put(out)
        if len(out) < len(group):
            await self.lanes.put([work for work in group if not self._may_go(work)])

    async def _wait_for_members(self) -> None:
        """While they are on their way the lanes get no more than they need; where every file is to go to
        members (CLUSTER_MIN_FILES=0), nothing."""
        most = _AHEAD_GROUPS if self.settings.cluster_min_files else -1
        while (
            self._opening is not None
            and not (self._has_members() or self.home.keeps_all() or self.home.is_stopping())
            and not (self._shares is not None and self._shares.roll.is_alone)
            and self.lanes.groups_waiting > most
        ):
            await asyncio.sleep(_LOOK_SECONDS)

    def _may_go(self, work: Candidate) -> bool:
        if work.decision.verdict is Verdict.UPDATE or not etag.is_single(work.file.size):
            return False
        return not self.home.accounts.obstacles.may_be_blocked(work.file.key)

    def _open_if_worth_it(self) -> None:
        if self._files >= self.settings.cluster_min_files or self._bytes >= MIN_BYTES:
            self._opening = asyncio.create_task(self._open())

    def _has_members(self) -> bool:
        """Whether any was ever there: from then on it is for `Shares` to say who does what."""
        shares = self._shares
        return shares is not None and (shares.has_begun or any(p.works for p in shares.roll.peers.values()))

    async def _open(self) -> None:
        try:
            cluster = await asyncio.to_thread(_cluster_of, self.settings)
        except SyncError as error:
            self.home.fail(FatalError(error.code, error.message))
            return
        except Exception as error:  # noqa: BLE001 - no room for its folder, no descriptor left: of the job
            self.home.fail(error)
            return
        print(f"cluster: {self.settings.cluster} is opened", file=sys.stderr, flush=True)
        self._shares = self.home.shares = Shares(cluster, self.home, self.limits)
        for parts in self._offered:
            self._shares.offer(parts)

    def offer(self, parts: Parts) -> None:
        """Members may have parts of a large file: those that are there, or are to come. One that was compared
        first is known to be sent only now."""
        self._offered.append(parts)
        if self._shares is not None:
            self._shares.offer(parts)
        elif self._opening is None and parts.file.key not in self._large and not self._is_closed:
            self._large.add(parts.file.key)
            self.home.samples.append(parts.file)
            self._bytes += parts.file.size
            self._open_if_worth_it()

    def withdraw(self, parts: Parts) -> None:
        self._offered = [each for each in self._offered if each is not parts]
        if self._shares is not None:
            self._shares.withdraw(parts)

    async def finish(self) -> None:
        if self._shares is not None:
            await self._shares.finish()
        await self.lanes.finish()
        await self._opened()
        if self._shares is not None:
            await self._shares.barrier()
            await self.close()

    async def _opened(self) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening})

    async def close(self) -> None:
        self._is_closed = True
        await self._opened()
        shares, self._shares = self._shares, None
        if shares is not None:
            await asyncio.shield(shares.close())


def _cluster_of(settings: Settings) -> Cluster:
    """In a thread: loading Dask takes half a second of processor time, and the loop goes on meanwhile."""
    from syncworker.cluster import dask_engine  # `ByCluster` has seen that it can be loaded

    return dask_engine.open_cluster(settings)


def _goes_in_parts(work: Candidate) -> bool:
    return work.decision.verdict is Verdict.UPLOAD and not etag.is_single(work.file.size)
