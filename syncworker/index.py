"""What we know of a destination from the last time: SQLite, one file a destination, a cache and no more.

Safe to delete at any time; a file that is damaged, of another version or no database at all is put aside
and made anew. Nothing in it is believed against the bucket's listing: a row only says that a file with that
`stat` had the content of an object with that ETag.

- `objects`: one row for each key that we sent or compared. Read in key order beside the scan (`Rows`), so a
  million rows cost one pass and no memory.
- `uploads`: unfinished multipart uploads of ours, written before the first part goes out. A row without an
  upload id is an intent: the store may have begun an upload whose id we never learned.
- `parts`: parts of these whose ETag is no MD5, with the MD5 that was sent: only so a later run knows them.
- `given`: what an object was given beside its bytes (`object_headers.py`), or `UNKNOWN`. A row of `objects`
  without one: nothing, so that a mirror without options has none.
- `facts`: what can be found out about the destination again: whether ETags are MD5s, for example. What
  protects the destination is kept elsewhere (`worker/mount_check.py`).

If the file cannot be written (a full disk), the job goes on without it (`broken` is set). Damage that shows
only while it is used makes the job go on without as well; the file is then removed at the end. A row that
SQLite cannot hold (a time after the year 2262, an inode beyond 63 bits) is not remembered.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote

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
_INTEGER_END = 1 << 63
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Row(NamedTuple):
    """`etag` as the store lists it; `digest` the content in ETag form as we computed it ("" when it is the
    etag); `modified` the listed LastModified ("" when not known yet); `checked_ns` when the file was read."""

    key: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    etag: str
    digest: str
    part_size: int
    modified: str
    checked_ns: int


class Brief(NamedTuple):
    """What a listing tells as well."""

    key: str
    size: int
    etag: str


class Part(NamedTuple):
    key: str
    upload_id: str
    number: int
    etag: str  # as the store answered
    md5: str  # of what it was sent, in hexadecimal


class Unfinished(NamedTuple):
    key: str
    upload_id: str  # "" for an intent
    part_size: int
    size: int
    md5: str = ""  # that its metadata carries since it began, in hexadecimal; "" for none


R = TypeVar("R", bound="Row | Brief")
_SELECT: dict[type, str] = {
    Row: "SELECT * FROM objects",
    Brief: "SELECT key, size, etag FROM objects",
}

_TABLES = (
    ("objects", ",".join(Row._fields)),
    ("uploads", ",".join(Unfinished._fields)),
    ("parts", ",".join(Part._fields)),
    ("given", "key,what"),
    ("facts", "name,value"),
)


class Index:
    """The index of one destination. One process uses it at a time: the destination's lock says so."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken: str | None = None
        self._damaged = False
        self._refused = False  # a row that it cannot hold
        self._pending: list[Row] = []
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
        self.knows_given = self._any_given("")  # of any object: that it was given something, or unknown

    def _open(self) -> sqlite3.Connection:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.close(fd)
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION, _WITHOUT_GIVEN):
                raise sqlite3.DatabaseError("another version")
            self._is_durable = version != 0
            # What is lost of an empty one is made anew. Not waiting for the disk six times is felt where a
            # job is small, or the disk slow.
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
        with contextlib.suppress(OSError):  # it stays: the next step finds that out
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
        """The disk is full or the file was damaged under us: go on without, and say so once."""
        self.broken = self.broken or str(error)
        self._note(error)
        self._pending.clear()
        self._forget.clear()
        self._give.clear()

    # -- objects
    def remember(self, row: Row) -> None:
        if not _fits(row):
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
        self._pending.clear()
        self._forget.clear()
        self._give.clear()

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
        try:
            found = self._db.execute("SELECT what FROM given WHERE key=?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return UNKNOWN
        return str(found[0]) if found else ""

    def given_rows(self) -> GivenRows:
        """A reader of its own connection, for another thread."""
        return GivenRows(self.path, self._note)

    def has_given(self) -> bool:
        """Whether any object is known to have been given anything."""
        return self.knows_given and self._any_given(UNKNOWN)

    def _any_given(self, other_than: str) -> bool:
        try:
            query = "SELECT 1 FROM given WHERE what<>? LIMIT 1"
            found = self._db.execute(query, (other_than,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return False
        return found is not None

    def find(self, key: str) -> Row | None:
        if not is_text(key):
            return None
        try:
            row = self._db.execute("SELECT * FROM objects WHERE key=?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return None
        return Row._make(row) if row else None

    @property
    def is_whole(self) -> bool:
        """Whether it holds every row that it was given to remember."""
        return self.broken is None and not self._damaged and not self._refused

    def rows(self, ranges: Sequence[tuple[str | None, str]] | None = None, start: str = "") -> Rows[Row]:
        """A reader of its own connection, for another thread; what is written meanwhile is not seen. Those
        from `start` on, or those in ranges: behind the first key of each, up to the last."""
        return Rows(self._to_read, self._note, ranges, start=start, kind=Row)

    def brief_rows(self) -> Rows[Brief]:
        """Of all of them no more than a listing tells: takes half as long."""
        return Rows(self._to_read, self._note, kind=Brief)

    @property
    def _to_read(self) -> str:
        return self.path if self.broken is None else ":memory:"

    def key_before(self, key: str) -> str | None:
        """The last key before this one."""
        return self._key("SELECT max(key) FROM objects WHERE key<?", key)

    def key_after(self, key: str, count: int) -> str | None:
        """The key that comes `count` rows after this one, or after where it would be."""
        return self._key("SELECT key FROM objects WHERE key>=? ORDER BY key LIMIT 1 OFFSET ?", key, count)

    def _key(self, query: str, *values: str | int) -> str | None:
        try:
            found = self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return None
        return found[0] if found else None

    def clear(self) -> None:
        """Forgets all objects and uploads: the bucket is gone."""
        self._pending.clear()
        self._give.clear()
        try:
            self._db.execute("DELETE FROM given")
            self._db.execute("DELETE FROM objects")
            self._db.execute("DELETE FROM uploads")
            self._db.execute("DELETE FROM parts")
        except sqlite3.Error as error:
            self._fail(error)

    # -- unfinished uploads; durable, because a forgotten one would stay in the bucket
    def begin_upload(self, upload: Unfinished) -> None:
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
        try:
            self._db.execute("DELETE FROM uploads WHERE key=?", (key,))
            self._db.execute("DELETE FROM parts WHERE key=?", (key,))
        except sqlite3.Error as error:
            self._fail(error)

    def remember_part(self, part: Part) -> None:
        """Not durable: one that is forgotten is sent again."""
        try:
            self._db.execute("INSERT OR REPLACE INTO parts VALUES (?,?,?,?,?)", part)
        except sqlite3.Error as error:
            self._fail(error)

    def parts(self, upload: Unfinished) -> dict[int, Part]:
        try:
            found = self._db.execute(
                "SELECT * FROM parts WHERE key=? AND upload_id=?", (upload.key, upload.upload_id)
            ).fetchall()
        except sqlite3.Error as error:
            self._fail(error)
            return {}
        return {row[2]: Part._make(row) for row in found}

    def upload(self, key: str) -> Unfinished | None:
        return next(iter(self._uploads("WHERE key=?", (key,))), None)

    def uploads(self) -> list[Unfinished]:
        return self._uploads("", ())

    def _uploads(self, where: str, values: tuple[str, ...]) -> list[Unfinished]:
        try:
            found = self._db.execute(f"SELECT * FROM uploads {where}", values).fetchall()  # noqa: S608
        except sqlite3.Error as error:
            self._fail(error)
            return []
        return [Unfinished._make(row) for row in found]

    # -- facts
    def fact(self, name: str) -> str | None:
        try:
            row = self._db.execute("SELECT value FROM facts WHERE name=?", (name,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
            return None
        return str(row[0]) if row else None

    def set_fact(self, name: str, value: str) -> None:
        try:
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (name, value))
        except sqlite3.Error as error:
            self._fail(error)

    def facts(self) -> dict[str, str]:
        try:
            return dict(self._db.execute("SELECT name, value FROM facts").fetchall())
        except sqlite3.Error as error:
            self._fail(error)
            return {}

    def drop_facts(self, names: Iterable[str]) -> None:
        try:
            self._db.executemany("DELETE FROM facts WHERE name=?", [(name,) for name in names])
        except sqlite3.Error as error:
            self._fail(error)


class FrozenIndex(Index):
    """What is known of a destination, to read: whatever a plan finds out is forgotten with it."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._cleared = False

    def remember(self, row: Row) -> None: ...

    def forget(self, keys: Iterable[str]) -> None: ...

    def give(self, key: str, what: str) -> None: ...

    def begin_upload(self, upload: Unfinished) -> None: ...

    def set_fact(self, name: str, value: str) -> None: ...

    def drop_facts(self, names: Iterable[str]) -> None: ...

    def clear(self) -> None:
        self._cleared = True

    def fact(self, name: str) -> str | None:
        return None if self._cleared else super().fact(name)

    @property
    def _to_read(self) -> str:
        return ":memory:" if self._cleared else super()._to_read


def is_text(key: str) -> bool:
    """Whether a key is UTF-8: one that is not was never ours."""
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fits(row: Row) -> bool:
    return (
        is_text(row.key)
        and -_INTEGER_END <= row.mtime_ns < _INTEGER_END
        and -_INTEGER_END <= row.ctime_ns < _INTEGER_END
        and -_INTEGER_END <= row.inode < _INTEGER_END
        and -_INTEGER_END <= row.checked_ns < _INTEGER_END
    )


class Rows(Generic[R]):
    """The rows of `objects` in key order: `at(key)` with ascending keys answers from one forward pass. Each
    has the columns of its `kind`."""

    def __init__(
        self,
        path: str,
        on_error: Callable[[sqlite3.Error], None] = lambda _: None,
        ranges: Sequence[tuple[str | None, str]] | None = None,
        start: str = "",
        *,
        kind: type[R],
    ) -> None:
        self._on_error = on_error
        self._kind = kind
        self.failed = False  # some could not be read
        self._rows: Iterator[tuple] = iter(())  # type: ignore[type-arg]
        self._again: Iterator[tuple] = iter(())  # type: ignore[type-arg]
        self._db: sqlite3.Connection | None = None
        try:
            self._db = sqlite3.connect(path, timeout=5, check_same_thread=False)
            self._rows = iter(self._read(self._db, ranges, start))
        except sqlite3.Error as error:
            self._fail(error)
        self._current = self._next()

    def _read(
        self, db: sqlite3.Connection, ranges: Sequence[tuple[str | None, str]] | None, start: str
    ) -> Iterable[tuple]:  # type: ignore[type-arg]
        select = _SELECT[self._kind]
        if ranges is None:
            return db.execute(select + " WHERE key>=? ORDER BY key", (start,))
        query = select + " WHERE key>? AND key<=? ORDER BY key"
        return chain.from_iterable(db.execute(query, (low or "", high)) for low, high in ranges)

    def _fail(self, error: sqlite3.Error) -> None:
        self.failed = True
        self._on_error(error)

    def step(self) -> R | None:
        """The row that comes next."""
        row = self._current
        if row is not None:
            self._current = self._next()
        return row

    def following(self) -> str | None:
        """The key of the row that comes next."""
        return None if self._current is None else self._current[0]

    def _next(self) -> R | None:
        made: R
        for row in self._again:
            made = tuple.__new__(self._kind, row)
            return made
        try:
            for row in self._rows:
                made = tuple.__new__(self._kind, row)
                return made
        except sqlite3.Error as error:
            self._fail(error)  # damaged in the middle: what follows is compared by content
        return None

    def at(self, key: str) -> R | None:
        """The row of `key`; keys must ascend from call to call."""
        current = self._current
        while current is not None and current[0] < key:
            current = self._current = self._next()
        return current if current is not None and current[0] == key else None

    def take(self, key: str, count: int) -> list[R]:
        """The row of `key` and those that follow, `count` in all at most; none when there is no such row."""
        first = self.at(key)
        if first is None:
            return []
        rows: list[Any] = [first]
        try:
            rows.extend(islice(chain(self._again, self._rows), count - 1))
        except sqlite3.Error as error:
            self._fail(error)
        self._current = self._next()
        return rows

    def give_back(self, rows: list[R]) -> None:
        """What `take` gave last is to come once more."""
        if rows:
            ahead: list[R] = [] if self._current is None else [self._current]
            self._again = iter([*rows[1:], *ahead, *self._again])
            self._current = rows[0]

    def has(self, key: str) -> bool:
        """Whether there is a row, by a look-up of its own: for keys out of order."""
        if self._db is None or not is_text(key):
            return False
        try:
            return self._db.execute("SELECT 1 FROM objects WHERE key=?", (key,)).fetchone() is not None
        except sqlite3.Error:
            return False

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


class GivenRows:
    """What objects were given, by ranges of keys."""

    def __init__(self, path: str, on_error: Callable[[sqlite3.Error], None]) -> None:
        self._on_error = on_error
        self._db: sqlite3.Connection | None = None
        try:
            self._db = sqlite3.connect(path, timeout=5, check_same_thread=False)
        except sqlite3.Error as error:
            on_error(error)

    def between(self, first: str, last: str) -> dict[str, str] | None:
        """By key, of those that were given anything; None when it cannot be read."""
        if self._db is None:
            return None
        query = "SELECT key, what FROM given WHERE key BETWEEN ? AND ?"
        try:
            return dict(self._db.execute(query, (first, last)))
        except sqlite3.Error as error:
            self._on_error(error)
            return None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def count_objects(path: str, most: int) -> int | None:
    """How many objects the index in `path` knows, `most` at most; None when that is unknown. Reads only."""
    if not os.path.exists(path):
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=0.2)) as db:
            found = db.execute("SELECT count(*) FROM (SELECT 1 FROM objects LIMIT ?)", (most,)).fetchone()
    except sqlite3.Error:
        return None
    return int(found[0])
