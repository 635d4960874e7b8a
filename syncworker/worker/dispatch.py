"""Passes the planner's candidates to the lanes, and records the events that need no lane."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from syncworker.errors import FileError
from syncworker.model import FileEntry
from syncworker.plan.compare import Candidate, Verdict
from syncworker.plan.planner import Event
from syncworker.s3 import etag
from syncworker.transfer.attempt import Attempt
from syncworker.transfer.lanes import Lanes
from syncworker.worker.accounts import Accounts
from syncworker.worker.planning import Planning
from syncworker.worker.plans import Plans
from syncworker.worker.sending import Sending

GROUP_FILES = 32
GROUP_BYTES = 1 << 20
_HELD_FOLDERS = 10_000
_WRITTEN_NS = 2_000_000_000  # a job started by changes leaves files that are younger to the next one


def in_groups(works: Iterable[Candidate], most: int = GROUP_FILES) -> Iterator[list[Candidate]]:
    """Splits candidates into groups of at most `most` files for the lanes. A file that is sent in parts is a
    group by itself, so that hashing it delays no other file."""
    group: list[Candidate] = []
    size = 0
    for work in works:
        if not etag.is_single(work.file.size):
            yield [work]
            continue
        group.append(work)
        size += work.file.size
        if len(group) >= most or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


class Outlet(Protocol):
    """Takes groups of files, as lanes do. `finish` is called after the last group. It returns when all files
    are done and no request of another process can still reach the storage."""

    async def put(self, group: list[Candidate]) -> None: ...

    async def finish(self) -> None: ...


class Elsewhere(Protocol):
    """Lets the other processes of a cluster send files as well."""

    def outlet(self, attempt: Attempt, sending: Sending, accounts: Accounts, lanes: Lanes) -> Outlet: ...

    async def close(self) -> None:
        """Ends all work for the job, however the job ended."""
        ...


class Dispatch:
    """Collects the facts for the later phases. `incomplete`: part of the folder could not be read, so nothing
    may be deleted; `badly_named`: number of files whose names are not UTF-8; `held_folders`: their folders
    ("" or ends in "/"), in which nothing may be deleted; `renamed`: files that the store may keep under
    another key; `held_back`: files `x` for which the bucket has objects without a file below `x/`."""

    def __init__(
        self,
        attempt: Attempt,
        sending: Sending,
        accounts: Accounts,
        plans: Plans,
        planning: Planning,
        elsewhere: Elsewhere | None,
    ) -> None:
        self.attempt, self.accounts, self.elsewhere = attempt, accounts, elsewhere
        self.sending, self.plans, self.planning = sending, plans, planning
        self.index, self.progress, self.obstacles = attempt.index, attempt.progress, attempt.obstacles
        self.stop, self.wait_seconds = attempt.stop, attempt.order.wait_seconds
        self.is_after_changes = attempt.options.scope is not None
        self.incomplete = False
        self.badly_named = 0
        self.held_folders: set[str] = set()
        self.renamed: list[Candidate] = []
        self.held_back: list[Candidate] = []

    async def run(self) -> None:
        lanes = self.sending.open_lanes()
        outlet: Outlet = lanes
        if self.elsewhere is not None:
            outlet = self.elsewhere.outlet(self.attempt, self.sending, self.accounts, lanes)
        most = 1 if self.wait_seconds else GROUP_FILES
        while (batch := await self.planning.events.get()) is not None:  # until the planner ends
            for group in in_groups(self._for_lanes(batch), most):
                await outlet.put(group)
        await outlet.finish()

    def _for_lanes(self, batch: list[Event]) -> Iterator[Candidate]:
        """Records the events that need no lane, and yields the other files; none after a halt."""
        for name, value in batch:
            if name != "work" or self._is_being_written(value.file):
                try:
                    self._note(name, value)
                except OSError as error:
                    self.stop.fail(error)  # the report's disk failed; the lanes still finish
            elif self.stop.requested():
                continue
            elif self.plans.is_plan and value.decision.verdict is Verdict.UPLOAD:
                self.plans.plan_upload(value, value.file)
            elif value.object is None and self.obstacles.below(value.file.key):
                self.held_back.append(value)
            else:
                yield value

    def _is_being_written(self, file: FileEntry) -> bool:
        """Returns whether the file may still change, so that a job started by changes leaves it to the next
        one."""
        return self.is_after_changes and 0 <= time.time_ns() - file.mtime_ns < _WRITTEN_NS

    def _note(self, name: str, value: Any) -> None:
        progress = self.progress
        match name:
            case "found":
                progress.found(*value)
            case "unchanged":
                progress.unchanged(*value)
            case "remember":
                self.index.remember(value)
            case "skip":
                progress.found(1, 0)
                progress.skipped(value.key, value.reason)
            case "unreadable":
                progress.found(1, 0)
                if value.code == "NameNotUTF8" and len(self.held_folders) < _HELD_FOLDERS:
                    self.badly_named += 1
                    self.held_folders.add(value.key[: value.key.rstrip("/").rfind("/") + 1])
                else:
                    self.incomplete = True
                progress.failed("upload", value.key, FileError(value.code, value.message))
            case "work":
                progress.skipped(value.file.key, "being_written", value.file.size)
            case "renamed":
                self.renamed.append(value)
            case "complete":
                progress.counts["scan_complete"] = True
            case _:
                self.stop.fail(value)
