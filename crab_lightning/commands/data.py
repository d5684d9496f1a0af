"""``data ...``: commands on data roots."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def mini(words: Sequence[str]) -> None:
    """Write Mini AV-UIE.

    Args:
        words: Options after ``data mini``.
    """
    parser = argparse.ArgumentParser(
        prog="cli.py data mini",
        description="Write Mini AV-UIE: a synthetic audio-visual world as a genuine AV-UIE v2 tree, with"
        " all 19 manifests and encoded media. The same seed gives the same manifests, byte for byte; an"
        " interrupted call is taken up again by the same call.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="data root to fill; new, empty, or interrupted earlier")
    add(
        "--clips", type=int, default=400, help="number of recordings, shared out over all datasets and splits"
    )
    add("--seed", type=int, default=0, help="decides everything")
    add("--workers", type=int, default=2, help="processes that draw and encode; 0 works in this one")
    add("--overwrite", action="store_true", help="replace a Mini tree that was made with other settings")
    args = parser.parse_args(list(words))

    from crab_lightning.mini import write_mini

    counts = write_mini(args.root, args.clips, args.seed, args.workers, overwrite=args.overwrite)
    train, test = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    print(f"{args.root}: {len(counts)} datasets, {train:,} training and {test:,} test rows")
