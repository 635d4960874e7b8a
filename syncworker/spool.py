"""Records that wait on disk: for decisions that can be carried out only at the end, of any number.

The files have no name from the moment they are made, so nothing remains after a crash. Records are written
with `marshal`: tuples of strings, bytes and numbers, read by the same process that wrote them.
"""

from __future__ import annotations

import marshal
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Any

from syncworker.model import ObjectEntry

Record = tuple[Any, ...]


class Spool:
    """Append, then read in order, any number of times. Nothing touches the disk below 1 MiB."""

    def __init__(self, directory: str) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=1 << 20, dir=directory)  # noqa: SIM115
        self.count = 0

    def append(self, record: Record) -> None:
        # Plain tuples only: a NamedTuple's class would not come back.
        marshal.dump(record, self._file)
        self.count += 1

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
        key = entry.key.encode("utf-8", "surrogateescape")
        cursor = self._db.execute("INSERT OR IGNORE INTO objects VALUES (?,?,?,?)", (key, *entry[1:]))
        return cursor.rowcount == 1

    def pop(self, key: str) -> ObjectEntry | None:
        raw = key.encode("utf-8", "surrogateescape")
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
