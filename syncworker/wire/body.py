"""The bodies of requests: bytes in memory, or ranges of a file that are read while they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

UNSIGNED = "UNSIGNED-PAYLOAD"  # instead of a body's SHA-256
CHUNK = 256 << 10
_RANGE = 1 << 20


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of an open file that the kernel may send by itself."""

    fd: int
    offset: int
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes:
        return b"".join(blocks(self.fd, self.offset, self.size, self.size))


Chunk = bytes | memoryview | FileRange


class Body(Protocol):
    """A body that is sent in pieces. Each call of `chunks` begins at the start, so an exchange can be
    repeated. `sha256`: what the request's signature says of it."""

    size: int
    sha256: str

    def chunks(self) -> Iterator[Chunk]: ...


def blocks(
    fd: int, offset: int, size: int, most: int, into: memoryview | None = None
) -> Iterator[bytes | memoryview]:
    """Yields a range of an open file, at most `most` bytes at a time, read into `into` if that is given.
    Raises EOFError if the file is shorter."""
    done = 0
    while done < size:
        room = min(most, size - done)
        block: bytes | memoryview
        if into is None:
            block = os.pread(fd, room, offset + done)
        else:
            block = into[done : done + room]
            block = block[: os.preadv(fd, [block], offset + done)]
        if not block:
            raise EOFError
        done += len(block)
        yield block


def slices(body: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(body), CHUNK):
        yield view[start : start + CHUNK]


@dataclass(eq=False)
class FileSlice:
    """A range of an open file as a body. `data`: its bytes, if they have been read already; otherwise the
    kernel sends them where it can. Raises EOFError if the file has become shorter."""

    fd: int
    offset: int
    size: int
    data: memoryview | None = None
    sha256: str = UNSIGNED

    def chunks(self) -> Iterator[Chunk]:
        if self.data is not None:
            yield from slices(self.data)
            return
        for done in range(0, self.size, _RANGE):
            yield FileRange(self.fd, self.offset + done, min(_RANGE, self.size - done))
