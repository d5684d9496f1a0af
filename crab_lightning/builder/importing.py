"""Import a dataset from its owner's folders into a data root: first the media, then the manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crab_lightning.builder.datasets import get_importer
from crab_lightning.builder.media_jobs import PART, Done, Link, MediaJob, do_job
from crab_lightning.builder.rows import Imported, Importer, ImportReport, Lost, Row, Settings
from crab_lightning.builder.source import Source
from crab_lightning.data.manifests.files import ANNOTATIONS, manifest_text
from crab_lightning.files import digest_of, free_name, read_json, replace_json, replace_text

if TYPE_CHECKING:
    from crab_lightning.segmentation import Prompt

RECORD = "import.json"
"""File in the folder of each task that records the import and the checksums of the manifests."""
MISSING = "import_missing.tsv"
"""File that lists every official row that is in no manifest."""

Progress = Callable[[str, int, int], None]
"""A function that is called with the name of a step, the number of finished parts and the number of parts."""


def import_dataset(
    name: str,
    sources: Sequence[Path],
    root: Path,
    settings: Settings | None = None,
    *,
    link: Link = "hard",
    workers: int = 2,
    timeout_s: float = 300.0,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> ImportReport:
    """Import one dataset into ``root/AVUIE_2/<dataset>/``.

    Rows whose media are missing or unreadable are written to no manifest; they are counted and listed in a
    file. The manifests are written last, and each is written in one step, so that an interrupted call leaves
    no incomplete manifest. The same call then continues with the missing files.

    Args:
        name: Name of the importer, for example ``ave``.
        sources: Folders that contain the owner's annotation files and media.
        root: Data root; it is created if it does not exist.
        settings: Settings of the import; by default, the default settings.
        link: How a file that needs no change is put into the data root.
        workers: Number of processes that read and write media. With 0, the calling process does this work,
            and a file that crashes or blocks the decoder is not caught.
        timeout_s: Longest time for one file, in seconds.
        dry_run: Whether rows and files are only counted and nothing is written.
        overwrite: Whether to replace manifests that this command did not write, or that were changed after
            the import. The old manifests are kept next to the new ones.
        progress: Function that is called as the work proceeds.

    Returns:
        The numbers of rows and files, and the rows that are in no manifest.

    Raises:
        FileExistsError: If the import would replace a manifest and ``overwrite`` is not set.
        FileNotFoundError: If an annotation file is missing.
        NotADirectoryError: If one of ``sources`` is not a folder.
        ValueError: If there is no such dataset, if the dataset does not have a given setting, if an
            annotation file cannot be read, or if files cannot be linked or written.
    """
    importer = get_importer(name)
    settings = settings or Settings()
    if strange := [key for key in settings.given() if key not in importer.options and key != "seed"]:
        takes = ", ".join(importer.options) or "no options of its own"
        flag = "--" + strange[0].replace("_", "-")
        raise ValueError(f"{flag} is not an option of {name}, which takes: {takes}")
    base = root / ANNOTATIONS
    found = importer.read(Source(sources, without=base), settings)
    report = _count(name, importer, found)
    report.dry_run = dry_run
    if not dry_run:
        _guard(base, importer, overwrite)
    _note_leaks(found, report)
    whole = [row for row in found.rows if _missing_of(row) is None]
    jobs = _jobs(base, whole, link)
    if dry_run:
        report.media = Counter(
            {"link": "to be linked", "sound": "to be extracted or cut"}.get(j.action, "to be made")
            for j in jobs.values()
        )
        return report
    bad = _make_media(base, importer, jobs, workers, timeout_s, report, progress)
    kept = _without_unreadable(whole, base, bad, report)
    kept = _finish(kept, workers, timeout_s, report, progress)
    _write(base, importer, kept, sources, settings, report)
    return report


def _missing_of(row: Row) -> str | None:
    """Return the first missing file of a row; ``None`` if all were found."""
    return next((media.wanted for media in row.media if media.source is None), None)


def _count(name: str, importer: Importer, found: Imported) -> ImportReport:
    report = ImportReport(name, importer.title, notes=found.notes)
    for (task, split), expected in importer.expected.items():
        report.at(task, split).expected = expected
    for row in found.rows:
        count = report.at(row.task, row.split)
        count.rows += 1
        if (lost := _missing_of(row)) is None:
            count.found += 1
        else:
            report.lose(Lost(row.task, row.split, row.name, "missing", lost))
    for out in found.rejected:
        report.at(out.task, out.split).rows += 1
        report.lose(out)
    order = {task: i for i, task in enumerate(importer.tasks)}
    shown = (split for split in report.splits if split.rows or split.split != "weak")
    report.splits = sorted(shown, key=lambda s: (order[s.task], s.split != "train", s.split))
    return report


def _note_leaks(found: Imported, report: ImportReport) -> None:
    """Count the media files that are in training and in test in the official split."""
    sides: dict[str, set[Path]] = {"train": set(), "test": set()}
    for row in found.rows:
        if row.split in sides:
            sides[row.split].update(m.source for m in row.media if m.source and m.action == "link")
    if both := len(sides["train"] & sides["test"]):
        report.notes["media files of a clip that is in training and in test, as published"] = both


def _jobs(base: Path, rows: Sequence[Row], link: Link) -> dict[Path, MediaJob]:
    """Return the files to make, each only once."""
    jobs: dict[Path, MediaJob] = {}
    for row in rows:
        for media in row.media:
            assert media.source is not None
            if ".." in Path(media.place).parts or Path(media.place).is_absolute():
                raise ValueError(
                    f"{row.name}: {media.place!r} is outside the data root; correct the annotation"
                )
            target = base / row.task / media.place
            job = MediaJob(target, media.source, media.action, media.piece, link)
            if (other := jobs.setdefault(target, job)) != job:
                raise ValueError(
                    f"{other.source} and {media.source} both belong to {target}; "
                    "remove one of them from the source"
                )
    return jobs


def _make_media(
    base: Path,
    importer: Importer,
    jobs: dict[Path, MediaJob],
    workers: int,
    timeout_s: float,
    report: ImportReport,
    progress: Progress,
) -> dict[Path, str]:
    """Make every file, and return the reasons why some of them cannot be read."""
    from crab_lightning.data.check.pool import Failure, run_isolated

    for folder in {target.parent for target in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    _refuse_collisions(base, jobs)
    for task in importer.tasks:
        for half_written in (base / task).rglob(f"{PART}*"):  # left by a call that was killed
            half_written.unlink()
    bad: dict[Path, str] = {}
    results = run_isolated(do_job, jobs.values(), workers, timeout_s=timeout_s)
    for number, (job, result) in enumerate(results, 1):
        done = Done("unreadable", f"{job.source} {result.message}") if isinstance(result, Failure) else result
        if done.kind == "stop":
            raise ValueError(done.reason)
        report.media[done.kind] += 1
        if done.kind == "unreadable":
            bad[job.target] = done.reason
        progress(f"{report.dataset}: media", number, len(jobs))
    return bad


def _refuse_collisions(base: Path, jobs: Mapping[Path, MediaJob]) -> None:
    """Refuse names that differ only in case, such as YouTube ids, on a disk that ignores case."""
    folded: dict[str, Path] = {}
    for target in jobs:
        other = folded.setdefault(str(target).casefold(), target)
        if other != target and _ignores_case(base):
            raise ValueError(
                f"{other} and {target} differ only in upper and lower case, and the disk of {base} does "
                "not distinguish these. Use a --root on another disk"
            )


def _ignores_case(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    lower = folder / f"{PART}case"
    lower.touch()
    try:
        return (folder / lower.name.upper()).exists()
    finally:
        lower.unlink()


def _without_unreadable(
    rows: Sequence[Row], base: Path, bad: dict[Path, str], report: ImportReport
) -> list[Row]:
    kept = []
    for row in rows:
        places = (base / row.task / media.place for media in row.media)
        reason = next((bad[place] for place in places if place in bad), None)
        if reason is None:
            kept.append(row)
        else:
            report.lose(Lost(row.task, row.split, row.name, "unreadable", reason))
    return kept


def _read_prompt(mask: Path) -> Prompt | None:
    from crab_lightning.media import read_mask
    from crab_lightning.segmentation import prompt_of
    from crab_lightning.tasks.spatial_text import FRAME_PX

    return prompt_of(read_mask(mask, FRAME_PX).numpy())


def _finish(
    rows: Sequence[Row], workers: int, timeout_s: float, report: ImportReport, progress: Progress
) -> list[Row]:
    """Complete the rows whose text needs a mask, and return the rows that can be used."""
    from crab_lightning.data.check.pool import Failure, run_isolated

    masks = list(dict.fromkeys(row.mask for row in rows if row.finish is not None and row.mask is not None))
    prompts: dict[Path, Prompt | Failure | None] = {}
    for mask, result in run_isolated(_read_prompt, masks, workers, timeout_s=timeout_s):
        prompts[mask] = result
        progress(f"{report.dataset}: masks", len(prompts), len(masks))
    kept = []
    for row in rows:
        if row.finish is not None:
            prompt = None if row.mask is None else prompts[row.mask]
            if isinstance(prompt, Failure):
                kind, reason = "unreadable", f"its mask {row.mask} {prompt.message}"
            else:
                kind, reason = "unusable", row.finish(row.values, prompt) or ""
            if reason:
                report.lose(Lost(row.task, row.split, row.name, kind, reason))
                continue
        kept.append(row)
    return kept


def _guard(base: Path, importer: Importer, overwrite: bool) -> None:
    """Refuse to replace a manifest that this command did not write, or that was changed after the import."""
    for task in importer.tasks:
        record = base / task / RECORD
        known = _recorded(record)
        for path in sorted((base / task).glob("*.json")):
            if path.name == RECORD or path.stem not in ("train", "test", "weak"):
                continue
            if known.get(path.name) == digest_of(path) or overwrite:
                continue
            changed = path.name in known
            what = "was changed since it was imported" if changed else "was not written by this command"
            raise FileExistsError(
                f"{path} {what}; nothing was done. Use another --root, or --overwrite, which keeps the file "
                f"as {path.name}.before_import"
            )


def _write(
    base: Path,
    importer: Importer,
    rows: Sequence[Row],
    sources: Sequence[Path],
    settings: Settings,
    report: ImportReport,
) -> None:
    """Write the manifests, the list of lost rows and the record of each task."""
    for task in importer.tasks:
        folder = base / task
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / RECORD
        known = _recorded(record)
        manifests: dict[str, str] = {}
        for split in ("train", "test", "weak"):
            mine = [row.values for row in rows if row.task == task and row.split == split]
            path = folder / f"{split}.json"
            stale = path.is_file() and known.get(path.name) != digest_of(path)
            if stale and mine:
                path.replace(free_name(path.with_name(f"{path.name}.before_import")))
            if mine:
                report.at(task, split).written = len(mine)
                replace_text(path, manifest_text(path, mine))
                manifests[path.name] = digest_of(path)
            elif path.is_file() and not stale:
                path.unlink()  # only an earlier import had rows for this manifest
        lost = [one for one in report.lost if one.task == task]
        cells = [("manifest", "id", "what", "reason")]
        cells += [(f"{one.split}.json", one.name, one.kind, one.reason) for one in lost]
        text = "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in cells)
        if lost:
            replace_text(folder / MISSING, text)
        else:
            (folder / MISSING).unlink(missing_ok=True)
        # The record is written last: without it, or with an older one, the import was interrupted.
        written: dict[str, Any] = {
            "made_by": "crab_lightning build import",
            "sources": [str(folder.resolve()) for folder in sources],
            "settings": {key: str(value) for key, value in settings.given().items()},
            "manifests": manifests,
            **report.jsonable(),
        }
        replace_json(record, written, indent=1)


def _recorded(record: Path) -> dict[str, str]:
    """Return the checksums of the manifests that an earlier import has written."""
    if not record.is_file():
        return {}
    remedy = "Remove it, and import again with --overwrite"
    found: dict[str, str] = read_json(record, remedy, "manifests")["manifests"]
    return found
