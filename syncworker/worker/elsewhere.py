"""Where files go that are not sent by this process alone: what a cluster gives the stages of a job."""

from __future__ import annotations

from typing import Protocol

from syncworker.plan.events import Candidate
from syncworker.transfer.lanes import Lanes
from syncworker.worker.accounts import Accounts
from syncworker.worker.attempt import Attempt
from syncworker.worker.sending import Sending


class Outlet(Protocol):
    """Takes groups of files, as lanes do. `finish`: all has been put; returns when all is done, and nothing
    that was begun elsewhere can still reach the storage."""

    async def put(self, group: list[Candidate]) -> None: ...

    async def finish(self) -> None: ...


class Elsewhere(Protocol):
    def outlet(self, attempt: Attempt, sending: Sending, accounts: Accounts, lanes: Lanes) -> Outlet: ...

    async def close(self) -> None:
        """However the job ends: nobody goes on working for it."""
        ...
