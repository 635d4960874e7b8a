"""`python -m syncworker`: the shell's door. The commands are in `cli`."""

import sys

from syncworker.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
