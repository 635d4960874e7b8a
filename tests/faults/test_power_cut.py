"""A power cut: what has been answered is still there when the machine comes back.

The job directory lies on a file system of its own, in a file that is mounted (as root). The cut is the
`FS_IOC_SHUTDOWN` ioctl without a flush of the log: from then on nothing more reaches the disk, neither what
the kernel holds in memory nor what the journal has not committed; then it is mounted again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
from pathlib import Path

import psutil
import pytest
from bench import Gate, assert_same, contents, expected, tree, wait_for
from truth import check_truth

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of Linux's uapi/linux/fs.h
_NO_LOG_FLUSH = 2


class Machine:
    """A file system in a file, and the plug of the machine that it is in."""

    def __init__(self, base: Path, place: Path) -> None:
        self.image, self.place = base / "disk.ext4", place
        with self.image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["/sbin/mkfs.ext4", "-q", str(self.image)], check=True, timeout=30)
        place.mkdir(mode=0o700)
        self.on()
        place.chmod(0o700)
        (place / "lost+found").rmdir()

    def on(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.place)], check=True, timeout=30)

    def cut(self) -> None:
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def off(self) -> bool:
        """False while a process is still in it."""
        done = subprocess.run(["umount", str(self.place)], check=False, timeout=30, capture_output=True)
        return done.returncode == 0


@pytest.fixture
def plug(make_service, make_proxy, juicefs):
    """A server whose job directory is on such a disk, the machine, and the proxy before the store."""
    proxy = make_proxy(juicefs)
    service = make_service(juicefs, start=False, STORAGE_URL=proxy.url)
    tree(service.uploads, {"photos": {"a": "1", "b": "22", "d/c": "333"}})
    machine = Machine(service.base, service.jobs)
    service.start()
    try:
        yield service, machine, proxy
    finally:
        service.close()
        wait_for(machine.off, 20, "the disk to be free")


def kill_workers(service) -> bool:
    for worker in service.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    return True


def lose_power(service, machine) -> None:
    """All at once: the disk, then every process of the machine; then the machine comes back."""
    machine.cut()
    service.kill()
    wait_for(lambda: kill_workers(service) and machine.off(), 20, "the disk to be free")
    machine.on()


def test_a_job_that_was_accepted_survives_a_power_cut_and_is_done_by_the_next_server(plug, juicefs, bucket):
    service, machine, proxy = plug
    gate = Gate(proxy, lambda r: r.kind == "PUT")
    keys = {"storage_url": proxy.url, "access_key": juicefs.access_key, "secret_key": juicefs.secret_key}
    job = service.post("/sync", source="photos", dest=bucket, **keys).json()["id"]
    lose_power(service, machine)
    gate.drop()
    assert service.status(job)["id"] == job, "the answer was 202: it is on the disk"
    assert service.file(job, "secret").exists()
    check_truth(service.jobs)
    service.start()
    assert service.wait_state(job, "done")["state"] == "done"
    assert_same(contents(juicefs, bucket), expected(service.uploads / "photos"))


def test_a_final_state_survives_a_power_cut(plug, juicefs, bucket):
    service, machine, _proxy = plug
    done = service.done(bucket)
    cut_short = service.sync(bucket, wait=3600)
    service.wait_file(cut_short, lambda s: s["state"] == "running" or s["state"] == "done")
    ended = service.wait_state(cut_short)
    lose_power(service, machine)
    for status in (done, ended):
        kept = service.status(status["id"])
        assert (kept["state"], kept["finished_at"]) == (status["state"], status["finished_at"])
        assert kept["progress"] == status["progress"]
    check_truth(service.jobs)
    service.start()
    assert service.done(bucket)["progress"]["files_uploaded"] == 0


def test_a_cancel_and_a_resume_that_were_answered_survive_a_power_cut(plug, juicefs, bucket):
    service, machine, proxy = plug
    gate = Gate(proxy, lambda r: r.kind == "PUT")
    job = service.sync(bucket)
    gate.wait()
    assert service.get("/cancel", id=job).status == 202
    lose_power(service, machine)
    gate.drop()
    assert service.file(job, "cancel").exists(), "the answer was 202"
    service.start()
    assert service.wait_state(job)["state"] == "cancelled"
    assert service.get("/resume", id=job).status == 202
    lose_power(service, machine)
    status = json.loads(service.file(job, "json").read_bytes())
    assert (status["attempt"], service.file(job, "cancel").exists()) == (2, False)
    service.start()
    assert service.wait_state(job)["state"] == "done"
    assert_same(contents(juicefs, bucket), expected(service.uploads / "photos"))
