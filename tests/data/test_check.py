from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import av
import pytest

from crab_lightning.data.check.files import FileJob, Findings, inspect_file
from crab_lightning.data.check.pool import Failure, run_isolated
from crab_lightning.data.check.report import CheckReport
from crab_lightning.data.check.rows import check_annotations
from crab_lightning.data.check.run import check_root
from crab_lightning.media import write_video
from crab_lightning.structures import AudioWindow, DatasetSpec
from crab_lightning.tasks import ActionRecognition, EventLocalization, Segmentation
from tests.data.trees import manifest, write_file, write_tree
from tests.evaluation.fakes import CLASSES, Naming, sample
from tests.media.clips import moving_texture, tone

TASKS: dict[str, Any] = {
    "action": ActionRecognition(),
    "event": EventLocalization(),
    "segmentation": Segmentation(),
}
DATASETS = {
    "ks": DatasetSpec("action", "ks"),
    "ave": DatasetSpec("event", "ave"),
    "s4": DatasetSpec("segmentation", "s4", audio=AudioWindow("one_unit", units=5)),
}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root without a fault; read-only."""
    root = write_tree(tmp_path_factory.mktemp("check"), DATASETS)
    tests = root / "AVUIE_2/s4/test.json"
    (clips := root / "AVUIE_2/s4/AVS/v1s").rename(clips.with_name("train"))
    shutil.copytree(clips.with_name("train"), clips.with_name("test"))
    for path in (tests, tests.with_name("train.json")):
        path.write_text(path.read_text().replace("AVS/v1s/", f"AVS/{path.stem}/"))
    for suffix in ("mp4", "wav", "jpg", "mp3"):
        for number, path in enumerate(sorted(root.rglob(f"*.{suffix}"))):
            path.write_bytes(path.read_bytes() + bytes(number))  # of another length, so never a copy
    return root


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "root"))


def check(root: Path, *names: str, **options: Any) -> CheckReport:
    return check_root(root, TASKS, {name: DATASETS[name] for name in names or ("ks", "s4")}, **options)


def kinds(report: CheckReport) -> list[tuple[str, str, int]]:
    return [(p.kind, p.split, p.row) for p in report.problems if p.level == "error"]


def edit(root: Path, dataset: str, split: str, *changes: tuple[int, dict[str, Any]]) -> None:
    rows = manifest(dataset, split)
    for row, values in changes:
        rows[row] |= values
    write_file(root, dataset, split, rows)


@pytest.mark.parametrize("decode", [False, True])
def test_a_sound_root_has_no_error(clean: Path, decode: bool) -> None:
    report = check(clean, decode=decode)
    assert kinds(report) == []
    train = next(t for t in report.totals if (t.dataset, t.split) == ("ks", "train"))
    assert (train.rows, train.files, len(train.tokens), len(train.seconds)) == (2, 4, 2, 2)
    assert train.seconds == pytest.approx([2.0, 2.0])


def test_every_bad_value_of_a_row_and_every_bad_row_is_listed(root: Path) -> None:
    edit(
        root,
        "ks",
        "train",
        (0, {"video_path": "../escape.mp4", "audio_path": 7, "label": ""}),
        (1, {"action": None}),
    )
    found = [p for p in check(root, "ks").problems if p.kind == "row"]
    assert [p.row for p in found] == [0, 0, 0, 1]
    assert [key for p in found[:3] for key in ("video_path", "audio_path", "label") if key in p.message] == [
        "video_path",
        "audio_path",
        "label",
    ]


def test_a_broken_manifest_does_not_hide_the_other_datasets(root: Path) -> None:
    (root / "AVUIE_2/ks/train.json").write_text("[{]")
    (root / "AVUIE_2/s4/AVS/train").rename(root / "away")
    found = kinds(check(root))
    assert ("manifest", "train", -1) in found
    assert {kind for kind, _, _ in found} == {"manifest", "missing"}


def test_every_row_with_missing_media_is_listed(root: Path) -> None:
    for path in (root / "AVUIE_2/ks/video").iterdir():
        path.unlink()
    expected = [("missing", split, row) for split in ("train", "test") for row in (0, 1)]
    assert kinds(check(root, "ks")) == expected


def test_answers_that_cannot_be_read_back_are_errors(root: Path) -> None:
    edit(root, "ks", "train", (1, {"label": "Someone chops wood."}))
    (problem,) = [p for p in check(root, "ks").problems if p.level == "error"]
    assert (problem.kind, problem.row) == ("grammar", 1)
    assert "no answer can be read" in problem.message


def test_an_answer_that_contradicts_its_annotation_is_a_warning(root: Path) -> None:
    edit(root, "ks", "train", (1, {"label": "<answer>playing drums</answer>"}))
    report = check(root, "ks")
    assert kinds(report) == []
    assert ("contradiction", 1) in [(p.kind, p.row) for p in report.problems]


@pytest.mark.parametrize(
    ("wrong", "level", "said"),
    [
        (
            {"direct": lambda *_: None},
            "error",
            r"Wrong\.direct returns None; it must return",
        ),
        ({"direct": lambda *_: 3}, "error", r"Wrong\.direct returns 3; it must return"),
        (
            {"truth": lambda *_: "dog"},
            "warning",
            r"parse returns a value of type int, and Wrong\.truth one of type str",
        ),
        ({"truth": lambda *_: 2}, "warning", "the annotation 'horn'"),
    ],
)
def test_a_method_of_a_task_that_returns_something_else_is_named(
    wrong: dict[str, Any], level: str, said: str
) -> None:
    shown = {"jsonable": lambda self, answer: CLASSES[answer] if isinstance(answer, int) else answer}
    task = type("Wrong", (Naming,), {**shown, **wrong})()
    row = sample("a", 0, "train", "", "dog")
    (found,) = check_annotations(task, [row], DatasetSpec("naming", "x"))
    assert found.level == level
    assert re.search(said, found.message)
    assert ("of type" in found.message) == ("of type" in said)
    if level == "error":
        with pytest.raises(ValueError, match=said):
            task.target(row, "direct")


def test_frames_that_cannot_be_decoded_are_named(root: Path) -> None:
    video = next((root / "AVUIE_2/ks").rglob("*.mp4"))
    write_video(video, moving_texture(200), 25, tone(8.0))
    with av.open(str(video)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    video.write_bytes(video.read_bytes().replace(packets[150], bytes(len(packets[150]))))
    assert not [p for p in check(root, "ks").problems if p.kind == "media"]
    found = [p for p in check(root, "ks", decode=True).problems if p.kind == "media"]
    assert {p.level for p in found} == {"warning"}
    assert f"{video}: 1 frame of 200 cannot be decoded and will be left out" in found[0].message


def test_a_class_that_only_the_test_rows_have_is_named(root: Path) -> None:
    edit(root, "ks", "test", (1, {"action": "Playing-Drums"}))
    messages = [p.message for p in check(root, "ks").problems if p.kind == "classes"]
    assert any("'Playing-Drums' of 1 test row " in text for text in messages)
    assert any("'Playing-Drums', 'playing drums' may be the same class" in text for text in messages)


def test_recordings_on_both_sides_are_counted_and_named_but_no_error(root: Path) -> None:
    train, test = manifest("ks", "train"), manifest("ks", "test")
    write_file(root, "ks", "test", [{**test[0], "video_path": train[0]["video_path"]}, test[1]])
    report = check(root, "ks")
    assert kinds(report) == []
    whole, one = (p for p in report.problems if p.kind == "leak_clip")
    name = train[0]["video_path"].removesuffix(".mp4")
    assert (whole.row, one.row) == (-1, 0)
    assert whole.message.startswith("1 of 2 recordings of its test rows are also in training rows of ks: ")
    assert name in whole.message
    assert "row 0: recording" in one.message
    assert "(row 0 of ks's training rows)" in one.message


def test_a_copy_under_another_name_is_named(root: Path) -> None:
    folder = root / "AVUIE_2/ks/video"
    train, test = manifest("ks", "train"), manifest("ks", "test")
    shutil.copy(folder / train[1]["video_path"], folder / test[0]["video_path"])
    report = check(root, "ks")
    assert kinds(report) == []
    assert ("leak_content", "test", 0) in [(p.kind, p.split, p.row) for p in report.problems]


def test_a_damaged_picture_is_found_by_decoding_only(root: Path) -> None:
    image = next((root / "AVUIE_2/s4/AVS/train").rglob("frames/*.jpg"))
    image.write_bytes(image.read_bytes()[:400])
    assert "media" not in {kind for kind, _, _ in kinds(check(root, "s4"))}
    assert "media" in {kind for kind, _, _ in kinds(check(root, "s4", decode=True))}


def test_a_missing_mask_is_an_error_of_test_rows(root: Path) -> None:
    for mask in (root / "AVUIE_2/s4").rglob("labels_rgb/*.png"):
        mask.unlink()
    found = kinds(check(root, "s4"))
    assert found
    assert {(kind, split) for kind, split, _ in found} == {("mask", "test")}


def test_an_event_beyond_its_clip_is_a_warning(root: Path) -> None:
    report = check(root, "ave")  # clips of 2 s, events up to 10 s
    assert "duration" in {p.kind for p in report.problems if p.level == "warning"}


def test_findings_are_kept_and_only_changed_files_are_looked_at_again(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "findings"
    jobs = [FileJob(p, "video") for p in sorted((root / "AVUIE_2/ks/video").iterdir())]
    first = dict(Findings(path).inspect(jobs, 0, 60))
    with path.open("ab") as file:
        file.write(b'["half a li')  # what a killed check leaves
    lines = path.read_bytes().count(b"[")
    assert dict(Findings(path).inspect(jobs, 0, 60)) == first
    assert path.read_bytes().count(b"[") == lines
    jobs[0].path.write_bytes(b"no video")
    again = dict(Findings(path).inspect(jobs, 0, 60))
    assert again[jobs[0]].kind == "UnreadableMedia"
    assert {j: f for j, f in again.items() if j != jobs[0]} == {j: first[j] for j in jobs[1:]}


def test_report_is_written_whole_as_json(clean: Path, tmp_path: Path) -> None:
    report = check(clean, "ks")
    report.write(tmp_path / "deep" / "report.json")
    content = json.loads((tmp_path / "deep/report.json").read_text())
    assert content["errors"] == 0
    assert content["manifests"][0]["tokens"]["max"] == max(report.totals[0].tokens)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["report.json"]


def treat(job: str) -> str:
    if job == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "hang":
        time.sleep(60)
    if job == "hoard":
        bytearray(2**33)
    if job == "fail":
        raise ValueError("no")
    return job.upper()


def test_children_that_crash_hang_or_hoard_are_reported_and_replaced() -> None:
    jobs = ["a", "crash", "b", "hang", "c", "hoard", "fail", "d"]
    results = dict(run_isolated(treat, jobs, 2, timeout_s=3.0, memory_bytes=2**30))
    failures = {job: r.kind for job, r in results.items() if isinstance(r, Failure)}
    assert failures == {"crash": "crash", "hang": "hang", "hoard": "memory", "fail": "error"}
    assert [results[job] for job in "abcd"] == list("ABCD")


def test_files_are_looked_at_in_children_as_in_this_process(clean: Path) -> None:
    jobs = [FileJob(p, "video", 2) for p in sorted(clean.rglob("*.mp4"))]
    assert dict(run_isolated(inspect_file, jobs, 1)) == {job: inspect_file(job) for job in jobs}


def collected(job: str) -> int:
    return gc.collect()


def test_a_decoder_that_the_parent_has_not_closed_stops_no_child(clean: Path) -> None:
    clip = next(clean.rglob("*.mp4"))
    gc.disable()
    try:
        container = av.open(str(clip))
        container.streams.video[0].thread_type = "AUTO"
        circle: list[Any] = [container, next(container.decode(video=0))]
        circle.append(circle)  # only garbage collection closes it
        del container, circle
        (result,) = dict(run_isolated(collected, ["job"], 1, timeout_s=20)).values()
    finally:
        gc.enable()
    assert not isinstance(result, Failure)
