"""Finds objects without a file that block an upload.

A store that is a file system cannot hold both `x` and `x/y`. If one has replaced the other in the folder, the
old object must be deleted before the new one can be sent: the one exception to "deletions come last". It
applies only if the store has refused the upload, and nothing else has failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from syncworker.index.database import Index
from syncworker.s3.bucket import Bucket

_NOTED = 20_000  # objects without a file; more of them seldom block an upload
_NOTED_ABOVE = 50_000  # folders of these; a single key may have hundreds

RemoteOnly = tuple[str, int, str, str]  # an ObjectEntry


def ancestors(key: str) -> Iterator[str]:
    """Yields the folders that a key lies in, without their slash: `a`, `a/b` for `a/b/c`."""
    at = key.find("/")
    while at >= 0:
        yield key[:at]
        at = key.find("/", at + 1)


class Obstacles:
    """The known objects without a file. The planner's thread adds keys, and the event loop queries them; a
    key that is added late only costs extra tries."""

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._above: set[str] = set()
        self._kept: dict[str, str] = {}  # folder -> an object in it that stays

    def note_remote_only(self, key: str) -> None:
        if len(self._keys) < _NOTED and len(self._above) < _NOTED_ABOVE:
            self._keys.add(key)
            self._above.update(ancestors(key))

    def note_kept(self, key: str) -> None:
        """Records an object without a file that is not to be deleted."""
        if len(self._kept) < _NOTED_ABOVE:
            self._kept.update(dict.fromkeys(ancestors(key), key))

    def kept_below(self, key: str) -> str | None:
        """Returns an object below `key` that has no file and stays."""
        return self._kept.get(key)

    def below(self, key: str) -> bool:
        """Whether objects without a file lie below `key`."""
        return key in self._above or key in self._kept

    def may_be_blocked(self, key: str) -> bool:
        """Whether a store may refuse `key` because of an object without a file."""
        return key in self._above or any(a in self._keys for a in ancestors(key))


def in_the_way(deletes: Iterable[RemoteOnly], uploads: set[str]) -> list[tuple[str, int]]:
    """Returns (key, size) of the objects above or below the keys of uploads."""
    above = {ancestor for key in uploads for ancestor in ancestors(key)}
    return [
        (key, size)
        for key, size, _, _ in deletes
        if key in above or any(a in uploads for a in ancestors(key))
    ]


async def normalizes_paths(bucket: Bucket, index: Index, deletes: Iterable[RemoteOnly], key: str) -> bool:
    """Whether the store treats `key/` as `key`; tests it with an object below `key`. Such a store is a file
    system, where an upload of `x` beside `x/y` would not only fail but also hide `x/y` (rclone serve s3)."""
    fact = "cleans_paths"
    if index.fact(fact) is None:
        for stranger, size, *_ in deletes:
            if stranger.startswith(f"{key}/") and size:
                head = await bucket.head(f"{stranger}/")
                index.set_fact(fact, str(int(head is not None and head.size == size)))
                break
    return index.fact(fact) == "1"
