"""Pages of unchanged files told at once: never otherwise than one by one, whatever the three sides hold."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry, ScanItem, Skip
from syncworker.plan import compare, planner, unchanged_pages
from syncworker.plan.breadth import Breadth
from syncworker.plan.compare import RACY_NS, Verdict
from syncworker.plan.planner import Planner, Scope
from syncworker.s3.xml_messages import Page

CHECKED = 10 * RACY_NS
STORES = ("etags", "times", "neither")


def trio(key: str, store: str = "etags") -> tuple[FileEntry, IndexRow, ObjectEntry]:
    """A file, its row and its object: unchanged, where the store lists anything to know it by."""
    tag, modified = ("e" if store == "etags" else ""), ("m" if store != "neither" else "")
    file = FileEntry(key, 7, 20, 30, 40, f"photos/{key}")
    row = IndexRow(key, 7, 20, 30, 40, "e", "", 0, modified, CHECKED)
    return file, row, ObjectEntry(key, 7, tag, modified)


def other(value: Any) -> Any:
    return f"{value}x" if isinstance(value, str) else value + 1


CHANGES = [(0, n) for n in range(1, 5)] + [(1, n) for n in range(1, 6)] + [(2, n) for n in range(1, 4)]


@st.composite
def sides(draw: st.DrawFn) -> tuple[list[ScanItem], list[IndexRow], list[ObjectEntry]]:
    """Folder, index and bucket: mostly alike, with a few differences of every kind."""
    store = draw(st.sampled_from(STORES))
    keys = sorted(draw(st.sets(st.text("ab-/", min_size=1, max_size=4), min_size=1, max_size=14)))
    items: list[ScanItem] = []
    rows: list[IndexRow] = []
    objects: list[ObjectEntry] = []
    odd = draw(st.sets(st.sampled_from(keys), max_size=3))
    for key in keys:
        file, row, obj = trio(key, store)
        kind = draw(st.integers(0, 9)) if key in odd else -1
        if kind in (0, 1):
            side, field = draw(st.sampled_from(CHANGES))
            whole: list[Any] = [file, row, obj]
            whole[side] = whole[side]._replace(**{whole[side]._fields[field]: other(whole[side][field])})
            file, row, obj = whole
        if kind == 2:
            row = row._replace(read_ns=row.ctime_ns + RACY_NS)
        if kind == 3:
            obj = obj._replace(etag="" if obj.etag else "e", modified="n")
        if kind == 8:  # known without an ETag, and listed without
            row, obj = row._replace(etag=""), obj._replace(etag="", modified="n")
        items += [] if kind == 4 else [Skip(key, "socket")] if kind == 5 else [file]
        rows += [] if kind == 6 else [row]
        objects += [] if kind == 7 else [obj]
    return items, rows, objects


@given(sides())
def test_a_page_is_unchanged_only_if_each_of_its_files_is(
    what: tuple[list[ScanItem], list[IndexRow], list[ObjectEntry]],
) -> None:
    items, rows, objects = what
    size = unchanged_pages.unchanged(items, rows, objects)
    single = [
        (item, row, obj)
        for item, row, obj in zip(items, rows, objects, strict=False)
        if isinstance(item, FileEntry)
        and item.key == row.key == obj.key
        and compare.compare(item, obj, row).verdict is Verdict.UNCHANGED
    ]
    if size is not None:
        assert len(single) == len(items) == len(rows) == len(objects)
        assert size == sum(item.size for item, _, _ in single)


@pytest.mark.parametrize("store", ["etags", "times"])
def test_an_unchanged_page_is_recognised_as_a_whole(store: str) -> None:
    items, rows, objects = zip(*(trio(f"{n:03}", store) for n in range(9)), strict=True)
    assert unchanged_pages.unchanged(items, rows, objects) == 63


class Watched(Planner):
    """Counts the pages that were told at once."""

    at_once = 0

    def skip_page_if_unchanged(self, page: Sequence[ObjectEntry]) -> bool:
        skips = super().skip_page_if_unchanged(page)
        self.at_once += skips
        return skips


def planned(
    items: list[ScanItem], rows: list[IndexRow], pages: list[list[ObjectEntry]], *, at_once: bool = True
) -> tuple[dict[str, Any], int]:
    """What a planner finds: counts, what is to be done by key, what is to be deleted."""
    events: list[tuple[str, Any]] = []

    def fetch(token: str | None) -> Future[Page]:
        number = int(token or 0)
        last = number + 1 >= len(pages)
        answer: Future[Page] = Future()
        answer.set_result(Page(pages[number] if pages else [], None if last else str(number + 1), not last))
        return answer

    with tempfile.TemporaryDirectory() as folder:
        index = Index(str(Path(folder, "index.sqlite3")))
        for row in rows:
            index.remember(row)
        index.flush()
        source = SimpleNamespace(
            fetch=fetch, fetch_range=lambda *_: pytest.fail("no ranges"), breadth=Breadth()
        )
        queue = SimpleNamespace(emit=lambda batch: events.extend(batch or ()))
        plans = Watched(index, source, folder, queue, Scope())
        if not at_once:
            plans.skip_page_if_unchanged = lambda _: False  # type: ignore[method-assign]
        plans.run(iter(items))
        index.close()
    found: dict[str, Any] = {"found": [0, 0], "unchanged": [0, 0], "work": {}, "rest": []}
    for name, value in events:
        if name in ("found", "unchanged"):
            found[name] = [a + b for a, b in zip(found[name], value, strict=True)]
        elif name == "work":
            found["work"][value.file.key] = value
        else:
            found["rest"].append((name, str(value)))
    found["rest"].sort()
    found["deletes"] = sorted(plans.deletes)
    plans.deletes.close()
    return found, plans.at_once


@settings(max_examples=300, deadline=None)
@given(what=sides(), size=st.integers(1, 5), data=st.data())
def test_a_plan_is_the_same_with_and_without(
    what: tuple[list[ScanItem], list[IndexRow], list[ObjectEntry]], size: int, data: st.DataObject
) -> None:
    items, rows, objects = what
    if data.draw(st.integers(0, 3)) == 0:
        objects = data.draw(st.permutations(objects))
    pages = [objects[i : i + size] for i in range(0, len(objects), size)] or [[]]
    quick, _ = planned(items, rows, pages)
    slow, _ = planned(items, rows, pages, at_once=False)
    assert quick == slow


def test_one_change_costs_one_page_and_the_others_are_recognised_as_a_whole() -> None:
    """Whatever the change is: the folder, the index and the bucket come into step again at the next page."""
    every = [trio(f"{n:03}") for n in range(100)]
    for gone in ("file", "row", "object", "nothing"):
        items: list[ScanItem] = [f for f, _, _ in every if not (gone == "file" and f.key == "033")]
        rows = [r for _, r, _ in every if not (gone == "row" and r.key == "033")]
        objects = [o for _, _, o in every if not (gone == "object" and o.key == "033")]
        found, at_once = planned(items, rows, [objects[i : i + 10] for i in range(0, 100, 10)])
        assert at_once == (10 if gone == "nothing" else 9)
        assert found["unchanged"][0] == (100 if gone == "nothing" else 99)
        assert set(found["work"]) == ({"033"} if gone in ("row", "object") else set())
        assert [key for key, *_ in found["deletes"]] == (["033"] if gone == "file" else [])


def test_cut_keys_are_equally_far_apart_whichever_way_files_were_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planner, "CUT_KEYS", 25)
    every = [trio(f"{n:03}") for n in range(121)]
    cuts = []
    for at_once in (True, False):
        seen: list[tuple[str, str]] = []
        monkeypatch.setattr(Planner, "on_unordered", lambda _: None)
        monkeypatch.setattr(Index, "set_fact", lambda _, name, value, seen=seen: seen.append((name, value)))
        planned(
            [f for f, _, _ in every],
            [r for _, r, _ in every],
            [[o for _, _, o in every[i : i + 10]] for i in range(0, 121, 10)],
            at_once=at_once,
        )
        assert int(seen.pop()[1]) >= 0  # how long the listing was waited for
        cuts.append(seen)
    assert cuts == [[("cuts", '["024", "049", "074", "099"]'), ("ranges", "1")]] * 2


def test_pages_that_are_longer_than_the_way_between_two_cuts_are_cut_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that lists as much at once as it likes, whatever it was asked for."""
    monkeypatch.setattr(planner, "CUT_KEYS", 10)
    facts: dict[str, str] = {}
    monkeypatch.setattr(Index, "set_fact", lambda _, name, value: facts.update({name: value}))
    items, rows, objects = zip(*(trio(f"{n:03}") for n in range(55)), strict=True)
    found, at_once = planned(list(items), list(rows), [list(objects[:45]), list(objects[45:])])
    assert (found["rest"], at_once) == ([("complete", "None")], 2)
    assert facts["cuts"] == '["009", "019", "029", "039"]'  # a few behind the last one: the page has room


@pytest.mark.parametrize(
    ("ranges", "cuts", "whole", "takes"),
    [
        (2, None, True, True),
        (1, None, True, False),  # a store near by
        (2, "[]", True, False),  # a sync has seen that the store lists in another order
        (2, None, False, False),  # of a mirror that is looked at in part
    ],
)
def test_the_first_listing_of_a_far_store_is_cut_at_names_of_the_folder(
    tmp_path: Path, ranges: int, cuts: str | None, whole: bool, takes: bool
) -> None:
    index = Index(str(tmp_path / "index.sqlite3"))
    if cuts is not None:
        index.set_fact("cuts", cuts)
    breadth = Breadth()
    breadth.ranges = ranges
    pages: Future[Page] = Future()
    pages.set_result(Page([], None, False))
    asked: list[str | None] = []

    def fetch_range(_low: str | None, high: str | None) -> Any:
        asked.append(high)
        return iter([Page([], None, False)])

    source = SimpleNamespace(fetch=lambda _: pages, fetch_range=fetch_range, breadth=breadth)
    scope = Scope(whole=whole, first_cuts=iter(["b", "d", "f", "h"]))
    plans = Planner(index, source, str(tmp_path), SimpleNamespace(emit=print), scope)
    plans.run(iter(()))
    index.close()
    assert bool(asked) == takes
