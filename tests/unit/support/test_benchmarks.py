"""The benchmarks' own arithmetic and pages; that they run is `make bench-smoke`, which needs nginx."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from bench import PROJECT

from benchmarks import publish, report
from benchmarks.measure import Cost, summary
from benchmarks.races import RACES, requests_of
from benchmarks.results import Limits, Options, against_best, result


def row(name: str, wall: float, cpu: float, peak_mb: float = 10) -> dict:
    return {"name": name, "exact": True, **summary([Cost(wall, cpu, int(peak_mb * 1e6), 7)])}


ROWS = [row("ours", 2.0, 1.0, 50), row("quick & greedy", 4.0, 8.0), row("slow <frugal>", 10.0, 4.0)]


def test_each_ratio_is_to_the_best_peer_of_its_own_column():
    wall, cpu, memory = against_best(ROWS, Limits(0.5, 0.2, 40_000_000))
    assert (wall["value"], wall["met"]) == (0.5, True)
    assert (cpu["value"], cpu["met"]) == (0.25, False)
    assert (memory["value"], memory["met"]) == (50.0, False)


def test_a_peer_that_failed_gives_no_time_and_no_target_is_met_when_ours_failed():
    failed = [{"name": "ours", "exact": True, "failed": "boom"}, ROWS[1]]
    assert [goal["met"] for goal in against_best(failed, Limits(0.5, 0.5, 1))] == [False] * 3
    peers_failed = [ROWS[0], {"name": "s5cmd", "exact": False, "failed": "boom"}]
    assert not against_best(peers_failed, Limits(0.5))[0]["met"]
    assert "failed" in report.terminal(result("x", "x", Options(), peers_failed, []))


def test_a_summary_has_medians_and_the_spread():
    found = summary([Cost(wall, wall, 1, requests) for wall, requests in ((3.0, 30), (1.0, 10), (2.0, 20))])
    assert (found["wall"], found["wall_min"], found["wall_max"]) == (2.0, 1.0, 3.0)
    assert (found["runs"], found["requests"]) == (3, 20)


def test_bytes_and_keys_are_not_counted_as_requests():
    assert requests_of({"PUT": 3, "LIST": 2, "BYTES": 4096, "READ": 4096, "KEYS": 1000}) == 5


def test_the_chart_is_xml_with_a_bar_for_each_contender():
    chart = report.chart([result("x", "a < b", Options(), ROWS, [])])
    texts = [node.text for node in ElementTree.fromstring(chart).iter() if node.tag.endswith("text")]
    assert {"a < b", "ours", "quick & greedy", "slow <frugal>"} <= set(texts)


def test_the_tables_show_which_aims_are_met():
    found = result("x", "a title", Options(), ROWS, against_best(ROWS, Limits(0.5, 0.2)))
    for text in (report.terminal(found), report.markdown(found)):
        assert "wall 0.50 (<= 0.5 x best peer): met" in text
        assert "cpu 0.25 (<= 0.2 x best peer): NOT MET" in text
    assert report.targets_table([found]).count("not met") == 1


def test_results_of_scaled_down_runs_are_not_published(monkeypatch):
    small = result(next(iter(RACES)), "x", Options(1, 0.1), ROWS, [])
    monkeypatch.setattr(publish.results, "load_all", lambda: [small])
    with pytest.raises(SystemExit, match="not of full size"):
        publish.publish(list(RACES))


def test_the_page_has_a_place_for_results_and_names_every_make_target():
    page = publish.PAGE.read_text()
    for name in ("targets", "results"):
        assert publish._between(page, name, "new").count("new") > 0
    makefile = (PROJECT / "Makefile").read_text()
    targets = [line.split(":")[0] for line in makefile.splitlines() if line.startswith("bench")]
    assert len(targets) >= 5
    assert [target for target in targets if f"make {target}" not in page] == []


def test_every_scenario_can_be_begun():
    """Each name in the program that a module of them takes from it, or from another, is there."""
    listed = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert {*RACES, "slow-disk", "ten-files", "cores"} <= set(listed.stdout.split())
    for patched in ("far_disk", "without"):
        subprocess.run([sys.executable, "-c", f"import benchmarks.{patched}"], cwd=PROJECT, check=True)
