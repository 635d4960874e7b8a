"""The form of a result: rows of contenders, and targets with what was reached.

One JSON file for each scenario in `results/`, those of scaled-down runs in `results/first-look/`; a later run
of a scenario replaces it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import FLOORS, MD5, OURS
from benchmarks.measure import machine

FOLDER = Path(__file__).with_name("results")
PUBLISHED = FOLDER / "published.json"
Row = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """`scale` multiplies counts and sizes, for a first look: what it gives is no result."""

    runs: int = 5
    scale: float = 1.0

    def times(self, full: int, least: int = 1) -> int:
        return max(min(least, full), round(full * self.scale))


NEAR_FLOOR = 1.25


@dataclass(frozen=True, slots=True)
class Limits:
    """What to reach: ratios to the best peer, and bytes; `md5_cpu`: to the MD5 of the same bytes."""

    wall: float | None = None
    cpu: float | None = None
    peak_bytes: int | None = None
    md5_cpu: float | None = None


def target(what: str, value: float | None, limit: float, unit: str) -> dict[str, Any]:
    met = value is not None and value <= limit
    return {"what": what, "value": value, "limit": limit, "unit": unit, "met": met}


def beside_floor(goal: dict[str, Any], ours: Row | None, rows: list[Row]) -> dict[str, Any]:
    """A target that is missed is met all the same within 1.25 x of its floor: what the bytes or the requests
    cost, with the sum that the storage checks, if nothing else is done."""
    floors = [row for row in rows if row["name"] in FLOORS and "wall" in row]
    if goal["met"] or ours is None or not floors:
        return goal
    ratio = ours[goal["what"]] / floors[0][goal["what"]]
    return goal | {"floor": floors[0]["name"], "by_floor": ratio, "met": ratio <= NEAR_FLOOR}


def against_best(rows: list[Row], limits: Limits, whom: str = "best peer") -> list[dict[str, Any]]:
    """Our medians by those of the best peer: the fastest for the wall, the most frugal for the processor."""
    ours = next((row for row in rows if row["name"] == OURS and "wall" in row), None)
    peers = [row for row in rows if row["name"] != OURS and row.get("is_peer", True) and "wall" in row]
    targets = []
    for what, limit in (("wall", limits.wall), ("cpu", limits.cpu)):
        if limit is not None:
            value = ours[what] / min(row[what] for row in peers) if ours and peers else None
            targets.append(beside_floor(target(what, value, limit, f"x {whom}"), ours, rows))
    if limits.md5_cpu is not None:
        floors = [row["cpu"] for row in rows if row["name"] == MD5 and "cpu" in row]
        value = ours["cpu"] / floors[0] if ours and floors else None
        targets.append(beside_floor(target("cpu", value, limits.md5_cpu, f"x {MD5}"), ours, rows))
    if limits.peak_bytes is not None:
        value = ours["peak_bytes"] / 1e6 if ours else None
        targets.append(target("memory", value, limits.peak_bytes / 1e6, "MB"))
    return targets


def result(
    name: str,
    title: str,
    options: Options,
    rows: list[Row],
    targets: list[dict[str, Any]],
    notes: list[str] | None = None,
) -> Result:
    return {
        "name": name,
        "title": title,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "scale": options.scale,
        "runs": options.runs,
        "machine": machine(),
        "rows": rows,
        "targets": targets,
        "notes": notes or [],
    }


def save(found: Result) -> None:
    folder = FOLDER if found["scale"] == 1 else FOLDER / "first-look"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{found['name']}.json").write_text(json.dumps(found, indent=1) + "\n")


def load_all() -> list[Result]:
    """Of each scenario the latest result of full size: one that was measured here, else the published one."""
    published: list[Result] = json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else []
    found = {one["name"]: one for one in published}
    for path in FOLDER.glob("*.json"):
        if path != PUBLISHED:
            found[path.stem] = json.loads(path.read_text())
    return list(found.values())
