"""Runs one command and writes what it cost: `python -I -S launch.py RESULT LOG SECONDS -- COMMAND…`.

A process of its own, and a small one: ru_maxrss of a child begins with the size of the process that it was
started from, and that must be less than what is measured. Times cover the command alone, its children with it
as far as it has waited for them.
"""

import json
import os
import signal
import sys
import time


def main() -> None:
    result, log, seconds, dashes, *command = sys.argv[1:]
    assert dashes == "--"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(int(seconds))
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    cost = {
        "exit": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    with open(result, "w") as out:
        json.dump(cost, out)


main()
