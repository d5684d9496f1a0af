"""``report``: a run's results as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crab_lightning.commands.file_arguments import file_to_write
from crab_lightning.commands.help_text import Options


def run(words: Sequence[str]) -> None:
    """Write the results of a run as one HTML page that needs no network.

    The page shows the table of results, training curves, confusion matrices, breakdowns, and wrong answers
    with pictures of their clips.
    """
    parser = Options("report", run)
    add = parser.option
    add("run", "a run folder, or a folder of version_N folders", Path, metavar="RUN")
    add("--out", "file to write (default: report.html in the run folder)", file_to_write)
    add("--split", "split whose results are shown", default="test", choices=["test", "val"])
    add("--failures", "number of wrong answers shown for each dataset, the worst first", int, 6)
    add("--root", "data root from which the pictures are read (default: that of the run's config)", Path)
    args = parser.parse_args(words)
    from crab_lightning.reports.run_page import write_report

    write_report(args.run, args.out, split=args.split, failures=args.failures, root=args.root)
