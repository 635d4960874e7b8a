"""The terms of the project as types: states, phases, entries. No input or output here.

The scan yields *file entries*, the listing *object entries*; the index keeps a *row* for each file of the
last sync. Keys are `str`; they sort by code point, which is the order of their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import repeat
from typing import NamedTuple, overload

UNKNOWN = "?"  # what an object was given is not known: we did not send it, or not recorded it
KEY_MAX_BYTES = 1024  # S3: Object key names, at most 1,024 bytes of UTF-8


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"  # for its plan to be approved, or for a cancel


FINAL_STATES = frozenset(set(State) - {State.QUEUED, State.RUNNING})  # no process, the destination is free
RESUMABLE_STATES = frozenset({State.FAILED, State.CANCELLED, State.INTERRUPTED})


class Phase(StrEnum):
    STARTING = "starting"
    COMPARING = "comparing"
    TRANSFERRING = "transferring"
    DELETING = "deleting"
    DELETING_BUCKET = "deleting_bucket"
    VERIFYING = "verifying"
    PAUSED = "paused"


DELAYS = ("storage_down", "storage_silent", "slow_down", "writes_in_flight")  # reasons


class Delay(NamedTuple):
    """What a job without progress waits for; times in seconds since the epoch, `until` None: no limit."""

    reason: str
    since: float
    until: float | None
    message: str


class FileEntry(NamedTuple):
    """A regular file. `path` is relative to the uploads root, with every symlink resolved."""

    key: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    path: str


class Skip(NamedTuple):
    """Something in the folder that is not sent, without an error: a socket, a symlink that leads out."""

    key: str
    reason: str


class Unreadable(NamedTuple):
    """Something that cannot be sent: a name that is not UTF-8, a key that is too long, or an unreadable
    directory (`is_directory`; `key` ends in `/`, and what is below it is unknown)."""

    key: str
    code: str
    message: str
    is_directory: bool


ScanItem = FileEntry | Skip | Unreadable


class ObjectEntry(NamedTuple):
    """An object in the bucket. `etag` has no quotes and lower case, "" if the store lists none; `modified` is
    the listed LastModified, as the store wrote it."""

    key: str
    size: int
    etag: str
    modified: str


class ObjectEntries(Sequence[ObjectEntry]):
    """The object entries of a page of a listing, as columns: most pages are compared as a whole. Entries are
    created when they are accessed."""

    __slots__ = ("etags", "keys", "modified", "sizes")

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        sizes: tuple[int, ...] = (),
        etags: tuple[str, ...] = (),
        modified: tuple[str, ...] = (),
    ) -> None:
        """All columns have the same length."""
        self.keys, self.sizes, self.etags, self.modified = keys, sizes, etags, modified

    @classmethod
    def of(cls, entries: Iterable[ObjectEntry]) -> ObjectEntries:
        """Returns the entries as columns."""
        return entries if isinstance(entries, ObjectEntries) else cls(*zip(*entries, strict=True))

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> ObjectEntry: ...
    @overload
    def __getitem__(self, at: slice) -> ObjectEntries: ...
    def __getitem__(self, at: int | slice) -> ObjectEntry | ObjectEntries:
        made = ObjectEntries if isinstance(at, slice) else ObjectEntry
        return made(self.keys[at], self.sizes[at], self.etags[at], self.modified[at])  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[ObjectEntry]:
        columns = zip(self.keys, self.sizes, self.etags, self.modified, strict=True)
        return map(tuple.__new__, repeat(ObjectEntry), columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
