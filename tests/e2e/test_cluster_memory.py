"""How much memory a job takes on eight members: the job's own process, its scheduler, and each member."""

from __future__ import annotations

import contextlib
import threading

import psutil
import pytest
import test_cluster_machines
from bench import Shell, peak_bytes, tree
from stores import Store, list_keys
from test_cluster_machines import Machines

machines = test_cluster_machines.machines

MEMBERS = 8
FILES = 20_000
LARGE = 2  # files of 100 MiB: their parts go by members
# MB. In flight, a member has at most 64 MiB more.
MEMBER_MAX, IN_FLIGHT_MAX, SCHEDULER_MAX, DRIVER_MORE_MAX = 70, 64 * 1.048576, 80, 30
ROLES = ("scheduler", "worker", "start")


class Peaks(threading.Thread):
    """The highest resident memory of each process of a shell, in MB, by its role."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(daemon=True)
        self.shell, self.ended = shell, threading.Event()
        self.seen: dict[str, dict[int, float]] = {role: {} for role in ROLES}

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for process in self.shell.workers():
                with contextlib.suppress(psutil.NoSuchProcess, OSError, IndexError, StopIteration):
                    role = next(role for role in ROLES if role in process.cmdline())
                    self.seen[role][process.pid] = peak_bytes(process.pid) / 1e6

    def end(self) -> dict[str, float]:
        self.ended.set()
        self.join()
        return {role: max(found.values(), default=0.0) for role, found in self.seen.items()}


def peaks_of(shell: Shell, bucket: str) -> dict[str, float]:
    watch = Peaks(shell)
    watch.start()
    try:
        shell.sync(bucket, timeout=600)
    finally:
        found = watch.end()
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
def test_eight_members_their_scheduler_and_the_job_stay_small(
    machines: Machines, juicefs: Store, bucket: str
) -> None:
    shell = machines.shell
    folder = tree(shell.uploads / "photos", {f"{n // 1000}/{n}": f"{n}" * 500 for n in range(FILES)})
    for n in range(LARGE):
        (folder / f"large{n}").write_bytes(bytes([n]) * (100 << 20))
    machines.members += [machines.start_member() for _ in range(MEMBERS - len(machines.members))]
    shell.environment |= {"CLUSTER": ""}
    alone = peaks_of(shell, bucket)
    juicefs.remove_bucket(bucket)
    shell.environment |= {"CLUSTER": machines.address}
    together = peaks_of(shell, bucket)
    print(f"alone {alone['start']:.0f} MB; with {MEMBERS} members: {together}")
    assert len(list_keys(juicefs.client(), bucket)) == FILES + LARGE
    assert together["worker"] <= MEMBER_MAX + IN_FLIGHT_MAX
    assert together["scheduler"] <= SCHEDULER_MAX
    assert together["start"] <= alone["start"] + DRIVER_MORE_MAX
