"""When a cluster is opened, and what becomes of one that cannot be."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_double import work
from serving import load

from syncworker.cluster.opening import ClusterOutlet
from syncworker.cluster.peers import Limits
from syncworker.cluster.protocol import Member
from syncworker.errors import FatalError


def outlet_of(folder: Path, failed: list[Exception]) -> ClusterOutlet:
    home: Any = SimpleNamespace(lanes=None, samples=deque(), fail=failed.append, is_stopping=lambda: True)
    home.keeps_all = home.is_paused = lambda: False
    return ClusterOutlet(load(folder, CLUSTER_MIN_FILES="0"), home, Limits("job", 1))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FatalError("BadClusterKeys", "no such file")]
)
def test_a_cluster_that_cannot_be_opened_ends_the_job_and_is_not_the_fault_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A large file is known to be sent when its parts are offered: an error there would be that file's."""
    from syncworker.cluster import dask_engine

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(dask_engine, "open_cluster", fail)
    failed: list[Exception] = []
    parts: Any = SimpleNamespace(file=work(1, 64 << 20).file)

    async def main() -> None:
        outlet = outlet_of(tmp_path, failed)
        for _ in range(2):
            outlet.offer(parts)
            outlet.withdraw(parts)
        await outlet.close()

    asyncio.run(main())
    assert [str(each) for each in failed] == [str(error)]


def test_a_cluster_that_takes_long_to_load_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status, first of all, and the files that the job's process sends meanwhile."""
    from syncworker.cluster import dask_engine

    class Opened:
        async def members(self) -> list[Member]:
            return []

        async def close(self) -> None: ...

    def slowly(_: object) -> Opened:
        time.sleep(1.5)
        return Opened()

    monkeypatch.setattr(dask_engine, "open_cluster", slowly)
    failed: list[Exception] = []

    async def main() -> float:
        outlet = outlet_of(tmp_path, failed)
        before = time.monotonic()
        outlet.offer(SimpleNamespace(file=work(1, 64 << 20).file))  # type: ignore[arg-type]
        longest = time.monotonic() - before
        while outlet._shares is None and not failed:
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        outlet.home.shares.roll.ticker.cancel()
        return longest

    assert asyncio.run(main()) < 1.2
    assert failed == []
