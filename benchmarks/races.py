"""The scenarios in which ours and the peers do the same work, in turns.

A run that has not done its work is no time: the stub must have counted every PUT (or every listed key), a
real store must hold every object. Uploads go to a fresh bucket (a fresh real store) with no index; where
there is nothing to do, the bucket, the index and the tree stay as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks import contenders, measure, stores, trees
from benchmarks.contenders import OURS, Contender, Target
from benchmarks.measure import Cost, Failed
from benchmarks.results import Limits, Options, Result, Row, against_best, result, target
from benchmarks.stub import Stub

SLOW = 6.0  # times the best peer's warm-up: such a peer is not run again, it changes no ratio
_TIMEOUT = 1800
_FLOOR_LISTS = 32  # pages at the same time
_QUESTIONS = 1000  # bytes of parts by which a store is asked whether it checks sums
_NOT_REQUESTS = ("BYTES", "READ", "KEYS")
_serial = count(1)
OneRun = Callable[[Contender], Cost]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def requests_of(counts: dict[str, int]) -> int:
    return sum(value for name, value in counts.items() if name not in _NOT_REQUESTS)


def race(field: list[Contender], options: Options, once: OneRun, *, warms_up: bool = True) -> list[Row]:
    """A warm-up, then `runs` rounds of all, each round beginning with another one."""
    costs: dict[str, list[Cost]] = {}
    warm: dict[str, Cost] = {}
    failed: dict[str, str] = {}
    for contender in field if warms_up else ():
        try:
            warm[contender.name] = once(contender)
            say(f"  warm-up  {contender.name:22} {warm[contender.name].wall:8.2f} s")
        except Failed as error:
            failed[contender.name] = str(error)
            say(f"  {contender.name} FAILED: {error}")
    peers = {c.name for c in field if c.is_peer and c.name != OURS} & warm.keys()
    enough = SLOW * min((warm[name].wall for name in peers), default=1e9)
    slow = {name for name in peers if warm[name].wall > enough}
    for turn in range(options.runs):
        for i in range(len(field)):
            contender = field[(turn + i) % len(field)]
            if contender.name in slow or contender.name in failed:
                continue
            try:
                cost = once(contender)
            except Failed as error:
                failed[contender.name] = str(error)
                say(f"  {contender.name} FAILED: {error}")
                continue
            costs.setdefault(contender.name, []).append(cost)
            say(f"  run {turn + 1:2}   {contender.name:22} {cost.wall:8.2f} s  {cost.cpu:8.2f} s processor")
    rows: list[Row] = []
    for contender in field:
        row: Row = {"name": contender.name, "exact": contender.exact, "is_peer": contender.is_peer}
        if contender.name in failed:
            row["failed"] = failed[contender.name]
        elif contender.name in slow:
            row |= measure.summary([warm[contender.name]])
        elif contender.name in costs:
            row |= measure.summary(costs[contender.name])
        rows.append(row)
    return rows


@contextmanager
def stub() -> Iterator[Stub]:
    with Stub(trees.work_folder() / "stub") as running:
        yield running


def on_stub(
    running: Stub, contender: Contender, bucket: str, tree: str, timeout: float = _TIMEOUT
) -> tuple[Cost, dict[str, int]]:
    """One run, and what the stub was asked meanwhile."""
    where = Target(running.url, running.access_key, running.secret_key, bucket, tree)
    environment = contender.environment(where)
    running.reset()
    cost = measure.run(contender.command(where), environment, timeout)
    counts = running.counts()
    return Cost(cost.wall, cost.cpu, cost.peak_bytes, requests_of(counts), counts), counts


def must(is_so: bool, what: str) -> None:
    if not is_so:
        raise Failed(f"{what}\n{measure.output()[-500:]}")


@dataclass(frozen=True, slots=True)
class Upload:
    name: str
    title: str
    store: str
    files: int
    file_size: int  # bytes; from 1 MiB on, `options.scale` makes files smaller instead of fewer
    limits: Limits
    yardstick: str = ""  # the only peer that the limits are about, else the best one

    def run(self, options: Options) -> Result:
        big = self.file_size >= 1 << 20
        if big:
            files, size = self.files, options.times(self.file_size >> 20, 16) << 20
            tree = trees.large(files, size >> 20)
            sums = {"stub": "md5", "juicefs": "sha256", "seaweedfs": "crc64nvme"}
            field = [*contenders.for_large_files(), contenders.md5_floor()]
            field.append(contenders.parts_floor(sums[self.store]))
        else:
            files, size = options.times(self.files, 100), self.file_size
            tree = trees.small(files, size)
            field = contenders.for_small_files()
            field.append(contenders.files_floor())
            if self.store == "stub":
                field.append(contenders.puts_floor(files))
        if self.store == "stub":
            with stub() as running:
                rows = race(field, options, lambda c: self._on_stub(running, c, tree, files, size))
        else:
            rows = race(field, options, lambda c: self._on_store(c, tree, files, size))
        measured = [r for r in rows if not self.yardstick or r["name"] in (OURS, self.yardstick)]
        targets = against_best(measured, self.limits, self.yardstick or "best peer")
        return result(self.name, self.title, options, rows, targets)

    def _on_stub(self, running: Stub, contender: Contender, tree: str, files: int, size: int) -> Cost:
        contenders.forget_jobs()
        cost, counts = on_stub(running, contender, f"fresh-{next(_serial)}", tree)
        if not contender.is_peer:
            return cost
        whole = counts.get("PUT", 0) + counts.get("COMPLETE", 0)
        must(whole == files, f"{whole} objects arrived, not {files}: {counts}")
        more = counts["BYTES"] - files * size
        must(0 <= more <= _QUESTIONS, f"{counts['BYTES']} bytes arrived, not {files * size}")
        return cost

    def _on_store(self, contender: Contender, tree: str, files: int, size: int) -> Cost:
        contenders.forget_jobs()
        if contender.name == contenders.MD5:
            return measure.run(contender.command(Target("", "", "", "", tree)), {}, _TIMEOUT)
        bucket = f"fresh-{next(_serial)}"
        with stores.started(self.store, trees.work_folder() / "store", bucket) as store:
            where = Target(store.url, store.access_key, store.secret_key, bucket, tree)
            cost = measure.run(contender.command(where), contender.environment(where), _TIMEOUT)
            objects, total, _ = stores.listed(store, bucket)
            must((objects, total) == (files, files * size), f"{objects} objects, {total} bytes arrived")
        return cost


def _page_by_page(rows: list[Row]) -> list[str]:
    """Our wall time by that of the fastest peer that lists page by page, as all do by default."""
    ours = next((row["wall"] for row in rows if row["name"] == OURS and "wall" in row), None)
    peers = [row for row in rows if "wall" in row and row["is_peer"]]
    peers = [row for row in peers if row["name"] != OURS and " lists" not in row["name"]]
    if ours is None or not peers:
        return []
    best = min(peers, key=lambda row: float(row["wall"]))
    return [f"to the fastest that lists page by page ({best['name']}): {ours / best['wall']:.2f}"]


@dataclass(frozen=True, slots=True)
class Nothing:
    """Folder and bucket are alike. On the stub the bucket is synthetic, and so may be large."""

    name: str
    title: str
    store: str
    files: int
    limits: Limits
    delay_ms: int = 0
    reference: int = 0  # our memory with so many files, for the growth of memory
    is_first: bool = False  # without an index: ours reads every file, as a peer does that compares content

    def run(self, options: Options) -> Result:
        files = options.times(self.files, 1500)
        tree = trees.same(files)
        field = contenders.for_nothing()
        contenders.forget_jobs()
        if self.store != "stub":
            rows = self._on_store([*field, contenders.pages_floor()], options, tree, files)
            return result(self.name, self.title, options, rows, against_best(rows, self.limits))
        with stub() as running:
            bucket = f"keys-{files}-delay-{self.delay_ms}-a"
            if self.is_first:
                rows = race(field, options, lambda c: self._on_stub(running, c, bucket, tree, files))
                exact = [row for row in rows if row["exact"]]
                return result(
                    self.name, self.title, options, rows, against_best(exact, self.limits, "exact peer")
                )
            first = self._on_stub(running, field[0], bucket, tree, files)
            notes = [f"ours, the first time (no index: every file is read and hashed): {first.wall:.1f} s"]
            if self.delay_ms:
                field = [*field, contenders.pages_floor(_FLOOR_LISTS)]
            rows = race(field, options, lambda c: self._on_stub(running, c, bucket, tree, files))
            targets = against_best(rows, self.limits)
            notes += _page_by_page(rows)
            if self.reference:
                targets.append(self._growth(running, options, rows))
        return result(self.name, self.title, options, rows, targets, notes)

    def _on_stub(self, running: Stub, contender: Contender, bucket: str, tree: str, files: int) -> Cost:
        if self.is_first:
            contenders.forget_jobs()
        cost, counts = on_stub(running, contender, bucket, tree)
        must(counts.get("KEYS", 0) >= files, f"only {counts.get('KEYS', 0)} keys were listed")
        must(not {"PUT", "PART", "DELETE"} & counts.keys(), f"something was changed: {counts}")
        return cost

    def _growth(self, running: Stub, options: Options, rows: list[Row]) -> dict[str, Any]:
        files = options.times(self.reference, 1000)
        tree, bucket = trees.same(files), f"keys-{files}-delay-0-a"
        ours = [contender for contender in contenders.for_nothing() if contender.name == OURS]
        self._on_stub(running, ours[0], bucket, tree, files)
        reference = race(ours, options, lambda c: self._on_stub(running, c, bucket, tree, files))[0]
        reference |= {"name": f"ours, {files:,} entries", "is_peer": False}
        rows.append(reference)
        peaks = [row["peak_bytes"] for row in (rows[0], reference) if "peak_bytes" in row]
        growth = peaks[0] / peaks[1] if len(peaks) == 2 else None
        return target("memory growth", growth, 1.3, f"x that of {files:,}")

    def _on_store(self, field: list[Contender], options: Options, tree: str, files: int) -> list[Row]:
        bucket = f"kept-{next(_serial)}"
        with stores.started(self.store, trees.work_folder() / "store", bucket) as store:
            where = Target(store.url, store.access_key, store.secret_key, bucket, tree)
            fill = measure.run(contenders.our_command(where), contenders.our_environment(where), _TIMEOUT)
            say(f"  filled the bucket in {fill.wall:.1f} s")
            before = stores.listed(store, bucket)
            must(before[:2] == (files, files * len(trees.BODY)), f"{before[0]} objects are there")
            checked: set[str] = set()

            def once(contender: Contender) -> Cost:
                cost = measure.run(contender.command(where), contender.environment(where), _TIMEOUT)
                if contender.name not in checked:
                    checked.add(contender.name)
                    must(stores.listed(store, bucket) == before, f"{contender.name} has changed the bucket")
                return cost

            rows = race(field, options, once)
            must(stores.listed(store, bucket) == before, "a run has changed the bucket")
        return rows


_SMALL = 10_000
RACES = {
    race.name: race
    for race in (
        Upload("small-stub", "10,000 x 4 KiB, stub", "stub", _SMALL, 4096, Limits(0.75, 0.55, 100_000_000)),
        Upload(
            "small-juicefs",
            "10,000 x 4 KiB, juicefs gateway",
            "juicefs",
            _SMALL,
            4096,
            Limits(0.90, 0.50, 100_000_000),
        ),
        Upload(
            "small-rclone",
            "10,000 x 4 KiB, rclone serve",
            "rclone",
            _SMALL,
            4096,
            Limits(0.90, 0.50, 100_000_000),
        ),
        # 0.10 s, measured where s5cmd took 0.06 s: this machine's speed varies too much for seconds.
        Upload(
            "ten-stub",
            "10 x 4 KiB, stub, one job from the shell",
            "stub",
            10,
            4096,
            Limits(1.67),
            yardstick="s5cmd",
        ),
        Upload(
            "large-stub",
            "4 x 256 MiB, stub, which checks no sum",
            "stub",
            4,
            256 << 20,
            Limits(1.0, None, 200_000_000, md5_cpu=1.15),
        ),
        Upload(
            "large-juicefs",
            "4 x 256 MiB, juicefs gateway, which checks SHA-256",
            "juicefs",
            4,
            256 << 20,
            Limits(1.0, 1.4, 200_000_000),
        ),
        Upload(
            "large-seaweedfs",
            "4 x 256 MiB, SeaweedFS, which checks CRC64NVME",
            "seaweedfs",
            4,
            256 << 20,
            Limits(0.85, 1.0, 200_000_000),
        ),
        Nothing(
            "nothing-juicefs",
            "nothing to do, 100,000 x 1 KiB, juicefs gateway",
            "juicefs",
            100_000,
            Limits(0.90, 0.80, 80_000_000),
        ),
        Nothing(
            "nothing-million",
            "nothing to do, 1,000,000 entries, stub",
            "stub",
            1_000_000,
            Limits(0.80, 1.0, 100_000_000),
            reference=100_000,
        ),
        Nothing(
            "nothing-delayed",
            "nothing to do, 1,000,000 entries, stub, 50 ms a page",
            "stub",
            1_000_000,
            Limits(0.25),
            delay_ms=50,
        ),
        Nothing(
            "first-delayed",
            "the first sync of a bucket that has all of 100,000 x 1 KiB, stub, 50 ms a page",
            "stub",
            100_000,
            Limits(0.60, 0.90),
            delay_ms=50,
            is_first=True,
        ),
    )
}
