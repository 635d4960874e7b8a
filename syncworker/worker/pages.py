"""Fetches the pages of the bucket's listing in the event loop, for the planner's thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue

from syncworker.errors import FatalError
from syncworker.index.rows import count_objects
from syncworker.model import ObjectEntry
from syncworker.plan.breadth import Breadth
from syncworker.plan.listing import Listing, page_of_folders, prefixes_of
from syncworker.s3.xml_messages import PAGE_KEYS, Page
from syncworker.transfer.attempt import Attempt


class Arriving:
    """The pages of a range. The event loop fetches them, at most `most` pages ahead of the reading thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._most = most
        self.is_fetching = True
        self._loop = loop
        self._pages: SimpleQueue[Page | Exception | None] = SimpleQueue()
        self._room = asyncio.Event()
        self._may_wait = False

    async def fetch(
        self, pages: AsyncIterator[Page], record: Callable[[float, int], None], *, knows_first: bool
    ) -> None:
        try:
            started = time.monotonic()
            async for page in pages:
                if not knows_first:
                    record(time.monotonic() - started, len(page.entries))
                knows_first = False
                self._pages.put(page)
                await self._wait_for_room()
                started = time.monotonic()
            self._pages.put(None)
        except Exception as error:  # noqa: BLE001 - the reading thread raises any error
            self._pages.put(error)
        except BaseException:
            self._pages.put(CancelledError())
            raise
        finally:
            self.is_fetching = False

    async def _wait_for_room(self) -> None:
        self._room.clear()
        self._may_wait = True  # set before the check: each later read wakes us
        if self._pages.qsize() >= self._most:
            self.is_fetching = False
            await self._room.wait()
            self.is_fetching = True
        self._may_wait = False

    def __iter__(self) -> Iterator[Page]:
        while (page := self._pages.get()) is not None:
            if isinstance(page, Exception):
                raise page
            if self._may_wait:
                self._loop.call_soon_threadsafe(self._room.set)
            yield page


class Pages:
    """Fetches the listing of an attempt. `makes_bucket`: the bucket is missing; the plan creates it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.bucket, self.index, self.stop = attempt.bucket, attempt.index, attempt.stop
        self.progress = attempt.progress
        self.loop = asyncio.get_running_loop()
        self.breadth = Breadth()
        self.makes_bucket = False
        self._first_page: Page | None = None
        self._folders: tuple[str, ...] = ()  # prefixes to list; none: the whole bucket

    async def choose(self) -> None:
        """Decides which prefixes to list. A job that was started by changes may need only a few folders."""
        self._folders = await self.attempt.in_thread(self._folders_to_list)

    def _folders_to_list(self) -> tuple[str, ...]:
        """Returns the prefixes to list; none if the whole mirror has no more pages than these."""
        scope = self.attempt.options.scope
        if not scope or "" in scope:
            return ()
        most = (len(scope) - 1) * PAGE_KEYS
        known = count_objects(self.index.path, most + 1)
        return () if known and known <= most else prefixes_of(scope)  # no count: index lost

    async def open(self, *, may_create: bool, is_plan: bool) -> bool:
        """Fetches the first page, and creates a missing bucket unless the job only plans. Returns False if
        the bucket is missing and may not be created."""
        try:
            page = await self._page(None)
            missing = not page.entries and not page.truncated and not await self.bucket.exists()
        except FatalError as error:
            if error.code != "NoSuchBucket":
                raise
            page, missing = Page([], None, False), True
        if missing and not may_create:
            return False
        if missing and is_plan:
            self.index.clear()
            self._first_page, self.makes_bucket = page, True
            return True
        if missing:
            self.stop.control.check()
            started = time.monotonic()
            if not await self.bucket.create():
                page = await self._page(None)  # the answer that it is missing was outdated
            self.index.clear()
            self.progress.report.add(
                "create_bucket", self.bucket.name, None, None, time.monotonic() - started
            )
        self._first_page = page
        return True

    @property
    def is_long(self) -> bool:
        """Returns whether the first page is still unused and more pages follow it."""
        return self._first_page is not None and self._first_page.truncated

    def fetch(self, token: str | None) -> Future[Page]:
        """Requests a page. Called by the planner's thread. The first page is already here."""
        if token is None and (first := self.take_first_page()) is not None:
            ready: Future[Page] = Future()
            ready.set_result(first)
            return ready
        return asyncio.run_coroutine_threadsafe(self._page(token), self.loop)

    def fetch_range(self, low: str | None, high: str | None) -> Arriving:
        """Requests the pages of a range. Called by the planner's thread."""
        first = self.take_first_page() if low is None else None
        arriving = Arriving(self.loop, 2 + self.breadth.pages_each)  # the range may have grown
        pages = self.bucket.list_range(low, high, first)
        fetching = arriving.fetch(pages, self.breadth.record, knows_first=first is not None)
        asyncio.run_coroutine_threadsafe(fetching, self.loop)
        return arriving

    def take_first_page(self) -> Page | None:
        """Returns the first page, only once: a later listing must not use an outdated page."""
        page, self._first_page = self._first_page, None
        return page

    async def _page(self, token: str | None) -> Page:
        """Fetches a page of the whole bucket, or of the few folders that this job lists."""
        started = time.monotonic()
        page = await self._list_page(token)
        self.breadth.record(time.monotonic() - started, len(page.entries))
        return page

    async def _list_page(self, token: str | None) -> Page:
        if not self._folders:
            return await self.bucket.list_page(token)
        return await page_of_folders(
            lambda own, below: self.bucket.list_page(own, below=below), self._folders, token
        )

    async def all_objects(self) -> AsyncIterator[Sequence[ObjectEntry]]:
        """Yields all objects of the bucket, page by page."""
        self.take_first_page()
        pages = Listing(self.fetch).pages()
        while (page := await self.attempt.in_thread(next, pages, None)) is not None:
            self.stop.control.check()
            yield page
