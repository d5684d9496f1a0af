"""Examples with random media of the released sizes, made in memory."""

from __future__ import annotations

import torch

from crab_lightning.structures import Conversation, Example, Media, Sample

SIZE_PX = 224


def sample(key: str, dataset: str = "ave") -> Sample:
    return Sample(id=f"{dataset}/{key}", dataset=dataset, task="event_localization", split="train", clip=key)


def frames(count: int, seed: int = 0, size_px: int = SIZE_PX) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8, generator=generator)


def sound(seconds: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(seconds * 16_000), generator=generator) * 0.1


def video_example(
    key: str = "v",
    *,
    target: str | None = "a dog barks",
    count: int = 10,
    seconds: float = 10.0,
    seed: int = 0,
) -> Example:
    talk: Conversation = ("This is a video and an audio:", Media.VIDEO, Media.AUDIO, "Please describe.")
    return Example(
        sample(key),
        talk,
        target,
        videos=[frames(count, seed)],
        audios=[sound(seconds, seed)],
        seconds_per_grid=[2.0],
    )


def image_example(key: str = "i", *, target: str | None = "here", seed: int = 1) -> Example:
    talk: Conversation = ("This is an image and an audio:", Media.IMAGE, Media.AUDIO, "Where is it?")
    return Example(sample(key, "s4"), talk, target, images=[frames(1, seed)[0]], audios=[sound(1.0, seed)])
