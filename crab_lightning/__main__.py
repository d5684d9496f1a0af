"""``python -m crab_lightning``: the command line."""

import sys

from crab_lightning.commands import program

if __name__ == "__main__":
    sys.exit(program())
