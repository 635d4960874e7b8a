"""Writes `ID.report.jsonl`: one line per operation, appended while the job runs.

Lines are collected until there are many, or until the status is published, because rendering many in a row
costs less. Only whole lines are kept: if the disk is full, the file is truncated to the last whole line.
"""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime

from syncworker.escape import escape_surrogates
from syncworker.jobs.record import Fault
from syncworker.jobs.status import timestamp
from syncworker.system import durable_files

_LINES = 1000  # per write
_ON_BUCKETS = frozenset({"create_bucket", "delete_bucket"})  # their key is the bucket
_quoted = json.encoder.encode_basestring_ascii  # what json.dumps does with a str

# time, op, key, size, ETag, seconds, the error or a note
_Line = tuple[float, str, str, int | None, str | None, float, Fault | str | None]


class Report:
    """The report at `path`. Each key in it is preceded by `key_prefix`."""

    def __init__(self, path: str, key_prefix: str) -> None:
        self._path, self._key_prefix = path, key_prefix
        self._fd: int | None = None
        self._lines: list[_Line] = []
        self._second, self._second_text = 0, ""

    def add(
        self,
        op: str,
        key: str,
        size: int | None,
        etag: str | None,
        seconds: float,
        more: Fault | str | None = None,
    ) -> None:
        """Adds a line; `more` is an error or a note."""
        if op not in _ON_BUCKETS:
            key = self._key_prefix + key
        self._lines.append((time.time(), op, key, size, etag, seconds, more))
        if len(self._lines) >= _LINES:
            self.flush()

    def _render(self, line: _Line) -> str:
        when, op, key, size, etag, seconds, more = line
        time_text = self._time(*divmod(int(when * 1000), 1000))
        tag = "null" if etag is None else _quoted(etag)
        name = "note" if isinstance(more, str) else "error"
        end = "" if more is None else f', "{name}": {json.dumps(more)}'
        return (
            f'{{"time": "{time_text}", "op": "{op}", "key": {_quoted(escape_surrogates(key))}, '
            f'"size": {"null" if size is None else size}, "etag": {tag}, '
            f'"seconds": {round(seconds, 4)}{end}}}\n'
        )

    def _time(self, second: int, millisecond: int) -> str:
        if second != self._second:
            self._second, text = second, timestamp(datetime.fromtimestamp(second, UTC))
            self._second_text = text.removesuffix("000Z")
        return f"{self._second_text}{millisecond:03d}Z"

    def flush(self) -> None:
        """Writes the added lines. If this raises OSError, the next call writes them."""
        if not self._lines:
            return
        if self._fd is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        before = os.fstat(self._fd).st_size
        text = "".join(map(self._render, self._lines))
        try:
            durable_files.write_all(self._fd, text.encode())
        except OSError:
            os.ftruncate(self._fd, before)
            raise
        self._lines.clear()

    def close(self) -> None:
        """Writes all lines durably, because the final state, which follows, must survive a power failure."""
        self.flush()
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with durable_files.closing(fd):
                durable_files.sync_file(fd)
