"""What the planner hands on: files about which something must be done."""

from __future__ import annotations

from typing import NamedTuple

from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntry
from syncworker.plan.compare import Decision


class Candidate(NamedTuple):
    """A file about which something must be done, and what was decided so far."""

    file: FileEntry
    object: ObjectEntry | None
    row: IndexRow | None
    decision: Decision
