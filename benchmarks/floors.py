"""What no client can be faster than, on this machine: the same requests by `wrk`, the tree read by `find`,
the bytes hashed by `openssl`, an interpreter started."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from benchmarks import measure, trees
from benchmarks.races import say, stub
from benchmarks.results import Options, Result, result
from benchmarks.stores import minimal_environment
from benchmarks.stub import Stub

_SECONDS = 3


def floors(options: Options) -> Result:
    """Each taken `runs` times; medians."""
    if shutil.which("wrk") is None:
        raise SystemExit("the floors need wrk: apt-get install wrk")
    files, million = options.times(10_000, 100), options.times(1_000_000, 1500)
    tree, large = trees.trees() / trees.same(million), trees.trees() / trees.large(4, options.times(256, 16))
    bodies = [str(path) for path in sorted(large.iterdir())]
    lines = [["work", "wall s", "processor s"]]

    def add(what: str, wall: float, cpu: float | None) -> None:
        lines.append([what, f"{wall:.3f}", "-" if cpu is None else f"{cpu:.3f}"])
        say(f"  {lines[-1]}")

    def command(what: str, *words: str) -> None:
        costs = [
            measure.run(words, minimal_environment(trees.work_folder())) for _ in range(options.runs + 1)
        ]
        found = measure.summary(costs[1:])
        add(what, found["wall"], found["cpu"])

    with stub() as running:
        puts = _wrk(running, "PUT", "/floor/file-%d.bin", 4096, 32, options.runs, 10_000)
        add(f"wrk, {files:,} PUTs of 4 KiB, 32 in flight", files / puts, None)
        parts = _wrk(running, "PUT", "/floor/file-%d.bin", 8 << 20, 4, options.runs, 10_000)
        add("wrk, 128 PUTs of 8 MiB, 4 in flight", 128 / parts, None)
        path = f"/keys-{million}-delay-0-w?list-type=2&max-keys=1000&continuation-token=%d"
        pages = _wrk(running, "GET", path, 0, 1, options.runs, million)
        add(f"wrk, {million:,} keys in pages of 1,000, one at a time", million / 1000 / pages, None)
        pages = _wrk(running, "GET", path, 0, 8, options.runs, million)
        add(f"wrk, {million:,} keys in pages of 1,000, 8 at a time", million / 1000 / pages, None)
    command(f"find, {million:,} files with size and date", "find", str(tree), "-printf", "%s %T@\n")
    size_mib = sum(os.path.getsize(path) for path in bodies) >> 20
    command(f"openssl md5, 4 files, {size_mib:,} MiB, one core", "openssl", "md5", *bodies)
    command("python started", sys.executable, "-c", "pass")
    command("python started, asyncio and sqlite3 imported", sys.executable, "-c", "import asyncio, sqlite3")
    return result("floors", "floors: the least that the machine needs", options, [], []) | {"table": lines}


def _wrk(running: Stub, method: str, path: str, size: int, connections: int, runs: int, end: int) -> float:
    """Requests a second, the median."""
    script = trees.work_folder() / "wrk.lua"
    # The pages asked for go through the listing, whatever its length.
    script.write_text(
        f'local n, body = 0, string.rep("x", {size})\n'
        f'request = function() n = n + 1; return wrk.format("{method}", '
        f'string.format("{path}", n * {1000 if method == "GET" else 1} % {end}),'
        f" nil, body) end\n"
    )
    words = ["wrk", "-t1", f"-c{connections}", f"-d{_SECONDS}s", "-s", str(script), running.url]
    rates = []
    for _ in range(runs):
        measure.run(words, minimal_environment(Path("/")))
        found = re.search(r"Requests/sec:\s*([0-9.]+)", measure.output())
        if found is None or "Non-2xx" in measure.output():
            raise measure.Failed(measure.output())
        rates.append(float(found[1]))
    return measure.median(rates)
