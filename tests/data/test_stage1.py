"""Stage 1's data: published layouts, broken rows reported, whole clips on one side of the split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from crab_lightning.data import CaptionDataModule, CaptionSource, ManifestError, read_captions, read_segments
from crab_lightning.structures import Media
from tests.data.world import Letters

CLIPS = [f"{i}.mp4" for i in range(12)]


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


def source(root: Path, tmp_path: Path, rows: list[Any], **options: Any) -> tuple[CaptionSource, Path]:
    kind = options.setdefault("format", "video_llava")
    path = tmp_path / "rows.json"
    if kind == "video_llava":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return CaptionSource(str(path), media=str(root / "source"), size_px=28, frames=2, **options), root


def test_video_llava_rows_become_questions_about_their_media(root: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": "0.jpg", "conversations": talk("<image>\nWhat is it?", "A square.")},
        {
            "id": "b",
            "video": "1.mp4",
            "conversations": talk("Describe. <video>", "It moves.", "Fast?", "No."),
        },
    ]
    samples = read_captions("llava", *source(root, tmp_path, rows)).samples
    assert [s.id for s in samples] == ["llava/0", "llava/1-0", "llava/1-1"]
    assert [s.target for s in samples] == ["A square.", "It moves.", "No."]
    assert samples[0].images == (root / "source" / "0.jpg",)
    assert samples[2].fields["asked"] == "<video>\nFast?"
    assert samples[1].clip == samples[2].clip


BROKEN = [
    ({"image": "none.jpg", "conversations": talk("<image>\nx", "y")}, "none.jpg does not exist"),
    ({"conversations": talk("x", "y")}, "names neither image nor video"),
    ({"image": "0.jpg", "conversations": talk("x", "y")}, r"0 places <image> for 1 file\."),
    ({"image": "0.jpg", "conversations": talk("<image>\nx")}, "questions and answers in turn"),
    ({"image": "0.jpg", "conversations": talk("<image>\nx", " ")}, "value is ' '; a text"),
    ({"image": 3, "conversations": talk("<image>\nx", "y")}, "image is 3; a path"),
    ("text", "it is a str, not an object"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_broken_row_is_named_with_its_reason(root: Path, tmp_path: Path, row: Any, message: str) -> None:
    good = {"image": "0.jpg", "conversations": talk("<image>\nx", "y")}
    with pytest.raises(
        ManifestError, match=rf"data\.sources\.llava: .* has 1 unusable row, first: row 1: .*{message}"
    ):
        read_captions("llava", *source(root, tmp_path, [good, row]))
    found = read_captions("llava", *source(root, tmp_path, [good, row], allow_broken=1))
    assert len(found.samples) == len(found.broken) == 1


def test_audio_captions_are_a_json_object_to_a_line(root: Path, tmp_path: Path) -> None:
    rows = [{"audio": "0.wav", "caption": "A hum."}, '{"audio": "1.wav", "capt\n', {"audio": "2.wav"}]
    chosen = source(root, tmp_path, rows, format="audio_captions", allow_broken=2)
    found = read_captions("audio", *chosen)
    assert [(s.audios[0].name, s.target) for s in found.samples] == [("0.wav", "A hum.")]
    assert [line.split(":")[0] for line in found.broken] == ["row 1", "row 2"]
    assert found.broken[0].startswith("row 1: it is not JSON: ")


def test_segment_list_chooses_clips(root: Path, tmp_path: Path) -> None:
    lines = "# YTID, start_seconds, end_seconds, positive_labels\n"
    lines += '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
    (tmp_path / "list.csv").write_text(lines)
    (segment,) = read_segments(tmp_path / "list.csv")
    assert (segment.recording, segment.start_s, segment.end_s) == ("--PJHxphWEs", 30.0, 40.0)
    assert segment.labels == ("/m/09x0r", "/t/dd00088")
    rows = [{"audio": "0.wav", "caption": "a", "id": "--PJHxphWEs"}, {"audio": "1.wav", "caption": "b"}]
    chosen = source(root, tmp_path, rows, format="audio_captions", segments=str(tmp_path / "list.csv"))
    found = read_captions("audio", *chosen)
    assert ([s.target for s in found.samples], found.unlisted) == (["a"], 1)
    (tmp_path / "list.csv").write_text(lines + "x, 1.0\n")
    with pytest.raises(ManifestError, match=r"list\.csv, line 3: .* is not a segment"):
        read_segments(tmp_path / "list.csv")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.json cannot be read"):
        read_captions("x", CaptionSource("none.json", "video_llava"), tmp_path)


def test_module_serves_batches_and_keeps_a_clip_on_one_side(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"video": c, "conversations": talk("<video>\nWhat?", "It.", "And?", "No.")} for c in CLIPS]
    rows.append({"video": "none.mp4", "conversations": talk("<video>\nWhat?", "It.")})
    chosen, _ = source(root, tmp_path, rows, allow_broken=1)
    data = CaptionDataModule(root, {"llava": chosen}, batch_size=4, val_share=0.25)
    data.processor = Letters()
    data.setup("fit")
    clips = {split: {s.clip for s in data.samples(split)} for split in ("train", "val")}
    assert clips["val"]
    assert not clips["train"] & clips["val"]
    batches = list(data.train_dataloader())
    assert sum(map(len, batches)) == len(data.samples("train"))
    assert all(batch.labels is not None for batch in batches)
    losses, prompts = data.val_dataloader()
    assert sum(map(len, losses)) == len(data.samples("val"))
    assert len(prompts) == 0
    task = data.tasks["describe"]
    assert task.prompt(data.samples("train")[0])[0] is Media.VIDEO
