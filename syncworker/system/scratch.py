"""Folders for what a process keeps only as long as it lives. One that is killed leaves its own; the next one
of the same user that makes such a folder removes it.

A folder is somebody's as long as a lock in it is held, which the kernel frees with the process.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import AbstractContextManager, suppress

from syncworker.system.durable_files import Lock

PREFIX = "s3-sync-"
_LOCK = "owner.lock"
_KINDS = ("cluster-", "scheduler-", "member-")
_ENDING_SECONDS = 1.0
_LOOK_SECONDS = 0.02


class Scratch(AbstractContextManager["Scratch"]):
    """A folder of this process that no other user can enter. `kind`: one of `_KINDS`, without the dash."""

    def __init__(self, kind: str) -> None:
        remove_ownerless(tempfile.gettempdir())
        while True:
            self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-")
            self._lock = Lock(os.path.join(self.path, _LOCK))
            with suppress(FileNotFoundError):  # another process took it for one whose owner has died
                if self._lock.acquire():
                    return

    def let_go(self) -> None:
        """It may be removed by anybody from now on."""
        self._lock.release()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.let_go()

    def __exit__(self, *exc: object) -> None:
        self.remove()


def remove_ownerless(folder: str) -> None:
    """Those below `folder` that this user's processes have left. What cannot be removed stays."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(tuple(PREFIX + kind for kind in _KINDS)):
                _remove_ownerless(os.path.join(folder, name))


def _remove_ownerless(path: str) -> None:
    """Nothing while its owner lives."""
    with suppress(OSError):
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            return
        with Lock(os.path.join(path, _LOCK)) as lock:
            if lock.acquire():
                shutil.rmtree(path, ignore_errors=True)


def leave_with_owner(path: str) -> None:
    """For a child whose `TMPDIR` is the folder of a process that has ended, perhaps just now: removes it."""
    until = time.monotonic() + _ENDING_SECONDS
    while os.path.basename(path).startswith(PREFIX) and os.path.isdir(path) and time.monotonic() < until:
        _remove_ownerless(path)
        time.sleep(_LOOK_SECONDS)
