"""`make outages`: storages that are away for a minute in each phase of a job; takes about an hour.

`OUTAGE_SECONDS=60` is how long each is away. Prints a line of figures for each.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from bench import RecordingProxy, assert_same, contents, exists, expected, fill, tree
from stores import Store, list_uploads
from test_outage import PHASES, SURVIVORS, Outage, outage

__all__ = ["outage"]

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "60"))
PATIENCE_SECONDS = 20
BACK_SECONDS = (
    15.0 + 15.0
)  # the longest pause between two questions whether the storage is back, and the rest


def freeze(store: Store) -> None:
    """Takes connections, as far as the kernel does by itself, and answers nothing."""
    for pid in store.pids:
        os.killpg(pid, signal.SIGSTOP)


def go_on(store: Store, proxy: RecordingProxy) -> None:
    if store.alive:
        for pid in store.pids:
            os.killpg(pid, signal.SIGCONT)
    else:
        store.start()
        proxy.listen()


def die(store: Store, proxy: RecordingProxy) -> None:
    store.kill()
    proxy.refuse()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", SURVIVORS, indirect=True)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["dead", "frozen", "too long"])
def test_a_long_outage(how: str, phase: str, store: Store, outage: Outage) -> None:
    """Within the patience the job goes on soon after the store is back; after it, a resume does."""
    at = PHASES[phase]
    if how == "too long":
        outage.shell.environment["STORAGE_PATIENCE"] = str(PATIENCE_SECONDS)
    if phase == "comparing":
        fill(store, outage.bucket, {f"old/{n:04}": b"old" for n in range(1001)})
    tree(outage.shell.uploads, {"photos": at.changes})
    try:
        outage.begin(at, lambda: freeze(store) if how == "frozen" else die(store, outage.proxy))
        gone = time.monotonic()
        if how == "too long":
            status = outage.end(PATIENCE_SECONDS + 30)
            failed = time.monotonic() - gone
            assert (status["state"], status["error"]["code"]) == ("failed", "ConnectFailed")
            assert "no longer answers" in status["error"]["message"]
        threading.Event().wait(max(0.0, gone + OUTAGE_SECONDS - time.monotonic()))
        if how != "too long":
            status = outage.shell.status(outage.job)
            assert status["state"] == "running", status
            assert status["delay"]["reason"] in ("storage_down", "storage_silent"), status
    finally:
        go_on(store, outage.proxy)
    back = time.monotonic()
    if how == "too long":
        assert outage.shell.run("resume", outage.job).returncode == 0
        took = f"failed after {failed:.1f} s, resumed"
    else:
        outage.shell.wait_file(outage.job, lambda s: not s["delay"], 60)
        took = f"went on after {time.monotonic() - back:.1f} s"
    status = outage.end(60)
    assert status["state"] == "done", status
    print(f"| {store.name} | {phase} | {how} | {took} | done after {time.monotonic() - back:.1f} s |")
    if at.changes:
        assert not exists(store, outage.bucket)
    else:
        assert_same(contents(store, outage.bucket), expected(outage.shell.uploads / "photos"))
        assert not list_uploads(store.client(), outage.bucket)
    assert how == "too long" or time.monotonic() - back < BACK_SECONDS
