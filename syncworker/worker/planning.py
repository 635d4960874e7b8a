"""Runs the planner's thread and holds the queue of its events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator

from syncworker.model import KEY_MAX_BYTES, ScanItem
from syncworker.plan.listing import CUT_KEYS
from syncworker.plan.planner import Event, Kept, Outdated, Planner, RemoteOnlyKeys, Scope
from syncworker.transfer.attempt import Attempt
from syncworker.worker.pages import Pages


class Planning:
    """Runs planners. `events` holds at most a few batches; None is the last."""

    def __init__(self, attempt: Attempt, pages: Pages) -> None:
        self.attempt, self.pages, self.stop = attempt, pages, attempt.stop
        self.index = attempt.index
        self.loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[list[Event] | None] = asyncio.Queue(maxsize=4)

    def planner(
        self,
        remote_only: RemoteOnlyKeys | None = None,
        *,
        every: bool = False,
        verifying: bool = False,
    ) -> Planner:
        options, may_be_outdated = self.attempt.options, not (every or verifying)
        scope = Scope(
            key_bytes_max=KEY_MAX_BYTES - len(options.prefix.encode()),
            every=every,
            whole=options.scope is None,
            outdated=Outdated.of(self.index, options.object_headers()) if may_be_outdated else None,
            kept=self.kept(),
            first_cuts=self._first_cuts() if self.pages.is_long else (),
        )
        return Planner(self.index, self.pages, self.attempt.order.spool_dir, self, scope, remote_only)

    def _first_cuts(self) -> Iterable[str]:
        from syncworker.folder.cut_keys import cut_keys  # a small job does not need it

        stop = self.attempt.pause.blocking(self.stop.requested)
        options = self.attempt.options
        return cut_keys(self.attempt.tree, self.attempt.order.source, CUT_KEYS, stop, options.path_filter())

    def kept(self) -> Kept:
        """Returns a new filter, because the scan may use its own in another thread."""
        return Kept(deletes=self.attempt.options.delete, path_filter=self.attempt.options.path_filter())

    async def run(
        self, planner: Planner, items: Iterator[ScanItem], take: Callable[[], Awaitable[None]]
    ) -> None:
        """Runs the planner's thread, and `take` for its events, until both end. If `take` fails, discards
        the events until the thread ends."""
        thread = threading.Thread(target=planner.run, args=(items,), name="planner", daemon=True)
        thread.start()
        try:
            await take()
        except Exception as error:
            self.stop.fail(error)
            while thread.is_alive():  # it reads the index, and may wait for room in the queue
                while not self.events.empty():
                    self.events.get_nowait()
                await asyncio.sleep(0.01)
            raise
        await self.attempt.in_thread(thread.join)

    def emit(self, batch: list[Event] | None) -> None:
        """Called by the planner's thread. Blocks while the loop is behind."""
        asyncio.run_coroutine_threadsafe(self.events.put(batch), self.loop).result()
