"""A tiny AV-UIE v2 tree: two rows in each of the 35 files of all 19 layouts, in the released spelling.

``write_tree(root)`` writes manifests and media (two seconds each); ``manifest(layout, split)`` gives the rows
alone.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from crab_lightning.data.manifests.layout import LAYOUTS
from crab_lightning.data.manifests.reader import read_manifest
from crab_lightning.structures import DatasetSpec, Sample

SECONDS, FPS, RATE_HZ = 2, 10, 16_000
Rows = list[dict[str, Any]]


def _clip(stem: str, video: str = "mp4", audio: str = "mp3") -> dict[str, str]:
    return {"video_path": f"{stem}.{video}", "audio_path": f"{stem}.{audio}"}


def _recognition(
    key: str, names: tuple[str, str], stop: str, audio: str = "wav", folder: str = ""
) -> dict[str, Rows]:
    def rows(split: str) -> Rows:
        made = []
        for i, name in enumerate(names):
            row = _clip(f"{folder.format(split=split)}{split}{i}", audio=audio) | {key: name}
            if split == "train":
                row["label"] = f"Someone moves, a sound is heard. It is <answer>{name}</answer>{stop}"
            made.append(row)
        return made

    return {"train": rows("train"), "test": rows("test")}


def _without(rows: Rows, *keys: str) -> Rows:
    return [{k: v for k, v in row.items() if k not in keys} for row in rows]


def _two_clip() -> dict[str, dict[str, Rows]]:
    a2v = [
        {
            "video1_path": "dog_000001.mp4",
            "video2_path": "bell_000002.mp4",
            "audio_path": "dog_000001.mp3",
            "correct_video": 1,
            "audio_event": "dog barking",
            "video1_event": "dog barking",
            "video2_event": "bell ringing",
            "label": "Barking is heard and the first video shows a dog. <answer>1</answer>.",
        },
        {
            "video1_path": "dog_000003.mp4",
            "video2_path": "bell_000004.mp4",
            "audio_path": "bell_000004.mp3",
            "correct_video": 2,
            "audio_event": "bell ringing",
            "video1_event": "dog barking",
            "video2_event": "bell ringing",
            "label": "A bell rings and the second video shows it. <answer>two</answer>.",
        },
    ]
    v2a = [
        {
            "video_path": f"{name}.mp4",
            "audio1_path": "dog_000001.mp3",
            "audio2_path": "bell_000002.mp3",
            "correct_audio": right,
            "audio1_event": "dog barking",
            "audio2_event": "bell ringing",
            "video_event": name,
            "label": f"It fits. <answer>{right}</answer>.",
        }
        for name, right in (("dog_000001", "one"), ("bell_000002", "two"))
    ]
    return {
        "a2v": {"train": a2v, "test": _without(a2v, "audio_event", "video1_event", "video2_event", "label")},
        "v2a": {"train": v2a, "test": _without(v2a, "video_event", "audio1_event", "audio2_event", "label")},
    }


def _questions() -> dict[str, dict[str, Rows]]:
    music = [
        _clip("00000001")
        | {
            "video_id": "00000001",
            "question_id": number,
            "type": kind,
            "question": question,
            "answer": answer,
            "label": f"Two instruments play. So the answer is <answer> {answer} </answer>.",
        }
        for number, kind, question, answer in (
            (7, '["Audio-Visual", "Counting"]', "How many instruments are sounding?", "two"),
            (8, '["Audio", "Comparative"]', "Is the flute louder than the drum?", "yes"),
        )
    ]
    options = ["motorboat", "bus", "airplane", "it's a train"]
    avqa = [
        _clip("vgg_1")
        | {
            "id": number,
            "video_name": "vgg_1",
            "video_id": 31,
            "question_relation": "Both",
            "question_type": kind,
            "multi_choice": options,
            "question_text": "Which vehicle is it?",
            "answer": answer,
            "label": f"An engine is heard. So the answer is <answer>{text}</answer>.",
        }
        for number, kind, answer, text in ((1, "Which", 1, "bus"), (2, "Come From", "motorboat", "motorboat"))
    ]
    return {
        "avqa": {"train": music, "test": _without(music, "label")},
        "avqa_thu": {"train": avqa, "test": _without(avqa, "label")},
    }


def _events() -> dict[str, dict[str, Rows]]:
    ave = [
        _clip(vid) | {"event": event, "vid": vid, "start_time": start, "end_time": end, "label_content": text}
        for vid, event, start, end, text in (
            ("ave1", "Violin, fiddle", 0, 8, "So it is <event>Violin, fiddle, (0 8)</event>."),
            ("ave2", "Frying (food)", 3, 10, "It is <event> Frying (food) </event>, <range> 3,10 </range>."),
        )
    ]
    unav = [
        _clip("un1")
        | {
            "vid": "un1",
            "label_content": "Therefore, the events are <event>people eating, (0 3)(7 10)</event>"
            "<event>dog barking, (2 5)</event>.",
            "original_label": "<event>people eating, (0 3)(7 10)</event><event>dog barking, (2 5)</event>",
        },
        _clip("un2") | {"vid": "un2", "label_content": "They are <event>man speaking, loud, (0 10)</event>."},
    ]
    llp = [
        _clip(stem)
        | {
            "filename": f"{stem}_0_10",
            "vid": stem,
            "event": event,
            "label_content": f"It is seen and heard. {event}",
        }
        for stem, event in (
            ("llp1", "<visual>Chainsaw,(0 10)</visual><audio>Chainsaw,(0 4),(6 10)</audio>"),
            ("llp2", "<audio_event>Frying_(food),(2 7)</audio_event>"),
        )
    ]
    return {
        "ave": {"train": ave, "test": _without(ave, "label_content")},
        "unav": {"train": unav},
        "avvp": {"train": llp, "test": _without(llp, "label_content")},
        "avcap": {
            "train": [
                _clip(f"cap{i}") | {"video_id": f"cap{i}", "label_content": text}
                for i, text in enumerate(("A man plays a violin.", "A dog barks at a bus."))
            ]
        },
    }


def _images() -> dict[str, dict[str, Rows]]:
    def frame(folder: str, number: int) -> dict[str, str]:
        return {"image_path": f"{folder}/frames/{number}.jpg", "audio_path": f"{folder}/audio.wav"}

    def tested(row: dict[str, Any], **more: Any) -> dict[str, Any]:
        row = {("visual_path" if k == "image_path" else k): v for k, v in row.items()}
        dropped = ("label_content", "output", "idx", "description")
        return {k: v for k, v in row.items() if k not in dropped} | more

    sentence = (
        "The object making the sound is the dog. Its bounding box is [30,40,120,200] and its points are "
    )
    s4 = [
        frame(f"AVS/v1s/clip{i}_0_5000", 0)
        | {
            "vid": f"clip{i}",
            "uid": f"clip{i}",
            "a_obj": "dog",
            "label_content": sentence + "[60,80],[70,120],[90,150].",
        }
        for i in range(2)
    ]
    ms3 = [
        frame("AVS/v1m/pair_1", i)
        | {"vid": "pair", "uid": "pair_1", "a_obj": "dog and man", "frame_idx": i}
        | {"label_content": sentence + "[61,81],[71,121],[91,151]."}
        for i in range(2)
    ]
    ref = [
        frame("REFAVS/media/ref_0_10000", 7)
        | {"vid": "ref_0_10000", "fid": fid, "uid": f"ref_0_10000_{fid}", "idx": 7}
        | {"description": said, "output": text}
        for fid, said, text in (
            (1, "Making the LOUDEST sound", f"<answer>true</answer>. {sentence}[60,80],[70,120],[90,150]."),
            (2, "the silent cat", "<answer>false</answer>. There is no such object."),
        )
    ]
    arig = [
        frame(f"AVS/v1s/clip{i}_0_5000", i)
        | {
            "a_obj": "dog",
            "label_content": f"The sounding object is dog. It is at <obj>(1{i},20)(110,120)</obj>.",
        }
        for i in range(2)
    ]
    return {
        "s4": {"train": s4, "test": [tested(row, frame_idx=3) for row in s4]},
        "ms3": {"train": ms3, "test": [tested(row) for row in ms3]},
        "ref_avs": {
            "train": ref,
            "test": [
                tested(row, object=row["description"], split=subset, frame_idx=7)
                for row, subset in zip(ref, ("test_s", "test_n"), strict=True)
            ],
        },
        "arig": {
            "train": arig,
            "test": [
                tested(row, top_left=[10 + i, 20], bottom_right=[110, 120], frame_idx=i)
                for i, row in enumerate(arig)
            ],
        },
    }


def _ucf() -> dict[str, Rows]:
    rows = [
        _clip(f"{name}/v_{name}_g0{i}_c01", "avi", "wav")
        | {"label": name, "new_label": f"A person moves. <answer>{name.lower()}</answer>"}
        for i, name in enumerate(("ApplyEyeMakeup", "BandMarching"))
    ]
    return {"train": rows, "test": _without(rows, "new_label")}


@lru_cache
def _all() -> dict[str, dict[str, Rows]]:
    faces = ("happy", "sad")
    made = {
        "ks": _recognition("action", ("playing drums", "chopping wood"), ""),
        "ucf": _ucf(),
        "meld": _recognition("Emotion", ("joy", "neutral"), ".", audio="mp3", folder="{split}/"),
        "mer24": {"train": _recognition("discrete", ("worried", "surprise"), ".")["train"]},
        "cremad": _recognition("emotion", faces, "."),
        "mafw": _recognition("emotion", faces, "."),
        "dfew": _recognition("emotion", faces, "."),
        **_two_clip(),
        **_questions(),
        **_events(),
        **_images(),
    }
    return {name: made[name] for name in LAYOUTS}


def manifest(layout: str, split: str) -> Rows:
    """Return a fresh copy of the rows of one file."""
    rows: Rows = json.loads(json.dumps(_all()[layout][split]))
    return rows


def files() -> list[tuple[str, str]]:
    """Return layout and split of every file."""
    return [(name, split) for name, splits in _all().items() for split in splits]


@lru_cache
def media_bytes(extension: str) -> bytes:
    """Return a two-second clip, or a small picture, in the format of an extension."""
    buffer = io.BytesIO()
    samples = (8000 * np.sin(np.arange(SECONDS * RATE_HZ) * 0.2)).astype(np.int16)
    if extension in ("jpg", "png"):
        image = Image.fromarray((np.indices((48, 64)).sum(0) % 256).astype(np.uint8))
        image.save(buffer, {"jpg": "JPEG", "png": "PNG"}[extension])
    elif extension == "wav":
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    elif extension == "mp3":
        with av.open(buffer, "w", format="mp3") as out:
            _encode_audio(out, "mp3", samples)
    else:
        with av.open(buffer, "w", format={"avi": "avi", "mp4": "mp4"}[extension]) as out:
            stream = out.add_stream("mpeg4" if extension == "avi" else "libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(SECONDS * FPS):
                pixels = np.full((48, 64, 3), 12 * i % 256, dtype=np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            out.mux(stream.encode())
    return buffer.getvalue()


def _encode_audio(out: Any, codec: str, samples: np.ndarray) -> None:
    stream = out.add_stream(codec, rate=RATE_HZ, layout="mono")
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
    for part in av.AudioResampler(format=stream.format, layout="mono", rate=RATE_HZ).resample(frame):
        out.mux(stream.encode(part))
    out.mux(stream.encode())


def write_file(root: Path, layout: str, split: str, rows: Any, folder: str | None = None) -> Path:
    """Write one manifest and return its path."""
    path = root / "AVUIE_2" / (folder or layout) / f"{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def media_paths(root: Path, layout: str, rows: Rows, folder: str | None = None) -> list[Path]:
    """Return where the media of some rows belong, masks not included."""
    base = root / "AVUIE_2" / (folder or layout)
    under = {kind: base / folder for kind, folder in LAYOUTS[layout].folders.items()}
    return [
        under.get(key[:5], base) / value
        for row in rows
        for key, value in row.items()
        if key.endswith("_path")
    ]


def write_tree(root: Path, layouts: Iterable[str] = LAYOUTS, *, media: bool = True) -> Path:
    """Write manifests and media of some layouts under ``root``; return ``root``."""
    for layout in layouts:
        for split, rows in _all()[layout].items():
            write_file(root, layout, split, rows)
            paths = media_paths(root, layout, rows)
            masks = [
                p.parent.parent / "labels_rgb" / f"{p.stem}.png"
                for p in paths
                if layout in ("s4", "ms3") and p.suffix == ".jpg"
            ]
            if layout == "ref_avs":
                base = root / "AVUIE_2/ref_avs/REFAVS/gt_mask/ref_0_10000"
                masks = [base / f"fid_{row['fid']}/00007.png" for row in rows]
            for path in (*paths, *masks) if media else ():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(media_bytes(path.suffix[1:]))
    return root


def read(
    root: Path, layout: str, split: Any = "train", check_media: bool = False, **spec: Any
) -> list[Sample]:
    row = DatasetSpec(task="t", layout=layout, **spec)
    return read_manifest(root, layout, row, split, check_media=check_media)


def read_rows(root: Path, layout: str, rows: Any, split: str = "train", **spec: Any) -> list[Sample]:
    write_file(root, layout, split, rows)
    return read(root, layout, split, **spec)


def changed(layout: str, split: str = "train", **change: Any) -> list[dict[str, Any]]:
    rows = manifest(layout, split)
    rows[1] |= change
    return rows
