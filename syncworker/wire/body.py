"""The bodies of requests: bytes in memory, or pieces that are read while they are sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

UNSIGNED = "UNSIGNED-PAYLOAD"  # instead of a body's SHA-256
CHUNK = 256 << 10


class Body(Protocol):
    """A body that is sent in pieces. Each call of `chunks` begins at the start, so an exchange can be
    repeated. `sha256`: what the request's signature says of it."""

    size: int
    sha256: str

    def chunks(self) -> Iterator[bytes | memoryview]: ...


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
    """A range of an open file as a body. `data`: its bytes, if they have been read already. Raises EOFError
    if the file has become shorter."""

    fd: int
    offset: int
    size: int
    data: bytes | memoryview | None = None
    sha256: str = UNSIGNED

    def chunks(self) -> Iterator[bytes | memoryview]:
        if self.data is not None:
            return slices(self.data)
        return blocks(self.fd, self.offset, self.size, CHUNK)
