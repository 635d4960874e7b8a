"""Whole pages of unchanged files, told at once: what `compare` says of each, for a tenth of the time.

Most syncs find most pages of the listing as they were left. `unchanged` looks at a page as columns, in C, and
either knows that `compare.compare` would call every one of its files unchanged, or says nothing: then each is
looked at by itself. It never takes a file for unchanged that `compare` would not
(tests/unit/plan/test_runs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter, sub

from syncworker.index.records import Row
from syncworker.model import FileEntry, ObjectEntry, ScanItem
from syncworker.plan.compare import RACY_NS


def _columns(kind: type, *names: str) -> itemgetter[tuple[object, ...]]:
    return itemgetter(*(kind._fields.index(name) for name in names))  # type: ignore[attr-defined]


_STAT = ("key", "size", "mtime_ns", "ctime_ns", "inode")
_file, _row = _columns(FileEntry, *_STAT), _columns(Row, *_STAT)
_listed, _sent = _columns(ObjectEntry, "key", "size", "etag"), _columns(Row, "key", "size", "etag")
_dated, _noted = _columns(ObjectEntry, "key", "size", "modified"), _columns(Row, "key", "size", "modified")
_size = itemgetter(FileEntry._fields.index("size"))
_etag = itemgetter(ObjectEntry._fields.index("etag"))
_modified = itemgetter(ObjectEntry._fields.index("modified"))
_checked = itemgetter(Row._fields.index("checked_ns"))
_ctime = itemgetter(Row._fields.index("ctime_ns"))


def unchanged(items: Sequence[ScanItem], rows: Sequence[Row], page: Sequence[ObjectEntry]) -> int | None:
    """The bytes of all the files, if each is unchanged: the n-th item a file of the n-th object's key, the
    n-th row that of both, and trusted. None: not known."""
    if not len(items) == len(rows) == len(page) or set(map(type, items)) != {FileEntry}:
        return None
    if list(map(_file, items)) != list(map(_row, rows)):
        return None
    tags = set(map(_etag, page))
    if tags == {""}:  # a store that lists none
        if "" in map(_modified, page) or list(map(_dated, page)) != list(map(_noted, rows)):
            return None
    elif "" in tags or list(map(_listed, page)) != list(map(_sent, rows)):
        return None
    if min(map(sub, map(_checked, rows), map(_ctime, rows))) <= RACY_NS:
        return None
    return int(sum(map(_size, items)))
