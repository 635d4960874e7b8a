"""What a worker of the tests may have otherwise than a user's: shorter waits, another clock.

Each function changes the process it is called in, before the package's `__main__` runs (`zygote.py`). The
code stays as it is; only its numbers change, so that a test of what happens after them need not wait long.
"""

from __future__ import annotations

import time


def short_waits() -> None:
    """Between two tries: at most 50 ms instead of seconds."""
    from syncworker.s3 import client

    client._WAIT_SECONDS, client._WAIT_MAX_SECONDS = 0.01, 0.05


def patient() -> None:
    """A storage that is away is waited for as long as a busy machine may need for a few requests."""
    from syncworker.s3.outage import Outage

    begin = Outage.__init__

    def init(self: Outage, _: float, *values: object) -> None:
        begin(self, 60.0, *values)  # type: ignore[arg-type]

    Outage.__init__ = init  # type: ignore[assignment,method-assign]


def few_tries() -> None:
    """Of what a store refuses as too fast: twelve instead of sixty, each of which waits for its turn."""
    from syncworker.s3 import client

    client._TRIES_THROTTLED = 12


def short_silence() -> None:
    """A store may be silent for half a second instead of a minute."""
    _limit(0.5)


def endless_silence() -> None:
    """A store may be silent for ever: what ends then, a stop has ended."""
    _limit(1e6)


def _limit(seconds: float) -> None:
    from syncworker.wire import pool

    limits = pool.Limits(seconds, seconds, seconds, seconds)
    pool.Limits.of = lambda _: limits  # type: ignore[method-assign,assignment]


def clock_ahead() -> None:
    """Twenty minutes, in all that asks for the time of day."""
    from syncworker.s3 import error_codes

    real = time.time
    time.time = error_codes.time = lambda: real() + 20 * 60
