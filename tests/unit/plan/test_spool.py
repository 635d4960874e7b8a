"""Spools: what goes in comes out, whatever it is and however much, and nothing stays behind."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from syncworker.model import ObjectEntry
from syncworker.plan.spool import Spool, Table

TEXT = st.text(max_size=20).map(
    lambda t: t.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
)
RECORDS = st.lists(
    st.tuples(TEXT, st.integers(), st.none() | st.tuples(TEXT, st.binary(max_size=5))), max_size=30
)


@given(RECORDS)
def test_records_come_back_in_order_as_often_as_one_asks(records: list[tuple[object, ...]]) -> None:
    spool = Spool("/tmp")
    try:
        for record in records:
            spool.append(record)
        assert list(spool) == list(spool) == records
        assert spool.count == len(records)
    finally:
        spool.close()


def test_what_is_appended_after_a_reading_comes_last(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    spool.append(("a",))
    assert list(spool) == [("a",)]
    spool.append(("b",))
    assert list(spool) == [("a",), ("b",)]
    half = iter(spool)
    next(half)  # a reading that is given up in the middle
    half.close()
    spool.append(("c",))
    assert [record[0] for record in spool] == ["a", "b", "c"]
    spool.close()


def test_a_large_spool_goes_to_a_file_without_a_name(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    for number in range(40_000):
        spool.append((f"key-{number:06d}", number, "e" * 32))
    assert os.listdir(tmp_path) == []
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    ]
    assert any(str(tmp_path) in path and "(deleted)" in path for path in held), "not on the disk it was given"
    assert [record[1] for record in spool] == list(range(40_000))
    spool.close()


@settings(max_examples=50)
@given(st.dictionaries(TEXT, st.integers(0, 2**63 - 2), max_size=20), st.data())
def test_a_table_gives_each_object_once_and_the_rest_in_byte_order(
    objects: dict[str, int], data: st.DataObject
) -> None:
    table = Table()
    try:
        for key, size in objects.items():
            assert table.add(ObjectEntry(key, size, "e", "m"))
            assert not table.add(ObjectEntry(key, size + 1, "x", "y")), "named twice"
        popped = data.draw(st.sets(st.sampled_from(sorted(objects)))) if objects else set()
        for key in popped:
            assert table.pop(key) == ObjectEntry(key, objects[key], "e", "m")
            assert table.pop(key) is None
        rest = [entry.key for entry in table.rest()]
        assert rest == sorted(objects.keys() - popped, key=lambda key: key.encode("utf-8", "surrogateescape"))
    finally:
        table.close()
