"""Rounds of the crash loop by a watched mirror: its folder changes at random while the kernel's queue
overflows, worker and server are killed and requests fail. After quiet, bucket and folder are the same."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import contents, expected, wait_for
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from crash import CrashLoop

NAME = "photos"
EPISODES = ("quiet", "overflow", "killed")


class Watched:
    """`path` is the mirrors.toml of the loop's server; it is empty but in these rounds."""

    def __init__(self, loop: CrashLoop, path: Path, seconds: float) -> None:
        self.loop, self.path, self.seconds = loop, path, seconds
        self.counts: Counter[str] = Counter()
        self.write("")

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def round(self) -> None:
        loop = self.loop
        loop.weather.rate = 0.0
        loop.proxy.on_request(loop.weather)
        loop.disks.mount_all()
        self._keep_one()
        self.write(f"[{NAME}]\nsource = 'photos'\ndest = '{loop.bucket}'\nwatch = true\n")
        try:
            self._settle()
            for _ in range(loop.rng.randint(1, 3)):
                self._episode(loop.rng.choices(EPISODES, [2, 3, 3])[0])
        finally:
            self.write("")
        wait_for(lambda: loop.service.get("/mirrors").json()["count"] == 0, self.seconds, "no mirror")
        wait_for(self._idle, self.seconds, "the end of its jobs")
        loop._compare()

    def _episode(self, kind: str) -> None:
        loop = self.loop
        self.counts[kind] += 1
        loop.weather.rate = loop.rng.choice([0.0, 0.02])
        before = {run["id"] for run in self._view()["runs"]}
        if kind == "overflow":
            self._overflow()
        else:
            self._change()
        if kind == "killed":
            self._kill()
        loop.weather.rate = 0.0
        self._settle()
        if kind == "overflow":
            whole = [run for run in self._view()["runs"] if run["id"] not in before and not run["scoped"]]
            assert whole, f"the queue has overflowed, and no job looked at everything\n{self._view()}"

    # -- what happens
    def _change(self) -> None:
        for _ in range(self.loop.rng.randint(1, 8)):
            self.loop.disks.change()
            threading.Event().wait(self.loop.rng.choice([0, 0, 0.1, 1.0]))
        self._keep_one()

    def _keep_one(self) -> None:
        """A folder that is gone is not watched, and one without a file would be another test."""
        self.loop.history.write("always", self.loop.history.body(20))

    def _overflow(self) -> None:
        """While the server stands still more happens than the kernel keeps; what changes then is told to
        nobody."""
        server, folder = self.loop.service.process, self.loop.folder
        assert server is not None
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        os.kill(server.pid, signal.SIGSTOP)
        try:
            # The signal is one thread's to take: on a busy machine the others go on reading until it has run.
            wait_for(lambda: _stands_still(server.pid), self.seconds, "the server to stand still")
            for _ in range(limit // 2 + 100):  # two events that are not alike
                os.chmod(folder / "always", 0o644)
                os.chmod(folder, 0o755)
            self._change()
        finally:
            os.kill(server.pid, signal.SIGCONT)

    def _kill(self) -> None:
        loop = self.loop
        running: list[str] = []

        def begun() -> bool:
            running[:] = [job["id"] for job in loop.service.get("/runnings").json()["jobs"]]
            return bool(running)

        wait_for(begun, self.seconds, "a job after changes")
        threading.Event().wait(loop.rng.random() * 0.8)
        whom = loop.rng.choice(["worker", "server", "both"])
        loop._kill(running[0], whom)
        if loop.rng.random() < 0.4:
            self._change()
        # A mirror whose worker died waits for half a minute; a new server looks at once.
        if whom != "worker" or loop.rng.random() < 0.7:
            loop.service.restart()

    # -- what follows
    def _view(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.loop.service.get("/mirrors").json()["mirrors"]
        return next(view for view in found if view["name"] == NAME)

    def _idle(self) -> bool:
        return self.loop.service.get("/runnings").json()["count"] == 0

    def _is_equal(self) -> bool:
        loop = self.loop
        if not self._idle() or not self._view()["watching"]:
            return False
        try:
            same = contents(loop.store, loop.bucket) == expected(loop.folder)
        except ClientError:  # there is none yet, or an object has gone since the listing
            same = False
        if not same:
            threading.Event().wait(0.5)
        return same

    def _settle(self) -> None:
        try:
            wait_for(self._is_equal, self.seconds, "bucket and folder to be the same")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self._view(), indent=1)}") from None
        self.loop._compare()


def _stands_still(pid: int) -> bool:
    """Whether all threads of a process are stopped."""
    states = [
        path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}
