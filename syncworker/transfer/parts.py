"""Distributes the parts of one large file among the lanes of this process and the members of its cluster, if
it has any.

```
left ─► a lane of this process ─► sent
  ▲ └─► others, some in a row ──► sent
  └──────────┘ given back
```
Each part has only one sender at any time. Only this process begins the upload, and completes it after all
parts have been sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from syncworker.index.records import Part
from syncworker.jobs.progress import Operation
from syncworker.model import FileEntry
from syncworker.transfer.open_uploads import SentPart, Upload
from syncworker.transfer.upload import OPAQUE, Sender

RUN_BYTES = 64 << 20  # given to another process in one run


class Others(Protocol):
    """The members that may send parts from `offer` until `withdraw`."""

    def offer(self, parts: Parts) -> None: ...

    def withdraw(self, parts: Parts) -> None: ...


class Parts:
    """The parts of one upload. `kept`: parts that the storage already has. `error`: of another process."""

    def __init__(
        self,
        sender: Sender,
        file: FileEntry,
        upload: Upload,
        size: int,
        kept: dict[int, SentPart],
        operation: Operation,
    ) -> None:
        self.sender, self.file, self.upload, self.size = sender, file, upload, size
        self.operation = operation
        count = -(-file.size // size)
        self.pieces = {
            n: ((n - 1) * size, min(size, file.size - (n - 1) * size)) for n in range(1, count + 1)
        }
        self.sent = dict(kept)
        operation.sent = sum(self.pieces[number][1] for number in kept)
        self.left = deque(number for number in self.pieces if number not in kept)
        self.is_completed = False
        self.error: Exception | None = None
        self._out: set[int] = set()  # with others
        self._deaths = 0
        self._is_shared, self._back = True, asyncio.Event()

    @property
    def is_opaque(self) -> bool:
        """Whether the storage's ETags of parts prove nothing."""
        return self.sender.facts["multipart_etag"] == OPAQUE

    def in_order(self) -> list[SentPart]:
        return [self.sent[number] for number in self.pieces]

    def each(self) -> Iterator[int]:
        """Yields the parts that are left, for a lane of this process."""
        while self.left:
            yield self.left.popleft()

    def put(self, number: int, sent: SentPart) -> None:
        self.sent[number] = sent
        self.sender.progress.sent(self.pieces[number][1])

    def close(self) -> None:
        """Stops the sending of further parts."""
        self.left.clear()
        self._is_shared = False

    # -- of others
    def take_run(self) -> list[int]:
        """Takes some parts for another process: fewer towards the end, so that the wait for them is short."""
        if not self._is_shared or self.sender.halted():
            return []
        count = max(1, min(RUN_BYTES // self.size, len(self.left) // 4))
        numbers = [self.left.popleft() for _ in range(min(count, len(self.left)))]
        self._out.update(numbers)
        return numbers

    def put_of_others(self, number: int, sent: SentPart) -> None:
        self._out.discard(number)
        self.put(number, sent)
        self.operation.sent += self.pieces[number][1]
        md5 = sent.md5.hex()
        if sent.etag != md5:  # the MD5 is the file's, as for our own parts
            part = Part(self.file.key, self.upload.id, number, sent.etag, md5)
            self.sender.index.remember_part(part)
        self._back.set()

    def give_back(self, numbers: list[int], *, died: bool = False, keep: bool = False) -> None:
        """Takes back those of these parts that others still have. `died`: the process that had them has died.
        `keep`: gives no more parts of this file to other processes."""
        numbers = [number for number in numbers if number in self._out]
        self._out.difference_update(numbers)
        self._deaths += died
        self._is_shared = self._is_shared and not keep and self._deaths < 3
        if self.error is None and not self.sender.halted():
            self.left.extendleft(reversed(numbers))
        self._back.set()

    def fail(self, numbers: list[int], error: Exception) -> None:
        self.error = self.error or error
        self.close()
        self.give_back(numbers)

    def doubt(self) -> None:
        """Called if an answer to another process suggests that the storage does not check part sums."""
        self.sender.part_sums.doubt()

    async def others_done(self) -> None:
        """Waits until others have no part."""
        while self._out:
            self._back.clear()
            await self._back.wait()
