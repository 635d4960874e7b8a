"""What a file costs as there are more of them, part by part; and what a MiB costs as files are larger.

Parts are taken out of the program and run alone (`scan`, `list`, `plan`, `index`), then the program as a
whole: `send` is a first upload of all to the stub, `nothing` a sync with nothing to do. Microseconds a file
by the wall clock; a number that grows down its column is work that is not linear.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from syncworker.folder.scan import scan
from syncworker.folder.uploads_root import Tree
from syncworker.index.database import Index
from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan import join
from syncworker.plan.spool import Spool
from syncworker.s3.bucket import Bucket
from syncworker.s3.client import Client
from syncworker.s3.credentials import Given
from syncworker.s3.request import Target
from syncworker.wire.endpoint import Endpoint
from syncworker.wire.pool import ConnectionPool

from benchmarks import contenders, trees
from benchmarks.races import must, on_stub, say, stub
from benchmarks.results import Options, Result, result, target
from benchmarks.stub import Stub

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
SIZES_MIB = (1, 16, 256, 1024, 4096)
_GROWTH = 1.5  # of the dearest from 10,000 on, to the cost at 10,000: more is not linear
_ETAG = "0" * 32


def _scan(name: str) -> int:
    with Tree(str(trees.trees())) as tree:
        return sum(1 for item in scan(tree, name, lambda: False) if isinstance(item, FileEntry))


def _list(running: Stub, count: int) -> int:
    async def work() -> int:
        async with ConnectionPool(Endpoint.of(running.url, "us-east-1"), None) as pool:
            keys = Given(running.access_key, running.secret_key)
            bucket = Bucket(Client(pool, Target(f"keys-{count}-delay-0-s", "us-east-1"), keys))
            token, found = None, 0
            while True:
                page = await bucket.list_page(token)
                found += len(page.entries)
                token = page.token
                if not page.truncated:
                    return found

    return asyncio.run(work())


class _Listing:
    """A listing that costs nothing: what `plan.join` asks of one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.complete = False

    def pages(self) -> Iterator[list[ObjectEntry]]:
        for first in range(0, self._count, 1000):
            last = min(self._count, first + 1000)
            self.complete = last == self._count
            yield [ObjectEntry(trees.key_of(i), 1024, _ETAG, "") for i in range(first, last)]


def _plan(count: int) -> int:
    files = ((FileEntry(trees.key_of(i), 1024, 0, 0, i, ""), None) for i in range(count))
    pairs = join.join(files, _Listing(count), lambda: Spool(str(trees.work_folder())))  # type: ignore[arg-type]
    return sum(1 for here, there in pairs if here is not None and there is not None)


def _index(count: int) -> int:
    """Written once and read once, in order."""
    path = trees.work_folder() / "scaling.sqlite"
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    index = Index(str(path))
    for i in range(count):
        index.remember(IndexRow(trees.key_of(i), 1024, 0, 0, i, _ETAG, "", 0, "", 1))
    index.flush()
    rows = index.rows()
    found = sum(rows.at(trees.key_of(i)) is not None for i in range(count))
    rows.close()
    index.close()
    return found


def scaling(options: Options) -> Result:
    ours = contenders.for_small_files()[0]
    columns: dict[str, list[float]] = {
        name: [] for name in ("scan", "list", "plan", "index", "send", "nothing")
    }
    counts = [options.times(count, 100) for count in COUNTS]
    with stub() as running:
        for count in counts:
            tree = trees.same(count)
            parts: dict[str, Callable[[], int]] = {
                "scan": lambda tree=tree: _scan(tree),  # type: ignore[misc]
                "list": lambda count=count: _list(running, count),  # type: ignore[misc]
                "plan": lambda count=count: _plan(count),  # type: ignore[misc]
                "index": lambda count=count: _index(count),  # type: ignore[misc]
            }
            for name, part in parts.items():
                started = time.perf_counter()
                found = part()
                columns[name].append((time.perf_counter() - started) / count * 1e6)
                must(found == count, f"{name}: {found} of {count}")
            contenders.forget_jobs()
            cost, asked = on_stub(running, ours, f"fresh-{count}", tree)
            must(asked.get("PUT") == count, f"{asked}")
            columns["send"].append(cost.wall / count * 1e6)
            for _ in range(2):  # the first makes the index
                cost, asked = on_stub(running, ours, f"keys-{count}-delay-0-s", tree)
            columns["nothing"].append(cost.wall / count * 1e6)
            say(f"  {count:9,} " + "  ".join(f"{name} {c[-1]:.1f}" for name, c in columns.items()))
        sizes, bytes_targets = _sizes(running, options)
    lines = [["files", *(f"{name} µs" for name in columns)]]
    lines += [
        [f"{count:,}", *(f"{column[i]:.1f}" for column in columns.values())] for i, count in enumerate(counts)
    ]
    goals = [
        target(f"{name}: growth", max(column[1:]) / column[1], _GROWTH, "x the cost a file at 10,000")
        for name, column in columns.items()
    ]
    title = "cost a file as files grow in number"
    return result("scaling", title, options, [], [*goals, *bytes_targets], sizes) | {"table": lines}


def _sizes(running: Stub, options: Options) -> tuple[list[str], list[dict[str, object]]]:
    ours = contenders.for_large_files()[0]
    notes, costs = [], []
    for full in SIZES_MIB:
        size = options.times(full, 1)
        contenders.forget_jobs()
        tree = trees.large(1, size)
        cost, asked = on_stub(running, ours, f"fresh-large-{full}", tree)
        must(0 <= asked["BYTES"] - (size << 20) <= 1000, f"{asked}")  # and a few questions about sums
        costs.append(cost.wall / size)
        notes.append(
            f"one file of {size:,} MiB: {cost.wall:.2f} s, {cost.wall / size * 1e3:.2f} ms a MiB,"
            f" {cost.peak_bytes / 1e6:.0f} MB of memory"
        )
        say(f"  {notes[-1]}")
    return notes, [target("large file: growth", costs[-1] / costs[2], _GROWTH, "x the cost a MiB at 256 MiB")]
