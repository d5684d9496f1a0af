from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from crab_lightning.commands import main
from crab_lightning.inference.loading import device_of, load_run


@pytest.fixture
def run(small: dict[str, Path], tmp_path: Path) -> Path:
    """A run folder after one step, with the state before it under its name."""
    words = [f"--data.root={small['mini']}", f"--model.init_args.pretrained={small['tiny']}", "--only=a2v"]
    words += ["--data.num_workers=0", "--trainer.max_steps=1", f"--run.folder={tmp_path / 'run'}"]
    assert main(["fit", "--config", "demo.yaml", *words]) == 0
    folder = tmp_path / "run" / "checkpoints"
    shutil.copy(folder / "last.ckpt", folder / "previous.ckpt")
    return tmp_path / "run"


def test_the_state_before_a_damaged_one_answers(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged .*; continuing from .*previous\.ckpt\."):
        model, _ = load_run(run, device="cpu")
    saved = torch.load(run / "checkpoints" / "previous.ckpt", weights_only=True)["state_dict"]
    weights = model.state_dict()
    assert saved
    assert all(torch.equal(weights[name], value) for name, value in saved.items())
    (run / "checkpoints" / "previous.ckpt").unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        load_run(run, device="cpu")


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device cuda: this machine has no CUDA device; use cpu"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="device cuda:2: this machine has CUDA devices 0 to 1"):
        device_of("cuda:2")
    with pytest.raises(ValueError, match="device gpu: there is no such device"):
        device_of("gpu")
    assert device_of("cpu") == "cpu"
