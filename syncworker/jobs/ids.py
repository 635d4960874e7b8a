"""The ids of jobs, and the errors that name one."""

from __future__ import annotations

import os
import re
from datetime import datetime

from syncworker.errors import SyncError, UsageError

ID_PATTERN = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")


class NoSuchJob(SyncError):
    def __init__(self, job_id: str) -> None:
        super().__init__("NoSuchJob", f"there is no job {job_id}")


class NoSuchPlan(SyncError):
    def __init__(self, job_id: str) -> None:
        super().__init__("NoSuchPlan", f"job {job_id} has no plan: one is made with plan=1, or by max_delete")


class Conflict(SyncError):
    """The state of the job or the destination does not allow it. `job`: the id of the conflicting job."""

    def __init__(self, code: str, message: str, job: str) -> None:
        super().__init__(code, message)
        self.job = job


def new_id(now: datetime) -> str:
    """Returns a new id. Ids sort by time to the microsecond (five hexadecimal digits); three more digits are
    random."""
    return f"{now:%Y%m%dT%H%M%S}-{now.microsecond:05x}{os.urandom(2).hex()[:3]}"


def check_id(text: str) -> str:
    """Returns `text` if it is an id, because nothing else may become part of a path."""
    if not ID_PATTERN.fullmatch(text):
        raise UsageError("BadId", "id must look like 20261122T131242-9f3a61c2", param="id")
    return text
