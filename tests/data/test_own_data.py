"""Every example of docs/own_data.md is read, trained on and scored; rows that cannot be used are named."""

from __future__ import annotations

import json
import re
import wave
from dataclasses import replace
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from crab_lightning.commands import main
from crab_lightning.data import AVDataModule, ManifestError
from crab_lightning.data.check.run import check_root
from crab_lightning.data.loading import SampleError
from crab_lightning.media import write_video
from crab_lightning.structures import SYSTEM_MESSAGE, DatasetSpec, Media, Reply
from tests.data.trees import media_bytes
from tests.data.world import Letters
from tests.tasks.released import CONFIG, task_of

PAGE = (Path(__file__).resolve().parents[2] / "docs/own_data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json (\w+) (\w+)\n(.*?)```", PAGE, re.DOTALL)
TASKS = yaml.safe_load(CONFIG.read_text())["tasks"]


def task(name: str) -> Any:
    if name == "captioning":
        return task_of("avcap")
    made: Any = locate(TASKS[name]["class_path"])
    return made()


def root_with(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    mine = folder / "mine"
    (mine / "clips").mkdir(parents=True, exist_ok=True)
    for name in ("0.mp4", "1.mp4", "0.wav", "0.jpg", "0.png"):
        ending = name.rpartition(".")[2]
        (mine / "clips" / name).write_bytes(media_bytes(ending))
    (mine / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_page_has_an_example_for_every_task() -> None:
    assert {name for layout, name, _ in EXAMPLES if layout == "plain"} >= set(TASKS) - {"emotion_recognition"}
    assert {layout for layout, _, _ in EXAMPLES} == {"plain", "messages"}


@pytest.mark.parametrize(("layout", "name", "text"), EXAMPLES)
def test_every_example_is_learnt_from_tested_and_checked(
    tmp_path: Path, layout: str, name: str, text: str
) -> None:
    row = json.loads(text)
    root_with(tmp_path, [row])
    root_with(tmp_path, [row], "test")
    tasks, specs = {name: task(name)}, {"mine": DatasetSpec(name, layout, frames=2, size_px=28, clip_s=4)}
    data = AVDataModule(tmp_path, tasks, specs, val_share=0)
    sound = np.sin(np.arange(64_000) * 0.2) / 4
    write_video(tmp_path / "mine/clips/0.mp4", np.zeros((8, 32, 32, 3), np.uint8), 2, sound)
    data.processor = Letters()
    data.setup()
    (train,), (test,) = data.samples("train"), data.samples("test")
    asked, spec = tasks[name], data.datasets["mine"]
    truth = asked.truth(train, spec)
    assert truth is not None
    assert asked.parse(asked.target(train, "reasoning"), train, spec) == truth
    assert asked.truth(test, spec) is not None
    metrics = asked.metrics(spec)
    asked.update(metrics, asked.parse(test.target or "", test, spec), test, spec)
    prompt = asked.conversation(train)
    files = (*train.videos, *train.images, *train.audios)
    assert sum(isinstance(part, Media) for part in prompt) == len(files)
    (batch,) = list(data.train_dataloader())
    assert batch.labels is not None
    report = check_root(tmp_path, tasks, specs | {"mine": spec})
    wrong = [
        p for p in report.problems if p.kind not in ("leak_clip", "leak_content", "media", "mask", "duration")
    ]
    assert wrong == []


def _said(*texts: str, system: str = "") -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    head = [{"role": "system", "content": system}] if system else []
    return {"messages": head + turns, "videos": ["clips/0.mp4"]}


@pytest.mark.parametrize("turns", ["every", "last"])
def test_of_several_turns_the_last_is_asked_and_every_one_or_the_last_is_learnt(
    tmp_path: Path, turns: Literal["every", "last"]
) -> None:
    row = _said("<video>What is it?", "a dog", "What colour?", "brown", system=SYSTEM_MESSAGE)
    other = _said("<video>What is it?", "a cat", "What colour?", "black")
    root_with(tmp_path, [row, other])
    root_with(tmp_path, [row, other], "test")
    spec = DatasetSpec("open_answer", "messages", frames=2, size_px=28, turns=turns)
    data = AVDataModule(tmp_path, {"open_answer": task("open_answer")}, {"mine": spec}, val_share=0)
    data.processor = Letters()
    data.setup()
    train, test = data.samples("train")[0], data.samples("test")[0]
    assert len(data.samples("test")) == 2  # another context is another question
    assert train.conversation == (Media.VIDEO, "What is it?", "a dog", "What colour?")
    assert [type(part) for part in train.conversation or ()] == [Media, str, Reply, str]
    assert (test.target, test.fields["answer"]) == ("brown", "brown")
    learning, asking = data.dataset([train], with_target=True), data.dataset([test])
    assert (learning.example(0).target, learning.example(0).learn_replies) == ("brown", turns == "every")
    assert (asking.example(0).target, asking.example(0).learn_replies) == (None, False)


def test_clips_of_several_turns_are_never_joined(tmp_path: Path) -> None:
    row = _said("<video>What is it?", "a dog", "<video>And here?", "a cat")
    row["videos"] *= 2
    root_with(tmp_path, [row])
    data = AVDataModule(
        tmp_path, {"t": task("open_answer")}, {"mine": DatasetSpec("t", "messages", size_px=28)}, val_share=0
    )
    data.processor = Letters()
    data.setup()
    with pytest.raises(SampleError, match=r"several turns .*geometry to 'plain'"):
        data.dataset(data.samples("train"))[0]


def test_without_audio_the_track_of_the_video_is_heard(tmp_path: Path) -> None:
    root_with(tmp_path, [{"video": "clips/0.mp4", "answer": "a"}])
    data = AVDataModule(tmp_path, {"t": task("action_recognition")}, {"mine": DatasetSpec("t", "plain")})
    data.setup()
    (sample,) = data.samples("train")
    assert sample.audios == sample.videos


@pytest.mark.parametrize(
    ("layout", "name", "row", "message"),
    [
        (
            "plain",
            "action_recognition",
            {"video": "clips/0.mp4", "anser": "a"},
            r"row 0 .*key 'answer' is missing \(did you mean 'anser'\?\); the row has: video, anser",
        ),
        ("plain", "event_localization", {"video": "clips/0.mp4"}, r"row 0 .*key 'events' is missing"),
        ("plain", "event_localization", {"events": [{"event": "a"}]}, r"row 0 .*key 'events' is .*start_s"),
        (
            "plain",
            "image_grounding",
            {"image": "clips/0.jpg", "box": [9, 9, 3, 3]},
            r"key 'box' is \[9, 9, 3, 3\]",
        ),
        (
            "plain",
            "question_answering",
            {"video": "clips/0.mp4", "question": "?", "options": ["a", "b"], "answer": "c"},
            r"expected what the task 'question_answering' reads: the answer 'c' is not one of the options "
            r"\['a', 'b'\]\. Correct the row or remove it\.$",
        ),
        ("plain", "cross_modal_matching", {"answer": "both"}, r"row 0 .*answer is 'both'; it must be 1 or 2"),
        (
            "plain",
            "open_answer",
            {"vidoe": "clips/0.mp4", "question": "?", "answer": "a"},
            r"key 'vidoe' is not read; expected 'video', .* Rename the key",
        ),
        (
            "plain",
            "open_answer",
            {"path": "clips/0.mp4", "question": "?", "answer": "a"},
            r"names no clip; the row has: path, question, answer; expected a file under 'video'",
        ),
        (
            "plain",
            "cross_modal_matching",
            {"video": ["clips/0.mp4"], "audio": "clips/0.wav", "answer": 1},
            r"row 0 .*has 1 videos and 1 audio files; matching needs two .* Correct the row or remove it\.$",
        ),
        *(
            ("plain", name, {"image": "a.jpg", "audio": "a.wav", "expression": "dog", **row}, said)
            for name, row, said in (
                (
                    "referring_segmentation",
                    {"bbox": [1, 2, 3, 4]},
                    r"key 'bbox' is not read; expected 'box', or a name that is not similar. Rename the key",
                ),
                (
                    "referring_segmentation",
                    {"mask": "0.png"},
                    r"a row with a mask or points also needs a box; only a row of an absent object has none",
                ),
                ("segmentation", {"box": [1, 2, 3, 4], "Points": [[1, 2]]}, "key 'Points' is not read"),
                ("segmentation", {"box": [1, 2, 3, 4], "mask_path": "0.png"}, "key 'mask_path' is not read"),
                ("open_answer", {"question": "?", "answer": "a", "Options": "a|b"}, "key 'Options' is not"),
                (
                    "event_parsing",
                    {"events": [{"event": "a", "start_s": 0, "end_s": 1, "modalty": "audio"}]},
                    "row 0 .*expected the key 'modality' in place of 'modalty'",
                ),
                (
                    "event_parsing",
                    {"events": [{"event": "Speech, man", "start_s": 0, "end_s": 1}]},
                    "the event name 'Speech, man' cannot be written .* Write the name without a comma",
                ),
                (
                    "event_localization",
                    {"events": [{"event": "track (1 2)", "start_s": 0, "end_s": 1}]},
                    "the event name 'track .1 2.' cannot be written as <event>NAME",
                ),
                (
                    "question_answering",
                    {"question": "?", "options": ["yes", "no"], "answer": True},
                    "the answer is true; write the text of the right option",
                ),
                (
                    "question_answering",
                    {"question": "?", "options": ["yes", "no"], "answer": 1},
                    "the answer 1 is no option; write the text of the right option",
                ),
                (
                    "open_answer",
                    {"question": "?", "options": ["yes", "no"], "answer": "B"},
                    r"the answer 'B' is not one of the options \['yes', 'no'\]",
                ),
                (
                    "captioning",
                    {"answer": "A dog barks.", "target": "A cat."},
                    "the answer is 'A dog barks.' and the target 'A cat.', but this task learns",
                ),
                *(
                    (
                        name,
                        {"box": [1, 2, 3, 4], **row},
                        r"are \[1,2,3,4\].*, but its target .* has other coord",
                    )
                    for name in ("segmentation", "referring_segmentation")
                    for row in (
                        {"target": "It is at [5,2,9,9],[6,6]."},
                        {"target": "It is at [1,2,3,4],[2,3].", "points": [[2, 4]]},
                    )
                ),
                *(
                    (
                        "segmentation",
                        {"box": [1, 2, 3, 4], "points": points},
                        "expected a list of one to three points .x, y. inside the frame of 224 x 224 pixels",
                    )
                    for points in ([[1, 2]] * 4, [[1, 224]], [])
                ),
                *(
                    (
                        "event_localization",
                        {"events": [{"event": "a", "start_s": 0, "end_s": 1}] * 30 + [wrong]},
                        f"event 31 of 31 is .*{shown}",
                    )
                    for wrong, shown in (
                        ({"event": "b", "start_s": 4, "end_s": 2}, "4"),
                        ({"event": "b", "start": 4}, "start"),
                        ({"event": "", "start_s": 1, "end_s": 2}, "event"),
                        ("dog", "dog"),
                    )
                ),
                ("referring_segmentation", {"points": [[1, 2]]}, "mask or points also needs a box"),
                ("referring_segmentation", {"bbox_2d": [1, 2, 3, 4]}, "key 'bbox_2d' is not read"),
                ("open_answer", {"question": "?", "answer": "a", "Clip": "tape"}, "key 'Clip' is not read"),
                ("segmentation", {"box": [1, 2, 3, 4], "points": "3 of 5"}, "key 'points' is \"3 of 5\""),
                ("event_parsing", {"events": []}, r"key 'events' is \[\]; expected a list such as"),
                ("open_answer", {"question": "?", "answer": None}, r"key 'answer' is empty \(null\);"),
                (
                    "question_answering",
                    {"question": "?", "answer": "yes", "options": ["yes", "Yes"]},
                    "expected options that differ in more than upper and lower case",
                ),
            )
        ),
        ("plain", "open_answer", {"video": "../x.mp4", "answer": "a"}, r"key 'video' is .*without '\.\.'"),
        ("messages", "open_answer", {"text": "x"}, r"row 0 .*key 'messages' is null; expected a list"),
        (
            "messages",
            "open_answer",
            {"messages": [{"role": "user", "content": "<video>?"}, {"role": "assistant", "content": "a"}]},
            r"key 'videos' names 0 files for 1 place;",
        ),
        (
            "messages",
            "open_answer",
            {"messages": [{"role": "user", "content": "?"}]},
            r"has the turns user; expected a question .*Correct the roles",
        ),
        *(
            ("messages", "open_answer", _said("<video>?", "a") | more, said)
            for more, said in (
                ({"conversations": [{"from": "human", "value": "?"}]}, "the row has 'messages' and 'conver"),
                ({"system": ["Be rude."]}, r"key 'system' is \[\"Be rude.\"\]; expected a text"),
                (
                    {"messages": [{"role": "user", "content": "<video>?", "loss": False}]},
                    r"key 'messages\.loss' is false; .* state `turns: last` in the dataset's entry",
                ),
            )
        ),
        *(
            ("messages", "open_answer", _said("?", "a") | {"videos": None, key: ["clips/0.mp4"]}, said)
            for key, said in (
                ("audois", r"key 'audois' is not read; expected 'audios', .* Rename the key"),
                ("image", r"key 'image' is not read; expected 'images', .* Rename the key"),
            )
        ),
        (
            "messages",
            "open_answer",
            _said("<video>?", "a") | {"system": "Be rude."},
            "Be rude.*Remove the system",
        ),
        (
            "messages",
            "open_answer",
            _said("<video>?", "a", system="Be rude."),
            r"system message \"Be rude.\"; expected .*You are Qwen.* Remove the system message",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, layout: str, name: str, row: dict[str, Any], message: str
) -> None:
    root_with(tmp_path, [row])
    data = AVDataModule(tmp_path, {name: task(name)}, {"mine": DatasetSpec(name, layout)})
    with pytest.raises(ManifestError, match=message):
        data.setup()


def test_a_target_may_say_more_than_the_answer_box_or_points(tmp_path: Path) -> None:
    clip = {"image": "clips/0.jpg", "audio": "clips/0.wav"}
    target = "It is at [1,2,3,4],[2,3],[2,2],[3,3]."
    for name, row in {
        "captioning": {"target": "A dog barks.", "video": "clips/0.mp4", "image": None},
        "segmentation": {"box": [1, 2, 3, 4], "target": target},
        "referring_segmentation": {
            "expression": "dog",
            "box": [1, 2, 3, 4],
            "target": f"<answer>true</answer> {target}",
        },
    }.items():
        root_with(tmp_path, [clip | row])
        data = AVDataModule(tmp_path, {name: task(name)}, {"mine": DatasetSpec(name, "plain")}, val_share=0)
        data.setup()
        assert data.samples("train")[0].target == row["target"]


def test_check_names_each_lost_file_once_a_folder_and_an_empty_manifest(tmp_path: Path) -> None:
    rows = [{"video": f"clips{name}", "question": "?", "answer": "a"} for name in ("", "/lost.mp4")]
    root_with(tmp_path, rows)
    root_with(tmp_path, [], "test")
    report = check_root(
        tmp_path, {"t": task("open_answer")}, {"mine": DatasetSpec("t", "plain", frames=2, size_px=28)}
    )
    folder, lost, empty = (problem.message for problem in report.problems)
    assert folder.endswith("mine/clips is not a file. Add it, or correct the row. It is a folder.")
    assert lost.endswith("lost.mp4 is not a file. Add it, or correct the row.")
    assert empty.endswith("mine/test.jsonl contains no rows. Write rows into it")


def test_clip_without_any_sound_and_a_broken_link_are_named_with_what_to_do(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"video": "clips/mute.mp4", "question": "?", "answer": "a"}]
    rows.append({"audio": "clips/none.wav", "question": "?", "answer": "a"})
    root_with(tmp_path, rows)
    root_with(tmp_path, [{"video": "clips/dead.mp4", "question": "?", "answer": "a"}], "test")
    clips = tmp_path / "mine" / "clips"
    write_video(clips / "mute.mp4", np.zeros((4, 32, 32, 3), np.uint8), 2, None)
    with wave.open(str(clips / "none.wav"), "wb") as out:
        out.setparams((1, 2, 16_000, 0, "NONE", ""))
    (clips / "dead.mp4").symlink_to("gone.mp4")
    spec = DatasetSpec("t", "plain", frames=2, size_px=28)
    report = check_root(tmp_path, {"t": task("open_answer")}, {"mine": spec})
    mute, none, dead = (problem.message for problem in report.problems if problem.level == "error")
    assert "names no `audio`, so the sound track of its video is used" in mute
    assert mute.endswith(
        "or state `columns: {sound: none}` for the dataset to hear nothing, if its task needs no sound."
    )
    assert "has an audio track without a single sample" in none
    assert dead.endswith(
        "dead.mp4 is not a file. Add it, or correct the row. It is a link that leads nowhere."
    )
    (tmp_path / "mine" / "test.jsonl").unlink()
    data = AVDataModule(tmp_path, {"t": task("open_answer")}, {"mine": spec}, val_share=0)
    data.processor = Letters()
    data.setup()
    with pytest.raises(SampleError, match=r"mute\.mp4: has no audio track.* `columns: \{sound: none\}`"):
        data.dataset(data.samples("train"))[0]
    data = AVDataModule(
        tmp_path, {"t": task("open_answer")}, {"mine": replace(spec, columns={"sound": "none"})}, val_share=0
    )
    data.processor = Letters()
    data.setup()
    assert data.dataset(data.samples("train"))[0].inputs


def test_validation_rows_that_are_tested_are_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"video": f"clips/{i}.mp4", "audio": "clips/0.wav", "answer": "a"} for i in range(2)]
    root_with(tmp_path, rows)
    for test, said in ((None, True), (False, False)):
        caplog.clear()
        specs = {"mine": DatasetSpec("t", "plain", test=test)}
        data = AVDataModule(tmp_path, {"t": task("action_recognition")}, specs, val_share=0.5)
        data.setup()
        assert ("mine has no test file, so a test scores its 1 validation rows" in caplog.text) is said


@pytest.mark.parametrize("name", ["event_localization", "event_parsing"])
def test_longer_clips_keep_their_seconds(tmp_path: Path, name: str) -> None:
    events = [{"event": "a", "start_s": 0, "end_s": 4}, {"event": "late", "start_s": 20, "end_s": 30}]
    rows = [{"video": f"clips/{i}.mp4", "audio": "clips/0.wav", "events": events} for i in range(2)]
    root_with(tmp_path, rows)
    asked = task(name)
    data = AVDataModule(
        tmp_path, {name: asked}, {"mine": DatasetSpec(name, "plain", clip_s=60)}, val_share=0.5
    )
    data.setup()
    (sample,), spec = data.samples("test"), data.datasets["mine"]
    assert spec.classes == ["a", "late"]
    assert asked.remarks(sample) == []
    truth = asked.truth(sample, spec)
    shorter = asked.parse(str(sample.target).replace("30", "25"), sample, spec)
    for answer, right in ((truth, True), (shorter, False)):
        metrics = asked.metrics(spec)
        asked.update(metrics, answer, sample, spec)
        assert (float(metrics.compute()[asked.headline(spec)]) == pytest.approx(1.0)) is right
        assert (asked.score(answer, sample, spec) == pytest.approx(1.0)) is right
    if name == "event_localization":
        assert asked.score(shorter, sample, spec) == pytest.approx(55 / 60)
    with pytest.raises(ValueError, match="clip_s is 0"):
        DatasetSpec(name, "plain", clip_s=0)


def test_the_small_file_of_the_page_is_all_that_check_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"video": f"clips/{i}.mp4", "audio": "clips/0.wav", "question": f"What {i}?", "answer": f"it {i}"}
        for i in range(2)
    ]
    root = root_with(tmp_path / "my_root", rows)
    (small,) = (text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "# mine.yaml" in text)
    config = tmp_path / "mine.yaml"
    config.write_text(small)
    assert main(["data", "check", "--root", str(root), "--config", str(config), "--workers", "0"]) == 0
    assert "mine" in capsys.readouterr().out
    rows[1].pop("answer")
    root_with(tmp_path / "my_root", rows)
    assert main(["data", "check", "--root", str(root), "--config", str(config), "--workers", "0"]) == 1
    assert "key 'answer' is missing" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("name", ["event_localization", "event_parsing"])
def test_every_event_that_ends_after_its_clip_is_named(tmp_path: Path, name: str) -> None:
    times = ((0, 1), (0, 30), (20, 40))
    events = [{"event": "dog", "start_s": start, "end_s": end} for start, end in times]
    root_with(tmp_path, [{"video": "clips/0.mp4", "audio": "clips/0.wav", "events": events}])
    spec = DatasetSpec(name, "plain", classes=["dog"])
    report = check_root(tmp_path, {name: task(name)}, {"mine": spec})
    said = [p.message for p in report.problems if p.kind == "duration" and p.row == 0]
    assert [re.findall(r"its event ends at (\d+)", text) for text in said] == [["30"], ["40"]]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_mask_that_cannot_be_read_is_a_problem_of_its_row(tmp_path: Path, content: bytes) -> None:
    row = {"image": "clips/0.jpg", "audio": "clips/0.wav", "mask": "clips/mask.png", "box": [1, 2, 30, 40]}
    for split in ("train", "test"):
        root_with(tmp_path, [row], split)
    (tmp_path / "mine/clips/mask.png").write_bytes(content)
    spec = DatasetSpec("segmentation", "plain")
    report = check_root(tmp_path, {"segmentation": task("segmentation")}, {"mine": spec})
    found = [(p.split, p.row) for p in report.problems if p.kind == "mask" and "mask.png" in p.message]
    assert found == [("train", 0), ("test", 0)]


def test_a_dataset_without_rows_to_score_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"video": "clips/0.mp4", "question": "?", "answer": "a"}
    root_with(tmp_path, [row, {**row, "question": "What?"}])

    def setup(stage: str, *names: str, val_share: float = 0.1) -> str:
        caplog.clear()
        specs = {name: DatasetSpec("t", "plain") for name in names}
        AVDataModule(tmp_path, {"t": task("open_answer")}, specs, val_share=val_share).setup(stage)
        return caplog.text

    for stage, kind in (("validate", "validation"), ("test", "test or validation"), ("predict", "test or")):
        with pytest.raises(ValueError, match=f"no {kind} ?.*rows of mine, so there is nothing to score"):
            setup(stage, "mine")
    assert "data.datasets: no validation rows of mine, so it is not scored." in setup("fit", "mine")
    assert "is not scored" not in setup("fit", "mine", val_share=0)
    root_with(tmp_path, [{**row, "video": "clips/1.mp4"}], "test")
    assert "is not scored" not in setup("test", "mine")


def test_a_dataset_without_the_files_of_its_task_is_refused_and_reported(tmp_path: Path) -> None:
    root_with(tmp_path, [{"f": "clips/0.mp4", "question": "?", "answer": "a"}])
    columns: dict[str, Any] = {
        "media": {"videos": "f"},
        "fields": {"question": "question", "answer": "answer"},
    }
    specs = {"mine": DatasetSpec("t", columns={**columns, "target": "answer"})}
    tasks = {"t": task("question_answering")}
    said = r"has 1 place for audio, but the row names 0 audio files\. Name the .*media: \{audios: KEY\}"
    with pytest.raises(ValueError, match=f"row 0 of mine's training rows.*{said}"):
        AVDataModule(tmp_path, tasks, specs, val_share=0).setup()
    problems = [p.message for p in check_root(tmp_path, tasks, specs).problems]
    assert any(re.search(f"^row 0: the prompt of the task 't' {said}", problem) for problem in problems)
    columns["media"]["audios"] = "f"  # the sound track of the video
    AVDataModule(tmp_path, tasks, specs, val_share=0).setup()


def test_events_at_the_same_time_and_short_clips_are_named_where_they_change_the_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def event(name: str, start_s: float, end_s: float) -> dict[str, Any]:
        return {"event": name, "start_s": start_s, "end_s": end_s}

    lists = [event("dog", 0, 2), event("bell", 1, 2)], [event("dog", 0, 1), event("bell", 1, 2)]
    rows = [
        {"video": f"clips/{i}.mp4", "audio": "clips/0.wav", "events": events}
        for i, events in enumerate(lists)
    ]
    root_with(tmp_path, rows)
    root_with(tmp_path, rows, "test")
    tasks = {"t": task("event_localization")}

    def told(**options: Any) -> list[str]:
        spec = DatasetSpec("t", "plain", frames=2, size_px=28, **options)
        caplog.clear()
        AVDataModule(tmp_path, tasks, {"mine": spec}, val_share=0).setup()
        assert ("mine, test rows: in 1 of 2 rows, several" in caplog.text) is ("metrics" not in options)
        report = check_root(tmp_path, tasks, {"mine": spec})
        return [p.message for p in report.problems if p.kind == "annotation" and p.split == "test"]

    together, short = told()
    assert together.startswith("in 1 of 2 rows, several events happen in the same second. segment_accuracy")
    assert short.startswith("of 2 clips, 2 end more than a second before the clip length of 10 s.")
    assert told(clip_s=2) == [together]
    assert told(metrics=["map"]) == []


def test_a_column_that_the_entry_names_and_the_rows_lack_is_named(tmp_path: Path) -> None:
    root_with(tmp_path, [{"video": "clips/0.mp4", "question": "?", "answer": "a"}])
    spec = DatasetSpec("t", "plain", columns={"keys": {"answer": "ansr"}})
    said = r"key 'ansr' \(columns.keys names it for 'answer'\) is missing \(did you mean 'answer'\?\)"
    with pytest.raises(ManifestError, match=said):
        AVDataModule(tmp_path, {"t": task("open_answer")}, {"mine": spec}).setup()


def test_files_that_are_not_what_their_names_say_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"video": "clips/0.mp4", "audio": "clips/0.wav", "question": "?", "answer": "a"}
    root_with(tmp_path, [row])
    mine, specs = tmp_path / "mine", {"mine": DatasetSpec("t", "plain")}
    for name in ("valid.jsonl", "Test.jsonl", "test_set.csv", "testing.json.gz", "metadata.json"):
        (mine / name).write_text(json.dumps(row))
    AVDataModule(tmp_path, {"t": task("open_answer")}, specs, val_share=0).setup()
    problems = check_root(tmp_path, {"t": task("open_answer")}, specs).problems
    for name in ("valid.jsonl", "Test.jsonl", "test_set.csv", "testing.json.gz"):
        said = f"{mine / name}: it is not read"
        assert f"data.datasets.mine: {said}" in caplog.text
        assert any(said in p.message for p in problems)
    assert "metadata" not in caplog.text
    (mine / "test.jsonl").write_text("")
    with pytest.raises(ManifestError, match=r"test\.jsonl contains no rows. Write rows into it, or remove"):
        AVDataModule(tmp_path, {"t": task("open_answer")}, specs).setup()
    (mine / "test.jsonl").unlink()
    for text in (json.dumps([row]), json.dumps([row], indent=1)):
        (mine / "train.jsonl").write_text(text)
        with pytest.raises(ManifestError, match=r"train\.jsonl contains a JSON array.* Name it train\.json"):
            AVDataModule(tmp_path, {"t": task("open_answer")}, specs).setup()


@pytest.mark.parametrize(
    ("name", "row"),
    [
        (
            "question_answering",
            {"question": "?", "answer": "a", "box": "cardboard", "events": ["dog"], "mask": "/m"},
        ),
        (
            "action_recognition",
            {"answer": "run", "question": ["a"], "options": ["x"], "captions": "b", "notions": 1},
        ),
        ("captioning", {"answer": "A dog.", "events": [{"event": "dog", "start": 0}], "image": "", "id": ""}),
        ("event_localization", {"events": [{"event": "a", "start_s": 0.1, "end_s": 2.2}], "answer": ["dog"]}),
        ("event_parsing", {"events": [{"event": "a", "start_s": 0, "end_s": 2, "modality": None}]}),
    ],
)
def test_columns_that_the_task_does_not_read_may_contain_anything(
    tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    root_with(tmp_path, [{"video": "clips/0.mp4", **row}])
    data = AVDataModule(tmp_path, {"t": task(name)}, {"mine": DatasetSpec("t", "plain")}, val_share=0)
    data.setup()
    (sample,) = data.samples("train")
    assert data.tasks["t"].truth(sample, data.datasets["mine"])


@pytest.mark.parametrize("name", ["event_localization", "event_parsing"])
def test_times_with_many_decimals_are_events_like_others(tmp_path: Path, name: str) -> None:
    events = [
        {"event": "cat", "start_s": 0.1 + 0.2, "end_s": 25 / 9},
        {"event": "dog", "start_s": 1, "end_s": 3},
    ]
    root_with(tmp_path, [{"video": "clips/0.mp4", "events": events}])
    data = AVDataModule(tmp_path, {"t": task(name)}, {"mine": DatasetSpec("t", "plain")}, val_share=0)
    data.setup()
    (sample,) = data.samples("train")
    assert data.datasets["mine"].classes == ["cat", "dog"]
    assert "(0.3 2.778)" in (sample.target or "")
    long = (sample.target or "").replace("0.3", "0.30000000000000004")
    assert data.tasks["t"].parse(long, sample, data.datasets["mine"]) is not None
    assert "cat" in str(data.tasks["t"].parse(long, sample, data.datasets["mine"]))
