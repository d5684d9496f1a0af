"""A tiny data root, tasks and a processor, written by hand so that this room is tested on its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import MetricCollection

from crab_lightning.media import write_audio, write_video
from crab_lightning.processing import Geometry
from crab_lightning.structures import (
    AudioWindow,
    Batch,
    Conversation,
    DatasetSpec,
    Encoded,
    Example,
    Media,
    Sample,
)
from crab_lightning.tasks.base import Task

SIZE_PX = 28
CLIPS = 12
HZ = 16_000


class Pair(Task[str]):
    """A task that asks about all media of a sample, whatever they are."""

    def __init__(self, media: Sequence[str] = ("video", "audio")) -> None:
        self.media = [Media(kind) for kind in media]

    def prompt(self, sample: Sample) -> Conversation:
        return ("Look:", *self.media, "What is it?")

    def direct(self, sample: Sample) -> str:
        return self.truth(sample, DatasetSpec("", ""))

    def truth(self, sample: Sample, spec: DatasetSpec) -> str:
        fields = sample.fields
        return str(next(fields[key] for key in ("class_name", "event", "object", "match") if key in fields))

    def parse(self, text: str, sample: Sample, spec: DatasetSpec) -> str | None:
        return text or None

    def metrics(self, spec: DatasetSpec) -> MetricCollection:
        return MetricCollection({})

    def update(
        self, metrics: MetricCollection, answer: str | None, sample: Sample, spec: DatasetSpec
    ) -> None:
        return

    def class_names(self, samples: Sequence[Sample]) -> list[str] | None:
        return sorted({self.truth(sample, DatasetSpec("", "")) for sample in samples})


class Letters:
    """A processor whose tokens are the characters of a text, with a few numbers that tell what was seen."""

    def __init__(self, geometry: Geometry = "released") -> None:
        self.geometry: Geometry = geometry

    def encode(self, example: Example) -> Encoded:
        text = "".join(part if isinstance(part, str) else f"<{part.value}>" for part in example.conversation)
        ids = [ord(c) for c in text + (example.target or "")]
        labels = None
        if example.target is not None:
            labels = torch.tensor([-100] * len(text) + [ord(c) for c in example.target])
        sounds = sum(float(audio.abs().sum()) for audio in example.audios)
        pictures = [p.float() for p in (*example.videos, *example.images)]
        shown = sum(float((p - 128).abs().sum()) for p in pictures)
        seconds = float(sum(example.seconds_per_grid))
        heard = float(sum(len(a) for a in example.audios))
        facts = torch.tensor([sounds, shown, seconds, heard], dtype=torch.float64)
        return Encoded({"input_ids": torch.tensor(ids), "facts": facts}, labels, example.sample)

    def collate(self, items: Sequence[Encoded], repeated: Sequence[bool] | None = None) -> Batch:
        width = max(len(item.inputs["input_ids"]) for item in items)
        ids = torch.zeros(len(items), width, dtype=torch.long)
        for row, item in zip(ids, items, strict=True):
            row[: len(item.inputs["input_ids"])] = item.inputs["input_ids"]
        labels = None if items[0].labels is None else torch.where(ids > 0, ids, -100)
        return Batch(
            {
                "input_ids": ids,
                "attention_mask": (ids > 0).long(),
                "facts": torch.stack([item.inputs["facts"] for item in items]),
            },
            labels,
            [item.sample for item in items],
            list(repeated or [False] * len(items)),
        )

    def decode(self, token_ids: Sequence[int] | Tensor) -> str:
        return "".join(chr(int(i)) for i in token_ids)


TASKS: dict[str, Task[Any]] = {
    "recognition": Pair(),
    "localization": Pair(),
    "listening": Pair(("audio", "video", "video")),
    "watching": Pair(("video", "audio", "audio")),
    "segmentation": Pair(("image", "audio")),
}

DATASETS: dict[str, DatasetSpec] = {
    "ks": DatasetSpec("recognition", "ks", frames=4, size_px=SIZE_PX),
    "mer24": DatasetSpec("recognition", "mer24", frames=2, size_px=SIZE_PX, audio=AudioWindow("head")),
    "a2v": DatasetSpec("listening", "a2v", frames=4, size_px=SIZE_PX),
    "v2a": DatasetSpec("watching", "v2a", frames=4, size_px=SIZE_PX),
    "s4": DatasetSpec("segmentation", "s4", size_px=SIZE_PX, audio=AudioWindow("one_unit", units=5)),
    "arig": DatasetSpec("segmentation", "arig", size_px=SIZE_PX, audio=AudioWindow("units", units=5)),
}


def write_root(root: Path) -> Path:
    """Write manifests of six datasets and the media of a few recordings that they share by hard links."""
    rng = np.random.default_rng(0)
    source = root / "source"
    source.mkdir(parents=True)
    for i in range(CLIPS):
        frames = rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        write_video(source / f"{i}.mp4", torch.from_numpy(frames), 4.0)
        seconds = 1 + 0.1 * i
        tone = 0.5 * np.sin(2 * np.pi * (200 + 40 * i) * np.arange(int(seconds * HZ)) / HZ)
        write_audio(source / f"{i}.wav", torch.from_numpy(tone.astype(np.float32)))
        Image.fromarray(frames[0]).save(source / f"{i}.jpg")

    def put(dataset: str, name: str, clip: int) -> None:
        path = root / "AVUIE_2" / dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.hardlink_to(source / f"{clip}{path.suffix}")

    def save(dataset: str, split: str, rows: list[dict[str, Any]]) -> None:
        path = root / "AVUIE_2" / dataset / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))

    for dataset, key in (("ks", "action"), ("mer24", "discrete")):
        rows = []
        for i in range(CLIPS):
            put(dataset, f"video/{i}.mp4", i)
            put(dataset, f"audio/{i}.wav", i)
            names = {"video_path": f"{i}.mp4", "audio_path": f"{i}.wav"}
            rows.append({**names, key: f"class{i % 3}", "label": f"It moves. <answer>class{i % 3}</answer>"})
        save(dataset, "train", rows if dataset == "mer24" else rows[:9])
        if dataset == "ks":
            save(dataset, "test", rows[9:])
    for dataset in ("a2v", "v2a"):
        rows = []
        for i in range(0, CLIPS - 1, 2):
            one, two = ("video", "audio") if dataset == "a2v" else ("audio", "video")
            for kind, ending in (("video", "mp4"), ("audio", "wav")):
                put(dataset, f"{kind}/{i}.{ending}", i)
                put(dataset, f"{kind}/{i + 1}.{ending}", i + 1)
            ends = {"video": "mp4", "audio": "wav"}
            rows.append(
                {
                    f"{one}1_path": f"{i}.{ends[one]}",
                    f"{one}2_path": f"{i + 1}.{ends[one]}",
                    f"{two}_path": f"{i}.{ends[two]}",
                    f"correct_{one}": "1",
                    f"{two}_event": "hum",
                    f"{one}1_event": "hum",
                    f"{one}2_event": "buzz",
                    "label": "The first one. <answer>1</answer>.",
                }
            )
        save(dataset, "train", rows[:4])
        save(dataset, "test", rows[4:])
    for dataset in ("s4", "arig"):
        rows, tests = [], []
        for i in range(CLIPS):
            clip = f"AVS/v1s/clip{i}_0_5000"
            put(dataset, f"{clip}/audio.wav", i)
            for frame in range(2):
                put(dataset, f"{clip}/frames/{frame}.jpg", i)
                common = {
                    "audio_path": f"{clip}/audio.wav",
                    "vid": f"clip{i}",
                    "uid": f"clip{i}",
                    "a_obj": "drum",
                }
                rows.append(
                    {
                        **common,
                        "image_path": f"{clip}/frames/{frame}.jpg",
                        "label_content": "A drum [0,0,9,9].",
                    }
                )
                tests.append(
                    {
                        **common,
                        "visual_path": f"{clip}/frames/{frame}.jpg",
                        "frame_idx": frame,
                        "top_left": [0, 0],
                        "bottom_right": [9, 9],
                    }
                )
        save(dataset, "train", rows[:-4])
        save(dataset, "test", tests[-4:])
    return root
