"""How long a member may work for a job that it hears nothing more of. Pure: the clock is the caller's."""

from __future__ import annotations

import math

from syncworker.cluster.protocol import LAST_SECONDS, LEASE_SECONDS


class Lease:
    """Of one epoch, by the member's own clock, which goes on while the machine sleeps."""

    def __init__(self) -> None:
        self.until = -math.inf

    def renew(self, clock: float | None, now: float) -> None:
        """`clock`: of the last answer that the job's process had. One from the future is nobody's."""
        if clock is not None and clock <= now:
            self.until = max(self.until, clock + LEASE_SECONDS)

    def may_begin(self, now: float) -> bool:
        return now < self.until

    def must_end(self, now: float) -> bool:
        """Whether what is in flight is to be ended as well."""
        return now >= self.until + LAST_SECONDS
