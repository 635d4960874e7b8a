"""Runs commands and says what they cost; alternates between contenders and takes medians."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.trees import work_folder

LAUNCH = Path(__file__).with_name("launch.py")


class Failed(Exception):
    """A command that did not do its work: it has no time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run. Seconds; `cpu` is user and system time, children included; `peak_bytes` the resident peak."""

    wall: float
    cpu: float
    peak_bytes: int
    requests: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


def run(command: Sequence[str], environment: Mapping[str, str], timeout: float = 3600) -> Cost:
    """Failed when it exits with anything but 0; the end of its output is in the message."""
    result, log = work_folder() / "cost.json", work_folder() / "output.log"
    result.unlink(missing_ok=True)
    launcher = [sys.executable, "-I", "-S", str(LAUNCH), str(result), str(log), str(int(timeout)), "--"]
    os.sync()  # what an earlier run has left to write is not this one's burden
    with subprocess.Popen(
        [*launcher, *command], env=dict(environment), stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    cost: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {"exit": "no result"}
    if cost["exit"] != 0:
        tail = log.read_bytes()[-1500:].decode(errors="replace")
        raise Failed(f"{Path(command[0]).name} ended with {cost['exit']}:\n{tail}")
    return Cost(cost["wall"], cost["user"] + cost["system"], cost["peak_bytes"])


def output() -> str:
    """What the last command has printed."""
    return (work_folder() / "output.log").read_bytes().decode(errors="replace")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def summary(costs: Sequence[Cost]) -> dict[str, Any]:
    """Medians of the runs, their spread, and the runs themselves."""
    requests = [cost.requests for cost in costs if cost.requests is not None]
    return {
        "runs": len(costs),
        "wall": median([cost.wall for cost in costs]),
        "wall_min": min(cost.wall for cost in costs),
        "wall_max": max(cost.wall for cost in costs),
        "cpu": median([cost.cpu for cost in costs]),
        "peak_bytes": int(median([cost.peak_bytes for cost in costs])),
        "requests": int(median(requests)) if requests else None,
        "each": [asdict(cost) for cost in costs],
    }


def machine() -> dict[str, Any]:
    """Where this was measured, as far as it matters."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "?",
    )
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gib": round(memory / 1048576, 1),
        "system": f"{os.uname().sysname} {'.'.join(os.uname().release.split('.')[:2])}",
        "python": sys.version.split()[0],
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
