"""How long a member may work for a job that it hears nothing of."""

from __future__ import annotations

import pytest

from syncworker.cluster import carrier
from syncworker.cluster.member_accounts import clock
from syncworker.cluster.protocol import LAST_SECONDS, LEASE_SECONDS, Lease
from syncworker.system.stop_token import StopToken


def test_requests_are_ended_before_others_count_on_it_though_the_loop_is_late() -> None:
    lease = Lease()
    lease.renew(100.0, 100.0)
    others_begin = 100.0 + LEASE_SECONDS + LAST_SECONDS
    assert lease.must_end(others_begin - 0.5)
    assert not lease.must_end(others_begin - 1.5)


def test_a_process_that_was_frozen_begins_nothing_when_it_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: before any task of its own has had its turn."""
    now = clock()
    lease = Lease()
    lease.renew(now, now)
    stop = StopToken(carrier._Leased(lease))
    assert not stop.requested()
    monkeypatch.setattr(carrier, "clock", lambda: now + 3600)
    assert stop.requested()
