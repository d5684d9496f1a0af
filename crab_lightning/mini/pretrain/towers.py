"""First step of the mini base model: its vision and audio towers learn to tell what is where and when.

Every token of a tower is asked what it shows or plays (dense labels from the world's exact truth), through
linear heads that are thrown away afterwards. A few minutes of this replace hours of learning to see from
answers alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from crab_lightning.media import log_mel
from crab_lightning.mini.pretrain.optimizers import Optimizers
from crab_lightning.mini.world.render import box_of, render_audio, render_frames, render_masks
from crab_lightning.mini.world.scenes import FRAME_PX, Motion, Scene, SceneObject, place_objects, rng_for
from crab_lightning.mini.world.sounds import SOUNDS
from crab_lightning.mini.world.sprites import BACKGROUNDS, SPRITES
from crab_lightning.mini.world.vocabulary import CATEGORIES
from crab_lightning.models.checkpoints import towers_of
from crab_lightning.processing.patches import patchify

CELL_PX = 28
CELLS = FRAME_PX // CELL_PX
TOKENS_PER_S = 25
CLIP_S = 4

# The three drawings of one look are one class: identity must not matter.
LOOKS: tuple[str, ...] = tuple(
    dict.fromkeys(s.rsplit("_", 1)[0] if s.startswith("face_") else s for s in SPRITES)
)
_LOOK_OF = {s: LOOKS.index(s.rsplit("_", 1)[0] if s.startswith("face_") else s) for s in SPRITES}


def random_picture(rng: np.random.Generator) -> tuple[Scene, float, float]:
    """Draw a scene of objects, or of one large face or tool, and two times to look at it."""
    if rng.random() < 0.7:
        count = int(rng.integers(1, 4))
        kinds = [int(c) for c in rng.choice(len(CATEGORIES), count, replace=False)]
        objects = place_objects(rng, kinds, duration_s=10)
    else:
        motion = Motion(str(rng.choice(["still", "left_right", "up_down", "circle"])), 0.1, 2.0)  # type: ignore[arg-type]
        sprite = str(rng.choice([s for s in SPRITES if s not in {c.name for c in CATEGORIES}]))
        size = float(rng.uniform(0.3, 0.75))
        x, y = rng.uniform(0.38, 0.62, 2)
        objects = (SceneObject(sprite, "", None, float(x), float(y), size, motion, ((0, 10),)),)
    scene = Scene(objects, 10, background=str(rng.choice(BACKGROUNDS)))
    first = float(rng.uniform(0.0, 8.0))
    return scene, first, first + float(rng.choice([0.0, 0.4, 1.1, 2.0]))


def picture_labels(scene: Scene, first_s: float, second_s: float) -> tuple[Tensor, Tensor]:
    """Return, per cell in raster order, the look shown (0: none) ``(64,)`` and its box ``(64, 4)``."""
    looks = torch.zeros(CELLS, CELLS, dtype=torch.long)
    boxes = torch.zeros(CELLS, CELLS, 4)
    masks = zip(render_masks(scene, first_s), render_masks(scene, second_s), strict=True)
    for obj, pair in zip(scene.objects, masks, strict=True):
        union = pair[0] | pair[1]
        if not union.any():
            continue
        cover = union.reshape(CELLS, CELL_PX, CELLS, CELL_PX).mean((1, 3))
        cells = torch.from_numpy(cover > 0.25)
        looks[cells] = _LOOK_OF[obj.sprite] + 1
        boxes[cells] = torch.tensor([(v + 0.5) / FRAME_PX for v in box_of(pair[0])])
    return looks.flatten(), boxes.reshape(-1, 4)


def random_sound(rng: np.random.Generator) -> tuple[Scene, Tensor]:
    """Draw up to three overlapping sounds and return the scene with its labels ``(tokens, sounds)``."""
    objects = []
    labels = torch.zeros(CLIP_S * TOKENS_PER_S, len(SOUNDS))
    for sound in rng.choice(len(SOUNDS), int(rng.integers(1, 4)), replace=False):
        start, end = sorted(int(t) for t in rng.choice(CLIP_S + 1, 2, replace=False))
        loudness = float(rng.choice([0.35, 1.0, 1.0]))
        objects.append(
            SceneObject(
                "", SOUNDS[sound], heard=((start, end),), loudness=loudness, pitch=int(rng.integers(-1, 2))
            )
        )
        labels[start * TOKENS_PER_S : end * TOKENS_PER_S, sound] = 1.0
    return Scene(tuple(objects), CLIP_S, seed=int(rng.integers(1000))), labels


class PictureBatches(IterableDataset[dict[str, Tensor]]):
    """Endless batches of labelled pictures, made as they are asked for.

    Args:
        seed: Start of the random stream; workers get streams of their own.
        size: Pictures in a batch.
        still: Show one moment twice instead of two.
    """

    def __init__(self, seed: int, size: int = 12, *, still: bool = False) -> None:
        self.seed, self.size, self.still = seed, size, still

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = rng_for(self.seed, "pictures", _worker())
        while True:
            pictures, looks, boxes = [], [], []
            for _ in range(self.size):
                scene, first, second = random_picture(rng)
                second = first if self.still else second
                pictures.append(roughen(render_frames(scene, (first, second)), rng))
                look, box = picture_labels(scene, first, second)
                looks.append(look)
                boxes.append(box)
            yield {"frames": torch.stack(pictures), "looks": torch.stack(looks), "boxes": torch.stack(boxes)}


class SoundBatches(IterableDataset[dict[str, Tensor]]):
    """Endless batches of labelled sounds.

    Args:
        seed: Start of the random stream; workers get streams of their own.
        size: Clips of four seconds in a batch.
        features: What the tower reads of a clip.
    """

    def __init__(self, seed: int, size: int = 10, features: Callable[[Tensor], Tensor] = log_mel) -> None:
        self.seed, self.size, self.features = seed, size, features

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        rng = rng_for(self.seed, "sounds", _worker())
        while True:
            scenes = [random_sound(rng) for _ in range(self.size)]
            waves = [torch.from_numpy(render_audio(scene)) for scene, _ in scenes]
            rough = [wave + 3e-4 * torch.from_numpy(noise(rng, len(wave))) for wave in waves]
            features = torch.stack([self.features(wave) for wave in rough])
            yield {"features": features, "sounds": torch.stack([labels for _, labels in scenes])}


def noise(rng: np.random.Generator, samples: int) -> NDArray[np.float32]:
    """Return unit white noise, ``(S,)``."""
    return rng.standard_normal(samples, dtype=np.float32)


def _worker() -> int:
    info = torch.utils.data.get_worker_info()
    return info.id if info else 0


def roughen(frames: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Leave the traces of a lossy codec, uint8 ``(F, 3, H, W)``."""
    packed = io.BytesIO()
    tall = frames.reshape(-1, *frames.shape[2:])  # one picture of all frames: one call of the coder
    Image.fromarray(tall).save(packed, "JPEG", quality=int(rng.integers(40, 96)))
    return torch.from_numpy(np.array(Image.open(packed)).reshape(frames.shape)).permute(0, 3, 1, 2)


class PictureTask(nn.Module):
    """Asks every token of the vision tower what it shows, the box around that, and where the token lies."""

    def __init__(self, tower: Any, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.look, self.box, self.cell = (
            nn.Linear(width, len(LOOKS) + 1),
            nn.Linear(width, 4),
            nn.Linear(width, 2),
        )
        row, column = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        self.place: Tensor
        self.register_buffer("place", (torch.stack((row, column), -1).reshape(-1, 2) + 0.5) / CELLS)

    def seen(self, frames: Tensor) -> Tensor:
        """Return the tower's tokens of pairs of frames ``(B, 2, 3, H, W)``, ``(B, cells, D)``."""
        patches = torch.cat([patchify(pair)[0] for pair in frames])
        out = self.tower(patches, grid_thw=torch.tensor([[1, 16, 16]] * len(frames)))
        tokens: Tensor = getattr(out, "pooler_output", out).reshape(len(frames), CELLS * CELLS, -1)
        return tokens

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, str]:
        """Return the loss and a line of figures."""
        count = len(batch["looks"])
        seen = self.seen(batch["frames"])
        shown = batch["looks"] > 0
        scores = self.look(seen)
        # One cell in eight shows something: without the weight, "nothing" is learnt first and long.
        weight = torch.ones(scores.shape[-1])
        weight[0] = 0.2
        look = F.cross_entropy(scores.flatten(0, 1), batch["looks"].flatten(), weight)
        box = F.l1_loss(self.box(seen)[shown], batch["boxes"][shown])
        cell = F.l1_loss(self.cell(seen), self.place.expand(count, -1, -1))
        right = (scores.argmax(-1) == batch["looks"])[shown].float().mean()
        line = f"look {look:.3f} right {right:.3f} box {box * FRAME_PX:.2f} px cell {cell:.3f}"
        return look + 4 * box + cell, line


class SoundTask(nn.Module):
    """Asks every token of the audio tower which sounds it holds and how far the clip has run."""

    def __init__(self, tower: Any, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.sound, self.clock = nn.Linear(width, len(SOUNDS)), nn.Linear(width, 1)
        self.time: Tensor
        self.register_buffer("time", (torch.arange(CLIP_S * TOKENS_PER_S) + 0.5) / (CLIP_S * TOKENS_PER_S))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, str]:
        """Return the loss and a line of figures."""
        mel = batch["features"]
        lengths = torch.full((len(mel),), mel.shape[-1])
        after = (lengths - 1) // 2 + 1
        out = self.tower(mel.transpose(0, 1).flatten(1), feature_lens=lengths, aftercnn_lens=after)
        heard = out.last_hidden_state.reshape(len(mel), -1, self.sound.in_features)
        scores = self.sound(heard)
        sound = F.binary_cross_entropy_with_logits(scores, batch["sounds"])
        clock = F.l1_loss(self.clock(heard)[..., 0], self.time.expand(len(heard), -1))
        right = ((scores > 0) == (batch["sounds"] > 0)).all(-1).float().mean()
        return 5 * sound + clock, f"sound {sound:.4f} right {right:.3f} clock {clock:.3f}"


def train_task(
    task: nn.Module, data: IterableDataset[dict[str, Tensor]], *, steps: int, lr: float, workers: int = 1
) -> float:
    """Train a tower and its heads in place, and return the mean loss of the last 50 steps.

    Args:
        task: Returns the loss of a batch and a line to print.
        data: Endless batches.
        steps: Optimizer steps.
        lr: Peak learning rate; a cosine after a short warm-up.
        workers: Loader processes.
    """
    optimizer = Optimizers([(list(task.named_parameters()), lr)], steps)
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    task.train()
    losses: list[float] = []
    for step, batch in zip(range(steps), loader, strict=False):
        loss, line = task(batch)
        loss.backward()
        losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"{type(task).__name__}: step {step + 1} of {steps}, {line}", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


def pretrain_vision(model: Any, *, steps: int, seed: int = 1, lr: float = 2e-3) -> float:
    """Train the vision tower of a thinker in place, and return the mean loss of the last 50 steps."""
    torch.manual_seed(seed)
    task = PictureTask(towers_of(model)[0], model.config.text_config.hidden_size)
    return train_task(task, PictureBatches(seed), steps=steps, lr=lr)


def pretrain_audio(model: Any, *, steps: int, seed: int = 1, lr: float = 2e-3) -> float:
    """Train the audio tower of a thinker in place, and return the mean loss of the last 50 steps."""
    torch.manual_seed(seed)
    task = SoundTask(towers_of(model)[1], model.config.text_config.hidden_size)
    return train_task(task, SoundBatches(seed), steps=steps, lr=lr)
