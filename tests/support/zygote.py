"""`python -m syncworker …` without its start-up time, for tests that run it hundreds of times.

A process that has imported the package and forks once for each command: the child is a process of its own
that runs the package's `__main__` with its own arguments, files and exit status, as a shell would start it.

Protocol: one JSON object a line on standard input (`{"arguments": […], "output": PATH, "altered": […]}`), one
exit status a line on standard output. `altered` names functions of `altered.py`, called in the child first.
"""

from __future__ import annotations

import json
import os
import pkgutil
import runpy
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import altered

PROJECT = Path(__file__).resolve().parents[2]


class Zygote:
    """The test's side of it."""

    def __init__(self, environment: dict[str, str], output: Path) -> None:
        from stores import die_with_parent

        self._output = output
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )

    def run(self, *arguments: str, altered: Sequence[str] = ()) -> int:
        """The exit status of one command."""
        self.begin(*arguments, altered=altered)
        return self.wait()

    def begin(self, *arguments: str, altered: Sequence[str] = ()) -> None:
        """Starts one, to be waited for."""
        assert self._process.stdin is not None
        command = {"arguments": arguments, "output": str(self._output), "altered": altered}
        print(json.dumps(command), file=self._process.stdin, flush=True)

    def wait(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _child(command: dict[str, object]) -> None:
    """Never returns."""
    status = 70
    try:
        output = os.open(str(command["output"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in command["altered"]:  # type: ignore[attr-defined]
            getattr(altered, name)()
        sys.argv = ["syncworker", *command["arguments"]]  # type: ignore[misc]
        runpy.run_module("syncworker", run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    sys.path.insert(0, str(PROJECT))
    import syncworker

    for module in pkgutil.walk_packages(syncworker.__path__, "syncworker."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _child(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
