"""`python -m syncworker`: the shell's door. The commands are in `cli`."""

import sys

from syncworker.system import std_streams

if __name__ == "__main__":
    std_streams.secure()
    from syncworker.shell.cli import main

    try:
        status: int | str | None = main(sys.argv[1:])
    except SystemExit as end:  # argparse: the help, or a refusal
        status = end.code
    sys.exit(status or int(std_streams.lost_output()))
