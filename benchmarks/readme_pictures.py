"""Draws the pictures of the README from one trained and tested run with the demo's callbacks.

python benchmarks/readme_pictures.py runs/demo --out docs/_static

It writes ``dashboard.png`` (curves of the TensorBoard files and test scores), ``timeline.png`` (events over
frames and spectrogram), ``masks.png`` and ``router.png``. Every file is smaller than 150 kB.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from crab_lightning.dashboards.figures import clips
from crab_lightning.dashboards.figures.media import load
from crab_lightning.dashboards.figures.sheet import GREY, RIGHT, SAID, TRUE, png
from crab_lightning.data import AVDataModule
from crab_lightning.evaluation.prediction_files import read_records
from crab_lightning.metrics.scale import read_scale
from crab_lightning.reports.run_page import read_curves
from crab_lightning.reports.runs import find_results
from crab_lightning.studies.run_data import data_of

MOST_BYTES = 150_000
WIDTH_PX = 1100
CURVES = (
    ("loss per target token", {"train/loss": "training", "val/loss": "validation"}),
    ("mean of the primary metrics (0 to 1), validation", {"val/mean/headline": "validation"}),
    ("learning rate", {"train/lr": "learning rate"}),
    ("gradient norm", {"train/grad_norm": "gradient norm"}),
    ("tokens per second", {"train/tokens_per_s": "tokens per second"}),
    ("samples per second", {"train/samples_per_s": "samples per second"}),
)
"""Titles, and the curves in each; the first five that the run has are drawn."""


def dashboard(run: Path) -> bytes:
    """Return the curves of a run beside its test scores as PNG bytes."""
    from matplotlib.figure import Figure

    curves = read_curves(run)
    shown = [entry for entry in CURVES if any(tag in curves for tag in entry[1])][:5]
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    for axes, (title, tags) in zip(figure.subplots(2, 3).flat, [*shown, ("", {})], strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e9ee", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        if not tags:
            _scores(axes, run)
            continue
        for (tag, label), colour in zip(tags.items(), (TRUE, SAID), strict=False):
            if points := curves.get(tag):
                axes.plot(
                    *zip(*points, strict=True),
                    color=colour,
                    label=label,
                    marker="." if len(points) < 9 else "",
                )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("optimizer step", fontsize=8)
        if len(tags) > 1:
            axes.legend(fontsize=8, frameon=False)
    return png(figure)


def _scores(axes: Any, run: Path) -> None:
    """Draw the primary metric of every dataset, and that of the most frequent answer, as bars."""
    rows = [(n, e) for n, e in find_results(run, "test").datasets.items() if e.get("headline")]
    for place, (_, entry) in enumerate(rows):
        scale = read_scale(entry, entry["headline"])
        for key, height, colour, label in (
            ("strict", 0.75, RIGHT, "the run"),
            ("majority", 0.3, GREY, "most frequent training answer"),
        ):
            share = scale.share((entry.get(key) or {}).get(entry["headline"]))
            if share is not None:
                axes.barh(place, 100 * share, height, color=colour, label=label)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title("primary metric of the test, times 100", fontsize=10, loc="left")
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(labels.values(), labels, fontsize=7, frameon=False, loc="upper center", ncols=2,
                bbox_to_anchor=(0.4, -0.08))  # fmt: skip


def timeline(run: Path, data: AVDataModule, datasets: Sequence[str]) -> bytes:
    """Return the answer with the most true events of each dataset among the best ones, as PNG bytes."""
    cards = []
    for name in datasets:
        records = read_records(run / "predictions" / f"{name}.jsonl")
        best = max(
            records, key=lambda r: (round(r.get("score") or 0, 1), len(clips.events_of(r["truth"]) or ()))
        )
        sample = next(s for s in data.samples("test") if s.id == best["id"])
        cards.append(clips.ClipCard(best, load(sample), None, 10))
    return png(clips.clip_sheet("Events: true times and answered times", cards))


def small(content: bytes) -> bytes:
    """Return a picture at most :data:`WIDTH_PX` wide, in as many colours as fit into :data:`MOST_BYTES`."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if picture.width > WIDTH_PX:
        height = round(picture.height * WIDTH_PX / picture.width)
        picture = picture.resize((WIDTH_PX, height), Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32, 16):
        out = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() < MOST_BYTES:
            return out.getvalue()
    raise ValueError(f"the picture has {out.tell()} bytes with 16 colours; at most {MOST_BYTES} are allowed")


def main() -> None:
    """Draw all pictures."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the README from one run.")
    parser.add_argument("run", type=Path, help="folder of a run that was trained and tested with demo.yaml")
    parser.add_argument("--out", type=Path, default=Path("docs/_static"), help="folder to write")
    parser.add_argument("--masks", default="ms3", help="dataset whose masks are shown (default: ms3)")
    parser.add_argument("--events", nargs="+", default=["ave", "avvp"], help="datasets of the timeline")
    args = parser.parse_args()
    routes = sorted(args.run.glob("figures/val/step-*/routes.png"))
    if not routes:
        raise FileNotFoundError(f"{args.run} has no figures/val/step-*/routes.png; train it with demo.yaml")
    pictures = {
        "dashboard": dashboard(args.run),
        "timeline": timeline(args.run, data_of(args.run, args.events), args.events),
        "masks": (args.run / "figures" / f"{args.masks}_masks.png").read_bytes(),
        "router": routes[-1].read_bytes(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        path = args.out / f"{name}.png"
        path.write_bytes(small(content))
        print(f"Wrote {path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
