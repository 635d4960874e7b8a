"""Retries uploads that the store refused, after deleting the objects that block them."""

from __future__ import annotations

from syncworker.errors import FileError, RetryError
from syncworker.plan.compare import NEW
from syncworker.plan.planner import Planner
from syncworker.transfer import blocking_keys
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.delete_last import Sweep
from syncworker.worker.accounts import Accounts
from syncworker.worker.dispatch import Dispatch
from syncworker.worker.mount_check import MountCheck
from syncworker.worker.plans import Plans
from syncworker.worker.sending import Sending


class SecondChance:
    """Runs after all other uploads, and before the first deletion."""

    def __init__(
        self,
        attempt: Attempt,
        sending: Sending,
        accounts: Accounts,
        dispatch: Dispatch,
        plans: Plans,
        mounts: MountCheck,
    ) -> None:
        self.attempt, self.sending, self.accounts = attempt, sending, accounts
        self.dispatch, self.plans, self.mounts = dispatch, plans, mounts
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.stop = attempt.stop

    async def resolve_renames(self) -> None:
        """Handles files that the bucket lacks, but whose content it lists under a key that we never sent. If
        HEAD also finds the object under the file's key, the store has renamed it; else a client moved it."""
        for work in self.dispatch.renamed:
            self.stop.control.check()
            try:
                head = await self.bucket.head(work.file.key)
            except (FileError, RetryError) as error:
                self.stop.raise_stopped()
                self.accounts.failed(work.file, error)
                continue
            if head is not None and head.size == work.file.size:
                changed = "the storage stores this object under a different name: rename the file"
                self.accounts.failed(work.file, FileError("KeyChangedByStore", changed))
            else:
                await self.sending.do_now(work)

    async def clear_blocking_keys(self, sweep: Sweep, planner: Planner) -> None:
        """If only refused uploads have failed, deletes the objects without a file that block them, and sends
        the files again."""
        for work in self.dispatch.held_back:
            if await self._hides_kept(work.file.key):
                kept = "the storage has a folder under this name, with objects that are not to be deleted"
                self.accounts.failed(work.file, FileError("KeyIsFolder", kept))
            elif await blocking_keys.normalizes_paths(self.bucket, self.index, sweep.deletes, work.file.key):
                is_folder = FileError("KeyIsFolder", "the storage has a folder under this name")
                self.accounts.refused(work, is_folder)
            else:
                await self.sending.do_now(work)
        refused, self.accounts.refusals = self.accounts.refusals, []
        removed = 0
        has_failed = self.progress.counts["files_failed"] or self.dispatch.incomplete
        if refused and not has_failed and not self.stop.requested():
            blocked = {work.file.key for work, _ in refused}
            await self.attempt.in_thread(self.mounts.guard, sweep.deletes)
            if not await self.plans.may_delete(sweep.going, planner):
                return
            removed = await sweep.clear_the_way(blocking_keys.in_the_way(sweep.deletes, blocked))
        for work, error in refused:
            if removed:
                await self.sending.do_now(work._replace(object=None, row=None, decision=NEW))
            else:
                self.accounts.failed(work.file, error)
        for work, error in self.accounts.refusals:
            self.accounts.failed(work.file, error)

    async def _hides_kept(self, key: str) -> bool:
        """Returns whether an upload to this key would hide objects that stay: see `normalizes_paths`."""
        kept = self.attempt.obstacles.kept_below(key)
        if kept is None:
            return False
        head = await self.bucket.head(kept)
        below = [(kept, head.size, head.etag, "")] if head is not None else []
        return await blocking_keys.normalizes_paths(self.bucket, self.index, below, key)
