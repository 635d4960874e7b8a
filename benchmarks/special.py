"""The scenarios that are no race: one change in a million, time to the end over HTTP, a killed upload, a
store that throttles, and what the status, the report and the index cost."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import contenders, measure, trees
from benchmarks.contenders import OURS, Contender, Target, our_command, our_environment
from benchmarks.measure import Cost, Failed
from benchmarks.races import must, on_stub, race, say, stub
from benchmarks.results import Options, Result, Row, result, target
from benchmarks.stores import PROJECT, free_port, minimal_environment
from benchmarks.stub import Stub
from benchmarks.without import RECORDS

_KILL_AT = 0.9
_OUR_PART = 8 << 20


def _medians(rows: list[Row]) -> dict[str, float]:
    return {row["name"]: row["wall"] for row in rows if "wall" in row}


# -- one file of a million ----------------------------------------------------------------------------------


def one_changed(options: Options) -> Result:
    """Nothing to do and one changed file, in turns: the same tree, the same index."""
    files = options.times(1_000_000, 1500)
    tree, bucket = trees.same(files), f"keys-{files}-delay-0-b"
    contenders.forget_jobs()
    changing = trees.trees() / tree / trees.key_of(files // 2)
    number = iter(range(1_000_000))
    ours = contenders.for_nothing()[0]
    nothing = Contender("nothing to do", True, ours.command, ours.environment)
    changed = Contender("one file changed", True, ours.command, ours.environment)

    def once(contender: Contender) -> Cost:
        if contender is changed:
            changing.write_bytes(f"{next(number):012}".encode().ljust(len(trees.BODY)))
        cost, counts = on_stub(running, contender, bucket, tree)
        expected = 1 if contender is changed else 0
        must(counts.get("PUT", 0) == expected, f"{counts.get('PUT', 0)} files were sent, not {expected}")
        return cost

    with stub() as running:
        try:
            once(nothing)  # makes the index
            rows = race([nothing, changed], options, once)
        finally:
            changing.write_bytes(trees.BODY)
            os.utime(changing, (trees.OLD, trees.OLD))
    for row in rows:
        row["is_peer"] = False
    walls = _medians(rows)
    ratio = walls[changed.name] / walls[nothing.name] if len(walls) == 2 else None
    goal = target("wall", ratio, 1.3, "x nothing to do")
    return result("one-changed", "one file of 1,000,000 changed", options, rows, [goal])


# -- patterns -----------------------------------------------------------------------------------------------

TEN_PATTERNS = (
    "*.tmp", "*~", ".cache/", "node_modules/", "/*/Downloads/", "*.sw[op]", "**/__pycache__/", "!keep.tmp",
    "build/**/*.o", "/private",
)  # fmt: skip


def filtered(options: Options) -> Result:
    """Nothing to do, without and with ten patterns that no file matches: each name is asked for."""
    files = options.times(1_000_000, 1500)
    tree, bucket = trees.same(files), f"keys-{files}-delay-0-b"
    contenders.forget_jobs()
    ours = contenders.for_nothing()[0]
    plain = Contender("without patterns", True, ours.command, ours.environment)
    flags = [word for pattern in TEN_PATTERNS for word in ("--exclude", pattern)]
    ten = Contender("with ten patterns", True, lambda to: [*ours.command(to), *flags], ours.environment)

    def once(contender: Contender) -> Cost:
        cost, counts = on_stub(running, contender, bucket, tree)
        must(counts.get("PUT", 0) == 0, f"{counts.get('PUT', 0)} files were sent")
        return cost

    with stub() as running:
        once(plain)  # makes the index
        rows = race([plain, ten], options, once)
    for row in rows:
        row["is_peer"] = False
    walls = _medians(rows)
    ratio = walls[ten.name] / walls[plain.name] if len(walls) == 2 else None
    goal = target("wall", ratio, 1.5, "x without patterns")
    return result("filtered", "nothing to do, 1,000,000 files, ten patterns, stub", options, rows, [goal])


# -- ten files over HTTP ------------------------------------------------------------------------------------


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """The service with its embedded store, all of it fresh; its port."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    port = free_port()
    environment = minimal_environment(
        folder,
        API_PORT=str(port),
        MINIO_PORT=str(free_port()),
        MINIO_ACCESS_KEY="AKIDBENCH",
        MINIO_SECRET_KEY="secret-of-the-benchmark",
        UPLOADS_DIR=str(trees.trees()),
        JOBS_DIR=str(folder / "jobs"),
        STORAGE_DIR=str(folder / "storage"),
    )
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "server.py")], env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError, Failed):
                if _ask(port, "GET", "/healthz")["status"] == "ok":
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the server does not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def _ask(port: int, method: str, path: str) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body: dict[str, object] = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status >= 400:
        raise Failed(f"{path}: {answer.status} {body}")
    return body


def ten_files(options: Options) -> Result:
    """From POST /sync to the first answer of /get that says done, asked every 5 ms; always a new bucket."""
    tree = trees.small(10, 4096)

    with _server(trees.work_folder() / "server") as port:

        def once(_: Contender) -> Cost:
            started = time.perf_counter()
            job = _ask(port, "POST", f"/sync?source={tree}&dest=ten-{time.time_ns()}")
            while job["state"] not in ("done", "failed", "cancelled", "interrupted"):
                time.sleep(0.005)
                job = _ask(port, "GET", f"/get?id={job['id']}")
            wall = time.perf_counter() - started
            progress = job["progress"]
            assert isinstance(progress, dict)
            if job["state"] != "done" or progress["files_uploaded"] != 10:
                raise Failed(f"{job['state']}: {job['error']}")
            return Cost(wall, 0.0, 0)

        rows = race([contenders.for_small_files()[0]], options, once)
    goal = target("wall", rows[0].get("wall"), 0.6, "s")
    title = "10 files, from POST /sync to done, embedded store"
    return result("ten-files", title, options, rows, [goal])


# -- a killed upload ----------------------------------------------------------------------------------------


def resume(options: Options) -> Result:
    """One file of 1 GiB; SIGKILL when the store has taken 90 % of it; the same command again or `resume`."""
    size_mib = options.times(1024, 200)
    tree = trees.large(1, size_mib)
    rows: list[Row] = []
    goal = target("sent again", None, 2, "parts")
    with stub() as running:
        for number, contender in enumerate(contenders.for_large_files()):
            contenders.forget_jobs()
            where = Target(running.url, running.access_key, running.secret_key, f"killed-{number}", tree)
            row: Row = {"name": contender.name, "exact": contender.exact}
            try:
                again, cost = _killed_and_resumed(running, contender, where, size_mib << 20)
                row |= measure.summary([cost]) | {"bytes_again": again}
                say(f"  {contender.name:16} {again / (1 << 20):8.1f} MiB sent again")
                if contender.name == OURS:
                    goal = target("sent again", again / _OUR_PART, 2, "parts")
            except Failed as error:
                row["failed"] = str(error)
                say(f"  {contender.name} FAILED: {error}")
            rows.append(row)
    notes = [
        f"{row['name']}: {row['bytes_again'] / (1 << 20):.0f} MiB of {size_mib} MiB sent again"
        for row in rows
        if "bytes_again" in row
    ]
    notes.append("The times are those of the second run, after the kill.")
    return result("resume", "a 1 GiB upload killed at 90 %, then resumed", options, rows, [goal], notes)


def _killed_and_resumed(running: Stub, contender: Contender, where: Target, size: int) -> tuple[int, Cost]:
    running.reset()
    environment = contender.environment(where)
    log = trees.work_folder() / "killed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            contender.command(where), env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while running.counts().get("READ", 0) < _KILL_AT * size:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"it ended by itself: {log.read_bytes()[-500:].decode(errors='replace')}")
            time.sleep(0.002)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    _settle(running)
    if running.counts().get("COMPLETE"):
        raise Failed("it had sent everything before it was killed")
    command = contender.command(where)
    if contender.name == OURS:
        command = [sys.executable, "-m", "syncworker", "resume", log.read_text().split()[0]]
    cost = measure.run(command, environment)
    counts = running.counts()
    whole = counts.get("COMPLETE", 0) + counts.get("PUT", 0)
    must(whole == 1, f"the object was not completed: {counts}")
    return counts["READ"] - size, cost


def _settle(running: Stub) -> None:
    """Until the store has read what was still on its way."""
    before = -1
    while (now := running.counts().get("READ", 0)) != before:
        before = now
        time.sleep(0.3)


# -- a store that throttles ---------------------------------------------------------------------------------


def throttled(options: Options) -> Result:
    """The store takes 500 PUTs a second and answers 503 SlowDown to all above; ideal is files / 500."""
    rate = 500
    files = options.times(5000, 500)
    ideal = files / rate
    tree = trees.small(files, 4096)

    def once(contender: Contender) -> Cost:
        contenders.forget_jobs()
        cost, counts = on_stub(
            running, contender, f"slow-{rate}-{time.time_ns()}", tree, timeout=20 + 6 * ideal
        )
        must(counts.get("PUT", 0) == files, f"{counts.get('PUT', 0)} of {files} files arrived: {counts}")
        refused[contender.name] = counts.get("SLOWDOWN", 0)
        return cost

    refused: dict[str, int] = {}
    with stub() as running:
        field = contenders.for_small_files()
        rows = race(field if options.scale >= 1 else field[:1], options, once)  # some give up only in minutes
    wall = next((row["wall"] for row in rows if row["name"] == OURS and "wall" in row), None)
    goal = target("wall", wall / ideal if wall else None, 1.3, f"x ideal ({ideal:g} s), no file failed")
    notes = [f"{name}: {count} answers of 503" for name, count in refused.items()]
    title = f"{files:,} x 4 KiB, a store that takes {rate} PUTs a second"
    return result("throttled", title, options, rows, [goal], notes)


# -- status, report, index ----------------------------------------------------------------------------------


def _without(*parts: str) -> Callable[[Target], list[str]]:
    def command(where: Target) -> list[str]:
        start = our_command(where)
        return [start[0], "-m", "benchmarks.without", *parts, "--", *start[3:]]

    return command


def overhead(options: Options) -> Result:
    """The small-file run with and without what we write down beside it. None of them has a second look: it
    would ask about every object that the index does not have."""
    files = options.times(10_000, 100)
    tree = trees.small(files, 4096)

    def without(name: str, *parts: str) -> Contender:
        return Contender(name, True, _without("second-look", *parts), our_environment)

    everything, nothing = without(OURS), without("without all three", *RECORDS)
    some = [without(f"without {part}", part) for part in RECORDS]

    def once(contender: Contender) -> Cost:
        contenders.forget_jobs()
        cost, counts = on_stub(running, contender, f"fresh-{time.time_ns()}", tree)
        must(counts.get("PUT", 0) == files, f"{counts.get('PUT', 0)} objects arrived")
        return cost

    with stub() as running:
        rows = race([everything, *some, nothing], options, once)
    for row in rows[1:]:
        row["is_peer"] = False
    found = {row["name"]: row for row in rows if "wall" in row}
    goals = []
    for what in ("wall", "cpu"):
        both = found.keys() >= {OURS, nothing.name}
        ratio = found[OURS][what] / found[nothing.name][what] if both else None
        goals.append(target(what, ratio, 1.10, "x without status, report and index"))
    return result(
        "overhead", "what status, report and index cost, 10,000 x 4 KiB, stub", options, rows, goals
    )


def second_look(options: Options) -> Result:
    """A first sync whose listings take 50 ms a page, with and without the listing that follows it."""
    files = options.times(100_000, 1500)
    tree = trees.small(files, 1024)
    seen: dict[str, int] = {}

    def once(contender: Contender) -> Cost:
        contenders.forget_jobs()
        running.reset()
        cost, counts = on_stub(running, contender, f"fresh-delay-50-{time.time_ns()}", tree)
        must(counts.get("PUT", 0) == files, f"{counts.get('PUT', 0)} objects arrived")
        seen[contender.name] = counts.get("KEYS", 0)
        return cost

    plain = Contender(OURS, True, _without(), our_environment)
    believing = Contender("without the second look", True, _without("second-look"), our_environment)
    with stub() as running:
        rows = race([plain, believing], options, once)
    must(seen[OURS] >= files and not seen[believing.name], f"keys that were listed: {seen}")
    rows[1]["is_peer"] = False
    both = all("wall" in row for row in rows)
    goals = [
        target(what, rows[0][what] / rows[1][what] if both else None, 1.03, "x without the second look")
        for what in ("wall", "cpu")
    ]
    title = "what the second look costs, first sync of 100,000 x 1 KiB, stub, 50 ms a page"
    return result("second-look", title, options, rows, goals)


SPECIAL: dict[str, Callable[[Options], Result]] = {
    "one-changed": one_changed,
    "filtered": filtered,
    "ten-files": ten_files,
    "resume": resume,
    "throttled": throttled,
    "overhead": overhead,
    "second-look": second_look,
}
