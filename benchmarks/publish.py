"""Puts results where people read them: docs/benchmarks.md, the chart, and the JSON that they cite."""

from __future__ import annotations

import json
import re

from benchmarks import report, results
from benchmarks.stores import PROJECT

PAGE = PROJECT / "docs" / "benchmarks.md"
LEAST_RUNS = 5
CHART = PROJECT / "docs" / "benchmarks.svg"


def publish(order: list[str]) -> None:
    """Runs that are scaled down, or too few, are no results and are refused."""
    found = sorted(results.load_all(), key=lambda one: order.index(one["name"]))
    if not found:
        raise SystemExit("nothing to publish: run `make bench` first")
    small = [one["name"] for one in found if one["scale"] != 1 or one["runs"] < LEAST_RUNS]
    if small:
        raise SystemExit(f"not of full size or of fewer than {LEAST_RUNS} runs: {', '.join(small)}")
    for row in (row for one in found for row in one["rows"] if "failed" in row):
        row["failed"] = row["failed"].partition(":")[0]  # what follows is its output
    machine = found[0]["machine"]
    pythons, days = {one["machine"]["python"] for one in found}, {one["at"][:10] for one in found}
    where = (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB,"
        f" {machine['system']}, Python {' and '.join(sorted(pythons))}; client and store on the same"
        f" machine. Measured {' and '.join(sorted(days))}."
    )
    text = _between(PAGE.read_text(), "targets", f"{where}\n\n{report.targets_table(found)}")
    text = _between(text, "results", "\n".join(report.markdown(one) for one in found))
    PAGE.write_text(text)
    CHART.write_text(report.chart(found))
    results.PUBLISHED.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {PAGE.name}, {CHART.name}, {results.PUBLISHED.name}")


def _between(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{PAGE} has no marker <!-- {name} -->")
    return pattern.sub(lambda match: f"{match[1]}{content.rstrip()}\n{match[2]}", text)
