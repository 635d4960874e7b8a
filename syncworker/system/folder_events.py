"""Which names in one folder have changed, by inotify, so that nobody has to list it again and again.

The kernel queues an event before the call that makes, renames, writes or removes a file returns. So a name
that `take` does not return has not changed since the last call, with two exceptions: changes that another
machine makes on a network file system (`open_events` refuses those), and writes through a memory map.
"""

from __future__ import annotations

import logging
import os

from inotify_simple import INotify
from inotify_simple import flags as inotify

from syncworker.system import mount_table

log = logging.getLogger("syncworker.system.folder_events")
_MOVED = inotify.MOVED_FROM | inotify.MOVED_TO
_WRITTEN = inotify.MODIFY | inotify.CLOSE_WRITE | inotify.ATTRIB
CHANGES = inotify.CREATE | inotify.DELETE | _MOVED | _WRITTEN | inotify.ONLYDIR  # what happens in a folder
_SELF = inotify.DELETE_SELF | inotify.MOVE_SELF
_UNKNOWN = inotify.Q_OVERFLOW | inotify.UNMOUNT | inotify.IGNORED | _SELF


class FolderEvents:
    """Not safe to use from several threads at once."""

    def __init__(self, path: str) -> None:
        """Raises OSError when the kernel gives no more instances or watches."""
        self._inotify = INotify(nonblocking=True)
        try:
            self._inotify.add_watch(path, CHANGES | _SELF)
        except OSError:
            self._inotify.close()
            raise
        self.is_lost = False  # the folder itself was removed or replaced: list it from now on

    def take(self) -> set[str] | None:
        """The names that have changed since the last call; None: events were lost, so list the folder."""
        if self.is_lost:
            return None
        events, unknown = self._inotify.read(timeout=0), 0
        for event in events:
            unknown |= event.mask & _UNKNOWN
        if unknown & ~inotify.Q_OVERFLOW:
            self.is_lost = True
            self._inotify.close()
        return None if unknown else {event.name for event in events}


def open_events(path: str) -> FolderEvents | None:
    """None where the kernel does not see all changes, or has no more watches."""
    mount = mount_table.holder_of(path, mount_table.read())
    if mount is not None and mount_table.is_silent(mount.type):
        return None
    try:
        return FolderEvents(os.path.realpath(path))
    except OSError as error:
        log.warning("%s is listed for each answer, as it cannot be watched: %s", path, error.strerror)
        return None
