"""Pre-training of the tiny CLIP and BEATs of LLM+V+A on labelled pictures and sounds of the synthetic world.

A connector has little to pass on from random encoders, so that its training would have no visible effect. The
labels are those of the towers of the mini base model, for each patch and each second of sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crab_lightning.compat import save_model
from crab_lightning.encoders import Beats, BeatsAudio, ClipVision, load_beats, save_beats
from crab_lightning.mini.pretrain.towers import (
    CELL_PX,
    CLIP_S,
    PictureBatches,
    PictureTask,
    SoundBatches,
    train_task,
)
from crab_lightning.mini.world.sounds import SOUNDS


class ClipTask(PictureTask):
    """Predicts the labels of :class:`PictureTask` from the features that a connector reads.

    Args:
        encoder: Knows which layer of the tower these features come from; later layers are not trained.
        tower: The module that the encoder has loaded.
    """

    def __init__(self, encoder: ClipVision, tower: nn.Module) -> None:
        super().__init__(tower, encoder.width(tower))
        self.encoder = encoder

    def seen(self, frames: Tensor) -> Tensor:
        """Return ``(B, cells, E)`` of the first frame of each pair ``(B, 2, 3, H, W)``."""
        single = torch.ones(len(frames), dtype=torch.long, device=frames.device)
        return self.encoder.features(self.tower, frames[:, 0], single)


class BeatsTask(nn.Module):
    """Predicts from every token of a second of sound what is heard in that second."""

    def __init__(self, tower: Beats) -> None:
        super().__init__()
        self.tower = tower
        self.sound = nn.Linear(tower.config.encoder_embed_dim, len(SOUNDS))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch of :class:`SoundBatches`."""
        scores = self.sound(self.tower(batch["features"].flatten(0, 1))[0])  # (B * seconds, tokens, sounds)
        clips, _, sounds = batch["sounds"].shape
        labels = batch["sounds"].reshape(clips * CLIP_S, -1, sounds)[:, 0]
        return F.binary_cross_entropy_with_logits(scores, labels[:, None].expand_as(scores))


def seconds_of_fbank(audio: Tensor) -> Tensor:
    """Return the filter banks of each second of a waveform, as LLM+V+A reads them, ``(seconds, M, 128)``."""
    return torch.stack(BeatsAudio("").pieces(audio))


def pretrain_encoders(
    folder: Path | str, *, vision_steps: int = 800, audio_steps: int = 300, seed: int = 1, workers: int = 0
) -> None:
    """Train the encoders of a folder of ``make_tiny_llm_va`` in place.

    Args:
        folder: The folder; it holds ``clip`` and ``beats``.
        vision_steps: Optimizer steps of CLIP, with 12 pictures each.
        audio_steps: Optimizer steps of BEATs, with 10 clips of four seconds each.
        seed: Seed of the training data. Mini AV-UIE data with another seed has no clip in common with it.
        workers: Number of loader processes.

    Raises:
        FileNotFoundError: If the folder holds no encoders.
        ValueError: If the patches of CLIP do not have the size of the labelled cells.
    """
    folder = Path(folder)
    for name in ("clip", "beats"):
        if not (folder / name / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}/config.json; give a folder of `model tiny --paradigm llm_va`"
            )
    encoder = ClipVision(str(folder / "clip"))
    vision: Any = encoder.load(torch.float32)
    if vision.config.patch_size != CELL_PX:
        raise ValueError(
            f"{folder / 'clip'} has patches of {vision.config.patch_size} px; labels are made for {CELL_PX}: "
            f"make the folder with --sizes.patch_px {CELL_PX}"
        )
    torch.manual_seed(seed)
    task = ClipTask(encoder, vision)
    train_task(task, PictureBatches(seed, still=True), steps=vision_steps, lr=2e-3, workers=workers)
    save_model(vision, folder / "clip")
    audio = load_beats(folder / "beats")
    hearing = SoundBatches(seed, features=seconds_of_fbank)
    train_task(BeatsTask(audio), hearing, steps=audio_steps, lr=2e-3, workers=workers)
    save_beats(audio, folder / "beats")
