"""``data points``: compute the coordinates in the training texts of the spatial datasets from masks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from crab_lightning.builder.points import SPATIAL
from crab_lightning.commands.help_text import Options, add_only, positive
from crab_lightning.data.manifests.files import manifest_text
from crab_lightning.files import replace_file
from crab_lightning.spelling import did_you_mean


def run(words: Sequence[str]) -> None:
    """Compute the boxes and points in the training texts of s4, ms3, ref_avs and arig from their masks.

    A box is the smallest one around the mask, and the points are the centres of the three largest inscribed
    circles. The words of a text are kept. A text without coordinates is replaced by a plain sentence. Without
    --write, the command only shows what would change.

    Raises:
        FileNotFoundError: If there is no training file of a spatial dataset.
        ValueError: If a mask is missing. Nothing is written then.
    """
    from crab_lightning.builder.points import rebuild
    from crab_lightning.segmentation.prompts import MAX_IOU

    parser = Options("data points", run)
    add, switch = parser.option, parser.switch
    add("--root", "data root, the folder that contains AVUIE_2/", Path, required=True)
    add_only(parser, f"datasets to change, of {', '.join(SPATIAL)} (default: all that are found)")
    add("--frame", "side of the square frame that coordinates refer to, in pixels", positive, 224)
    add("--max_iou", "largest IoU of two inscribed circles", float, MAX_IOU)
    switch("--write", "write train.json, and keep the earlier file as train.json.before_points")
    args = parser.parse_args(words)
    if wrong := [name for name in args.datasets or () if name not in SPATIAL]:
        near = did_you_mean(wrong[0], SPATIAL)
        parser.error(f"--only names {wrong[0]}{near}; there are: {', '.join(SPATIAL)}")
    names = args.datasets or [n for n in SPATIAL if (args.root / "AVUIE_2" / n / "train.json").is_file()]
    if not names:
        raise FileNotFoundError(
            f"--root {args.root}: there is no AVUIE_2/<dataset>/train.json of {', '.join(SPATIAL)}"
        )
    rebuilt = [rebuild(args.root, name, args.frame, args.max_iou) for name in names]
    for name, result in zip(names, rebuilt, strict=True):
        said = ", ".join(f"{count:,} {what}" for what, count in sorted(result.counts.items()))
        print(f"{name}: {len(result.rows):,} rows: {said}")
        for note in result.notes.values():
            print(f"  {note}")
        if result.example is not None:
            print(f"  before: {result.example[0]}\n  after:  {result.example[1]}")
    if not args.write:
        print("Nothing was written. Add --write to write the files.")
        return
    for result in rebuilt:
        kept = result.path.with_name("train.json.before_points")
        text = manifest_text(result.path, result.rows)
        # A second call must not replace the kept released file with the result of the first call.
        first = None if kept.exists() else kept
        replace_file(result.path, partial(Path.write_text, data=text, encoding="utf-8"), first)
        print(f"Wrote {result.path}; the earlier file is {kept.name}")
