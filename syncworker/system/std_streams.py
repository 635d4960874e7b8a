"""Standard output and error that never fail: text that cannot be written is dropped and counted.

A job must not fail because its log cannot be written: a full disk, a closed terminal or pipe, a terminal
that is stopped. `secure` is the first call of every entry point:
- it opens /dev/null on each of the descriptors 0, 1 and 2 that is closed; otherwise the next file that is
  opened would get that number, and messages would be written into it;
- it replaces `sys.stdout` and `sys.stderr` by streams that raise nothing and buffer nothing, so that nothing
  can fail when Python exits.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import TextIO

_WAIT_SECONDS = 1.0  # for a reader that is slow
_CHUNK_BYTES = select.PIPE_BUF  # a writable pipe takes this many without blocking


class Stream:
    """Writes text to a descriptor. `lost` counts the writes that failed, wholly or in part."""

    errors = "backslashreplace"

    def __init__(self, fd: int, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self.lost = 0
        self._fd = fd
        self._lock = threading.Lock()
        self._stuck = False  # nobody reads: the next write does not wait again
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, text: str) -> int:
        view = memoryview(text.encode(self.encoding, self.errors))
        with self._lock:
            try:
                while view:
                    if not self._poll.poll(0 if self._stuck else _WAIT_SECONDS * 1000):
                        self._stuck = True
                        raise BlockingIOError
                    self._stuck = False
                    view = view[os.write(self._fd, view[:_CHUNK_BYTES]) :]
            except OSError:
                self.lost += 1
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Does nothing: writes are not buffered."""

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True


def secure() -> None:
    """Must be called before any file is opened."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = _secured(sys.stdout, 1)
    sys.stderr = _secured(sys.stderr, 2)


def _secured(stream: TextIO | None, fd: int) -> TextIO:
    return Stream(fd, (stream and stream.encoding) or "utf-8")  # type: ignore[return-value]


def lost_output() -> bool:
    """Whether something that was printed, `--help` for example, could not be written."""
    return bool(getattr(sys.stdout, "lost", 0))


def lost() -> int:
    """How many writes to the standard streams were lost so far."""
    return sum(getattr(stream, "lost", 0) for stream in (sys.stdout, sys.stderr))
