"""Each task and thread in the background of a worker dies once, of an error of this program, while files are
sent: the job ends soon, failed, and its log has the traceback."""

from __future__ import annotations

import pytest
from bench import Gate, Mirror
from toxics import Toxic

DIES = """
import importlib, inspect, runpy, sys
module = importlib.import_module("syncworker.{module}")

def die(*arguments, **options):
    if not dead:
        dead.append(True)
        raise ZeroDivisionError("{name} dies")
    return real(*arguments, **options)

async def die_later(*arguments, **options):
    return await die(*arguments, **options)

dead = []
real = module.{name}
module.{name} = die_later if inspect.iscoroutinefunction(real) else die
sys.argv = ["syncworker", "start", "--source", "photos", "--dest", "{bucket}"]
runpy.run_module("syncworker", run_name="__main__", alter_sys=True)
"""
# What each of them calls, and whether a request that is never answered must end with it.
BACKGROUND = {
    "connection watchdog": ("wire.connection", "Connection.check", True),
    "ticker of the status": ("jobs.progress", "Progress.due", True),
    "pace of the lanes": ("transfer.lane_count", "LaneController.record_rate", False),
    "reader of groups": ("transfer.lanes", "Lanes._next_group", False),
    "lane for small files": ("transfer.lanes", "Lanes._small_lane", False),
    "file in a lane": ("transfer.lanes", "Lanes._whole", False),
    "lane for large files": ("transfer.lanes", "Lanes._large_lane", False),
    "opening of the lanes": ("transfer.lanes", "Lanes._open", False),
    "planner": ("plan.planner", "Planner._plan", False),
}


@pytest.mark.parametrize("which", BACKGROUND)
def test_what_dies_in_the_background_ends_the_job_with_its_traceback(which: str, mirror: Mirror) -> None:
    module, name, hangs = BACKGROUND[which]
    mirror.make({f"{n:04}": 10 for n in range(300)} | {"large": 20 << 20})
    gate = Gate(mirror.proxy, lambda request: hangs and request.kind == "PUT")
    mirror.proxy.on_request(lambda request: Toxic(latency_seconds=0.1) if request.kind == "PUT" else None)
    try:
        code = DIES.format(module=module, name=name, bucket=mirror.bucket)
        process = mirror.shell.popen("-c", code, name="worker")
        assert process.wait(60) == 1, (mirror.shell.base / "worker.err").read_text()
    finally:
        gate.open()
    error = (mirror.shell.base / "worker.err").read_text()
    assert len(mirror.shell.ids()) == 1, error
    (job,) = mirror.shell.ids()
    status = mirror.shell.status(job)
    assert (status["state"], status["error"]["code"]) == ("failed", "InternalError"), status
    error += mirror.shell.log(job)
    assert f"ZeroDivisionError: {name} dies" in error
    assert "Traceback" in error
