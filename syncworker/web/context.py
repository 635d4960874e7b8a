"""The types of handlers: the service they use, their parameters, their answers, their errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from syncworker.errors import SyncError
from syncworker.history.pages import ReportReader
from syncworker.history.plan_sums import PlanSums
from syncworker.jobs.store import Jobs
from syncworker.mirrors.keeper import Keeper
from syncworker.service.folder_sizes import Folders
from syncworker.service.storage_check import StorageCheck
from syncworker.service.supervisor import Supervisor
from syncworker.settings import Settings
from syncworker.web import metrics, rendered

JSON = {"Content-Type": "application/json"}
Parameters = dict[str, str]
Answer = tuple[int, Mapping[str, Any] | bytes, dict[str, str]]  # bytes: with their Content-Type


class Unwell(SyncError):
    """Something that /healthz checked is not well."""


class NotFound(SyncError):
    """There is nothing of that name."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the handlers use. `store` returns the state of the storage: up, starting, down or external."""

    settings: Settings
    supervisor: Supervisor
    store: Callable[[], str]
    metrics: metrics.Metrics
    folders: Folders
    keeper: Keeper
    token_needed: bool
    storage_check: StorageCheck
    statuses: rendered.Statuses
    packed: rendered.Packed = field(default_factory=rendered.Packed)
    reports: ReportReader = field(default_factory=ReportReader)
    plans: PlanSums = field(default_factory=PlanSums)

    @property
    def jobs(self) -> Jobs:
        return self.supervisor.jobs
