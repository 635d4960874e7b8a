"""The join of folder and bucket, against the sets themselves: whatever the order of the listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.errors import FatalError, RetryError
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import join as plan
from syncworker.plan.listing import Listing
from syncworker.plan.spool import Spool
from syncworker.s3.xml_messages import Page

# Few letters, so that keys meet, nest and stand beside their own folder (`a`, `a-`, `a/b`).
KEYS = st.text("a-/b\u00e9\U0001f600", min_size=1, max_size=4)
KEY_SETS = st.sets(KEYS, max_size=12)


def file(key: str) -> FileEntry:
    return FileEntry(key, 1, 2, 3, 4, f"photos/{key}")


def obj(key: str) -> ObjectEntry:
    return ObjectEntry(key, 5, "e", "m")


def local(key: str) -> plan.Local:
    return file(key), IndexRow(key, 1, 2, 3, 4, "e", "", 0, "", 5) if "a" in key else None


def by_bytes(keys: Any) -> list[str]:
    return sorted(keys, key=lambda key: key.encode("utf-8", "surrogateescape"))


class Store:
    """Lists what it is told to, page by page, and says what it has been asked for."""

    def __init__(self, pages: list[list[str]]) -> None:
        self.pages = pages
        self.asked = 0
        self.sent = 0

    def __call__(self, token: str | None) -> Future[Page]:
        number = int(token or 0)
        self.asked += 1
        last = number + 1 >= len(self.pages)
        entries = [obj(key) for key in self.pages[number]] if self.pages else []
        return done(Page(entries, None if last else str(number + 1), not last))


def done(value: Page | Exception) -> Future[Page]:
    future: Future[Page] = Future()
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


def pages_of(keys: list[str], size: int) -> list[list[str]]:
    return [keys[i : i + size] for i in range(0, len(keys), size)] or [[]]


class Spools:
    """Makes spools, counts what goes into them, and knows whether all were closed."""

    def __init__(self) -> None:
        self.made: list[_Counting] = []

    def __call__(self) -> Spool:
        self.made.append(_Counting("/tmp"))
        return self.made[-1]

    @property
    def records(self) -> int:
        return sum(spool.count for spool in self.made)

    @property
    def closed(self) -> bool:
        return all(spool.closed for spool in self.made)


class _Counting(Spool):
    closed = False

    def close(self) -> None:
        self.closed = True
        super().close()


class Watch:
    """What is heard of a join."""

    def __init__(self) -> None:
        self.remote_only: list[str] = []
        self.unordered = 0

    def on_unordered(self) -> None:
        self.unordered += 1

    def on_remote_only(self, key: str) -> None:
        self.remote_only.append(key)

    def skip_page_if_unchanged(self, _page: object) -> bool:
        return False


def join(
    files: list[str], pages: list[list[str]], spools: Spools | None = None, watch: Watch | None = None
) -> list[tuple[str | None, str | None]]:
    """The pairs as keys."""
    found = plan.join(map(local, files), Listing(Store(pages)), spools or Spools(), watch)
    return [(here and here[0].key, there and there.key) for here, there in found]


def model(files: set[str], objects: set[str]) -> set[tuple[str | None, str | None]]:
    return {(key if key in files else None, key if key in objects else None) for key in files | objects}


@given(files=KEY_SETS, objects=KEY_SETS, size=st.integers(1, 5), data=st.data())
def test_any_two_sets_joined_in_any_order_of_listing_are_the_sets_themselves(
    files: set[str], objects: set[str], size: int, data: st.DataObject
) -> None:
    listed = data.draw(st.permutations(by_bytes(objects)))
    spools = Spools()
    watch = Watch()
    pairs = join(by_bytes(files), pages_of(listed, size), spools, watch)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == model(files, objects)
    extras = [here is None for here, _ in pairs]
    assert extras == sorted(extras), "an object that is only in the bucket came before the last file"
    assert spools.closed
    if listed == by_bytes(objects):
        assert set(watch.remote_only) == objects - files


@given(files=KEY_SETS, objects=KEY_SETS, size=st.integers(1, 5))
def test_a_file_is_new_only_once_the_bucket_is_known_not_to_have_its_key(
    files: set[str], objects: set[str], size: int
) -> None:
    """Asked of the store at the moment that the pair comes: all pages are in hand."""
    store = Store(pages_of(by_bytes(objects), size))
    watch = Watch()
    for here, there in plan.join(map(local, by_bytes(files)), Listing(store), Spools(), watch):
        if here is not None and there is None:
            assert store.asked == len(store.pages)
            key = here[0].key
            below = {extra for extra in objects - files if extra.startswith(f"{key}/")}
            assert below <= set(watch.remote_only), "objects below a file's key must be known before it comes"


def test_records_come_through_whole() -> None:
    pairs = list(plan.join([local("a"), local("b"), local("c")], Listing(Store([["b"], ["a"]])), Spools()))
    assert pairs == [(local("a"), obj("a")), (local("b"), obj("b")), (local("c"), None)] or pairs == [
        (local("b"), obj("b")),
        (local("a"), obj("a")),
        (local("c"), None),
    ]


def test_equal_sets_in_order_need_no_spool_and_no_table() -> None:
    keys = [f"{n:05}" for n in range(5000)]
    spools, watch = Spools(), Watch()
    pairs = join(keys, pages_of(keys, 1000), spools, watch)
    assert pairs == [(key, key) for key in keys]
    assert (spools.records, watch.unordered) == (0, 0)


def test_an_empty_bucket_gives_files_at_once() -> None:
    """While the folder is read still: the first file comes before the second was looked for."""
    looked: list[str] = []

    def scan() -> Iterator[plan.Local]:
        for key in "abc":
            looked.append(key)
            yield local(key)

    spools = Spools()
    pairs = plan.join(scan(), Listing(Store([[]])), spools)
    assert next(pairs) == (local("a"), None)
    assert len(looked) < 3
    assert len(list(pairs)) == 2
    assert spools.records == 0


def test_the_order_is_that_of_utf8_and_not_of_utf16() -> None:
    watch = Watch()
    keys = ["\uffff", "\U00010000"]
    assert join(keys, [keys], watch=watch) == [(k, k) for k in keys]
    assert watch.unordered == 0
    assert set(join(keys, [keys[::-1]], watch=watch)) == {(k, k) for k in keys}
    assert watch.unordered == 1


def test_a_key_out_of_order_only_on_the_last_page_takes_nothing_back() -> None:
    files = [f"{n:03}" for n in range(50)]
    pages = [files[:20], files[20:40], ["999", *files[40:], "0000"]]
    assert set(join(files, pages)) == model(set(files), {*files, "999", "0000"})


@pytest.mark.parametrize(
    "pages",
    [
        [["a", "a"]],
        [["a"], ["a"]],
        [["a", "b"], ["b", "c"]],
        [["b", "a", "c", "a"]],
        [["c", "x"], ["b", "a"], ["b"]],
    ],
)
def test_a_key_that_is_listed_twice_breaks_the_listing(pages: list[list[str]]) -> None:
    for files in ([], ["a", "b"], ["z"]):
        with pytest.raises(FatalError, match="nothing was deleted") as caught:
            join(files, pages)
        assert caught.value.code == "BrokenListing"


@pytest.mark.parametrize("pages", [[["b", "a", "b"]], [["a", "b"], ["a", "c"]]])
def test_a_key_listed_again_after_the_order_broke_is_never_called_missing(pages: list[list[str]]) -> None:
    """What was joined before is not remembered: at worst the key is told once more, at the very end, and who
    deletes looks into the folder first."""
    for files in ([], ["a", "b", "c"]):
        try:
            pairs = join(files, pages)
        except FatalError as error:
            assert error.code == "BrokenListing"
        else:
            assert {here for here, there in pairs if there is None} == set(files) - {
                k for p in pages for k in p
            }
            assert len([here for here, _ in pairs if here is not None]) == len(files)


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ([Page([obj("a")], None, True)], "does not say where"),
        ([Page([], None, True)], "does not say where"),
        ([Page([obj("a")], "t", True), Page([obj("b")], "t", True)], "earlier page"),
        (
            [Page([obj("a")], "t", True), Page([obj("b")], "u", True), Page([obj("c")], "t", True)],
            "earlier page",
        ),
        ([Page([obj("a"), obj("b")], "t", True), Page([obj("a"), obj("b")], None, False)], "twice"),
        ([Page([], "t", True), Page([], "t", True)], "earlier page"),
    ],
)
def test_a_listing_that_contradicts_itself_is_broken(answers: list[Page], word: str) -> None:
    ahead = iter(answers)
    with pytest.raises(FatalError, match=word) as caught:
        list(plan.join([local("a")], Listing(lambda _: done(next(ahead))), Spools()))
    assert caught.value.code == "BrokenListing"


def test_empty_pages_in_between_are_no_fault() -> None:
    pages = [["a"], [], [], ["b"], []]
    assert join(["a", "b"], pages) == [("a", "a"), ("b", "b")]


@pytest.mark.parametrize("files", [[], ["a"], ["a", "b", "x"], ["x", "y"]])
def test_no_object_counts_as_without_a_file_after_a_page_that_failed(files: list[str]) -> None:
    answers = iter([done(Page([obj("a"), obj("q")], "t", True)), done(RetryError("Timeout", "silent"))])
    spools = Spools()
    given: list[Any] = []
    with pytest.raises(RetryError):
        given.extend(plan.join(map(local, files), Listing(lambda _: next(answers)), spools))
    assert [pair for pair in given if pair[0] is None or pair[1] is None] == []
    assert spools.closed


def test_no_object_counts_as_without_a_file_after_a_scan_that_failed() -> None:
    def scan() -> Iterator[plan.Local]:
        yield local("a")
        raise OSError("the disk")

    spools, given = Spools(), []
    with pytest.raises(OSError, match="the disk"):
        given.extend(plan.join(scan(), Listing(Store([["a", "b", "c"]])), spools))
    assert all(here is not None for here, _ in given)
    assert spools.closed


def test_a_join_that_is_abandoned_closes_its_files(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pairs = plan.join([local("b")], Listing(Store([["c"], ["a"]])), lambda: Spool(str(tmp_path)))
    next(pairs)
    pairs.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_next_page_is_asked_for_while_one_is_used() -> None:
    store = Store([["a", "b"], ["c"], ["d"]])
    pages = Listing(store).pages()
    next(pages)
    assert store.asked == 2
    assert len(list(pages)) == 2
    assert store.asked == 3
