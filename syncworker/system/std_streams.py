"""Standard output and error that never fail: what cannot be written is lost, and counted.

The log of a process is no reason for its work to fail: a full disk, a closed terminal or pipe, a terminal
that somebody has stopped. `secure` is the first call of every entry point:
- a descriptor 0, 1 or 2 that was closed is opened on /dev/null, because the next file that is opened would
  get its number, and messages would be written into it;
- `sys.stdout` and `sys.stderr` become streams that raise nothing and hold nothing back, so that nothing is
  left to fail when Python ends.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from typing import TextIO

_WAIT_SECONDS = 1.0  # for a reader that is slow
_CHUNK_BYTES = select.PIPE_BUF  # a pipe that can be written to takes as many without blocking


class Stream:
    """Text to a descriptor. `lost` counts the writes that were lost, wholly or in part."""

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
    """Call it before any file is opened."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = _secured(sys.stdout, 1)
    sys.stderr = _secured(sys.stderr, 2)


def _secured(stream: TextIO | None, fd: int) -> TextIO:
    return Stream(fd, (stream and stream.encoding) or "utf-8")  # type: ignore[return-value]


def lost_output() -> bool:
    """Whether something that was printed has not gone out: what `--help` was asked for, for example."""
    return bool(getattr(sys.stdout, "lost", 0))


def lost() -> int:
    """How many writes to the standard streams were lost so far."""
    return sum(getattr(stream, "lost", 0) for stream in (sys.stdout, sys.stderr))
