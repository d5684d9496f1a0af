"""Does a model learn the same from a data root that `build import` has made as from the original?

    PYTHONPATH=. python benchmarks/rebuilt.py --work FOLDER [--clips 800] [--epochs 2]

Mini AV-UIE is written, then written back into the forms in which the owners of the 17 datasets publish
theirs, and imported with the importers of `build import`. The demo's model is fine-tuned on the original
(with two seeds: how far these two lie apart is what chance does) and on the rebuilt root. All three are
tested on the test files of the original. The owners' files hold no reasoning, so the training texts of all
three are the bare answers.

A call that was stopped goes on where it was. ``comparison.md`` in the work folder holds the table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import yaml

from crab_lightning.builder import Settings, import_dataset
from crab_lightning.commands import main as cli
from crab_lightning.configuration.files import compose
from crab_lightning.mini import write_mini
from tests.builder.official import WRITERS, Tree


def rebuild(original: Path, owners: Path, rebuilt: Path) -> None:
    """Write a Mini tree into the official forms, and import them all."""
    tree = Tree(original)
    pairs, test_pairs = (sum(len(tree.rows(t, s)) for t in ("a2v", "v2a")) for s in ("train", "test"))
    settings = {
        "unav": Settings(all_clips=True),  # Mini's events are what the paper's rule would keep
        "vgg_cm": Settings(pairs=pairs, test_pairs=test_pairs),
        "ref_avs": Settings(frames=1),  # Mini asks about one frame of an expression
        "avs": Settings(frames=1),
    }
    for name, write in WRITERS.items():
        write(tree, owners / name)
        report = import_dataset(name, [owners / name], rebuilt, settings.get(name), workers=0)
        for count in report.splits:
            print(f"{count.task} {count.split}: {count.written} of {count.rows} rows", flush=True)


def config_of(root: Path, epochs: int, seed: int) -> dict[str, object]:
    """Return the demo's config for bare answers, without masks, with its clips decoded once."""
    config = compose(["demo.yaml"])
    data, trainer = dict(config["data"]), dict(config["trainer"])
    data["datasets"] = {key: row | {"target": "direct"} for key, row in data["datasets"].items()}
    for task in ("segmentation", "referring_segmentation"):
        data["tasks"][task] = {
            "class_path": data["tasks"][task]["class_path"],
            "init_args": {"mask_decoder": None, "ceiling": False},
        }
    data |= {"root": str(root), "num_workers": 0, "cache": str(root / "cache"), "val_generate_per_dataset": 0}
    trainer |= {"max_epochs": epochs, "callbacks": None, "enable_progress_bar": False}
    return config | {"data": data, "trainer": trainer, "seed_everything": seed}


def main() -> None:
    """Make both roots, fit, test, compare."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    made.add_argument("--clips", type=int, default=800, help="clips of Mini AV-UIE")
    made.add_argument("--epochs", type=int, default=2, help="epochs of each run")
    args = made.parse_args()
    began = time.process_time()
    original, rebuilt = args.work / "original", args.work / "rebuilt"
    if not (args.work / "rebuilt.json").is_file():
        write_mini(original, args.clips, seed=0, workers=0, progress=False, overwrite=True)
        rebuild(original, args.work / "owners", rebuilt)
        (args.work / "rebuilt.json").write_text(json.dumps({"seconds": time.process_time() - began}))
    runs = {"original": (original, 0), "rebuilt": (rebuilt, 0), "original-other-seed": (original, 1)}
    for name, (root, seed) in runs.items():
        folder = args.work / "runs" / name
        path = args.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config_of(root, args.epochs, seed), sort_keys=False))
        if not (folder / "predictions" / "ave.jsonl").is_file():
            words = ["--config", str(path), "--run.folder", str(folder)]
            assert cli(["fit", *words, "--ckpt_path", "auto"]) == 0
            # Sets without a test file are scored on rows held back from training, other ones in each root.
            tested = [path.parent.name for path in original.glob("AVUIE_2/*/test.json")]
            more = ["--data.root", str(original), f"--data.only=[{','.join(tested)}]"]
            assert cli(["test", *words, *more, "--ckpt_path", str(folder)]) == 0
        print(f"{name}: {time.process_time() - began:.0f} s of processor time in this call", flush=True)
    folders = [str(args.work / "runs" / name) for name in runs]
    out = args.work / "comparison.md"
    assert cli(["compare", *folders, "--format", "markdown", "--out", str(out)]) == 0
    print(out.read_text())


if __name__ == "__main__":
    main()
