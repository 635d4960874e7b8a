"""Which names in one folder have changed, by inotify: for whoever would else list it again and again.

The kernel queues an event before the call that makes, renames, writes or removes a file returns. So what
`take` has not named by the time it is called has not changed since the last call, but for these: changes that
another machine makes on a network file system (`open_events` refuses those), and writes through a map.
"""

from __future__ import annotations

import logging
import os

from inotify_simple import INotify
from inotify_simple import flags as inotify

from syncworker.system import mount_table

log = logging.getLogger("syncworker.system.folder_events")
_MASK = (
    inotify.CREATE
    | inotify.DELETE
    | inotify.MOVED_FROM
    | inotify.MOVED_TO
    | inotify.MODIFY
    | inotify.CLOSE_WRITE
    | inotify.ATTRIB
    | inotify.DELETE_SELF
    | inotify.MOVE_SELF
    | inotify.ONLYDIR
)
_UNKNOWN = inotify.Q_OVERFLOW | inotify.UNMOUNT | inotify.IGNORED | inotify.DELETE_SELF | inotify.MOVE_SELF


class FolderEvents:
    """Not safe to use from several threads at once."""

    def __init__(self, path: str) -> None:
        """OSError: there are no more instances or watches."""
        self._inotify = INotify(nonblocking=True)
        try:
            self._inotify.add_watch(path, _MASK)
        except OSError:
            self._inotify.close()
            raise
        self.is_lost = False  # the folder itself has gone, or is another one: it must be listed from now on

    def take(self) -> set[str] | None:
        """The names that have changed since the last call; None: more than are known, so list the folder."""
        if self.is_lost:
            return None
        names: set[str] = set()
        unknown = 0
        for event in self._inotify.read(timeout=0):
            unknown |= event.mask & _UNKNOWN
            names.add(event.name)
        if unknown & ~inotify.Q_OVERFLOW:
            self.is_lost = True
            self._inotify.close()
        return None if unknown else names


def open_events(path: str) -> FolderEvents | None:
    """None where changes may come that the kernel is not told of, or where it has no more watches."""
    if mount_table.is_silent(mount_table.type_of(path, mount_table.read())):
        return None
    try:
        return FolderEvents(os.path.realpath(path))
    except OSError as error:
        log.warning("%s is listed for each answer, as it cannot be watched: %s", path, error.strerror)
        return None
