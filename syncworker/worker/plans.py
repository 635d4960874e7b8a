"""Decides what a job may delete, and holds the plan that it carries out or writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from syncworker.ending import Planned, plan_message
from syncworker.index.rows import count_objects
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan.compare import Candidate, Reason
from syncworker.plan.may_delete import Question
from syncworker.plan.planner import Planner
from syncworker.transfer.attempt import Attempt
from syncworker.worker.pages import Pages

if TYPE_CHECKING:  # importing them slows each start; most jobs have no plan
    from syncworker.plan.plan_file import ApprovedPlan, Draft

Going = Callable[[], AsyncIterator[Sequence[ObjectEntry]]]  # yields objects without a file, in chunks

_ALL = 1 << 62


class Plans:
    """`plan`: the approved plan that is carried out. `draft`: the plan to write, because it was requested or
    the deletions are too many. `question`: why the job must wait. `is_plan`: nothing is changed."""

    def __init__(self, attempt: Attempt, pages: Pages) -> None:
        self.attempt, self.pages = attempt, pages
        self.bucket, self.index, self.progress = attempt.bucket, attempt.index, attempt.progress
        self.rules = attempt.order.rules
        self.is_plan = self.rules.is_plan
        self.plan: ApprovedPlan | None = None
        self.draft: Draft | None = None
        self.question: Question | None = None
        self._may: bool | None = None  # not decided yet

    async def open(self) -> None:
        order = self.attempt.order
        if order.approved is not None:
            from syncworker.plan.plan_file import ApprovedPlan

            self.plan = await self.attempt.in_thread(
                ApprovedPlan, order.plan_path, order.approved, order.options.prefix
            )
        elif self.is_plan:
            self.draft = self._new_draft()

    def _new_draft(self) -> Draft:
        from syncworker.plan.plan_file import Draft

        return Draft(self.attempt.order.options.prefix)

    def close(self) -> None:
        for plan in (self.plan, self.draft):
            if plan is not None:
                plan.close()

    def undecide(self) -> None:
        """Makes `may_delete` decide again, because the bucket has objects that the plan does not name."""
        self._may = None

    async def may_delete(self, going: Going, planner: Planner | None) -> bool:
        """Returns whether the objects of `going` may be deleted (may_delete.py). Decides once, before the
        first deletion. If not, the draft lists them. `planner`: None if the whole bucket is to be deleted."""
        if not self.rules.ask:
            return True
        if self._may is None:
            count = others = 0
            if self.plan is not None or not self.rules.is_plan:
                async for chunk in going():
                    count += len(chunk)
                    others += await self.attempt.in_thread(self.plan.others, chunk) if self.plan else 0
            bucket = planner is None and self.plan is not None and not self.plan.deletes_bucket
            listed = count if planner is None else planner.listed + planner.deletes.count
            if self.attempt.options.scope is not None:  # not all of the mirror was listed
                listed = count_objects(self.index.path, _ALL) or 0
            gone = int(self.progress.counts["objects_deleted"])
            question = self.rules.question(
                count, listed, others, bucket=bucket, empties=planner is None, gone=gone
            )
            self._may = question is None
            if question is not None:
                self.question = question
                await self._plan_deletions(going, planner)
        return self._may

    async def _plan_deletions(self, going: Going, planner: Planner | None) -> None:
        self.draft = self.draft or self._new_draft()
        async for chunk in going():
            await self.attempt.in_thread(self.draft.delete, chunk)
            for _ in chunk:
                self.progress.planned("delete")
        if planner is None:
            self.draft.delete_bucket(self.bucket.name)

    async def may_delete_bucket(self) -> bool:
        if not self.rules.ask:
            return True
        if not await self.pages.open(may_create=False, is_plan=self.draft is not None):
            return False  # no bucket: nothing to delete, and nothing to approve
        return await self.may_delete(self.pages.all_objects, None)

    def plan_upload(self, work: Candidate, file: FileEntry) -> None:
        assert self.draft is not None
        reason = work.decision.reason or Reason.CONTENT
        self.draft.note("upload", file.key, work.object, reason.value)
        self.progress.planned("upload", file.size)

    def plan_update(self, work: Candidate) -> None:
        assert self.draft is not None
        self.draft.note("update", work.file.key, work.object, Reason.HEADERS.value)
        self.progress.planned("update")

    async def write(self) -> Planned | None:
        """Writes the draft. Returns None if there is nothing to do or to approve."""
        draft, question = self.draft, self.question
        if draft is None or not draft.lines:
            return None
        etag, lines = await self.attempt.in_thread(draft.write, self.attempt.order.plan_path)
        code, message = question or Question()
        if not message:
            message = plan_message(
                self.progress.counts,
                self.bucket.name,
                makes_bucket=self.pages.makes_bucket,
                deletes_bucket=draft.bucket is not None,
            )
        return Planned(etag, lines, code, message)
