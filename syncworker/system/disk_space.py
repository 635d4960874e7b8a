"""How much space is left on the embedded store's disk. When it is full the store does not answer at all, so
the file system is asked instead."""

from __future__ import annotations

import os
from typing import NamedTuple

from syncworker.errors import FatalError

FULL_BYTES = 4 << 20  # juicefs keeps objects in blocks of this size, and waits without end to write one
SCARCE = 0.95  # of the disk used: a warning from here on


class Space(NamedTuple):
    total_bytes: int
    free_bytes: int

    @property
    def state(self) -> str:
        """`ok`, `low` or `full`."""
        if self.free_bytes < FULL_BYTES:
            return "full"
        return "low" if self.total_bytes - self.free_bytes >= SCARCE * self.total_bytes else "ok"


def look(folder: str) -> Space | None:
    """Returns how full the disk is; None: unknown. Space reserved for root counts as used."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    free = disk.f_bavail * disk.f_frsize
    return Space(used + free, free)


def refusal(folder: str) -> FatalError | None:
    """The error of a job that would write to a store on a full disk; None while there is room."""
    space = look(folder)
    if space is None or space.state != "full":
        return None
    return FatalError(
        "StorageFull",
        f"the storage is full: {space.free_bytes >> 10} KiB are free on the disk of STORAGE_DIR: free space"
        " there, and resume the job",
    )
