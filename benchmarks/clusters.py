"""The scenarios `cluster` and `cores`: one job by more processes, `CLUSTER=local:N`.

`cluster`: a store so far away that waiting is most of the work, and two cores carry several members; one
round takes half an hour. `cores`: a store that answers at once, where only more cores help; on two beside
the store nothing is to be won.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count

from benchmarks import contenders, trees
from benchmarks.contenders import Contender, Target
from benchmarks.measure import Cost
from benchmarks.races import must, on_stub, race, stub
from benchmarks.results import Options, Result, Row, result, target

EIGHT_MS, FAR_MS, NEAR_MS = 400, 200, 40
_serial = count(1)


def _contender(name: str, cluster: str, min_files: int) -> Contender:
    def environment(where: Target) -> dict[str, str]:
        return contenders.our_environment(where) | {
            "CLUSTER": cluster,
            "CLUSTER_MIN_FILES": str(min_files),
        }

    return Contender(name, True, contenders.our_command, environment)


def _run(sizes: list[int], files: int, min_files: int, bucket: str, options: Options) -> list[Row]:
    """Rows of so many members; 0: one process alone. Each run is a first sync. There is no warm-up, because
    each takes a minute."""
    tree = trees.small(files, 4096)
    field = [_contender(f"local:{n}" if n else "alone", f"local:{n}" if n else "", min_files) for n in sizes]

    def once(contender: Contender) -> Cost:
        contenders.forget_jobs()
        cost, counts = on_stub(running, contender, f"{bucket}-{next(_serial)}", tree)
        must(counts.get("PUT", 0) == files, f"{counts.get('PUT', 0)} files were sent, not {files}")
        return cost

    with stub() as running:
        rows = race(field, options, once, warms_up=False)
    return [row | {"is_peer": False} for row in rows]


def _by(rows: list[Row], name: str, other: str, what: str = "wall") -> float | None:
    found = {row["name"]: row[what] for row in rows if what in row}
    return found[name] / found[other] if name in found and other in found else None


def cluster(options: Options) -> Result:
    """A member is to cost nothing beside one process alone, four are to be as good as four, and eight as
    eight. Each row has a minute of work or more. A member has at most 128 files in flight: at 400 ms it
    sends 320 files a second, and two cores carry eight members; at 40 ms they would need more cores."""
    options = replace(options, runs=1)  # a round takes half an hour
    files, more, most = options.times(120_000, 300), options.times(160_000, 600), options.times(200_000, 600)
    own = options.times(10_000, 30)  # as by default: the job sends alone until its members are there
    here = _run([0, 1], most, own, "fresh-cluster", options)
    near = _run([0, 1], most, own, f"far-{NEAR_MS}", options)
    eight = _run([1, 8], more, 0, f"far-{EIGHT_MS}", options)
    rows = _run([0, 1, 2, 4], files, 0, f"far-{FAR_MS}", options)
    goals = [
        target("one member: wall", _by(rows, "local:1", "alone"), 1.03, "x alone"),
        target("two members: wall", _by(rows, "local:2", "local:1"), 1 / 1.9, "x one member"),
        target("four members: wall", _by(rows, "local:4", "local:1"), 1 / 3.6, "x one member"),
        target(
            f"eight members, {EIGHT_MS} ms: wall", _by(eight, "local:8", "local:1"), 1 / 7.2, "x one member"
        ),
        target(f"one member, {NEAR_MS} ms: wall", _by(near, "local:1", "alone"), 1.03, "x alone"),
        target("one member, no delay: wall", _by(here, "local:1", "alone"), 1.35, "x alone"),
    ]
    rows += [row | {"name": f"{row['name']}, {EIGHT_MS} ms"} for row in eight]
    rows += [row | {"name": f"{row['name']}, {NEAR_MS} ms"} for row in near]
    rows += [row | {"name": f"{row['name']}, no delay"} for row in here]
    title = (
        f"{files:,} to {most:,} x 4 KiB by members, a store that is {FAR_MS} ms away where not said otherwise"
    )
    return result("cluster", title, options, rows, goals)


def cores(options: Options) -> Result:
    """As many members as there are cores; `local:2` loses nothing where there are two."""
    files = options.times(100_000, 300)
    here = len(os.sched_getaffinity(0))
    sizes = [0, 2, *(size for size in (4, 8, 16) if size <= here)]
    rows = _run(sizes, files, files // 10, "fresh-cores", options)
    goals = [target("local:2: wall", _by(rows, "local:2", "alone"), 1.05, "x alone")]
    return result("cores", f"{files:,} x 4 KiB by members, stub, {here} cores", options, rows, goals)
