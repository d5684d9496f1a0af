"""``python -m crab_lightning``: the command line."""

import sys

from crab_lightning.commands import main

if __name__ == "__main__":
    sys.exit(main())
