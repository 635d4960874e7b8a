"""The listing of a bucket: complete in any cut into ranges, whatever the order a store lists in."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.errors import FatalError, FileError
from syncworker.model import ObjectEntry
from syncworker.plan.breadth import PAGES_AHEAD, Breadth
from syncworker.plan.listing import Listing
from syncworker.s3.xml_messages import Page, StartAfter
from syncworker.worker.pages import Arriving


def bytes_order(key: str) -> object:
    return key


def tree_order(key: str) -> object:
    """A store that walks folders: `a/b` comes before `a-b` (SeaweedFS)."""
    return tuple(key.split("/"))


class Store:
    """A store that lists `keys` in its own order, `page_size` at a time, and counts what it was asked."""

    def __init__(self, keys: set[str], page_size: int, order=bytes_order, *, heeds_start_after=True) -> None:
        self.keys = sorted(keys, key=order)
        self.order = order
        self.page_size = page_size
        self.heeds_start_after = heeds_start_after
        self.asked = 0

    def page(self, token: str | None, after: str | None = None) -> Page:
        self.asked += 1
        if isinstance(token, StartAfter):
            token, after = None, token
        start = int(token) if token is not None else 0
        if token is None and after is not None and self.heeds_start_after:
            start = bisect_right(self.keys, self.order(after), key=self.order)
        end = start + self.page_size
        entries = [ObjectEntry(key, 1, "e", "t") for key in self.keys[start:end]]
        more = end < len(self.keys)
        return Page(entries, str(end) if more else None, more)

    def fetch(self, token: str | None) -> Future[Page]:
        return done(self.page(token))

    def fetch_range(self, low: str | None, high: str | None) -> Lazy:
        return Lazy(self._range(low, high))

    def _range(self, low: str | None, high: str | None) -> Iterator[Page]:
        page = self.page(None, low)
        yield page
        while page.truncated and not (high and page.entries[-1].key > high):
            page = self.page(page.token)
            yield page


class Lazy:
    """A range whose pages are fetched when they are asked for."""

    is_fetching = False

    def __init__(self, pages: Iterator[Page]) -> None:
        self._pages = pages

    def __iter__(self) -> Iterator[Page]:
        return self._pages


def wide(ranges: int = 64) -> Breadth:
    """So many ranges, of a page each where these are many."""
    breadth = Breadth()
    breadth.ranges = ranges
    return breadth


def done(value):
    future: Future = Future()
    future.set_result(value)
    return future


@pytest.mark.parametrize("cuts", [[], ["b", "d"]])
def test_only_waiting_for_pages_is_counted_as_waiting(cuts: list[str]) -> None:
    store = Store(set("abcdef"), 2)
    page = store.page

    def slowly(token, after=None):
        time.sleep(0.02)
        return page(token, after)

    store.page = slowly
    listing = Listing(store.fetch, store.fetch_range, cuts, wide())
    for _ in listing.pages():
        time.sleep(0.1)  # the reader is busy with a page
    assert 0.02 * store.asked - 0.02 <= listing.waited < 0.1 * store.asked


keys = st.sets(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=60)


@settings(max_examples=300, deadline=None)
@given(keys, st.lists(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=8), st.integers(1, 7))
def test_any_cuts_list_every_key_once_and_in_order(held, cuts, page_size):
    store = Store(held, page_size)
    listing = Listing(store.fetch, store.fetch_range, cuts, wide())
    found = [entry.key for page in listing.pages() for entry in page]
    assert found == sorted(held)
    assert listing.complete


@settings(max_examples=300, deadline=None)
@given(keys, st.lists(st.text(alphabet="ab-/.z", min_size=1, max_size=5), max_size=8), st.integers(1, 7))
def test_a_store_out_of_order_never_yields_what_it_does_not_hold(held, cuts, page_size):
    """Ranges are for stores that list in order; elsewhere they may miss a key, never invent one, and no key
    that is missed can be deleted."""
    store = Store(held, page_size, tree_order)
    listing = Listing(store.fetch, store.fetch_range, cuts, wide())
    try:
        found = [entry.key for page in listing.pages() for entry in page]
    except FatalError as error:
        assert error.code == "BrokenListing"
        return
    assert set(found) <= held
    if not cuts:
        assert sorted(found) == sorted(held)


@settings(max_examples=500, deadline=None)
@given(
    st.sets(st.text(alphabet="ab-/.z\udc80\x01", min_size=1, max_size=5), max_size=60),
    st.lists(st.text(alphabet="ab-/.z\udc80\x01", min_size=1, max_size=5), max_size=12),
    st.integers(1, 7),
    st.sampled_from([bytes_order, tree_order, hash]),
    st.booleans(),
    st.lists(st.integers(1, 70), min_size=1, max_size=5),
)
def test_every_key_is_listed_once_whatever_the_order_and_the_cuts(
    held, cuts, page_size, order, heeds_start_after, ranges
):
    """A store goes on behind a key in its own order, or does not heed `start-after` at all; the number of
    ranges changes from page to page, and keys may be bytes that are no text."""
    store = Store(held, page_size, order, heeds_start_after=heeds_start_after)
    breadth = wide(ranges[-1])
    listing = Listing(store.fetch, store.fetch_range, cuts, breadth)
    found = []
    for number, page in enumerate(listing.pages()):
        found += [entry.key for entry in page]
        breadth.ranges = ranges[number % len(ranges)]
    assert sorted(found) == sorted(held)
    assert listing.complete


class Short(Store):
    """Once, or each time, an answer has lost its end: what is behind it would be taken for gone."""

    def __init__(self, *, each_time: bool) -> None:
        super().__init__({f"{n:03d}" for n in range(100)}, 10)
        self.each_time = each_time

    def page(self, token: str | None, after: str | None = None) -> Page:
        page = super().page(token, after)
        if token == "20" or (self.each_time and isinstance(token, StartAfter)):
            return page._replace(token=None, truncated=False)
        return page


@pytest.mark.parametrize("ranges", [1, 2, 64])
def test_a_listing_that_ends_before_keys_that_it_lists_elsewhere_goes_on_there(ranges):
    store = Short(each_time=False)
    listing = Listing(store.fetch, store.fetch_range, ["050", "090"], wide(ranges))
    assert [entry.key for page in listing.pages() for entry in page] == store.keys
    assert listing.complete


@pytest.mark.parametrize("ranges", [1, 2, 64])
def test_a_listing_that_ends_once_more_before_keys_that_it_lists_elsewhere_is_broken(ranges):
    store = Short(each_time=True)
    listing = Listing(store.fetch, store.fetch_range, ["050", "090"], wide(ranges))
    with pytest.raises(FatalError, match="another request listed"):
        list(listing.pages())
    assert not listing.complete


@given(
    held=st.sets(st.integers(0, 99), max_size=60),
    come=st.sets(st.integers(0, 199), min_size=1, max_size=60),
    cuts=st.sets(st.integers(0, 199), min_size=1, max_size=6),
    asked=st.integers(1, 12),
    page_size=st.integers(1, 30),
)
def test_what_is_created_during_a_listing_hides_nothing_and_breaks_nothing(
    held, come, cuts, asked, page_size
):
    """After some requests a killed job's last uploads arrive, behind the end of the bucket as well."""
    store = Store({f"{n:03d}" for n in held}, page_size)
    before = list(store.keys)
    whole = store.page

    def page(token, after=None):
        if store.asked == asked:
            store.keys = sorted({*store.keys, *(f"{n:03d}" for n in come if n > max(held, default=0))})
        return whole(token, after)

    store.page = page
    listing = Listing(store.fetch, store.fetch_range, [f"{n:03d}" for n in sorted(cuts)], wide(3))
    found = [entry.key for page in listing.pages() for entry in page]
    assert found == sorted(set(found))
    assert set(before) <= set(found) <= set(store.keys)
    assert listing.complete


def test_the_range_after_the_last_cut_is_listed_with_the_others():
    store = Store({f"{n:04d}" for n in range(1100)}, 1000)
    listing = Listing(store.fetch, store.fetch_range, ["0979"], wide())
    assert sum(len(page) for page in listing.pages()) == 1100
    assert store.asked == 2  # and not what 1,000 keys leave over


def test_a_range_that_has_grown_does_not_end_the_ranges():
    """Much was added between two cuts: the ranges behind are begun all the same."""
    store = Store({f"{n:05d}" for n in range(10_000)}, 100)
    begun = []

    def fetch_range(low, high):
        begun.append((low, high))
        return store.fetch_range(low, high)

    listing = Listing(store.fetch, fetch_range, ["07000", "08000", "09000"], wide())
    assert sum(len(page) for page in listing.pages()) == 10_000
    assert begun == [(None, "07000"), ("07000", "08000"), ("08000", "09000"), ("09000", None)]


def test_cuts_that_lie_close_together_are_passed_over():
    """They were made when there were more keys: pages are not listed again for each."""
    store = Store({f"{n:05d}" for n in range(10_000)}, 1000)
    listing = Listing(store.fetch, store.fetch_range, [f"{n:05d}" for n in range(0, 10_000, 20)], wide(12))
    assert sum(len(page) for page in listing.pages()) == 10_000
    assert store.asked <= 40


@pytest.mark.parametrize(
    ("ranges", "borders"),
    [
        (1, ["09000"]),
        (2, ["05000", "08000", "09000"]),
        (4, ["03000", "05000", "07000", "08000", "09000"]),
        (12, [f"{n:05d}" for n in range(1000, 10_000, 1000)]),
    ],
)
def test_a_listing_of_few_pages_is_shared_by_all_ranges(ranges, borders):
    """Ten pages at 50 ms each, all in one range, would take half a second."""
    store, begun = Store({f"{n:05d}" for n in range(10_000)}, 1020), []

    def fetch_range(low, high):
        begun.append((low, high))
        return store.fetch_range(low, high)

    cuts = [f"{n:05d}" for n in range(1000, 10_000, 1000)]
    listing = Listing(store.fetch, fetch_range, cuts, wide(ranges))
    assert sum(len(page) for page in listing.pages()) == 10_000
    assert begun == list(itertools.pairwise([None, *borders, None]))


# -- how many ranges ----------------------------------------------------------------------------------------


def asked_of(waiting, working, lanes=1, pages=400, first=1000):
    """How many at a time a store is asked for, page by page, that answers each page after `waiting` seconds,
    and then one that needs `working` seconds of one of its `lanes`. `first`: keys of the first page."""
    breadth, now, free = Breadth(), 0.0, [0.0] * lanes
    breadth.record(waiting + working * first / 1000, first)
    begun, ranges = deque(), []
    for _ in range(pages):
        while len(begun) < breadth.ranges:
            begun.append(now)
        lane = min(range(lanes), key=free.__getitem__)
        since = begun.popleft()
        now = free[lane] = max(free[lane], since + waiting) + working
        breadth.record(now - since, 1000)
        ranges.append(breadth.ranges)
    return ranges


def test_a_far_store_is_asked_for_as_many_pages_as_can_be_parsed_in_that_time():
    assert set(asked_of(0.05, 0.001)[60:]) == {35, 36}
    assert min(asked_of(0.05, 0.001, first=0)) >= 35  # an empty bucket: as many at once
    assert asked_of(0.3, 0.001)[-1] == 64


def test_a_store_that_lists_pages_one_by_one_gets_few_requests_at_once():
    """juicefs gateway: 0.047 s alone, 0.14 s of four, 0.2 s of six, 0.5 s of twelve."""
    ranges = asked_of(0.0, 0.047)
    assert ranges[0] == 11
    assert max(ranges[40:]) <= 3
    assert max(asked_of(0.0, 0.047, first=0)) <= 3


def test_a_store_near_by_that_is_quicker_than_its_reader_is_asked_for_two_at_most():
    assert max(asked_of(0.0, 0.001)) <= 2


def test_a_busy_machine_does_not_make_a_store_far_away_a_near_one():
    """Each page waits for others here, and still they are listed several times as fast side by side."""
    assert min(asked_of(0.05, 0.01)) >= 5


def test_the_next_listing_begins_with_as_many_ranges_as_paid():
    breadth = Breadth()
    breadth.go_on("3")
    breadth.record(0.3, 0)
    assert breadth.ranges == 3
    for nonsense in (None, "", "0", "-1", "65", "x"):
        breadth.go_on(nonsense)
        assert breadth.ranges == 3


def test_few_pages_are_in_memory_whatever_the_number_of_ranges():
    breadth = Breadth()
    for ranges in range(1, 65):
        breadth.ranges = ranges
        assert breadth.pages_each * ranges <= PAGES_AHEAD


def test_ranges_that_answer_sooner_than_they_are_read_wait():
    """The pages in memory are bounded: those of one range, and those of all ranges together."""

    async def endless(low, high):
        for n in itertools.count():
            asked[low] = asked.get(low, 0) + 1
            yield Page([ObjectEntry(f"{n:09d}", 1, "", "")], "t", True)

    async def run():
        arriving = Arriving(asyncio.get_running_loop(), 32)
        task = asyncio.create_task(arriving.fetch(endless("a", None), lambda *_: None, knows_first=False))
        while asked.get("a", 0) < 32:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert asked["a"] == 32
        assert not arriving.is_fetching
        pages = iter(arriving)
        for n in range(100):
            page = await asyncio.to_thread(next, pages)
            assert page.entries[0].key == f"{n:09d}"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with pytest.raises(CancelledError):
            list(pages)

    asked = {}
    asyncio.run(run())
    assert asked["a"] <= 100 + 32


def test_an_error_while_a_range_is_fetched_reaches_its_reader():
    async def failing():
        yield Page([], "t", True)
        raise FatalError("AccessDenied", "no")

    async def run():
        arriving = Arriving(asyncio.get_running_loop(), 32)
        await arriving.fetch(failing(), lambda *_: None, knows_first=False)
        return await asyncio.to_thread(list, arriving)

    with pytest.raises(FatalError, match="no"):
        asyncio.run(run())


def test_ranges_are_dropped_at_the_first_border_that_is_crossed():
    store = Store({"a/b", "a-b", "a.c", "b"}, 2, tree_order)
    listing = Listing(store.fetch, store.fetch_range, ["a-b"], wide())
    found = [entry.key for page in listing.pages() for entry in page]
    assert sorted(found) == ["a-b", "a.c", "a/b", "b"]


@pytest.mark.parametrize("keys_held", [5, 25, 100])
@pytest.mark.parametrize("error", [FatalError("NotImplemented", "no"), FileError("InvalidArgument", "no")])
def test_a_store_that_refuses_to_begin_behind_a_key_is_listed_by_tokens(keys_held, error):
    """Whether the first page is the last one as well, or not."""
    store = Store({f"{n:03d}" for n in range(keys_held)}, 10)

    def refused():
        raise error
        yield

    def fetch_range(low, high):
        return store.fetch_range(low, high) if low is None else Lazy(refused())

    listing = Listing(store.fetch, fetch_range, ["004", "014", "034", "054"], wide())
    assert [entry.key for page in listing.pages() for entry in page] == store.keys
    assert listing.complete
    assert listing.refuses_ranges


def test_an_error_that_is_no_refusal_of_ranges_ends_the_listing():
    store = Store({f"{n:03d}" for n in range(100)}, 10)
    whole = store.page

    def denied(token, after=None):
        if store.asked:
            raise FatalError("AccessDenied", "no")
        return whole(token, after)

    store.page = denied
    with pytest.raises(FatalError, match="no"):
        list(Listing(store.fetch, store.fetch_range, ["034", "054"], wide()).pages())


def test_cuts_that_fit_no_key_cost_few_requests_and_those_behind_them_hold_again():
    """The folder has a large part that the bucket lacks, and behind it what the bucket has."""
    store = Store({f"b{n:06d}" for n in range(200_000)}, 1000)
    lacking = (f"a{n:06d}" for n in range(0, 1_000_000, 980))
    begun = []

    def fetch_range(low, high):
        begun.append(low or "")
        return store.fetch_range(low, high)

    cuts = itertools.chain(lacking, store.keys[979::980])
    listing = Listing(store.fetch, fetch_range, cuts, wide(4))
    assert [entry.key for page in listing.pages() for entry in page] == store.keys
    assert store.asked <= 200 + 60
    assert sum(low.startswith("b") for low in begun) >= 5


def test_cuts_are_taken_as_they_are_needed():
    """They may come from a walk through a folder of any size."""
    store = Store({f"{n:06d}" for n in range(100_000)}, 1000)
    taken = itertools.count()
    cuts = (store.keys[n] for n in range(979, 100_000, 980) if next(taken) >= 0)
    pages = Listing(store.fetch, store.fetch_range, cuts, wide(4)).pages()
    next(pages)
    assert next(taken) <= PAGES_AHEAD + 4


def test_ranges_cost_few_more_requests_than_pages():
    store = Store({f"{n:05d}" for n in range(10_000)}, 1000)
    listing = Listing(store.fetch, store.fetch_range, [f"{n:05d}" for n in range(2000, 10_000, 2000)], wide())
    assert sum(len(page) for page in listing.pages()) == 10_000
    assert store.asked <= 10 + 4 + 1


def test_complete_is_known_with_the_last_page():
    store = Store({f"{n:03d}" for n in range(100)}, 10)
    for cuts in ([], ["020", "050"]):
        listing = Listing(store.fetch, store.fetch_range, cuts, wide())
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
