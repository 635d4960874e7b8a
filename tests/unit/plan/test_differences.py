"""What a listing at the end of a run is compared with, where the listing lags."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from syncworker.errors import FatalError
from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.model import ObjectEntry
from syncworker.plan.differences import Changes, Found, Listable, collect
from syncworker.plan.spool import Spool
from syncworker.s3.xml_messages import Page

OLD, NEW = [f"a/{n:04d}" for n in range(1500)], [f"b/{n:04d}" for n in range(1000)]
KEYS, PAGE = OLD + NEW, 1000


class Lagging:
    """A store that names the new folder only when it is asked for keys within it. `is_broken`: it gives one
    page for ever, too."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.is_broken = is_broken

    def page(self, after: str) -> Page:
        there = KEYS if after.startswith("b/") else OLD
        keys = [key for key in there if key > after or self.is_broken]
        entries = [ObjectEntry(key, 1, "e", "t") for key in keys[:PAGE]]
        return Page(entries, keys[PAGE - 1] if len(keys) > PAGE else None, len(keys) > PAGE)

    def fetch(self, token: str | None) -> Future[Page]:
        future: Future[Page] = Future()
        future.set_result(self.page(token or ""))
        return future

    def fetch_range(self, low: str | None, high: str | None) -> Range:
        return Range(self, low or "", high)


class Range:
    is_fetching = False

    def __init__(self, store: Lagging, low: str, high: str | None) -> None:
        self.store, self.low, self.high = store, low, high

    def __iter__(self) -> Iterator[Page]:
        page = self.store.page(self.low)
        yield page
        while page.truncated and not (self.high and page.entries[-1].key > self.high):
            page = self.store.page(page.token or "")
            yield page


def differing(folder: Path, store: Lagging) -> list[str]:
    index, changes = Index(str(folder / "index.sqlite3")), Changes(str(folder))
    try:
        for key in KEYS:
            index.remember(IndexRow(key, 1, 1, 1, 1, "e", "", 0, "t", 1))
        index.flush()
        bucket = Listable(store.fetch, store.fetch_range, [OLD[979], NEW[459]], len(KEYS))
        with Found(str(folder)) as found:
            collect(found, index, changes, bucket, lambda: Spool(str(folder)), lambda: None)
            return [each.key for chunk in found.chunks() for each in chunk]
    finally:
        changes.close()
        index.close()


def test_a_new_folder_that_only_some_ranges_list_is_no_broken_listing(
    tmp_path: Path,
) -> None:
    """As the juicefs gateway lists for a second after the folder was made. Each difference is asked about."""
    assert differing(tmp_path, Lagging()) == NEW


def test_a_listing_that_is_broken_by_tokens_too_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="listing"):
        differing(tmp_path, Lagging(is_broken=True))
