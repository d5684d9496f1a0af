"""CPU time of short commands, beside the imports that they cannot do without and a plain script.

    python benchmarks/starting.py --root mini_avuie --run runs/demo --rounds 4

``--root`` is a folder of ``python cli.py data mini``, ``--run`` a run of the demo. Each case is a process of
its own, and the cases take turns, since other work on a machine changes the CPU time, too. Set
OMP_NUM_THREADS=1, and do not set PYTHONDONTWRITEBYTECODE: the package would be compiled at every start.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from crab_lightning import OmniModule, load_data
from crab_lightning.configuration.files import compose, found_path

REPO = Path(__file__).resolve().parents[1]

IMPORTS = """
import torch, lightning.pytorch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
"""

STEP = """
import sys
torch.set_num_threads(1)
model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32)
model.requires_grad_(False)
layers = model.model.language_model if hasattr(model.model, "language_model") else model.model
trained = [weight for name, weight in layers.named_parameters() if "_proj.weight" in name]
for weight in trained:
    weight.requires_grad_()
optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
inputs, labels = torch.load(sys.argv[2])
seen = []
def keep(_, args):
    seen.append(args[0])
    return (args[0][:, :0],)
model.lm_head.register_forward_pre_hook(keep)
model(**inputs, use_cache=False)
there = labels[:, 1:] != -100
logits = torch.nn.functional.linear(seen[0][:, :-1][there], model.lm_head.weight)
torch.nn.functional.cross_entropy(logits, labels[:, 1:][there]).backward()
optimizer.step()
"""


def cpu_s(words: list[str], folder: Path) -> float:
    """Run a command in an empty folder and return its CPU time, that of its loader processes included."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")]))
    before = os.times()
    subprocess.run(words, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def main() -> None:
    """Measure, and print the median and the least of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    root, run = args.root.resolve(), args.run.resolve()
    base = found_path(compose(["demo.yaml"])["model"]["init_args"]["pretrained"])
    clip = next((root / "AVUIE_2/avqa/video").glob("*.mp4"))
    with tempfile.TemporaryDirectory() as scratch:
        batch = Path(scratch) / "batch.pt"
        data = load_data("demo.yaml", root=str(root), num_workers=0)
        data.processor = OmniModule(base).processor
        data.setup("fit")
        first = next(iter(data.train_dataloader()))
        torch.save((dict(first.inputs), first.labels), batch)
        one = ["--only=ks", "--data.datasets.ks.limit=1", "--trainer.limit_test_batches=1"]
        cli = [sys.executable, str(REPO / "cli.py")]
        fit = [*cli, "fit", "--config=demo.yaml", f"--data.root={root}"]
        cases = {
            "imports alone": [sys.executable, "-c", IMPORTS],
            "plain script, one step": [sys.executable, "-c", IMPORTS + STEP, base, str(batch)],
            "fit, one step": [*fit, "--trainer.max_steps=1"],
            "ask": [*cli, "ask", f"--checkpoint={run}", "--task=avqa", f"--video={clip}", "--question=Why?"],
            "test, one question": [
                *cli, "test", f"--ckpt_path={run}", f"--data.root={root}", *one, "--run.folder=run"
            ],
        }  # fmt: skip
        taken: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(args.rounds):
            for name, words in cases.items():
                taken[name].append(cpu_s(words, Path(scratch) / "work"))
    bare = statistics.median(taken["imports alone"])
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{name:<24} {middle:6.2f} s  least {min(seconds):6.2f} s  {middle / bare:5.2f} x the imports")


if __name__ == "__main__":
    main()
