"""`python -m benchmarks [SCENARIO…] [--runs N] [--scale S]`; with no scenario: all of them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from benchmarks import publish, report, results
from benchmarks.clusters import cluster, cores
from benchmarks.floors import floors
from benchmarks.races import RACES
from benchmarks.results import Options, Result
from benchmarks.scaling import scaling
from benchmarks.serving import server
from benchmarks.slow_disk import slow_disk
from benchmarks.special import SPECIAL

SCENARIOS: dict[str, Callable[[Options], Result]] = {
    **{name: race.run for name, race in RACES.items()},
    **SPECIAL,
    "scaling": scaling,
    "server": server,
    "slow-disk": slow_disk,
    "cluster": cluster,
    "cores": cores,
    "floors": floors,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"{', '.join(SCENARIOS)}; `list`, `publish`")
    parser.add_argument("--runs", type=int, default=5, help="after the warm-up (default 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="of counts and sizes: 0.01 for a first look")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is not met")
    arguments = parser.parse_args()
    if arguments.scenario == ["list"]:
        print("\n".join(SCENARIOS))
        return 0
    if arguments.scenario == ["publish"]:
        publish.publish(list(SCENARIOS))
        return 0
    unknown = [name for name in arguments.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stores and clients are ended on the way out
    options = Options(max(1, arguments.runs), arguments.scale)
    found = []
    for name in arguments.scenario or SCENARIOS:
        print(f"{name} …", file=sys.stderr, flush=True)
        one = SCENARIOS[name](options)
        results.save(one)
        print(report.terminal(one), flush=True)
        found.append(one)
    goals = [goal for one in found for goal in one["targets"]]
    missed = [goal for goal in goals if not goal["met"]]
    print(f"\n{len(goals) - len(missed)} of {len(goals)} targets met")
    lost = any("failed" in row for one in found for row in one["rows"] if row["name"] == "ours")
    return 1 if lost or (missed and arguments.strict) else 0


if __name__ == "__main__":  # an import of it must not run them all
    sys.exit(main())
