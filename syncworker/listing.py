"""The whole listing of a bucket, page by page, believed only as far as it is consistent.

A listing is broken, and the job must fail without deleting anything, when it says there is more and gives no
token, repeats a token or a page, or names a key twice. Keys out of byte order are no fault (SeaweedFS, S3
Express and others list so) but change how they are joined: plan.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from syncworker.errors import FatalError
from syncworker.model import ObjectEntry
from syncworker.s3xml import Page


class PendingPage(Protocol):
    """A page that has been asked for (a `concurrent.futures.Future`)."""

    def result(self) -> Page: ...


class Listing:
    """Iterates over the pages of a bucket, the next one being fetched while one is used.

    `complete` is True once the last page has been received: every key still to come is in hand.
    """

    def __init__(self, fetch: Callable[[str | None], PendingPage]) -> None:
        self._fetch = fetch
        self.complete = False
        self.count = 0

    def pages(self) -> Iterator[list[ObjectEntry]]:
        """Raises FatalError BrokenListing, or what fetching raises."""
        pending = self._fetch(None)
        tokens: set[int] = set()
        last_ends: tuple[str, str] | None = None
        while True:
            page = pending.result()
            if page.truncated:
                if page.token is None:
                    raise _broken("says there is more and gives no way to it")
                if hash(page.token) in tokens:
                    raise _broken("comes back to a page that it gave before")
                tokens.add(hash(page.token))
                pending = self._fetch(page.token)
            else:
                self.complete = True
            if page.entries:
                ends = (page.entries[0].key, page.entries[-1].key)
                if ends == last_ends:
                    raise _broken("gives the same page twice")
                last_ends = ends
            self.count += len(page.entries)
            yield page.entries
            if self.complete:
                return


def _broken(how: str) -> FatalError:
    return FatalError("BrokenListing", f"the storage's listing {how}: nothing was deleted")


def duplicate(key: str) -> FatalError:
    return _broken(f"names {key!a} twice")
