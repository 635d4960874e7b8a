"""What a cluster provides to the stages of a job, so that other processes send files as well."""

from __future__ import annotations

from typing import Protocol

from syncworker.plan.events import Candidate
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lanes import Lanes
from syncworker.worker.accounts import Accounts
from syncworker.worker.sending import Sending


class Outlet(Protocol):
    """Takes groups of files, as lanes do. `finish` follows the last: it returns when all is done, and nothing
    that was begun elsewhere can still reach the storage."""

    async def put(self, group: list[Candidate]) -> None: ...

    async def finish(self) -> None: ...


class Elsewhere(Protocol):
    def outlet(self, attempt: Attempt, sending: Sending, accounts: Accounts, lanes: Lanes) -> Outlet: ...

    async def close(self) -> None:
        """Ends all work for the job, however the job ended."""
        ...
