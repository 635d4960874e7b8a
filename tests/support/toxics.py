"""How `RecordingProxy` disturbs what it passes on: toxiproxy's toxics, and bits that flip on the way.

`Toxic` says what is done to one request and its answer, `Flow` does it to one direction. What ends a
connection early is `Cut` (toxiproxy: limit_data, reset_peer), what never answers is a hook that waits
(timeout), a server that is not there is `RecordingProxy.refuse`; all three are in `proxy.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

_PACKET = 16 * 1024  # the pieces in which a slow line moves


@dataclass(frozen=True, slots=True)
class Toxic:
    """One request and its answer go through, but so. A flip turns one bit of a body: of its byte at this
    position, or of the last byte of these bytes. `edit` gets the whole answer, head and body as they stand on
    the wire, and returns what the client gets instead."""

    latency_seconds: float = 0.0
    jitter_seconds: float = 0.0  # at most so much more, at random
    bytes_per_second: int = 0  # in each direction
    slice_bytes: int = 0  # one piece, one packet
    stall_at: int | None = None  # of the answer, head included: then nothing comes for `stall_seconds`
    stall_seconds: float = 5.0
    slow_close_seconds: float = 0.0  # the connection ends after the answer, so much later
    flip_body: int | bytes | None = None
    flip_answer: int | bytes | None = None
    edit: Callable[[bytes, bytes], bytes] | None = None

    def delay(self) -> float:
        return self.latency_seconds + random.random() * self.jitter_seconds


class Flow:
    """One direction of one exchange; `send` takes what is to go on. `flipped`: a bit has been turned."""

    def __init__(
        self,
        toxic: Toxic,
        send: Callable[[bytes], None],
        flip: int | bytes | None,
        stall_at: int | None = None,
    ) -> None:
        self._toxic, self._send, self._flip, self._stall_at = toxic, send, flip, stall_at
        self._payload = 0
        self._sent = 0
        self.flipped = False

    def pass_on(self, raw: bytes, payload: int) -> None:
        """Raw bytes of a message, of which so many are payload: all or none."""
        if payload:
            raw = self._turned(raw)
            self._payload += payload
        size = self._toxic.slice_bytes or (_PACKET if self._toxic.bytes_per_second else len(raw))
        for start in range(0, len(raw), max(1, size)):
            piece = raw[start : start + size]
            if self._toxic.bytes_per_second:
                time.sleep(len(piece) / self._toxic.bytes_per_second)
            if self._stall_at is not None and self._sent <= self._stall_at < self._sent + len(piece):
                now = self._stall_at - self._sent
                self._send(piece[:now])
                time.sleep(self._toxic.stall_seconds)
                self._send(piece[now:])
            else:
                self._send(piece)
            self._sent += len(piece)

    def _turned(self, raw: bytes) -> bytes:
        if self._flip is None or self.flipped:
            return raw
        if isinstance(self._flip, bytes):
            where = raw.find(self._flip) + len(self._flip) - 1 if self._flip in raw else -1
        else:
            where = self._flip - self._payload
        if not 0 <= where < len(raw):
            return raw
        self.flipped = True
        changed = bytearray(raw)
        changed[where] ^= 1
        return bytes(changed)
