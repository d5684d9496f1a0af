"""``data ...``: commands on data roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crab_lightning.commands.file_arguments import file_to_write
from crab_lightning.commands.help_text import Options, add_selection, positive
from crab_lightning.commands.output import StepBar


def mini(words: Sequence[str]) -> None:
    """Write Mini AV-UIE, a synthetic dataset with the folders and media formats of AV-UIE v2.

    The dataset has all 19 manifests. The same seed gives the same manifests, byte for byte. After an
    interruption, start the same command again.
    """
    parser = Options("data mini", mini)
    add, switch = parser.option, parser.switch
    add(
        "--root",
        "data root to write; it must be new, empty, or from an interrupted command",
        Path,
        required=True,
    )
    add("--clips", "total number of recordings in all datasets and splits", positive, 400)
    add("--seed", "seed of everything that is random", int, 0)
    add("--workers", "number of processes that draw and encode; with 0 this process does it", int, 2)
    switch("--overwrite", "replace a data root that this command made with other settings")
    add(
        "--test-fraction",
        "fraction of the recordings of each dataset that goes to its test file, if it has one",
        float,
        0.2,
        metavar="F",
    )
    add(
        "--captions",
        "also write N captioned pictures and N captioned sounds of other scenes into ROOT/captions, for"
        " stage 1",
        int,
        0,
    )
    add(
        "--long",
        "also write N test clips and N training clips of 40 to 90 s into ROOT/AVUIE_2/long_events; they"
        " belong to none of the 19 datasets",
        int,
        0,
    )
    args = parser.parse_args(words)

    from crab_lightning.mini import write_captions, write_long_clips, write_mini

    counts = write_mini(
        args.root,
        args.clips,
        args.seed,
        args.workers,
        test_fraction=args.test_fraction,
        overwrite=args.overwrite,
    )
    train, test = (sum(pair[i] for pair in counts.values()) for i in (0, 1))
    print(f"{args.root}: {len(counts)} datasets, {train:,} training and {test:,} test rows")
    if args.captions:
        folder = write_captions(args.root, args.captions, args.seed)
        print(f"{folder}: {args.captions:,} captioned pictures and as many sounds")
    if args.long:
        folder = write_long_clips(args.root, args.long, args.long, args.seed)
        print(f"{folder}: {args.long:,} long clips to learn from and as many to test on")


def check(words: Sequence[str]) -> None:
    """Check a data root before a run.

    The command checks every manifest, key, path, media header, mask, answer and class name, and the lengths.
    It also finds clips that are both in training and in test, by the name of the recording and by content. It
    lists all problems. The exit status is 1 if there is an error, and 0 if there are only warnings.

    Raises:
        CheckFailed: If there is an error. The exit status is then 1.
    """
    parser = Options("data check", check)
    add, switch = parser.option, parser.switch
    add_selection(parser)
    switch("--decode", "decode every file as a run does, and do not only read its header")
    add(
        "--workers",
        "number of processes that check files; with 0 this process does it, and a file that crashes the"
        " decoder ends the command",
        int,
        2,
    )
    add("--timeout", "longest time for one file in seconds", float, 120.0, metavar="S")
    add(
        "--json",
        "write the findings to FILE. The findings for each media file are kept in FILE.files, so that an"
        " interrupted check can be continued and a later check reads only changed files",
        file_to_write,
        metavar="FILE",
    )
    args = parser.parse_args(words)

    from rich.console import Console

    from crab_lightning.configuration.sections import tasks_and_datasets
    from crab_lightning.data.check.run import check_root

    if not args.root.is_dir():
        raise CheckFailed(
            f"--root {args.root}: there is no such folder; give the one that contains AVUIE_2/ or the folder "
            "of your own dataset"
        )
    tasks, datasets = tasks_and_datasets(args.config, args.datasets)
    with StepBar() as bar:
        report = check_root(
            args.root,
            tasks,
            datasets,
            decode=args.decode,
            workers=args.workers,
            findings=None if args.json is None else args.json.with_name(args.json.name + ".files"),
            timeout_s=args.timeout,
            progress=bar,
        )
    report.print(Console(soft_wrap=True))
    if args.json is not None:
        report.write(args.json)
    errors, warnings = report.count("error"), report.count("warning")
    if errors:
        where = f"; all of them are in {args.json}" if args.json else "; --json FILE writes all of them"
        found = f"{_counted(errors, 'error')} and {_counted(warnings, 'warning')}"
        raise CheckFailed(f"{found} in {args.root}{where}")
    print(f"{args.root}: no error, {_counted(warnings, 'warning')}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


class CheckFailed(ValueError):
    """A data root has errors that would stop a run."""


def cache(words: Sequence[str]) -> None:
    """Decode every clip of a data root once and store it in a folder.

    Runs read the folder with --data.cache FOLDER. After an interruption, start the same command again.
    Several machines may write to one folder at the same time.

    Raises:
        CheckFailed: If some files cannot be decoded. The cache contains all others.
    """
    parser = Options("data cache", cache)
    add, switch = parser.option, parser.switch
    add_selection(parser)
    add("--cache", "folder of the cache (default: ROOT/media_cache)", Path, metavar="FOLDER")
    add(
        "--workers",
        "number of processes that decode; with 0 this process does it, and a file that crashes the decoder"
        " ends the command",
        int,
        2,
    )
    add("--max-gb", "largest size of the folder in GB (default: no limit)", float, metavar="GB")
    add("--timeout", "longest time for one file in seconds", float, 300.0, metavar="S")
    add(
        "--geometry",
        "the value of data.geometry in the run; it decides which part of a clip is heard",
        default="released",
        choices=("released", "plain"),
    )
    add(
        "--resize",
        "the value of data.resize in the run, which is how frames are resized",
        default="torch",
        choices=("torch", "torch_uint8", "swscale"),
    )
    switch(
        "--ray",
        "decode on all machines of the Ray cluster that RAY_ADDRESS names, or of a local cluster when it is"
        " not set. All machines must be able to read ROOT and write FOLDER. This needs the extra `ray`",
    )
    args = parser.parse_args(words)

    from crab_lightning.configuration.sections import tasks_and_datasets
    from crab_lightning.data.cache.build import build_cache

    _, datasets = tasks_and_datasets(args.config, args.datasets)
    folder = args.root / "media_cache" if args.cache is None else args.cache
    with StepBar() as bar:
        report = build_cache(
            args.root,
            datasets,
            folder,
            geometry=args.geometry,
            resize=args.resize,
            max_bytes=None if args.max_gb is None else int(args.max_gb * 1e9),
            workers=args.workers,
            ray=args.ray,
            timeout_s=args.timeout,
            progress=bar,
        )
    size_gb = sum(p.stat().st_size for p in (folder / "shards").glob("*")) / 1e9
    print(f"{folder}: {report.added:,} media added to {report.known:,}; {size_gb:.3f} GB in all")
    if report.unstored:
        print(
            f"{report.unstored:,} media files did not fit; increase --max-gb or free disk space to"
            f" store them too"
        )
    if report.broken:
        shown = "\n".join(list(report.broken.values())[:10])
        raise CheckFailed(
            f"{len(report.broken):,} files cannot be decoded (`data check --decode` lists all):\n{shown}"
        )
