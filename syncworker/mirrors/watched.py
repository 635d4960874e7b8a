"""Mirrors whose folders are watched: the watcher of each, and when its changes may be sent."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from syncworker.ending import BEING_WRITTEN
from syncworker.jobs.record import Status
from syncworker.mirrors.mirror import Mirror
from syncworker.mirrors.watch import Changes, Watcher
from syncworker.options import table
from syncworker.options.effective import Options

WATCH_AGAIN_SECONDS = 30.0  # a folder that could not be watched is tried again
# After a failed job of a watched mirror: the next one, a whole one, starts no sooner.
FAILURE_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (30, 120, 600, 1800, 3600))


@dataclass(slots=True)
class Watched:
    """A mirror whose folder is watched, as it was when the watcher was made."""

    mirror: Mirror
    watcher: Watcher
    made_at: float
    failures: int = 0
    not_before: datetime | None = None

    def may_start(self, now: datetime) -> bool:
        return self.watcher.watching and (self.not_before is None or now >= self.not_before)

    def note_end(self, state: str, now: datetime) -> None:
        """Records the final state of a job of the mirror."""
        if state == "done":
            self.failures, self.not_before = 0, None
        else:  # the changes that it was to send may not be in the bucket
            self.watcher.need_whole()
        if state in ("failed", "cancelled", "interrupted"):
            self.not_before = now + FAILURE_PAUSES[min(self.failures, len(FAILURE_PAUSES) - 1)]
            self.failures += 1

    def look_again_at_written(self, status: Status) -> None:
        """Leaves files that were being written while a job for changes ran to the next job."""
        scope = status.get("scope")
        if scope and (status.get("skipped") or {}).get(BEING_WRITTEN):
            self.watcher.restore(Changes(False, tuple(scope)))


class WatchedMirrors(dict[str, Watched]):
    """By name."""

    def update_from(self, mirrors: Mapping[str, Mirror], uploads_dir: str) -> None:
        """Starts watchers that are missing, replaces those that gave up, stops those no longer wanted."""
        wanted = {name: mirror for name, mirror in mirrors.items() if mirror.watch}
        for name, watched in list(self.items()):
            is_old = time.monotonic() - watched.made_at > WATCH_AGAIN_SECONDS
            gave_up = is_old and not watched.watcher.is_alive()
            if wanted.get(name) != watched.mirror or gave_up:
                watched.watcher.stop()
                del self[name]
        for name in wanted.keys() - self.keys():
            mirror = wanted[name]
            path_filter = Options.of_status({"options": table.parse(mirror.asked)}).path_filter()
            root = os.path.join(uploads_dir, mirror.source)
            watcher = Watcher(root, path_filter.skips_folder if path_filter else lambda _: False)
            self[name] = Watched(mirror, watcher, time.monotonic())
            watcher.start()

    def quiet_in(self) -> list[float]:
        """Seconds until the changes of each folder are pending, where there are any."""
        return [seconds for watched in self.values() if (seconds := watched.watcher.quiet_in()) > 0]

    def stop(self) -> None:
        for watched in self.values():
            watched.watcher.stop()
