"""The program as if its files were at the other end of a network: `python -m benchmarks.far_disk start …`.

Each file that is opened waits, whoever else waits, and none is in memory. For measuring only.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from syncworker.folder.uploads_root import Tree
from syncworker.shell import cli
from syncworker.worker import sending

OPEN_SECONDS = 0.02
_open_file = Tree.open_file


def _late(tree: Tree, path: str) -> Any:
    time.sleep(OPEN_SECONDS)
    return _open_file(tree, path)


def main() -> int:
    if not hasattr(sending, "read_cached"):
        raise SystemExit("sending.read_cached is gone: benchmarks/far_disk.py must follow")
    sending.read_cached = lambda *_: None  # nothing is in memory
    Tree.open_file = _late  # type: ignore[method-assign]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
