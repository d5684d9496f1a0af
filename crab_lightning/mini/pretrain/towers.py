"""Pre-training of the vision tower and the audio tower of the mini base model on labelled data.

The synthetic world knows what each cell of a picture and each moment of a sound holds. Every token of a tower
is trained to report this through linear heads, which are not kept. A few minutes of this training replace
hours in which the towers would learn from the answers of conversations only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from crab_lightning.media import log_mel
from crab_lightning.mini.pretrain.training import train
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

# The three faces of one expression are one class, because the identity of a person must not matter.
LOOKS: tuple[str, ...] = tuple(
    dict.fromkeys(s.rsplit("_", 1)[0] if s.startswith("face_") else s for s in SPRITES)
)
_LOOK_OF = {s: LOOKS.index(s.rsplit("_", 1)[0] if s.startswith("face_") else s) for s in SPRITES}


def random_picture(rng: np.random.Generator) -> tuple[Scene, float, float]:
    """Return a random scene of objects, or of one large face or tool, and two times in seconds."""
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
    """Return the labels of a pair of frames for each cell, row by row.

    Returns:
        int64 ``(64,)``: 1 plus the index in :data:`LOOKS` of what the cell shows, 0 where it shows nothing;
        float ``(64, 4)``: the box of that thing in the first frame, x1, y1, x2, y2 in fractions of the frame.
    """
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
    """Return a random scene of one to three sounds, and labels ``(tokens, sounds)``: 1 where one is heard."""
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
    """Batches of labelled pairs of frames, without an end.

    Args:
        seed: Seed of the random stream; every loader process has a stream of its own.
        size: Number of pairs in a batch.
        still: Whether both frames of a pair show the same moment.
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
    """Batches of labelled sounds, without an end.

    Args:
        seed: Seed of the random stream; every loader process has a stream of its own.
        size: Number of clips of four seconds in a batch.
        features: Turns a waveform ``(S,)`` into the input of the tower.
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
    """Return white noise with a standard deviation of 1, ``(S,)``."""
    return rng.standard_normal(samples, dtype=np.float32)


def _worker() -> int:
    info = torch.utils.data.get_worker_info()
    return info.id if info else 0


def roughen(frames: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Return frames after lossy compression, uint8 ``(F, 3, H, W)``, as a written clip has them."""
    packed = io.BytesIO()
    tall = frames.reshape(-1, *frames.shape[2:])  # one tall picture, so that the encoder is called once
    Image.fromarray(tall).save(packed, "JPEG", quality=int(rng.integers(40, 96)))
    return torch.from_numpy(np.array(Image.open(packed)).reshape(frames.shape)).permute(0, 3, 1, 2)


class WordScores(nn.Module):
    """Scores how much a token points in the direction of the embedding of each word.

    A tower that is trained through these scores reports what it sees or hears in the words of the language
    model. What the language model has learnt to look up by its name in a text, it then finds by the same name
    in pictures and sounds.

    Args:
        words: Embeddings ``(W, D)``; they are not trained.
        blank: Whether a score of 0 stands in front of the others, for a token that holds none of the words.
    """

    def __init__(self, words: Tensor, *, blank: bool = False) -> None:
        super().__init__()
        self.words: Tensor
        self.register_buffer("words", F.normalize(words.detach().float(), dim=-1))
        self.bias = nn.Parameter(torch.zeros(len(words)))
        self.blank = blank

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores ``(..., W)`` of tokens ``(..., D)``, or ``(..., 1 + W)`` with the blank."""
        scores = 20 * tokens @ self.words.T + self.bias
        return F.pad(scores, (1, 0)) if self.blank else scores


class PictureTask(nn.Module):
    """Predicts from every token of a vision tower what it shows, the box of that thing and its own place.

    Args:
        tower: The vision tower.
        width: Width of its tokens.
        words: Embeddings of :data:`LOOKS` for :class:`WordScores`; a linear layer is used without them.
        digits: Whether the box is predicted as the digits of its four coordinates in pixels, as the language
            model has to write it, and not as four numbers.
    """

    def __init__(self, tower: Any, width: int, words: Tensor | None = None, *, digits: bool = False) -> None:
        super().__init__()
        self.tower, self.digits = tower, digits
        self.look = nn.Linear(width, len(LOOKS) + 1) if words is None else WordScores(words, blank=True)
        self.box, self.cell = nn.Linear(width, 4 * 3 * 10 if digits else 4), nn.Linear(width, 2)
        row, column = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
        self.place: Tensor
        self.register_buffer("place", (torch.stack((row, column), -1).reshape(-1, 2) + 0.5) / CELLS)

    def seen(self, frames: Tensor) -> Tensor:
        """Return the tokens ``(B, cells, D)`` of pairs of frames ``(B, 2, 3, H, W)``."""
        patches = torch.cat([patchify(pair)[0] for pair in frames])
        out = self.tower(patches, grid_thw=torch.tensor([[1, 16, 16]] * len(frames)))
        tokens: Tensor = getattr(out, "pooler_output", out).reshape(len(frames), CELLS * CELLS, -1)
        return tokens

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch of :class:`PictureBatches`."""
        seen = self.seen(batch["frames"])
        shown = batch["looks"] > 0
        scores = self.look(seen)
        # One cell in eight shows something. Without the weight, the tower first learns to report nothing.
        weight = torch.ones(scores.shape[-1])
        weight[0] = 0.2
        look = F.cross_entropy(scores.flatten(0, 1), batch["looks"].flatten(), weight)
        boxes, told = batch["boxes"][shown], self.box(seen)[shown]
        if self.digits:
            pixels = (boxes * FRAME_PX - 0.5).round().long()
            digits = pixels[..., None] // torch.tensor([100, 10, 1]) % 10
            box = F.cross_entropy(told.reshape(-1, 10), digits.flatten())
        else:
            box = F.l1_loss(told, boxes)
        cell = F.l1_loss(self.cell(seen), self.place.expand(len(seen), -1, -1))
        return look + 4 * box + cell


class SoundTask(nn.Module):
    """Predicts from every token of an audio tower which sounds it holds and how far the clip has run.

    Args:
        tower: The audio tower.
        words: Embeddings ``(sounds, D)`` of :data:`SOUNDS` for :class:`WordScores`.
    """

    def __init__(self, tower: Any, words: Tensor) -> None:
        super().__init__()
        self.tower = tower
        self.sound, self.clock = WordScores(words), nn.Linear(words.shape[1], 1)
        self.time: Tensor
        self.register_buffer("time", (torch.arange(CLIP_S * TOKENS_PER_S) + 0.5) / (CLIP_S * TOKENS_PER_S))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the loss of a batch of :class:`SoundBatches`."""
        mel = batch["features"]
        lengths = torch.full((len(mel),), mel.shape[-1])
        after = (lengths - 1) // 2 + 1
        out = self.tower(mel.transpose(0, 1).flatten(1), feature_lens=lengths, aftercnn_lens=after)
        heard = out.last_hidden_state.reshape(len(mel), len(self.time), -1)
        sound = F.binary_cross_entropy_with_logits(self.sound(heard), batch["sounds"])
        clock = F.l1_loss(self.clock(heard)[..., 0], self.time.expand(len(heard), -1))
        return 5 * sound + clock


def train_task(
    task: nn.Module, data: IterableDataset[dict[str, Tensor]], *, steps: int, lr: float, workers: int = 1
) -> float:
    """Train a tower with its heads in place, and return the mean loss of the last 50 steps.

    Args:
        task: Returns the loss of a batch.
        data: Batches without an end.
        steps: Number of optimizer steps.
        lr: Peak learning rate.
        workers: Number of loader processes.
    """
    groups = [(list(task.named_parameters()), lr)]
    name = type(task).__name__
    return train(name, task, groups, lambda batch, _: task(batch), data, steps=steps, workers=workers)


def embeddings(model: Any, tokenizer: Any, names: Sequence[str]) -> Tensor:
    """Return the embeddings ``(W, D)`` of the words of looks or sounds, without the kind before ``_``."""
    words = [tokenizer(" " + name.rsplit("_", 1)[-1])["input_ids"][0] for name in names]
    embedded: Tensor = model.get_input_embeddings().weight[words]
    return embedded


def pretrain_vision(
    model: Any, tokenizer: Any, *, steps: int, seed: int = 1, lr: float = 2e-3, digits: bool = False
) -> float:
    """Train the vision tower of a thinker in place, and return the mean loss of the last 50 steps.

    Args:
        model: The thinker.
        tokenizer: Its tokenizer.
        steps: Number of optimizer steps.
        seed: Seed of the heads and of the pictures.
        lr: Peak learning rate.
        digits: As in :class:`PictureTask`.
    """
    torch.manual_seed(seed)
    words = embeddings(model, tokenizer, LOOKS)
    task = PictureTask(towers_of(model)[0], words.shape[1], words, digits=digits)
    return train_task(task, PictureBatches(seed), steps=steps, lr=lr)


def pretrain_audio(model: Any, tokenizer: Any, *, steps: int, seed: int = 1, lr: float = 2e-3) -> float:
    """Train the audio tower of a thinker in place, and return the mean loss of the last 50 steps."""
    torch.manual_seed(seed)
    task = SoundTask(towers_of(model)[1], embeddings(model, tokenizer, SOUNDS))
    return train_task(task, SoundBatches(seed), steps=steps, lr=lr)
