"""Bytes per second: over the last few seconds, and over the whole attempt. The caller reads the clock."""

from __future__ import annotations

from syncworker.jobs.record import Speed

_RATE_SECONDS = 5.0
_STEPS = 60  # at most, however long the attempt is


class Rate:
    """Measures bytes per second over the last few seconds."""

    def __init__(self, started: float) -> None:
        self._samples: list[tuple[float, int]] = [(started, 0)]
        self._is_paced = False

    def restart(self) -> None:
        self._samples.clear()

    def add(self, now: float, moved: int, paced: int | None) -> float:
        """Records the bytes moved so far, and returns the rate. Under a bandwidth limit, a body may take more
        than these seconds, so `paced` counts each piece of it; None: there is no limit."""
        if (paced is not None) != self._is_paced:
            self._is_paced = paced is not None
            self._samples.clear()
        moved = moved if paced is None else paced
        self._samples.append((now, moved))
        while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_SECONDS:
            self._samples.pop(0)
        since, before = self._samples[0]
        return max(0.0, (moved - before) / (now - since)) if now > since else 0.0


class SpeedSteps:
    """Counts the bytes sent in each step of the attempt. If the steps become too many, they get twice as
    long."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._step = 1
        self._moved = 0
        self._bytes: list[int] = []

    def add(self, now: float, moved: int) -> None:
        while (at := int((now - self._started) / self._step)) >= _STEPS:
            self._bytes = [sum(self._bytes[i : i + 2]) for i in range(0, len(self._bytes), 2)]
            self._step *= 2
        self._bytes += [0] * (at + 1 - len(self._bytes))
        self._bytes[at] += max(0, moved - self._moved)  # fewer if a part is sent again
        self._moved = max(self._moved, moved)

    def shown(self) -> Speed:
        return {"step_seconds": self._step, "bytes": list(self._bytes)}
