"""When a cluster is opened, and what becomes of one that cannot be."""

from __future__ import annotations

import errno
import os
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_double import work
from serving import load

from syncworker.cluster.opening import ClusterOutlet
from syncworker.cluster.peers import Limits
from syncworker.errors import FatalError


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
    home: Any = SimpleNamespace(lanes=None, samples=deque(), fail=failed.append)
    outlet = ClusterOutlet(load(tmp_path, CLUSTER_MIN_FILES="0"), home, Limits("job", 1))
    parts: Any = SimpleNamespace(file=work(1, 64 << 20).file)
    outlet.offer(parts)
    assert [str(each) for each in failed] == [str(error)]
    outlet.withdraw(parts)
