"""The context of each stage of an attempt: the order, the bucket, the index and so on, and the waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.jobs.progress import Progress
from syncworker.options.effective import DEFAULTS, Options
from syncworker.plan.differences import Changes
from syncworker.plan.may_delete import NO_RULES, Rules
from syncworker.s3.bucket import Bucket
from syncworker.system.pause import Pause
from syncworker.system.stop_token import StopToken
from syncworker.transfer.blocking_keys import Obstacles


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Order:
    """What the request asks for and the settings allow. `approved`: the approved plan, from the status."""

    uploads_dir: str
    source: str
    wait_seconds: float
    may_delete_bucket: bool
    spool_dir: str
    options: Options = DEFAULTS
    may_skip: bool = True
    rules: Rules = NO_RULES
    plan_path: str = ""
    approved: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Attempt:
    """`pool` has the threads that read files, `disk` those that mostly wait for a disk. The creator of the
    attempt closes `changes`."""

    order: Order
    bucket: Bucket
    index: Index
    progress: Progress
    stop: StopToken
    tree: Tree
    pool: Executor
    disk: Executor
    changes: Changes
    obstacles: Obstacles = field(default_factory=Obstacles)
    started_ns: int = field(default_factory=time.time_ns)

    @property
    def options(self) -> Options:
        return self.order.options

    @property
    def pause(self) -> Pause:
        return self.bucket.client.pause

    async def in_thread(self, function: Any, *values: Any) -> Any:
        if self.pause.on:
            await self.pause.wait()
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *values)

    async def from_disk(self, function: Any, *values: Any) -> Any:
        if self.pause.on:
            await self.pause.wait()
        return await asyncio.get_running_loop().run_in_executor(self.disk, function, *values)

    async def wait_interval(self) -> None:
        """Waits before each operation: for the time given by `wait`, then for the end of a pause. A stop ends
        both immediately."""
        if self.order.wait_seconds:
            await self._rest()
        if self.pause.on:
            await self.pause.wait()
        if self.stop.requested():
            self.stop.raise_if_requested()

    async def _rest(self) -> None:
        self.stop.raise_if_requested()
        if self.progress.ended_at is not None:
            until = self.progress.ended_at + self.order.wait_seconds
            self.progress.say(f"waiting {self.order.wait_seconds:g} s before the next operation")
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, 0.05))
                self.stop.raise_if_requested()
