"""Stores any number of records on disk, until they can be decided or carried out at the end.

The files are created without a name, so nothing remains after a crash. Records are written
with `marshal`: tuples of strings, bytes and numbers, read by the same process that wrote them.
"""

from __future__ import annotations

import errno
import io
import marshal
import sqlite3
from collections.abc import Iterator
from typing import IO, Any

from syncworker.model import ObjectEntry

Record = tuple[Any, ...]
_BATCH = 1000
_IN_MEMORY = 1 << 20


class Spool:
    """Records to append, then to read in order, any number of times. Up to 1 MiB stays in memory."""

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
        import tempfile  # slow to import, and a small job does not need it

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
            self._file.seek(0, 2)  # also if the reader stops early: records are appended at the end

    def close(self) -> None:
        self._file.close()


class _Database:
    """A table of records by key, in a temporary SQLite file. Raises OSError if the disk is full."""

    def __init__(self, columns: str) -> None:
        # With an empty name, SQLite uses a temporary file that it removes when it closes the database.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._do("PRAGMA journal_mode=OFF")
        self._do("PRAGMA synchronous=OFF")
        self._do(f"CREATE TABLE records (key BLOB PRIMARY KEY, {columns}) WITHOUT ROWID")
        self._do("BEGIN")

    def _do(self, query: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(query, values)
        except sqlite3.Error as error:
            raise OSError(errno.ENOSPC, str(error)) from error

    def _by_key(self) -> Iterator[tuple[str, Any]]:
        for key, *columns in self._do("SELECT * FROM records ORDER BY key"):
            yield key.decode("utf-8", "surrogateescape"), columns

    def close(self) -> None:
        self._db.close()


class Table(_Database):
    """Stores objects by key, for a listing that is out of order. On disk, whatever their number."""

    def __init__(self) -> None:
        super().__init__("size INTEGER, etag TEXT, modified TEXT")

    def add(self, entry: ObjectEntry) -> bool:
        """Returns False if the key exists already; a correct listing never names a key twice."""
        key = _raw(entry.key)
        return self._do("INSERT OR IGNORE INTO records VALUES (?,?,?,?)", key, *entry[1:]).rowcount == 1

    def get(self, key: str) -> ObjectEntry | None:
        row = self._do("SELECT size, etag, modified FROM records WHERE key=?", _raw(key)).fetchone()
        return None if row is None else ObjectEntry(key, *row)

    def has_below(self, folder: str) -> bool:
        """Whether it has a key below `folder`, which ends in `/`."""
        low, high = _raw(folder), _raw(f"{folder[:-1]}0")  # `0` comes right after `/`
        query = "SELECT 1 FROM records WHERE key>? AND key<? LIMIT 1"
        return self._do(query, low, high).fetchone() is not None

    def pop(self, key: str) -> ObjectEntry | None:
        entry = self.get(key)
        if entry is not None:
            self._do("DELETE FROM records WHERE key=?", _raw(key))
        return entry

    def rest(self) -> Iterator[ObjectEntry]:
        return (ObjectEntry(key, *columns) for key, columns in self._by_key())


class Ordered(_Database):
    """Stores records by key: written in any order, read in byte order of the keys. The last record of a key
    wins."""

    def __init__(self) -> None:
        super().__init__("record BLOB")
        self._batch: list[tuple[bytes, bytes]] = []

    def append(self, key: str, record: Record) -> None:
        self._batch.append((_raw(key), marshal.dumps(record)))
        if len(self._batch) >= _BATCH:
            self._flush()

    def __iter__(self) -> Iterator[Record]:
        self._flush()
        for _, (record,) in self._by_key():
            yield marshal.loads(record)  # noqa: S302 - our own

    def _flush(self) -> None:
        try:
            self._db.executemany("INSERT OR REPLACE INTO records VALUES (?,?)", self._batch)
        except sqlite3.Error as error:
            raise OSError(errno.ENOSPC, str(error)) from error
        self._batch.clear()


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
