"""Run by test_sharding on two CPU processes, and by the test itself on one: a short fit on mixed media."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.utils.data import DataLoader

from crab_lightning.adapters import AdapterConfig
from crab_lightning.distributed.shares import whole_shape
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from crab_lightning.structures import Batch, Conversation, Example, Media
from tests.processing.examples import frames, sample, sound

SIDE = 28
PROCESSES = 2
RESUMED = (("ddp", "fsdp1"), ("fsdp1", "fsdp2"))


def example(key: str, kinds: str, target: str | None = "here", seed: int = 0) -> Example:
    """Return an example with a medium for each letter: ``v`` video, ``i`` image, ``a`` sound."""
    names = {"v": Media.VIDEO, "i": Media.IMAGE, "a": Media.AUDIO}
    talk: Conversation = ("Given:", *(names[kind] for kind in kinds), "What is it?")
    count = {kind: range(kinds.count(kind)) for kind in names}
    return Example(
        sample(key),
        talk,
        target,
        videos=[frames(2, seed + i, SIDE) for i in count["v"]],
        images=[frames(1, seed + i, SIDE)[0] for i in count["i"]],
        audios=[sound(0.5, seed + i) for i in count["a"]],
        seconds_per_grid=[2.0] * len(count["v"]),
    )


# The batches of each process, step by step: no sound on one, no picture on the other, two clips, words alone.
LEARNT = [
    [
        [example("a", "i"), example("b", "i", "a longer answer", 1)],
        [example("c", "a", "yes", 2), example("d", "va", "a dog barks at a cat", 3), example("e", "vv")],
    ],
    [[example("f", "", "no")], [example("g", "via", "a drum", 4)]],
]
ASKED = [
    [[example("h", "va", None, 5), example("i", "", None), example("j", "vv", None, 6)]],
    [[example("k", "i", None, 7)]],
]


class Recording(OmniModule):
    """Keeps gradients as they are before clipping."""

    def configure_gradient_clipping(self, *args: Any, **options: Any) -> None:
        found = {}
        root = getattr(self, "fsdp1_root", (None,))[0]
        whole = FSDP.summon_full_params(root, writeback=False, with_grads=True) if root else nullcontext()
        with whole:
            for name, p in self.named_parameters():
                if p.grad is not None:
                    found[name] = (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
        self.gradients = [*getattr(self, "gradients", []), found]
        super().configure_gradient_clipping(*args, **options)


class Recorder(Callback):
    """Keeps answers."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}

    def on_validation_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        for prediction in outputs.get("predictions", ()):
            self.answers[prediction.sample.id] = [prediction.text, prediction.tokens]


def fit(
    tiny: str,
    folder: Path,
    batches: Sequence[Batch],
    prompts: Sequence[Batch],
    ckpt: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    torch.manual_seed(0)
    module = Recording(
        tiny,
        AdapterConfig(rank=4, within=None),
        lambda p: torch.optim.AdamW(p, lr=0.01, eps=0.1),  # a large eps keeps noise small
        warmup_share=0.0,
        dtype="float32",
        geometry="plain",
        max_new_tokens=4,
    )
    read_whole: list[str] = []
    original = OmniModule.load_base

    def load_base(self: OmniModule) -> torch.nn.Module:
        base = original(self)
        read_whole.extend(name for name, p in base.named_parameters() if not p.is_meta)
        return base

    module.load_base = types.MethodType(load_base, module)  # type: ignore[method-assign]
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[recorder],
        max_epochs=1 if ckpt is None else 2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        gradient_clip_val=0.5,
        use_distributed_sampler=False,
        **options,
    )
    train, val = (DataLoader(list(b), batch_size=None) for b in (batches, prompts))  # type: ignore[arg-type]
    trainer.fit(module, train, val, ckpt_path=ckpt)
    trainer.save_checkpoint(folder / "state.ckpt")
    if hasattr(module, "fsdp1_root"):  # its padding counts
        held = sum(flat.numel() for unit in FSDP.fsdp_modules(module.fsdp1_root[0]) for flat in unit.params)
    else:
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in module.parameters())
    return {
        "rank": trainer.global_rank,
        "gradients": module.gradients,
        "answers": recorder.answers,
        "loss": float(trainer.callback_metrics["train/loss"]),
        "read_whole": len(read_whole),
        "share": held / sum(whole_shape(p).numel() for p in module.parameters()),
    }


def main(tiny: str, out: Path, strategies: Sequence[str]) -> None:
    """Fit under each strategy; every process writes what it saw."""
    import os

    rank = int(os.environ["RANK"])
    processor = NativeProcessor(tiny, "plain")
    own = [processor.collate([processor.encode(e) for e in step[rank]]) for step in LEARNT]
    prompts = [processor.collate([processor.encode(e) for e in batch]) for batch in ASKED[rank]]
    for strategy in strategies:
        folder = out / strategy
        folder.mkdir(exist_ok=True)
        seen = fit(tiny, folder, own, prompts, strategy=strategy, devices=PROCESSES)
        torch.save(seen.pop("gradients"), folder / f"gradients_{rank}.pt")
        (folder / f"seen_{rank}.json").write_text(json.dumps(seen))
    for before, after in RESUMED:
        folder = out / f"{before}_{after}"
        folder.mkdir(exist_ok=True)
        ckpt = out / before / "state.ckpt"
        fit(tiny, folder, own, prompts, ckpt=ckpt, strategy=after, devices=PROCESSES)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
