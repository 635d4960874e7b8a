"""Whole pages of unchanged files, told at once: what `compare` says of each, for a tenth of the time.

Most syncs find most pages of the listing as they were left. `unchanged` looks at a page as columns, in C, and
either knows that `compare.compare` would call every one of its files unchanged, or says nothing: then each is
looked at by itself. It never takes a file for unchanged that `compare` would not
(tests/unit/plan/test_runs.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import Any

from syncworker.index.records import IndexRow
from syncworker.model import FileEntry, ObjectEntries, ObjectEntry, ScanItem
from syncworker.plan.compare import RACY_NS


def unchanged(items: Sequence[ScanItem], rows: Sequence[IndexRow], page: Sequence[ObjectEntry]) -> int | None:
    """The bytes of all the files, if each is unchanged: the n-th item a file of the n-th object's key, the
    n-th row that of both, and trusted. None: not known."""
    if not len(items) == len(rows) == len(page) or set(map(type, items)) != {FileEntry}:
        return None
    file: Any = FileEntry._make(zip(*items, strict=True))  # of columns
    row: Any = IndexRow._make(zip(*rows, strict=True))
    if file[:5] != (row.key, row.size, row.mtime_ns, row.ctime_ns, row.inode):
        return None
    listed = ObjectEntries.of(page)
    if listed.keys != row.key or listed.sizes != row.size:
        return None
    tags = set(listed.etags)
    if tags == {""}:  # a store that lists none
        if "" in listed.modified or listed.modified != row.modified:
            return None
    elif "" in tags or listed.etags != row.etag:
        return None
    if min(map(sub, row.checked_ns, row.ctime_ns)) <= RACY_NS:
        return None
    return int(sum(file.size))
