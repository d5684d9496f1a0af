"""Reads the results of a run for the HTML page: scores, curves, and wrong answers with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from crab_lightning.configuration.files import read_yaml
from crab_lightning.configuration.sections import one_dataset, read_rows_of
from crab_lightning.data.manifests.layout import display_name
from crab_lightning.files import path_given, replace_text
from crab_lightning.media import MediaError, log_mel, read_audio, read_image, read_video
from crab_lightning.reports.page import Card, DatasetPart, Page, Still, render
from crab_lightning.reports.runs import FinishedRun, find_results
from crab_lightning.structures import Sample
from crab_lightning.templates import picture_uri

_FRAMES, _SIDE_PX = 4, 112


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    split: str = "test",
    failures: int = 6,
    root: Path | None = None,
) -> Path:
    """Write the results of a run on one HTML page, as ``cli.py report`` does.

    Args:
        run: A run folder with results.
        out: File to write. By default, ``report.html`` in the run folder.
        split: Split whose results are shown.
        failures: Number of wrong answers shown for each dataset, with the worst first.
        root: Data root from which the pictures are read. By default, that of the run's config.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If there is no such run, or it has no results.
        ValueError: If the run has no results of the split, or a file of it cannot be read.
    """
    folder = Path(path_given("run", run, "a run folder with results"))
    found, notes = find_results(folder, split), list[str]()
    config = _config(found)
    root = root or _root(found, config, notes)
    datasets = [_part(found, name, config, root, failures) for name in found.datasets]
    summary = found.summary
    answers = sum(entry["counts"]["scored"] for entry in found.datasets.values())
    facts = {"split": split, "folder": str(found.folder), "answers": f"{answers:,}"}
    if checkpoint := (summary.get("identity") or {}).get("checkpoint"):
        facts["checkpoint"] = "/".join(Path(checkpoint[0]).parts[-2:])
    names = {"step": "step", "processes": "processes", "answers_per_s": "answers per second"}
    facts |= {name: f"{summary[k]:,}" for k, name in names.items() if summary.get(k)}
    if summary.get("whole_split") is False:
        notes.append("Only a part of the split was tested, so these are not the scores of the benchmark.")
    held_out = [name for name, entry in found.datasets.items() if entry.get("splits") == ["val"]]
    if split == "test" and held_out:
        listed = ", ".join(held_out)
        notes.append(f"There is no test file of {listed}, so these scores are of validation rows.")
    path = found.folder / "report.html" if out is None else Path(out)
    text = render(Page(found.name, facts, summary, datasets, read_curves(found.folder), notes))
    replace_text(path, text)
    print(f"Wrote {path} ({len(text.encode()) / 2**20:.2f} MiB)")
    return path


def read_curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Read the scalars in a run's TensorBoard files, with those of single datasets at the end."""
    if not list(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 500})
    events.Reload()
    # Tags with a dataset (<split>/<task>/<dataset>/<metric>) come last.
    tags = sorted(events.Tags()["scalars"], key=lambda tag: (tag.count("/") > 2, tag))
    curves = {tag: [(float(e.step), float(e.value)) for e in events.Scalars(tag)] for tag in tags}
    return {tag: points for tag, points in curves.items() if tag not in ("epoch", "hp_metric")}


def _config(run: FinishedRun) -> Path | None:
    """Return the config with which the results were made: that of the test, or else that of the run."""
    stage = "test" if run.split == "test" else "validate"
    return next((p for n in (f"config.{stage}.yaml", "config.yaml") if (p := run.folder / n).is_file()), None)


def _root(run: FinishedRun, config: Path | None, notes: list[str]) -> Path | None:
    if config is None:
        notes.append(
            f"The page has no pictures, because {run.folder} has no config.yaml that names a"
            f" data root. Give --root."
        )
        return None
    content = read_yaml(config) or {}
    root = Path(str((content.get("data") or {}).get("root", "")))
    if not root.is_dir():
        notes.append(
            f"The page has no pictures, because the run's data root {root} does not exist. Give --root."
        )
        return None
    return root


def _part(run: FinishedRun, dataset: str, config: Path | None, root: Path | None, most: int) -> DatasetPart:
    entry, records = run.datasets[dataset], run.records(dataset)
    scored = sorted(
        (r for r in records if r.get("score") is not None and r["score"] < 1),
        key=lambda r: (r["score"], r["id"]),
    )
    shown, title = (
        (scored, "Answers with the lowest scores")
        if any(r.get("score") is not None for r in records)
        else (
            sorted(records, key=lambda r: (r.get("parsed") is not None, r["id"])),
            "Answers, unreadable ones first",
        )
    )
    return DatasetPart(
        dataset,
        display_name(dataset, entry["layout"]),
        entry,
        records,
        _cards(shown[:most], dataset, config, root),
        title,
        _sheet(run.folder / "figures" / f"{dataset}_masks.png") if run.split == "test" else "",
    )


def _sheet(path: Path) -> str:
    """Return the picture of the callback MaskSheets as a data URI, or an empty text if there is none."""
    if not path.is_file():
        return ""
    pixels = read_image(path, None)
    height, width = pixels.shape[-2:]
    shown = min(1100, width)
    return _jpeg(pixels.permute(1, 2, 0).contiguous(), (shown, round(height * shown / width)))


def _cards(
    records: Sequence[dict[str, Any]], dataset: str, config: Path | None, root: Path | None
) -> list[Card]:
    if not records:
        return []
    samples: dict[str, Sample] = {}
    why = ""
    if root is not None:
        try:
            samples = _samples(dataset, config, root, records)
        except (ValueError, OSError) as err:
            why = f"no pictures: {err}"
    cards = []
    for record in records:
        sample = samples.get(record["id"])
        if sample is None:
            bare = why or (
                "" if root is None else "no pictures: the sample is not in this data root's manifest"
            )
            cards.append(Card(record, why_bare=bare))
        else:
            stills, lost = sample_stills(sample)
            cards.append(Card(record, stills, lost))
    return cards


def _samples(
    dataset: str, config: Path | None, root: Path, records: Sequence[dict[str, Any]]
) -> dict[str, Sample]:
    """Return the samples by id, from the manifest to which the answers belong."""
    data = one_dataset(str(config or "data/av_uie_v2.yaml"), root, dataset)
    of_train = all(str(r["id"]).startswith(f"{dataset}/train/") for r in records)
    _, _, asked = read_rows_of(data, dataset, of_train)
    return {sample.id: sample for sample in asked}


def sample_stills(sample: Sample) -> tuple[list[Still], str]:
    """Decode pictures of a sample: frames of its videos, its images, and spectrograms of its sounds.

    Returns:
        The pictures, and the errors of files that cannot be read (empty if there are none).
    """
    stills: list[Still] = []
    lost: list[str] = []
    for path in (*sample.videos, *sample.images, *sample.audios):
        try:
            if path in sample.videos:
                clip = read_video(path, _FRAMES, _SIDE_PX)
                for frame, second in zip(clip.frames, clip.times_s.tolist(), strict=True):
                    stills.append(
                        Still(_jpeg(frame.permute(1, 2, 0)), "frame", f"{path.name}, {second:.1f} s")
                    )
            elif path in sample.images:
                stills.append(Still(_jpeg(read_image(path, 224).permute(1, 2, 0)), "image", path.name))
            else:
                mel = log_mel(read_audio(path)).flip(0)  # (mel, M), high pitch above
                low, high = mel.min(), mel.max()
                grey = 255 * (1 - (mel - low) / (high - low).clamp_min(1e-6))
                about = f"{path.name}, spectrogram"
                stills.append(Still(_jpeg(grey.byte(), (480, 56)), "sound", about, mel.shape[-1] / 100))
        except (MediaError, OSError) as err:
            lost.append(str(err))
    return stills, "; ".join(lost)


def _jpeg(pixels: Any, size_px: tuple[int, int] | None = None) -> str:
    """Return uint8 pixels ``(H, W)`` or ``(H, W, 3)`` as a data URI."""
    picture = Image.fromarray(pixels.numpy())
    return picture_uri(picture if size_px is None else picture.resize(size_px), quality=82)
