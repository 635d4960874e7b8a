"""Watches a folder by inotify: which folders in it have changed, for jobs that sync only those.

- Each folder has a watch, except those that the mirror's filters exclude. New folders get one at once; files
  that were made in a folder before its watch are found by listing it.
- When changes may have been missed, the next job is a whole one (`whole`): after an overflow of the kernel's
  queue, a mount or unmount, or a folder that could not be read. A file system that reports no changes (NFS,
  SMB, shared folders of virtual machines), or too few watches, is an `error`: nothing is watched then.
- Two seconds without a change are quiet; changes that continue are waited for 30 seconds at most.

`WatchedMirrors` has the watcher of each mirror, and when its changes may be sent.

Links to folders are not followed: the next whole job sees changes behind them. Names are as the kernel has
them, UTF-8 or not; for a folder whose name no pattern can express, the folder above it is reported.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from inotify_simple import INotify
from inotify_simple import flags as inotify

from syncworker.ending import BEING_WRITTEN
from syncworker.escape import escape_surrogates
from syncworker.jobs.record import Status
from syncworker.mirrors.mirror import Mirror
from syncworker.options import table
from syncworker.options.effective import Options
from syncworker.system import folder_events, mount_table

QUIET_SECONDS = 2.0
NOISE_SECONDS = 30.0
POLL_MILLISECONDS = 200
MOUNTS_SECONDS = 2.0
SCOPE_MAX = 200  # folders of one job; more make it a whole one
WATCH_AGAIN_SECONDS = 30.0  # a folder that could not be watched is tried again
# After a failed job of a watched mirror: the next one, a whole one, starts no sooner.
FAILURE_PAUSES = tuple(timedelta(seconds=seconds) for seconds in (30, 120, 600, 1800, 3600))


class CannotWatch(Exception):
    """Why, for people."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed since the last `take`: all of the folder (`whole`), or these folders in it."""

    whole: bool
    folders: tuple[str, ...] = ()


def refuse_silent(root: str, mounts: list[mount_table.Mount]) -> None:
    """Raises CannotWatch if a folder is on, or holds, a file system that does not report all changes."""
    real, holder = os.path.realpath(root), mount_table.holder_of(root, mounts)
    for mount in (holder, *(each for each in mounts if each.point.startswith(f"{real}/"))):
        if mount is not None and mount_table.is_silent(mount.type):
            raise CannotWatch(f"changes on {mount.type} ({mount.point}) are not reported: use every instead")


def as_scope(path: str) -> str:
    """The folder, or the nearest one above it whose path a pattern can express; "" is all."""
    return "/".join(takewhile(str.isprintable, path.split("/")))


def reduce(folders: set[str]) -> tuple[str, ...]:
    """Drops folders that lie in another one."""
    kept: list[str] = []
    for folder in sorted(folders, key=lambda each: each.split("/")):
        if not kept or not (kept[-1] == "" or folder == kept[-1] or folder.startswith(f"{kept[-1]}/")):
            kept.append(folder)
    return tuple(kept)


class Watcher(threading.Thread):
    """Watches one folder, `root`, except folders for whose relative paths `skips_folder` is true. If the
    thread is no longer alive, it has given up, and `error` says why."""

    def __init__(
        self,
        root: str,
        skips_folder: Callable[[str], bool] = lambda _: False,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        noise_seconds: float = NOISE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self.root = root
        self.error: str | None = None
        self.watching = False
        self._skips_folder = skips_folder
        self._quiet, self._noise, self._clock = quiet_seconds, noise_seconds, clock
        self._paths: dict[int, str] = {}  # watch -> relative folder
        self._watches: dict[str, int] = {}
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._whole = True  # what happened before is not known
        self._first = self._last = -1e9
        self._stopping = threading.Event()

    # -- what the keeper calls ----------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping.set()

    def pending(self) -> Changes | None:
        """Returns what a job is to cover now; None: nothing has changed, or changes continue."""
        with self._lock:
            return self._changes() if (self._whole or self._changed) and self._left() <= 0 else None

    def _changes(self) -> Changes:
        if self._whole or len(folders := reduce(self._changed)) > SCOPE_MAX:
            return Changes(True)
        return Changes(False, folders)

    def quiet_in(self) -> float:
        """Seconds until changes are pending, if no more come; 0: they are, or there are none."""
        with self._lock:
            return max(0.0, self._left()) if self._changed else 0.0

    def _left(self) -> float:
        return min(self._last + self._quiet, self._first + self._noise) - self._clock()

    def take(self) -> Changes:
        """Returns the changes so far and forgets them: a job that starts now covers them."""
        with self._lock:
            taken = self._changes()
            self._whole, self._changed = False, set()
            self._first = -1e9
            return taken

    def restore(self, changes: Changes) -> None:
        """Adds changes again: no job covers them."""
        with self._lock:
            if not self._changed:
                self._first = self._clock()
            self._whole |= changes.whole
            self._changed |= set(changes.folders)

    def need_whole(self) -> None:
        """Makes the next job a whole one."""
        with self._lock:
            self._whole = True

    # -- the thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._watch_until_lost()
        except CannotWatch as error:
            self.error = str(error)
        except OSError as error:
            self.error = _why(error, len(self._paths))
        finally:
            self.watching = False
            self._paths.clear()
            self._watches.clear()

    def _watch_until_lost(self) -> None:
        """Sets all watches and reads events until some were lost; then all watches must be set again."""
        refuse_silent(self.root, mount_table.read())
        if not os.path.isdir(self.root):
            raise CannotWatch("the folder is not there: it is watched once it is")
        self._paths.clear()
        self._watches.clear()
        with INotify() as notifier:
            mounts = mount_table.points_below(os.path.realpath(self.root))
            self._add(notifier, "")
            self.error, self.watching = None, True
            looked = self._clock()
            while not self._stopping.is_set():
                for event in notifier.read(timeout=POLL_MILLISECONDS):
                    if not self._take_event(notifier, event.wd, event.mask, event.name):
                        self.need_whole()
                        return
                if self._clock() - looked >= MOUNTS_SECONDS:
                    looked = self._clock()
                    if mount_table.points_below(os.path.realpath(self.root)) != mounts:
                        self.need_whole()
                        return

    def _add(self, notifier: INotify, top: str) -> None:
        """Watches a folder and all below it."""
        ahead = [top]
        while ahead:
            path = ahead.pop()
            if path and self._skips(path):
                continue
            try:
                mask = folder_events.CHANGES | (inotify.DONT_FOLLOW if path else 0)  # `root` may be a link
                watch = notifier.add_watch(os.path.join(self.root, path), mask)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # removed since it was listed, or a link
                if error.errno != errno.EACCES:
                    raise
                self.need_whole()  # the job reports the folder
                continue
            self._paths[watch], self._watches[path] = path, watch
            ahead += self._folders_in(path)

    def _folders_in(self, path: str) -> list[str]:
        try:
            with os.scandir(os.path.join(self.root, path)) as entries:
                return [os.path.join(path, e.name) for e in entries if e.is_dir(follow_symlinks=False)]
        except OSError:
            self.need_whole()
            return []

    def _skips(self, path: str) -> bool:
        """A name that is not UTF-8 is not skipped: the job reports it."""
        return escape_surrogates(path) == path and self._skips_folder(path)

    def _take_event(self, notifier: INotify, watch: int, mask: int, name: str) -> bool:
        """Handles an event. Returns False if events were lost and all watches must be set again."""
        if mask & (inotify.Q_OVERFLOW | inotify.UNMOUNT):
            return False
        folder = self._paths.get(watch)
        if folder is None:
            return True  # of a folder that was moved away
        if mask & inotify.IGNORED:
            self._paths.pop(watch, None)
            if self._watches.get(folder) == watch:
                del self._watches[folder]
            return folder != ""  # the folder itself is gone
        if mask & inotify.ISDIR and name:
            self._take_folder(notifier, os.path.join(folder, name), mask)
        else:
            self._note(folder)
        return True

    def _take_folder(self, notifier: INotify, path: str, mask: int) -> None:
        if self._skips(path):
            return
        if mask & inotify.DELETE:
            self._drop(notifier, path)  # it was empty by then
        if mask & inotify.MOVED_FROM:
            self._forget(notifier, path)
        if mask & (inotify.MOVED_TO | inotify.CREATE):
            self._forget(notifier, path)
            self._add(notifier, path)
        self._note(path)

    def _forget(self, notifier: INotify, top: str) -> None:
        """Drops the watches of a folder that was moved away: they would report changes elsewhere."""
        if top not in self._watches:
            return
        below = f"{top}/"
        for path in [each for each in self._watches if each == top or each.startswith(below)]:
            self._drop(notifier, path)

    def _drop(self, notifier: INotify, path: str) -> None:
        watch = self._watches.pop(path, None)
        if watch is None:
            return
        self._paths.pop(watch, None)
        try:
            notifier.rm_watch(watch)
        except OSError as error:
            if error.errno != errno.EINVAL:  # deleted: the kernel has removed it
                raise

    def _note(self, folder: str) -> None:
        with self._lock:
            now = self._clock()
            if not self._changed:
                self._first = now
            self._changed.add(as_scope(folder))
            self._last = now


def _why(error: OSError, used: int) -> str:
    """Why the folder cannot be watched; `used`: how many watches it has."""
    if error.errno == errno.EMFILE:
        return "too many inotify instances: raise fs.inotify.max_user_instances (sysctl), then reload"
    if error.errno == errno.ENOSPC:
        return (
            f"out of inotify watches after {used} folders: raise fs.inotify.max_user_watches,"
            f" `sysctl fs.inotify.max_user_watches={max(524_288, 4 * used)}`"
        )
    return f"the folder cannot be watched: {error.strerror or error}"


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
