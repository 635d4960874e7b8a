"""The index of a destination: SQLite, one file a destination.

The file is a cache: it is safe to delete at any time. One that is damaged, of another version or no database
is replaced by an empty one. A row only says that a file with this `stat` had the content of an object with
this ETag; it never outweighs the bucket's listing.

- `objects`: one row for each key that we sent or compared. The planner reads it in key order beside the scan
  (`Rows`), so a million rows cost one pass and no memory.
- `uploads`: our unfinished multipart uploads, written before the first part is sent. A row without an upload
  id is an intent: the store may have begun an upload whose id we never received.
- `parts`: parts of these uploads whose ETag is no MD5, with the MD5 that was sent, so that a later run
  recognizes them.
- `given`: what an object was given beside its bytes (`object_headers.py`), or `UNKNOWN`. An object without a
  row here was given nothing, so a mirror without options has no rows.
- `facts`: what can be found out about the destination again, for example whether its ETags are MD5s. What
  protects the destination is kept elsewhere (`worker/mount_check.py`).

If the file cannot be written (a full disk), the job continues without it and sets `broken`. The same
happens if the file turns out to be damaged in use; it is then removed at the end. A row that SQLite
cannot hold (a time after the year 2262, an inode beyond 63 bits) is not remembered.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, cast

from syncworker.index.records import Brief, IndexRow, Part, PendingUpload, fits, is_text
from syncworker.index.rows import GivenRows, Rows
from syncworker.model import UNKNOWN
from syncworker.system import durable_files

_VERSION = 3
_WITHOUT_GIVEN = 2  # a version that did not know what objects were given
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  key TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL, etag TEXT NOT NULL, digest TEXT NOT NULL, part_size INTEGER NOT NULL,
  modified TEXT NOT NULL, checked_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
  key TEXT PRIMARY KEY, upload_id TEXT NOT NULL, part_size INTEGER NOT NULL, size INTEGER NOT NULL,
  md5 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
  key TEXT NOT NULL, upload_id TEXT NOT NULL, number INTEGER NOT NULL, etag TEXT NOT NULL,
  md5 TEXT NOT NULL, PRIMARY KEY (key, upload_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS given (key TEXT PRIMARY KEY, what TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_BATCH = 1000
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


_TABLES = (
    ("objects", ",".join(IndexRow._fields[:-1]) + ",checked_ns"),  # its old name: the files have it
    ("uploads", ",".join(PendingUpload._fields)),
    ("parts", ",".join(Part._fields)),
    ("given", "key,what"),
    ("facts", "name,value"),
)


class Index:
    """The index of one destination. Only the process that holds the destination's lock uses it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken: str | None = None
        self._damaged = False
        self._refused = False  # whether a row could not be held
        self._pending: list[IndexRow] = []
        self._forget: list[str] = []
        self._give: dict[str, str] = {}
        self._is_durable = False
        try:
            self._db = self._open()
        except (sqlite3.Error, OSError):
            self._discard()
            try:
                self._db = self._open()
            except (sqlite3.Error, OSError) as error:
                self.broken = str(error)
                self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                self._db.executescript(_SCHEMA)
                self._is_durable = True  # as far as it can be
        self.knows_given = self._any_given("")  # whether any object has a row in `given`

    def _open(self) -> sqlite3.Connection:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.close(fd)
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION, _WITHOUT_GIVEN):
                raise sqlite3.DatabaseError("another version")
            self._is_durable = version != 0
            # A new index is empty: if a power cut loses it, the next job creates another. So do not wait for
            # the disk six times, which a small job on a slow disk would notice.
            db.execute(f"PRAGMA synchronous={'NORMAL' if version else 'OFF'}")
            db.execute("PRAGMA journal_mode=WAL")
            if version != _VERSION:
                db.executescript(f"BEGIN;{_SCHEMA}")
                if version == _WITHOUT_GIVEN:
                    db.execute("INSERT OR IGNORE INTO given SELECT key, ? FROM objects", (UNKNOWN,))
                db.execute(f"PRAGMA user_version={_VERSION}")
                db.execute("COMMIT")
            db.execute("PRAGMA synchronous=NORMAL")
            for table, fields in _TABLES:
                db.execute(f"SELECT {fields} FROM {table} LIMIT 1").fetchone()  # noqa: S608
        except BaseException:
            db.close()
            raise
        return db

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # it stays, and cannot be opened
            for suffix in ("", "-wal", "-shm"):
                durable_files.remove(self.path + suffix)

    def close(self) -> None:
        self.flush()
        self._db.close()
        if self._damaged:
            self._discard()

    def _note(self, error: sqlite3.Error | OSError) -> None:
        self._damaged |= (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE

    def _fail(self, error: sqlite3.Error | OSError) -> None:
        """Continues without the index, because the disk is full or the file is damaged; sets `broken`."""
        self.broken = self.broken or str(error)
        self._note(error)
        self._drop_pending()

    def _drop_pending(self) -> None:
        self._pending.clear()
        self._forget.clear()
        self._give.clear()

    def _do(self, query: str, *values: str | int) -> list[Any] | None:
        """All rows of the answer; None when the file cannot be read or written."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            self._fail(error)
            return None

    def _text(self, query: str, *values: str | int) -> str | None:
        """The first column of the first row; None when there is none."""
        found = self._do(query, *values)
        return found[0][0] if found else None

    # -- objects
    def remember(self, row: IndexRow) -> None:
        if not fits(row):
            self._refused = True
            self.forget([row.key])
            return
        self._pending.append(row)
        if len(self._pending) >= _BATCH:
            self.flush()

    def forget(self, keys: Iterable[str]) -> None:
        self._forget.extend(key for key in keys if is_text(key))
        if len(self._forget) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending, in one transaction."""
        if not self._pending and not self._forget and not self._give:
            return
        try:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM objects WHERE key=?", [(key,) for key in self._forget])
            if self.knows_given:
                gone = [*self._forget, *(key for key, what in self._give.items() if not what)]
                self._db.executemany("DELETE FROM given WHERE key=?", [(key,) for key in gone])
                given = [item for item in self._give.items() if item[1]]
                self._db.executemany("INSERT OR REPLACE INTO given VALUES (?,?)", given)
            self._db.executemany("INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?,?,?,?,?,?)", self._pending)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._fail(error)
        self._drop_pending()

    def give(self, key: str, what: str) -> None:
        """Remembers what an object was given, "" for nothing; written with its row."""
        if (what or self.knows_given) and is_text(key):
            self.knows_given = True
            self._give[key] = what
            if len(self._give) >= _BATCH:
                self.flush()

    def given(self, key: str) -> str:
        """What an object that has a row was given."""
        if not self.knows_given:
            return ""
        found = self._do("SELECT what FROM given WHERE key=?", key)
        if found is None:
            return UNKNOWN
        return str(found[0][0]) if found else ""

    def given_rows(self) -> GivenRows:
        """A reader of its own connection, for another thread."""
        return GivenRows(self.path, self._note)

    def has_given(self) -> bool:
        """Whether any object is known to have been given anything."""
        return self.knows_given and self._any_given(UNKNOWN)

    def _any_given(self, other_than: str) -> bool:
        return bool(self._do("SELECT 1 FROM given WHERE what<>? LIMIT 1", other_than))

    def find(self, key: str) -> IndexRow | None:
        found = self._do("SELECT * FROM objects WHERE key=?", key) if is_text(key) else None
        return IndexRow._make(found[0]) if found else None

    @property
    def is_whole(self) -> bool:
        """Whether it holds every row that it was given to remember."""
        return self.broken is None and not self._damaged and not self._refused

    def rows(self, ranges: Sequence[tuple[str | None, str]] | None = None, start: str = "") -> Rows[IndexRow]:
        """Returns a reader with its own connection, for another thread. It does not see later writes. It
        reads the rows from `start` on, or those in `ranges`: behind the first key of each, up to the last."""
        return Rows(self._to_read, self._note, ranges, start=start, kind=IndexRow)

    def brief_rows(self) -> Rows[Brief]:
        """All rows, but only the columns that a listing has: takes half as long."""
        return Rows(self._to_read, self._note, kind=Brief)

    @property
    def _to_read(self) -> str:
        return self.path if self.broken is None else ":memory:"

    def key_before(self, key: str) -> str | None:
        """The last key before this one."""
        return self._text("SELECT max(key) FROM objects WHERE key<?", key)

    def key_after(self, key: str, count: int) -> str | None:
        """The key that comes `count` rows after this one, or after where it would be."""
        return self._text("SELECT key FROM objects WHERE key>=? ORDER BY key LIMIT 1 OFFSET ?", key, count)

    def clear(self) -> None:
        """Forgets all objects and uploads, because the bucket is gone."""
        self._drop_pending()
        for table in ("given", "objects", "uploads", "parts"):
            self._do(f"DELETE FROM {table}")  # noqa: S608

    # -- unfinished uploads; durable, because a forgotten one would stay in the bucket
    def begin_upload(self, upload: PendingUpload) -> None:
        try:
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("INSERT OR REPLACE INTO uploads VALUES (?,?,?,?,?)", upload)
            if not self._is_durable:  # its files were made without waiting for the disk
                self._db.execute("PRAGMA wal_checkpoint").fetchone()
                durable_files.sync_directory(os.path.dirname(self.path))
                self._is_durable = True
            self._db.execute("PRAGMA synchronous=NORMAL")
        except (sqlite3.Error, OSError) as error:
            self._fail(error)

    def end_upload(self, key: str) -> None:
        self._do("DELETE FROM uploads WHERE key=?", key)
        self._do("DELETE FROM parts WHERE key=?", key)

    def remember_part(self, part: Part) -> None:
        """Not durable: one that is forgotten is sent again."""
        self._do("INSERT OR REPLACE INTO parts VALUES (?,?,?,?,?)", *part)

    def parts(self, upload: PendingUpload) -> dict[int, Part]:
        query = "SELECT * FROM parts WHERE key=? AND upload_id=?"
        found = self._do(query, upload.key, upload.upload_id) or []
        return {row[2]: Part._make(row) for row in found}

    def upload(self, key: str) -> PendingUpload | None:
        return next(iter(self._uploads("SELECT * FROM uploads WHERE key=?", key)), None)

    def uploads(self) -> list[PendingUpload]:
        return self._uploads("SELECT * FROM uploads")

    def _uploads(self, query: str, *values: str) -> list[PendingUpload]:
        return [PendingUpload._make(row) for row in self._do(query, *values) or []]

    # -- facts
    def fact(self, name: str) -> str | None:
        return self._text("SELECT value FROM facts WHERE name=?", name)

    def set_fact(self, name: str, value: str) -> None:
        self._do("INSERT OR REPLACE INTO facts VALUES (?,?)", name, value)

    def facts(self) -> dict[str, str]:
        return dict(self._do("SELECT name, value FROM facts") or ())

    def drop_facts(self, names: Iterable[str]) -> None:
        for name in names:
            self._do("DELETE FROM facts WHERE name=?", name)


class FrozenIndex(Index):
    """The index of a job that only plans: it is read, and never written."""

    _cleared = False

    remember = forget = give = begin_upload = set_fact = drop_facts = cast("Any", lambda *_: None)

    def clear(self) -> None:
        self._cleared = True

    def fact(self, name: str) -> str | None:
        return None if self._cleared else super().fact(name)

    @property
    def _to_read(self) -> str:
        return ":memory:" if self._cleared else super()._to_read
