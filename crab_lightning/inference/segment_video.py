"""The part of ``segment`` that follows objects through a video."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crab_lightning.files import replace_json
from crab_lightning.inference.question import make_sample, put
from crab_lightning.media import VideoClip, probe, read_audio, read_video, write_video
from crab_lightning.segmentation import Prompt, Sam2Tracker
from crab_lightning.segmentation.overlays import painted
from crab_lightning.tasks.masks import MaskMaker

if TYPE_CHECKING:
    from crab_lightning.tasks.segmentation import Segmentation

_SHOWN_S = 0.2
"""A prompt is drawn for this time before and after its frame, in seconds."""


def follow(
    args: argparse.Namespace,
    model: Any,
    data: Any,
    name: str,
    task: Segmentation,
    tracker: Sam2Tracker,
) -> None:
    """Ask about some frames, follow the objects through all frames, and write the masks.

    Args:
        args: Options of ``segment``.
        model: Trained model.
        data: Data module of the run.
        name: Key of the dataset.
        task: Task of the dataset.
        tracker: Follows the objects from the points or the names in the answers, as ``args.by`` says.
    """
    clip = read_clip(args.video, args.fps)
    frames = clip.frames
    asked = asked_frames(len(frames), args.asks)
    with tempfile.TemporaryDirectory() as scratch:
        records = [_ask(args, model, data, name, task, clip, i, Path(scratch)) for i in asked]
    prompts = {r["frame"]: prompt for r in records if (prompt := _prompt(r, args.by)) is not None}
    parts = [range(len(frames))] if args.expression is not None else nearest_parts(asked, len(frames))
    masks = masks_of(frames, prompts, parts, tracker)
    for record in records:
        part = next(part for part in parts if record["frame"] in part)
        record["holds_for_frames"] = [part.start, part.stop - 1]
    _write(args, clip, masks, prompts)
    content = {
        "video": str(args.video),
        "expression": args.expression,
        "task": data.datasets[name].task,
        "dataset": name,
        "sam2": args.sam2,
        "masks_made_of": args.by,
        "width_px": frames.shape[3],
        "height_px": frames.shape[2],
        "times_s": [round(t, 4) for t in clip.times_s.tolist()],
        "asked": records,
        "mask_pixels": masks.flatten(1).sum(1).tolist(),
    }
    replace_json(args.out / "answer.json", content, indent=1)
    for record in records:
        print(f"{record['time_s']:.1f} s: {record['answer']}" + _remark(record, record["frame"] in prompts))
    found = int(masks.flatten(1).any(1).sum())
    print(f"{args.out}: overlay.mp4, masks/ ({len(masks)} frames, an object in {found}), answer.json")


def read_clip(video: Path, fps: float | None) -> VideoClip:
    """Read all frames of a video in full size, or about ``fps`` of them for each second."""
    total = read_video(video, 1, 8).total_frames
    wanted = total
    if fps is not None:
        duration_s = probe(video).duration_s or read_video(video, 1, 8).duration_s
        wanted = min(total, max(1, round(duration_s * fps)))
    return read_video(video, wanted, None)


def asked_frames(frames: int, asks: int) -> list[int]:
    """Return the middle frame of each of ``asks`` equal parts of a video, without repeated frames."""
    return sorted({int((i + 0.5) * frames / asks) for i in range(asks)})


def nearest_parts(asked: Sequence[int], frames: int) -> list[range]:
    """Divide a video into one part for each asked frame, to which the frames nearest to it belong."""
    cuts = [0, *((a + b) // 2 + 1 for a, b in pairwise(asked)), frames]
    return [range(a, b) for a, b in pairwise(cuts)]


def masks_of(
    frames: Tensor,
    prompts: Mapping[int, Prompt],
    parts: Sequence[range],
    tracker: Sam2Tracker,
) -> Tensor:
    """Return a mask for every frame, bool ``(F, H, W)``. Parts without a prompt have empty masks.

    Args:
        frames: uint8 ``(F, 3, H, W)``.
        prompts: Prompts by frame number, in pixels of the frame.
        parts: Parts of the video. In each, one object is followed.
        tracker: Follows the objects.
    """
    masks = torch.zeros(len(frames), *frames.shape[-2:], dtype=torch.bool)
    done = 0
    for part in parts:
        here = {i - part.start: prompt for i, prompt in prompts.items() if i in part}
        if not here:
            continue
        for i, mask in tracker.track(frames[part.start : part.stop], here):
            masks[part.start + i] = mask
            done += 1
            if done % 25 == 0:
                print(f"{done} frames", file=sys.stderr, flush=True)
    return masks


def _ask(
    args: argparse.Namespace,
    model: Any,
    data: Any,
    name: str,
    task: Segmentation,
    clip: VideoClip,
    number: int,
    scratch: Path,
) -> dict[str, Any]:
    """Ask about one frame, and return its record for answer.json."""
    picture = clip.frames[number]
    file = scratch / f"{number}.png"
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file)
    sound = args.audio or args.video
    # A track may end a few milliseconds before the last frame.
    moment_s = min(float(clip.times_s[number]), probe(sound).duration_s or float("inf"))
    texts = {} if args.expression is None else {"expression": args.expression}
    spec = data.datasets[name]
    answer = put(model, data, make_sample(name, spec, [], file, [sound], moment_s, texts, scratch))
    parsed = task.parse(answer.text, answer.sample, spec)
    cut_off = answer.truncated and parsed is None
    absent = parsed is not None and parsed.absent
    prompt = None if parsed is None or absent else MaskMaker.prompt(parsed, picture)
    return {
        "frame": number,
        "time_s": round(float(clip.times_s[number]), 4),
        "answer": answer.text,
        "status": "cut off at the token limit" if cut_off else task.read(answer.text).status,
        "box_xyxy_px": None if prompt is None or prompt.box_xyxy_px is None else list(prompt.box_xyxy_px),
        "points_xy_px": [] if prompt is None else [list(point) for point in prompt.points_xy_px],
        "names": [] if absent else list(task.names(answer.text, answer.sample)),
    }


def _prompt(record: Mapping[str, Any], by: str) -> Prompt | None:
    """Return the box, points or names of an answer as a prompt; ``None`` if it has none of these."""
    box = record["box_xyxy_px"] if by != "name" else None
    points = record["points_xy_px"] if by != "name" else ()
    names = record["names"] if by != "points" else ()
    prompt = Prompt(None if box is None else tuple(box), tuple(tuple(p) for p in points), tuple(names))
    return prompt if prompt or prompt.names else None


def _remark(record: Mapping[str, Any], used: bool) -> str:
    if used:
        return ""
    why = "it has no name" if record["status"] == "ok" else record["status"]
    return f" ({why}: no mask)"


def _write(args: argparse.Namespace, clip: VideoClip, masks: Tensor, prompts: Mapping[int, Prompt]) -> None:
    """Write the video with the masks drawn over it, and every mask as a picture."""
    folder = args.out / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*.png"):  # from an earlier, longer video
        old.unlink()
    times = clip.times_s - clip.times_s[0]
    shown = clip.frames.permute(0, 2, 3, 1).numpy().copy()
    for i, mask in enumerate(masks.numpy()):
        near = [n for n in prompts if abs(float(times[n] - times[i])) <= _SHOWN_S]
        prompt = prompts[min(near, key=lambda n: abs(n - i))] if near else None
        shown[i] = painted(shown[i], mask, prompt)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{i:05d}.png", compress_level=1)
    info = probe(args.video)
    sound = args.audio or args.video
    rate_hz = probe(sound).sample_rate_hz
    audio = read_audio(sound, rate_hz) if rate_hz else None
    if audio is not None and args.audio is None:
        audio = audio[round(float(clip.times_s[0]) * rate_hz) :]  # the overlay begins with its first picture
    write_video(
        args.out / "overlay.mp4", shown, args.fps or info.fps or 25.0, audio, rate_hz or 16_000,
        times_s=times.tolist(),
    )  # fmt: skip
