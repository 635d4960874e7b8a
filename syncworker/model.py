"""The words of the project as types: states, entries, actions. No input or output here.

A *file entry* is what the scan found, an *object entry* what the listing found, a *row* what the index
remembers of the last time. Keys are `str`; they sort by code point, which is the order of their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import repeat
from typing import NamedTuple, overload

UNKNOWN = "?"  # what an object was given that we have not sent, or do not remember
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
    """What a job that does not get on waits for; times in seconds since the epoch, `until` None: no limit."""

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
    """Something in the folder that is not sent, and is no error: a socket, a symlink that leads out."""

    key: str
    reason: str


class Unreadable(NamedTuple):
    """Something that exists and cannot be sent: an unreadable directory (`is_directory`: then what is under
    `key` is unknown, and `key` ends in `/`), a name that is no UTF-8, a key that is too long."""

    key: str
    code: str
    message: str
    is_directory: bool


ScanItem = FileEntry | Skip | Unreadable


class ObjectEntry(NamedTuple):
    """An object in the bucket. `etag` is without quotes, lower case, "" when the store lists none;
    `modified` is the listed LastModified, as the store wrote it."""

    key: str
    size: int
    etag: str
    modified: str


class ObjectEntries(Sequence[ObjectEntry]):
    """The object entries of a listing's page, kept as columns: most pages are compared as a whole, and an
    entry is made when somebody looks at it."""

    __slots__ = ("etags", "keys", "modified", "sizes")

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        sizes: tuple[int, ...] = (),
        etags: tuple[str, ...] = (),
        modified: tuple[str, ...] = (),
    ) -> None:
        """Columns of one length."""
        self.keys, self.sizes, self.etags, self.modified = keys, sizes, etags, modified

    @classmethod
    def of(cls, entries: Iterable[ObjectEntry]) -> ObjectEntries:
        """The same, as columns."""
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
