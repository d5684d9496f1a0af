"""The shortest runs that are whole: two batches of one dataset, in this process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from crab_lightning.commands import main


def quick(small: dict[str, Path], function: str, *words: Any) -> int:
    """Run a function on the tiny model; return its exit status."""
    options = {
        "data.root": small["mini"],
        "model.init_args.pretrained": small["tiny"],
        "model.init_args.max_new_tokens": 4,
        "data.num_workers": 0,
        "data.batch_size": 1,
        "data.val_share": 0.3,
        "data.epoch_size": 2,
        "data.val_generate_per_dataset": 1,
        "trainer.max_epochs": 1,
        "trainer.limit_train_batches": 2,
        "trainer.limit_val_batches": 1,
        "trainer.limit_test_batches": 1,
        "trainer.callbacks": "[]",
        "trainer.enable_progress_bar": "false",
        "evaluator.print_table": "false",
        "only": "ave",
    }
    line = [function, "--config", "demo.yaml", *(f"--{k}={v}" for k, v in options.items())]
    return main([*line, *map(str, words)])


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, the lock left out."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
