"""Run by test_sharding: three sharded steps on two CPU processes; the first process writes what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from crab_lightning.adapters import AdapterConfig
from crab_lightning.models import OmniModule
from crab_lightning.processing import NativeProcessor
from tests.processing.examples import image_example, video_example


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self.seen.append(float(outputs["loss"]))


def fit(tiny: str, devices: int, folder: Path) -> dict[str, Any]:
    processor = NativeProcessor(tiny)
    batch = processor.collate(
        [processor.encode(video_example(count=2, seconds=1.0)), processor.encode(image_example())]
    )
    prompts = processor.collate([processor.encode(image_example(target=None))])
    torch.manual_seed(0)
    module = OmniModule(
        tiny,
        AdapterConfig(rank=4),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        dtype="float32",
        max_new_tokens=3,
    )
    strategy = ModelParallelStrategy(
        data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
    )
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy if devices > 1 else "auto",
        callbacks=[losses],
        max_steps=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    loaders = [DataLoader([b] * 4, batch_size=None) for b in (batch, prompts)]  # type: ignore[arg-type, list-item]
    trainer.fit(module, loaders[0], loaders)
    trainer.save_checkpoint(folder / f"{devices}.ckpt")
    held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in module.parameters())
    return {
        "rank": trainer.global_rank,
        "losses": losses.seen,
        "share": held / sum(p.numel() for p in module.parameters()),
    }


if __name__ == "__main__":
    out = Path(sys.argv[2])
    seen = fit(sys.argv[1], 2, out)
    if seen["rank"] == 0:
        (out / "seen.json").write_text(json.dumps(seen))
