"""The listing of a bucket: complete in any cut into ranges, whatever the order a store lists in."""

from __future__ import annotations

from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.errors import FatalError
from syncworker.model import ObjectEntry
from syncworker.plan.listing import Listing
from syncworker.s3.xml_messages import Page


def bytes_order(key: str) -> object:
    return key


def tree_order(key: str) -> object:
    """A store that walks folders: `a/b` comes before `a-b` (SeaweedFS)."""
    return tuple(key.split("/"))


class Store:
    """A store that lists `keys` in its own order, `page_size` at a time, and counts what it was asked."""

    def __init__(self, keys: set[str], page_size: int, order=bytes_order) -> None:
        self.keys = sorted(keys, key=order)
        self.order = order
        self.page_size = page_size
        self.asked = 0

    def page(self, token: str | None, after: str | None = None) -> Page:
        self.asked += 1
        start = int(token) if token is not None else 0
        if token is None and after is not None:
            start = sum(1 for key in self.keys if self.order(key) <= self.order(after))
        end = start + self.page_size
        entries = [ObjectEntry(key, 1, "e", "t") for key in self.keys[start:end]]
        more = end < len(self.keys)
        return Page(entries, str(end) if more else None, more)

    def fetch(self, token: str | None) -> Future[Page]:
        return done(self.page(token))

    def fetch_range(self, low: str | None, high: str | None) -> Future[list[Page]]:
        pages = [self.page(None, low)]
        while pages[-1].truncated and len(pages) < 4 and not (high and pages[-1].entries[-1].key > high):
            pages.append(self.page(pages[-1].token))
        return done(pages)


def done(value):
    future: Future = Future()
    future.set_result(value)
    return future


keys = st.sets(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=60)


@settings(max_examples=300, deadline=None)
@given(keys, st.lists(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=8), st.integers(1, 7))
def test_any_cuts_list_every_key_once_and_in_order(held, cuts, page_size):
    store = Store(held, page_size)
    listing = Listing(store.fetch, store.fetch_range, cuts)
    found = [entry.key for page in listing.pages() for entry in page]
    assert found == sorted(held)
    assert listing.complete


@settings(max_examples=300, deadline=None)
@given(keys, st.lists(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=8), st.integers(1, 7))
def test_a_store_out_of_order_never_yields_what_it_does_not_hold(held, cuts, page_size):
    """Ranges are for stores that list in order; elsewhere they may miss a key, never invent one, and no key
    that is missed can be deleted."""
    store = Store(held, page_size, tree_order)
    listing = Listing(store.fetch, store.fetch_range, cuts)
    try:
        found = [entry.key for page in listing.pages() for entry in page]
    except FatalError as error:
        assert error.code == "BrokenListing"
        return
    assert set(found) <= held
    if not cuts:
        assert sorted(found) == sorted(held)


def test_ranges_are_given_up_at_the_first_border_that_does_not_hold():
    store = Store({"a/b", "a-b", "a.c", "b"}, 2, tree_order)
    listing = Listing(store.fetch, store.fetch_range, ["a-b"])
    found = [entry.key for page in listing.pages() for entry in page]
    assert sorted(found) == ["a-b", "a.c", "a/b", "b"]


def test_ranges_cost_few_more_requests_than_pages():
    store = Store({f"{n:05d}" for n in range(10_000)}, 1000)
    listing = Listing(store.fetch, store.fetch_range, [f"{n:05d}" for n in range(2000, 10_000, 2000)])
    assert sum(len(page) for page in listing.pages()) == 10_000
    assert store.asked <= 10 + 4 + 1


def test_complete_is_known_with_the_last_page():
    store = Store({f"{n:03d}" for n in range(100)}, 10)
    for cuts in ([], ["020", "050"]):
        listing = Listing(store.fetch, store.fetch_range, cuts)
        states = [(listing.complete, page[-1].key) for page in listing.pages()]
        assert [complete for complete, _ in states] == [key == "099" for _, key in states]


@pytest.mark.parametrize(
    "pages",
    [
        [Page([ObjectEntry("a", 1, "", "")], None, True)],
        [Page([ObjectEntry("a", 1, "", "")], "t", True), Page([ObjectEntry("b", 1, "", "")], "t", True)],
        [Page([ObjectEntry("a", 1, "", "")], "t", True), Page([ObjectEntry("a", 1, "", "")], "u", True)],
    ],
    ids=["more, and no token", "the same token again", "the same page again"],
)
def test_a_listing_that_contradicts_itself_is_broken(pages):
    answers = iter(pages)
    listing = Listing(lambda _: done(next(answers)))
    with pytest.raises(FatalError, match="nothing was deleted"):
        list(listing.pages())
