"""Records that wait on disk: for decisions that can be carried out only at the end, of any number.

The files have no name from the moment they are made, so nothing remains after a crash. Records are written
with `marshal`: tuples of strings, bytes and numbers, read by the same process that wrote them.
"""

from __future__ import annotations

import errno
import io
import marshal
import sqlite3
from collections.abc import Iterable, Iterator
from typing import IO, Any

from syncworker.model import ObjectEntry

Record = tuple[Any, ...]
_BATCH = 1000
_IN_MEMORY = 1 << 20


class Spool:
    """Append, then read in order, any number of times. Nothing touches the disk below 1 MiB."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._memory: io.BytesIO | None = io.BytesIO()  # None: all is on disk
        self._file: IO[bytes] = self._memory
        self.count = 0

    def append(self, record: Record) -> None:
        # Plain tuples only: a NamedTuple's class would not come back.
        marshal.dump(record, self._file)
        self.count += 1
        if self._memory is not None and self._memory.tell() > _IN_MEMORY:
            self._move_to_disk(self._memory)

    def _move_to_disk(self, memory: io.BytesIO) -> None:
        import tempfile  # costs each start, and a small job does without

        self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - `close` closes it
        self._file.write(memory.getbuffer())
        self._memory = None

    def __iter__(self) -> Iterator[Record]:
        position = 0
        try:
            for _ in range(self.count):
                self._file.seek(position)
                record = marshal.load(self._file)  # noqa: S302 - our own, from a file without a name
                position = self._file.tell()
                yield record
        finally:
            self._file.seek(0, 2)  # also when the reader gives up: what is appended goes to the end

    def close(self) -> None:
        self._file.close()


class Table:
    """Objects by key, for a listing that does not come in order. On disk, whatever their number."""

    def __init__(self) -> None:
        # An empty name is SQLite's for a database in a temporary file that is removed when closed.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute(
            "CREATE TABLE objects (key BLOB PRIMARY KEY, size INTEGER, etag TEXT, modified TEXT)"
            " WITHOUT ROWID"
        )
        self._db.execute("BEGIN")

    def add(self, entry: ObjectEntry) -> bool:
        """False when the key is there already: a listing never names a key twice."""
        key = _raw(entry.key)
        cursor = self._db.execute("INSERT OR IGNORE INTO objects VALUES (?,?,?,?)", (key, *entry[1:]))
        return cursor.rowcount == 1

    def get(self, key: str) -> ObjectEntry | None:
        row = self._db.execute(
            "SELECT size, etag, modified FROM objects WHERE key=?", (_raw(key),)
        ).fetchone()
        return None if row is None else ObjectEntry(key, *row)

    def has_below(self, folder: str) -> bool:
        """Whether it has a key below `folder`, which ends in `/`."""
        low, high = _raw(folder), _raw(f"{folder[:-1]}0")  # `0` comes right after `/`
        return bool(
            self._db.execute("SELECT 1 FROM objects WHERE key>? AND key<? LIMIT 1", (low, high)).fetchone()
        )

    def pop(self, key: str) -> ObjectEntry | None:
        raw = _raw(key)
        row = self._db.execute("SELECT size, etag, modified FROM objects WHERE key=?", (raw,)).fetchone()
        if row is None:
            return None
        self._db.execute("DELETE FROM objects WHERE key=?", (raw,))
        return ObjectEntry(key, *row)

    def rest(self) -> Iterator[ObjectEntry]:
        for key, *row in self._db.execute("SELECT * FROM objects ORDER BY key"):
            yield ObjectEntry(key.decode("utf-8", "surrogateescape"), *row)

    def close(self) -> None:
        self._db.close()


class Ordered:
    """Records by key: written in any order, read in that of the keys' bytes. A key that comes again has its
    last record. OSError: the disk is full."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._batch: list[tuple[bytes, bytes]] = []
        self._do("PRAGMA journal_mode=OFF")
        self._do("PRAGMA synchronous=OFF")
        self._do("CREATE TABLE records (key BLOB PRIMARY KEY, record BLOB) WITHOUT ROWID")
        self._do("BEGIN")

    def append(self, key: str, record: Record) -> None:
        self._batch.append((_raw(key), marshal.dumps(record)))
        if len(self._batch) >= _BATCH:
            self._flush()

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        self._flush()
        for key, record in self._do("SELECT * FROM records ORDER BY key"):
            yield key.decode("utf-8", "surrogateescape"), marshal.loads(record)  # noqa: S302 - our own

    def _flush(self) -> None:
        try:
            self._db.executemany("INSERT OR REPLACE INTO records VALUES (?,?)", self._batch)
        except sqlite3.Error as error:
            raise OSError(errno.ENOSPC, str(error)) from error
        self._batch.clear()

    def _do(self, query: str) -> Iterable[Any]:
        try:
            return self._db.execute(query)
        except sqlite3.Error as error:
            raise OSError(errno.ENOSPC, str(error)) from error

    def close(self) -> None:
        self._db.close()


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
