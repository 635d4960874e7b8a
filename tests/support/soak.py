"""`make soak`: the crash loop of `crash.py`, for as many rounds as wanted, on a store of its own."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from crash import CrashLoop
from stores import all_stores


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--store", choices=list(all_stores()), default="juicefs")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(
        f"store: {given.store}; seed: {seed} (SEED={seed} repeats what is done, not its timing)", flush=True
    )
    store = all_stores()[given.store]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        base = Path(name)
        (base / "store").mkdir()
        store.start(base / "store")
        (base / "loop").mkdir()
        loop = CrashLoop(base / "loop", store, seed)
        try:
            for number in range(1, given.rounds + 1):
                try:
                    loop.round()
                except BaseException:
                    print(f"round {number} of seed {seed}:", file=sys.stderr)
                    print(loop.service.output()[-1500:], file=sys.stderr)
                    raise
                if number % 10 == 0:
                    kills = sum(loop.kills.values())
                    print(f"{number} rounds, {kills} kills, {time.monotonic() - began:.0f} s", flush=True)
        finally:
            print(loop.summary(), flush=True)
            loop.close()
            store.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
