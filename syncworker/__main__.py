"""`python -m syncworker`: the shell's door. The commands are in `cli`."""

import gc
import os
import sys

from syncworker.system import std_streams

if __name__ == "__main__":
    gc.set_threshold(50_000)  # objects between two looks for cycles: modules make many, and leave none
    std_streams.secure()
    from syncworker.shell.cli import main

    try:
        status: int | str | None = main(sys.argv[1:])
    except SystemExit as end:  # argparse: the help, or a refusal
        status = end.code
    if isinstance(status, str):
        sys.exit(status)
    # All is written, and what writes has ended: taking the interpreter apart would only take its time.
    os._exit(status or int(std_streams.lost_output()))
