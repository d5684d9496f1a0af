"""The tiny CLIP and BEATs of LLM+V+A learn to see and hear the synthetic world, as published ones did theirs.

With random encoders a connector has little to pass on, so nothing that it learns could show. The questions
are those that the towers of the mini base model are asked, put to each patch and each piece of sound.
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
    """Asks every patch that a connector would read; the layer behind them is left as it is.

    Args:
        encoder: Says which they are.
        tower: What it has loaded.
    """

    def __init__(self, encoder: ClipVision, tower: nn.Module) -> None:
        super().__init__(tower, encoder.width(tower))
        self.encoder = encoder

    def seen(self, frames: Tensor) -> Tensor:
        """Return ``(B, cells, E)`` of the first frame of each pair ``(B, 2, 3, H, W)``."""
        single = torch.ones(len(frames), dtype=torch.long, device=frames.device)
        return self.encoder.features(self.tower, frames[:, 0], single)


class BeatsTask(nn.Module):
    """Asks every token of a second of sound what is heard in that second."""

    def __init__(self, tower: Beats) -> None:
        super().__init__()
        self.tower = tower
        self.sound = nn.Linear(tower.config.encoder_embed_dim, len(SOUNDS))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, str]:
        """Return the loss and a line of figures."""
        scores = self.sound(self.tower(batch["features"].flatten(0, 1))[0])  # (B * seconds, tokens, sounds)
        clips, _, sounds = batch["sounds"].shape
        labels = batch["sounds"].reshape(clips * CLIP_S, -1, sounds)[:, 0]
        asked = labels[:, None].expand_as(scores)
        loss = F.binary_cross_entropy_with_logits(scores, asked)
        right = ((scores > 0) == (asked > 0)).all(-1).float().mean()
        return loss, f"sound {loss:.4f} right {right:.3f}"


def seconds_of_fbank(audio: Tensor) -> Tensor:
    """Return the filter banks of the seconds of a clip, as LLM+V+A hears them, ``(seconds, M, 128)``."""
    return torch.stack(BeatsAudio("").pieces(audio))


def pretrain_encoders(
    folder: Path | str, *, vision_steps: int = 800, audio_steps: int = 300, seed: int = 1, workers: int = 0
) -> None:
    """Train the encoders of a folder of ``make_tiny_llm_va`` in place.

    Args:
        folder: Holds ``clip`` and ``beats``.
        vision_steps: Steps of CLIP, 12 pictures each.
        audio_steps: Steps of BEATs, 10 clips of four seconds each.
        seed: Decides what they are shown; trees of Mini AV-UIE with other seeds share no clip with it.
        workers: Loader processes.

    Raises:
        FileNotFoundError: If the folder holds no encoders.
        ValueError: If CLIP's patches are not the cells that the world's labels are made for.
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
