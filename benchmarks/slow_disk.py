"""The scenario `slow-disk`: what is left of a disk's limit when nothing of a folder is in memory, and what is
kept in memory when the store is slower than the disk.

The disk is a file system in a file, on a loop device which the kernel holds at so many reads and bytes a
second (the controller `blkio` of cgroup v1; root). It is mounted anew before each run, so that names, inodes
and bodies are cold. Told is the time from the first read to the last one, by what the limit allows for the
reads and the bytes that the kernel has counted. Such a device does not delay each read, as a disk at the
other end of a network does. far_disk.py stands for one: each file that is opened waits, none is in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks import contenders, measure, trees
from benchmarks.contenders import Target
from benchmarks.far_disk import OPEN_SECONDS
from benchmarks.measure import Cost, Failed
from benchmarks.races import must, requests_of, say, stub
from benchmarks.results import Options, Result, Row, result, target
from benchmarks.stub import Stub

READS, BYTES = 500, 100_000_000  # a second
FAR_READERS = 28  # as many as are begun (transfer/lane_count.py)
_CGROUP = Path("/sys/fs/cgroup/blkio/syncworker-bench")
_TIMEOUT = 900
_STORE_PUTS = 30  # a second, of the slow store
_serial = count(1)


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted disk. `device`: its numbers."""

    folder: Path
    device: str

    def read(self) -> tuple[int, int]:
        """Reads and bytes that the kernel has let pass."""
        return self._counted("io_serviced"), self._counted("io_service_bytes")

    def _counted(self, name: str) -> int:
        lines = (_CGROUP / f"blkio.throttle.{name}").read_text().splitlines()
        return next((int(line.split()[2]) for line in lines if line.startswith(f"{self.device} Read")), 0)


def _command(*words: str | Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def _mounted(image: Path) -> Iterator[Path]:
    folder = image.with_suffix(".mounted")
    folder.mkdir(exist_ok=True)
    _command("mount", "-o", "loop,noatime", image, folder)
    try:
        yield folder
    finally:
        _command("umount", folder)


def _made(name: str, files: int, size: int) -> Path:
    """An image with a folder `files`."""
    image = trees.work_folder() / f"{name}.ext4"
    if not image.exists():
        half = image.with_suffix(".half")
        half.unlink(missing_ok=True)
        with half.open("wb") as out:
            out.truncate(files * (size + 8192) * 5 // 4 + (64 << 20))
        _command("mkfs.ext4", "-q", "-F", half)
        with _mounted(half) as folder:
            for i in range(files):
                path = folder / "files" / trees.key_of(i)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{i:012}".encode().ljust(size, b"x"))
        half.rename(image)
    return image


@contextmanager
def _limited(image: Path) -> Iterator[Disk]:
    _CGROUP.mkdir(exist_ok=True)
    try:
        with _mounted(image) as folder:
            loop = Path(_command("losetup", "-nO", "NAME", "-j", image)).name
            device = Path(f"/sys/block/{loop}/dev").read_text().strip()
            for name, limit in (("iops", READS), ("bps", BYTES)):
                (_CGROUP / f"blkio.throttle.read_{name}_device").write_text(f"{device} {limit}")
            yield Disk(folder, device)
    finally:
        with suppress(OSError):  # a process of it may still be ending
            _CGROUP.rmdir()


def _sent(running: Stub, uploads: Path, tree: str, bucket: str, program: list[str], files: int) -> Cost:
    where = Target(running.url, running.access_key, running.secret_key, bucket, tree)
    command = contenders.our_command(where)
    contenders.forget_jobs()
    running.reset()
    environment = contenders.our_environment(where) | {"UPLOADS_DIR": str(uploads)}
    cost = measure.run([*program, *command[command.index("start") :]], environment, _TIMEOUT)
    counts = running.counts()
    must(counts.get("PUT", 0) == files, f"{counts.get('PUT', 0)} files were sent, not {files}")
    return Cost(cost.wall, cost.cpu, cost.peak_bytes, requests_of(counts), counts)


class _Watch:
    """When the reads of a disk began and ended: looked at every 20 ms, in a thread of its own."""

    def __init__(self, disk: Disk) -> None:
        self._disk, self._ended = disk, threading.Event()
        self._seen, self._times = disk.read(), [time.monotonic()]
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            if (seen := self._disk.read()) != self._seen:
                self._seen = seen
                self._times.append(time.monotonic())

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def seconds(self) -> float:
        return self._times[-1] - self._times[min(1, len(self._times) - 1)]


def _row(name: str, costs: list[Cost]) -> Row:
    return {"name": name, "exact": True, "is_peer": False, **measure.summary(costs)}


def _cold(running: Stub, options: Options, files: int, size: int) -> tuple[Row, float]:
    """Its row, and the time of reading by what the limit allows for what was read."""
    image = _made(f"cold-{files}-{size}", files, size)
    inside = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(_CGROUP / "cgroup.procs")]
    costs, ratios = [], []
    for _ in range(options.runs):
        with _limited(image) as disk:
            program = [*inside, sys.executable, "-m", "syncworker"]
            with _Watch(disk) as watch:
                cost = _sent(running, disk.folder, "files", f"fresh-{next(_serial)}", program, files)
            reads, read = disk.read()
        must(read >= files * size, f"{read} bytes were read: the folder was not cold")
        costs.append(cost)
        ratios.append(watch.seconds / max(reads / READS, read / BYTES))
        say(f"  {files:,} x {size >> 10} KiB: {watch.seconds:.2f} s, {reads:,} reads, {read / 1e6:,.0f} MB")
    return _row(f"{files:,} x {size >> 10} KiB, cold", costs), measure.median(ratios)


def slow_disk(options: Options) -> Result:
    """Ours alone: how near each run comes to what the disk allows."""
    if missing := _missing():
        return result("slow-disk", "a slow disk", options, [], [], [f"left out: {missing}"])
    rows: list[Row] = []
    targets = []
    with stub() as running:
        for files, size in ((20_000, 4096), (1000, 1 << 20)):
            row, ratio = _cold(running, options, options.times(files, 100), size)
            rows.append(row)
            unit = f"x what {READS} reads and {BYTES / 1e6:.0f} MB a second allow (90 % of it)"
            targets.append(target(f"{row['name']}: time", ratio, 1 / 0.9, unit))
        files = options.times(5000, 200)
        far = [sys.executable, "-m", "benchmarks.far_disk"]
        tree = trees.small(files, 4096)
        costs = [
            _sent(running, trees.trees(), tree, f"fresh-{next(_serial)}", far, files)
            for _ in range(options.runs)
        ]
        rows.append(_row(f"{files:,} x 4 KiB, each {OPEN_SECONDS * 1000:.0f} ms away", costs))
        ideal = files * OPEN_SECONDS / FAR_READERS
        wall = measure.median([cost.wall for cost in costs])
        targets.append(target("far disk: wall", wall / ideal, 2.0, f"x that of {FAR_READERS} at a time"))
        files = options.times(500, 100)
        tree = trees.small(files, 1 << 20)
        ours = [sys.executable, "-m", "syncworker"]
        bucket = f"slow-{_STORE_PUTS}-{next(_serial)}"
        row = _row("a slow store", [_sent(running, trees.trees(), tree, bucket, ours, files)])
        rows.append(row | {"name": f"{files} x 1 MiB, a store that takes {_STORE_PUTS} a second"})
        targets.append(target("slow store: memory", row["peak_bytes"] / 1e6, 200, "MB"))
    title = f"a cold disk of {READS} reads and {BYTES / 1e6:.0f} MB a second; a far one; a slow store"
    return result("slow-disk", title, options, rows, targets)


def _missing() -> str:
    if not Path("/sys/fs/cgroup/blkio/blkio.throttle.read_iops_device").exists():
        return "this machine has no controller `blkio` of cgroup v1"
    return "" if os.geteuid() == 0 else "it needs root, to mount and to limit a disk"
