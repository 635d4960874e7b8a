"""The index, read in the order of keys while others write it: each reader has a connection of its own."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from syncworker.index.records import Brief, IndexRow, is_text

R = TypeVar("R", bound="IndexRow | Brief")
_SELECT: dict[type, str] = {
    IndexRow: "SELECT * FROM objects",
    Brief: "SELECT key, size, etag FROM objects",
}


class _Reader:
    """What has a connection of its own, once it is open."""

    _db: sqlite3.Connection | None = None

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


class Rows(_Reader, Generic[R]):
    """The rows of `objects` in key order: `at(key)` with ascending keys costs one forward pass. `kind`: which
    columns are read."""

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
        self.failed = False  # whether some could not be read
        self._rows: Iterator[tuple] = iter(())  # type: ignore[type-arg]
        self._again: Iterator[tuple] = iter(())  # type: ignore[type-arg]
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

    def next_row(self) -> R | None:
        """Returns the next row; None after the last."""
        row = self._current
        if row is not None:
            self._current = self._next()
        return row

    def next_key(self) -> str | None:
        """Returns the key of the next row, which stays the next one."""
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

    def next_rows(self, key: str, count: int) -> list[R]:
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

    def unread(self, rows: list[R]) -> None:
        """Puts back the rows that `next_rows` returned last, so that they come once more."""
        if rows:
            ahead: list[R] = [] if self._current is None else [self._current]
            self._again = iter([*rows[1:], *ahead, *self._again])
            self._current = rows[0]

    def has(self, key: str) -> bool:
        """Whether there is a row. Looks the key up, so keys may come in any order."""
        if self._db is None or not is_text(key):
            return False
        try:
            return self._db.execute("SELECT 1 FROM objects WHERE key=?", (key,)).fetchone() is not None
        except sqlite3.Error:
            return False


class GivenRows(_Reader):
    """What objects were given, by ranges of keys."""

    def __init__(self, path: str, on_error: Callable[[sqlite3.Error], None]) -> None:
        self._path, self._on_error = path, on_error

    def between(self, first: str, last: str) -> dict[str, str] | None:
        """By key, of those that were given anything; None when it cannot be read."""
        try:
            self._db = self._db or sqlite3.connect(self._path, timeout=5, check_same_thread=False)
            query = "SELECT key, what FROM given WHERE key BETWEEN ? AND ?"
            return dict(self._db.execute(query, (first, last)))
        except sqlite3.Error as error:
            self._on_error(error)
            return None


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
