"""The scheduling policy of a worker, as the kernel reports it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from syncworker.paths import PROJECT

_POLICIES = {"other": os.SCHED_OTHER, "batch": os.SCHED_BATCH, "idle": os.SCHED_IDLE}

_SHOWN = """
import os, subprocess, sys, threading
from syncworker.system.processes import work_in_batches
os.sched_setscheduler(0, int(sys.argv[1]), os.sched_param(0))
work_in_batches()
seen = [os.sched_getscheduler(0)]
thread = threading.Thread(target=lambda: seen.append(os.sched_getscheduler(0)))
thread.start()
thread.join()
child = "import os; print(os.sched_getscheduler(0))"
seen.append(int(subprocess.run([sys.executable, "-c", child], capture_output=True, check=True).stdout))
print(*seen)
"""

_REFUSED = """
import os
from syncworker.system.processes import work_in_batches
def refuse(*_):
    raise PermissionError(1, "Operation not permitted")
os.sched_setscheduler = refuse
work_in_batches()
print(os.sched_getscheduler(0))
"""


def _said(program: str, *arguments: object) -> list[int]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=True, cwd=PROJECT)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(("chosen", "then"), [("other", "batch"), ("batch", "batch"), ("idle", "idle")])
def test_a_worker_its_threads_and_its_children_do_batch_work_unless_another_policy_was_chosen(chosen, then):
    assert _said(_SHOWN, _POLICIES[chosen]) == [_POLICIES[then]] * 3


def test_a_sandbox_that_forbids_it_is_no_error():
    assert _said(_REFUSED) == [os.sched_getscheduler(0)]
