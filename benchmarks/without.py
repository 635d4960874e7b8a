"""The program with parts switched off, to see what they cost.

`python -m benchmarks.without PART… -- start …`. status: none is published between a job's beginning and its
end; report: none is written; index: nothing is remembered; second-look: what was written is believed. For
measuring only.
"""

import sys
from typing import Any

from syncworker.ending import Ending
from syncworker.index.database import Index
from syncworker.jobs.progress import Progress
from syncworker.jobs.report import Report
from syncworker.shell import cli
from syncworker.worker.second_look import SecondLook


async def _believed(_: SecondLook, ending: Ending, __: list[str]) -> Ending:
    return ending


RECORDS = {
    "status": (Progress, "due", lambda *_: False),
    "report": (Report, "add", lambda *_: None),
    "index": (Index, "remember", lambda *_: None),
}
PARTS: dict[str, tuple[Any, str, Any]] = {**RECORDS, "second-look": (SecondLook, "recheck", _believed)}


def main() -> int:
    cut = sys.argv.index("--")
    for part in sys.argv[1:cut]:
        owner, name, instead = PARTS[part]
        _replace(owner, name, instead)
    return cli.main(sys.argv[cut + 1 :])


def _replace(owner: Any, name: str, instead: Any) -> None:
    if not hasattr(owner, name):
        raise SystemExit(f"{owner.__name__}.{name} is gone: benchmarks/without.py must follow")
    setattr(owner, name, instead)


if __name__ == "__main__":
    sys.exit(main())
