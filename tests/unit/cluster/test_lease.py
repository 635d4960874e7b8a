"""How long a member may work for a job that it hears nothing of."""

from __future__ import annotations

import pytest

from syncworker.cluster import carrier
from syncworker.cluster.member_accounts import clock
from syncworker.cluster.protocol import Lease
from syncworker.system.stop_token import StopToken


def test_a_process_that_was_frozen_begins_nothing_when_it_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: before any task of its own has had its turn."""
    now = clock()
    lease = Lease()
    lease.renew(now, now)
    stop = StopToken(carrier._Leased(lease))
    assert not stop.requested()
    monkeypatch.setattr(carrier, "clock", lambda: now + 3600)
    assert stop.requested()
