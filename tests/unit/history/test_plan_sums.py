"""A plan by folder, its biggest lines, and pages of a part of it: against what reading all of it tells."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncworker.history import plan_sums
from syncworker.history.pages import ReportReader
from syncworker.history.plan_sums import PlanSums

NAMES = ["a", "a-b", "a.b", "ab", "é", "\udcff", "\U0001f600", 'q"\\', "z\n", "0"]


def line(op: str, key: str, size: int | None) -> bytes:
    value = {"op": op, "key": key, "size": size, "etag": None, "modified": None, "reason": "new"}
    return (json.dumps(value) + "\n").encode()


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def write(path: Path, rows: list[tuple[str, str, int | None]], bucket: str = "") -> None:
    rows = sorted(rows, key=lambda row: raw(row[1]))
    path.write_bytes(
        b"".join(line(*row) for row in rows) + (line("delete_bucket", bucket, None) * bool(bucket))
    )


def rows_of(chance: random.Random, number: int) -> list[tuple[str, str, int | None]]:
    keys = {"/".join(chance.choices(NAMES, k=chance.randint(1, 4))) for _ in range(number)}
    ops = ("upload", "update", "delete")
    return [
        (op := chance.choice(ops), key, None if op == "upload" else chance.randrange(10**9)) for key in keys
    ]


def whole(found: PlanSums, path: Path, below: str) -> dict[str, Any]:
    while not (answer := found.look(str(path), below))["complete"]:
        pass
    return answer


def truth(rows: list[tuple[str, str, int | None]], below: str) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for op, key, size in rows:
        if key.startswith(below):
            head, slash, _ = key[len(below) :].partition("/")
            one = sums.setdefault(below + head + slash if slash else "", [0, 0, 0, 0])
            one[{"delete": 0, "upload": 2, "update": 3}[op]] += 1
            one[1] += size or 0 if op == "delete" else 0
    return sums


def numbers(one: dict[str, Any]) -> list[int]:
    return [one[name] for name in ("deletes", "delete_bytes", "uploads", "updates")]


@pytest.mark.parametrize("seed", range(20))
def test_sums_and_pages_are_those_of_reading_all_of_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "plan"
    rows = rows_of(chance, chance.choice([0, 1, 2, 30, 120]))
    write(path, rows, bucket="a-bucket" if seed % 2 else "")
    sums, reader = PlanSums(), ReportReader()
    for below in ["", *(f"{name}/" for name in NAMES), "a/a/", "no/", "zzz/", "a", "é/é/"]:
        answer = whole(sums, path, below)
        found = {one["folder"]: numbers(one) for one in answer["folders"]}
        found |= {"": numbers(answer["files"])} if answer["files"] else {}
        assert found == truth(rows, below), below
        deleted = [one["deletes"] for one in answer["folders"]]
        assert deleted == sorted(deleted, reverse=True)
        wanted = sorted((size or 0 for op, key, size in rows if op == "delete" and key.startswith(below)))
        sizes = [one["size"] for one in answer["biggest"]["delete"] if one["op"] == "delete"]
        assert sizes == wanted[::-1][: plan_sums.BIGGEST_MAX]
        if below:
            keys, after = [], 0
            while after is not None:
                page = reader.page(str(path), after=after, limit=7, below=below)
                keys += [json.loads(each)["key"] for each in page.lines.splitlines()]
                after = page.following
            assert keys == sorted((key for _, key, _ in rows if key.startswith(below)), key=raw), below


def test_what_is_searched_is_found_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    keys = ["K elvin", "\u212aelvin", "\u017fharp", "sharp", 'a"b', "back\\slash", "É", "e"]
    write(path, [("delete", key, 1) for key in keys])
    for q in ("k", "SHARP", 'a"b', "\\", "é", "e", "nothing"):
        page = ReportReader().page(str(path), after=0, limit=100, q=q)
        found = {json.loads(each)["key"] for each in page.lines.splitlines()}
        assert found == {key for key in keys if q.casefold() in key.casefold()}, q
    assert ReportReader().page(str(path), after=0, limit=100, op="upload").lines == b""


def test_a_replaced_plan_is_summed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it takes the place of one of which a part was read."""
    path, other, sums = tmp_path / "plan", tmp_path / "other", PlanSums()
    write(path, [("delete", f"a/{number:05}", 1) for number in range(5000)])
    write(other, [("delete", f"b/{number:05}", 2) for number in range(10)])
    with monkeypatch.context() as patched:
        patched.setattr(plan_sums, "LOOK_SECONDS", 0)
        begun = sums.look(str(path), "")
        assert (begun["complete"], begun["lines"]) == (False, 1000)
    other.replace(path)
    answer = whole(sums, path, "")
    assert (answer["lines"], [numbers(one) for one in answer["folders"]]) == (10, [[10, 20, 0, 0]])


def test_a_damaged_plan_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_bytes(line("delete", "a/b", 1) + b'{"op": "del\n')
    with pytest.raises(ValueError, match="not a line"):
        PlanSums().look(str(path), "")
    with pytest.raises(FileNotFoundError):
        PlanSums().look(str(tmp_path / "no"), "")


@pytest.fixture
def million(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "plan"
    with path.open("wb") as file:
        for number in range(1_000_000):
            file.write(b'{"op": "delete", "key": "%04d/%03d", "size": %d, "etag": null, "modified": null,'
                       b' "reason": "gone"}\n' % (number // 1000, number % 1000, number))  # fmt: skip
    yield path
    path.unlink()


def test_a_million_lines_are_summed_in_looks_of_a_second_and_little_memory(million: Path) -> None:
    """And the last page of the last folder is there at once, without reading what lies before it."""
    sums, longest, looks = PlanSums(), 0.0, 0
    tracemalloc.start()
    try:
        sums.look(str(million), "")
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    while True:
        begin = time.process_time()
        answer = sums.look(str(million), "")
        longest, looks = max(longest, time.process_time() - begin), looks + 1
        if answer["complete"]:
            break
    assert longest < 2 * plan_sums.LOOK_SECONDS
    assert (answer["lines"], answer["folders_total"], len(answer["folders"])) == (1_000_000, 1000, 200)
    assert [one["size"] for one in answer["biggest"]["delete"]] == [*range(999_999, 999_899, -1)]
    begin = time.process_time()
    page = ReportReader().page(str(million), after=900, limit=1000, below="0999/")
    last = whole(sums, million, "0998/")
    assert time.process_time() - begin < 0.5
    assert (page.lines.count(b"\n"), page.following, last["lines"]) == (100, None, 1000)
