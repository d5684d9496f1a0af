"""The command line of crab_lightning: ``python cli.py --help`` lists what it does.

This file stays thin so that asking for help costs nothing: a sub-command's code is imported when it runs.
"""

import sys

from crab_lightning.commands import program

if __name__ == "__main__":
    sys.exit(program())
