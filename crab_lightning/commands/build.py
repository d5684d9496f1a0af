"""``build ...``: make a data root for training from the files that the owners of datasets publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from crab_lightning.commands.file_arguments import file_to_read, folder_to_write
from crab_lightning.commands.help_text import Options, add_selection
from crab_lightning.commands.output import StepBar


class ImportIncomplete(ValueError):
    """No row of a dataset could be imported."""


def import_(words: Sequence[str]) -> None:
    """Import one dataset.

    Args:
        words: Options after ``build import``.

    Raises:
        ImportIncomplete: If no row could be imported. The exit status is then 1.
    """
    from crab_lightning.builder.datasets import IMPORTERS

    known = "\n".join(
        f"  {name:<9} {one.title}\n            files: {one.files}\n            access: {one.access}"
        + (
            f"\n            options: {', '.join('--' + o.replace('_', '-') for o in one.options)}"
            if one.options
            else ""
        )
        for name, one in IMPORTERS.items()
    )
    parser = Options(
        "build import",
        "Import one dataset from the annotation files and media that its owner publishes\n"
        "into ROOT/AVUIE_2/<dataset>/, in the released row format. Media files are linked. The sound track\n"
        "of a video is written as a separate file. If the owner's file is a longer recording, the used\n"
        "part is cut out. Rows whose media are missing or unreadable are left out and listed in\n"
        "import_missing.tsv. After an interruption, start the same command again. Nothing is downloaded.",
        epilog=f"datasets:\n\n{known}",
    )
    add, switch = parser.option, parser.switch
    add("--dataset", "one of the datasets below", required=True, metavar="NAME")
    add(
        "--source",
        "folders of the owner's annotation files and media; files are found in folders below them too",
        Path,
        nargs="+",
        required=True,
        metavar="DIR",
    )
    add("--root", "data root; AVUIE_2/<dataset>/ is made in it", folder_to_write, required=True)
    switch("--dry-run", "show what would be done, and write nothing")
    switch("--symlink", "make symbolic links, which also work when the source is on another disk")
    switch("--copy", "copy the media instead of linking them")
    switch(
        "--overwrite",
        "replace manifests that this command did not write or that were changed since; the earlier files"
        " are kept",
    )
    add("--workers", "number of processes that read and write media; with 0 this process does it", int, 2)
    add("--timeout", "longest time for one file in seconds", float, 300.0, metavar="S")
    add("--seed", "seed of the random VGG-CM pairs", int, 0)
    _add_settings(parser)
    args = parser.parse_args(words)
    if args.symlink and args.copy:
        parser.error("--symlink and --copy exclude each other; choose one")

    from rich.console import Console

    from crab_lightning.builder import Settings, import_dataset

    given = {f.name: getattr(args, f.name) for f in fields(Settings) if getattr(args, f.name) is not None}
    with StepBar() as bar:
        report = import_dataset(
            args.dataset,
            args.source,
            args.root,
            Settings(**given),
            link="copy" if args.copy else "symbolic" if args.symlink else "hard",
            workers=args.workers,
            timeout_s=args.timeout,
            dry_run=args.dry_run,
            overwrite=args.overwrite,
            progress=bar,
        )
    report.print(Console(soft_wrap=True))
    nothing = ImportIncomplete(
        f"no row of {args.dataset} could be imported from {_listed(args.source)}; "
        "the table above says what is missing"
    )
    if args.dry_run:
        print("Nothing was written: this was a dry run.")
        if not any(split.found for split in report.splits):
            raise nothing
        return
    folders = dict.fromkeys(args.root / "AVUIE_2" / split.task for split in report.splits)
    if report.lost:
        files = _listed(folder / "import_missing.tsv" for folder in folders)
        print(f"Rows that are in no manifest: {len(report.lost):,}, all listed in {files}")
    if not any(split.written for split in report.splits):
        raise nothing
    print(f"Wrote {_listed(folders)}")


def stats(words: Sequence[str]) -> None:
    """Count what a data root contains, and compare it with Table 1 and Fig. 3 (b) of the Crab+ paper.

    It counts rows of each task and source dataset, lengths of answers and reasoning, class balance, lengths
    of events, media files and repeated rows. The command writes one HTML page, its pictures as PNG and its
    numbers as JSON. It does not open media files.
    """
    parser = Options("build stats", stats)
    add_selection(parser)
    parser.option("--out", "folder to write (default: ROOT/statistics)", folder_to_write, metavar="DIR")
    args = parser.parse_args(words)

    from crab_lightning.builder import read_statistics, write_statistics
    from crab_lightning.configuration.sections import tasks_and_datasets

    tasks, datasets = tasks_and_datasets(args.config, args.datasets)
    with StepBar() as bar:
        found = read_statistics(args.root, tasks, datasets, bar)
    for line in found.composition:
        paper = f"{line.paper_k:>6.1f} K in the paper" if line.paper_k is not None else "not in the paper"
        print(f"{line.task:<31}{line.title:<34}{line.train:>9,}  {paper}")
    print(f"{'all':<65}{found.train:>9,}   222.0 K in the paper")
    if found.absent:
        print(f"Missing datasets: {'; '.join(found.absent)}")
    files = write_statistics(found, args.out if args.out is not None else args.root / "statistics")
    print(f"Wrote {files[0]} and {len(files) - 1} further files")


def _listed(paths: Any) -> str:
    return ", ".join(map(str, paths))


def _add_settings(parser: Options) -> None:
    """Add the options that only some datasets take."""
    group = parser.add_argument_group("options of single datasets (see the list below)")
    add = partial(parser.option, group=group)
    add(
        "--val",
        "what to do with the official validation rows: `released` follows the sizes in the paper"
        " (they are added to training for MELD and LLP), `train` adds them to training, `leave` leaves"
        " them out (default: released)",
        choices=("released", "train", "leave"),
    )
    add("--classes", "file with the class names to keep, one in each line", file_to_read, metavar="FILE")
    add("--pairs", "number of training pairs, both directions together (default: 10300)", int)
    add("--test-pairs", "number of test pairs, both directions together (default: 2000)", int)
    add(
        "--synonyms",
        "YAML file with lists of class names that sound too similar to be used as a wrong pair",
        file_to_read,
        metavar="FILE",
    )
    add(
        "--shortest-event",
        "UnAV-100: every event of a training clip must last N tenths of the clip after rounding (default: 1)",
        int,
    )
    add(
        "--most-changes",
        "UnAV-100: at most N moments inside a training clip at which an event starts or ends",
        int,
    )
    add("--all-clips", "UnAV-100: keep every training clip", action="store_true")
    add("--frames", "number of frames of each training clip or expression (default: 2; ARIG: 1)", int)
    add("--whole-clip", "LLP: let every weak training label last for the whole clip", action="store_true")
    add(
        "--test-labels",
        "MER2024: CSV file of a labelled test set, with the columns name and discrete",
        file_to_read,
        metavar="FILE",
    )
    add(
        "--lists",
        "Kinetics-Sounds: which lists give the split (default: kinetics)",
        choices=("kinetics", "ogm"),
    )
